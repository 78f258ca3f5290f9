"""From which source published runs were made, and whether the files are the ones that were published."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from depthlab.records.atomic_files import replacing
from depthlab.records.published_files import RECORDS
from depthlab.records.record import Record, find_records, read_record
from depthlab.shown_text import counted, for_markdown, one_line

MANIFEST = "manifest.json"
HISTORY = "HISTORY.md"
LONGEST_COMMIT = 64  # characters


def dirty_runs(records: Sequence[Record]) -> list[Record]:
    """Those of which some segment ran source that differed from its commit."""
    return [record for record in records if any((git or {}).get("dirty") for git in _of_segments(record, "git"))]


def sources(records: Sequence[Record]) -> list[str]:
    """What tells the source of these runs apart: its fingerprints where all records have one, else its commits.

    A change of comments makes another commit of the same source. Runs of other components have other files, and are of
    one source where those that they share are the same.
    """
    codes = [code or {} for record in records for code in _of_segments(record, "code")]
    if not codes or not all(isinstance(code.get("fingerprint"), str) for code in codes):
        return commits(records)
    files = {code["fingerprint"]: code["files"] for code in codes if isinstance(code.get("files"), Mapping)}
    found: dict[str, dict[str, Any]] = {}
    for fingerprint in dict.fromkeys(code["fingerprint"] for code in codes):
        own = files.get(fingerprint)
        same = next((known for known in found.values() if own and known and _agree(known, own)), None)
        if same is None:
            same = found[f"source {fingerprint}"] = {}
        same.update(own or {})
    return list(found)


def _agree(known: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    return all(known.get(name, digest) == digest for name, digest in own.items())


def commits(records: Sequence[Record]) -> list[str]:
    """The commits that any segment of these runs ran, in the order of the runs; "unknown" outside a checkout."""
    found = [(git or {}).get("commit") for record in records for git in _of_segments(record, "git")]
    return list(dict.fromkeys(one_line(str(commit or "unknown"), LONGEST_COMMIT) for commit in found))


def warnings(records: Sequence[Record]) -> list[str]:
    """What a page of these runs has to say of their source; nothing where all are of one committed source."""
    lines = []
    if dirty := dirty_runs(records):
        lines.append(f"{len(dirty)} of {len(records)} records are of source that differed from its commit.")
    if len(sources(records)) > 1:
        named = ", ".join(commit[:12] for commit in commits(records))
        lines.append(f"These records are of different source (commits {named}).")
    if spanning := [record for record in records if len(commits([record])) > 1]:
        names = ", ".join(str(record.run) for record in spanning)
        lines.append(f"{len(spanning)} of them went on after a change of the source: {names}.")
    return lines


def make_manifest(results: Path) -> dict[str, Any]:
    """For each published folder below `results` the number of runs, their commits, and the SHA-256 of each file."""
    return {folder.relative_to(results).as_posix(): _entry(folder) for folder in published_folders(results)}


def write_manifest(results: Path) -> None:
    """Write manifest.json anew."""
    text = json.dumps(make_manifest(results), indent=1) + "\n"
    with replacing(results / MANIFEST) as temporary:
        temporary.write_text(text, encoding="utf-8")


def note_publication(results: Path, folder: Path) -> None:
    """Add to HISTORY.md what is published in `folder` now, unless its last line on that folder says the same.

    Why a recipe was changed or seeds were added is for a person to write there.
    """
    path, name = results / HISTORY, folder.relative_to(results).as_posix()
    text = path.read_text(encoding="utf-8") if path.exists() else "# History of these results\n"
    records = [read_record(directory) for directory in find_records(folder)]
    made_by = ", ".join(commit[:12] for commit in commits(records))
    digest = hashlib.sha256((folder / RECORDS).read_bytes()).hexdigest()[:12]
    entry = f"- Published: {counted(len(records), 'run')} of commit {for_markdown(made_by)} (records.jsonl {digest})."
    before, _, after = text.partition(f"## {name}\n")
    section, following, rest = after.partition("\n## ")
    if digest in section:
        return
    said = f"{section.rstrip()}\n{entry}\n" if section.strip() else f"\n{entry}\n"
    with replacing(path) as temporary:
        temporary.write_text(f"{before.rstrip()}\n\n## {name}\n{said}{following}{rest}", encoding="utf-8")


def published_folders(results: Path) -> list[Path]:
    """The published folders below `results`, in the order of their names; none that a kill left half written."""
    found = sorted(path.parent for path in results.rglob(RECORDS))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(results).parts)]


def _entry(folder: Path) -> dict[str, Any]:
    records = [read_record(directory) for directory in find_records(folder)]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "runs": len(records),
        "dirty": len(dirty_runs(records)),
        "commits": commits(records),
        "files": {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }


def _of_segments(record: Record, key: str) -> Iterator[Mapping[str, Any] | None]:
    """A field of each segment and of the record itself."""
    yield from (getattr(segment, key) for segment in record.segments)
    yield getattr(record, key)
