"""The pages of a published folder: few files, small pictures, links that lead somewhere, and a word on the source.

The report writes its tables in three formats and its figures in two, and links to run directories. What is committed
holds each of them once: all tables in tables.csv, the first figures as PNG for README.md, all of them in report.html.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Sequence
from html import escape, unescape
from pathlib import Path

from PIL import Image

from depthlab.records.atomic_files import replacing
from depthlab.records.provenance import HISTORY, warnings
from depthlab.records.record import find_records, read_record
from depthlab.shown_text import for_markdown, one_line

README, PAGE, TABLES, FIGURES = "README.md", "report.html", "tables.csv", "figures"
MOST_FIGURES = 2  # of a README; the page holds all
IMAGE = re.compile(r"!\[(.*?)\]\(figures/([\w.-]+\.png)\)")  # a title may hold brackets
EMBEDDED = re.compile(r"(?<=data:image/png;base64,)[A-Za-z0-9+/=]+")
PICTURE = re.compile(r'<img alt="(?P<title>[^"]*)" src="data:image/png;base64,[A-Za-z0-9+/=]+">')
RUN_LINK = re.compile(r'<a href="[^":#?]+/">(.*?)</a>')
NOTE = re.compile(r"^Source: .*\n\n", re.MULTILINE)
NOTE_IN_PAGE = re.compile(r'<p class="source">.*?</p>')


def tidy_pages(folder: Path, results: Path) -> None:
    """Bring what the report wrote into a published folder into its committed form; a second time changes nothing.

    Args:
        folder: holds records and a report.
        results: the folder with the history of all published folders.
    """
    _merge_tables(folder)
    records = [read_record(directory) for directory in find_records(folder)]
    history = f"{'../' * len(folder.relative_to(results).parts)}{HISTORY}"
    _tidy_readme(folder, warnings(records), history)
    _tidy_page(folder, warnings(records), history)
    _tidy_figures(folder)


def _merge_tables(folder: Path) -> None:
    """All tables in one file, each below a line with its name."""
    source = folder / "tables"
    if not source.is_dir():
        return
    parts = [f"# {path.stem}\n{path.read_text(encoding='utf-8')}" for path in sorted(source.glob("*.csv"))]
    _write(folder / TABLES, "\n".join(parts))
    shutil.rmtree(source)


def _tidy_page(folder: Path, notes: Sequence[str], history: str) -> None:
    """Pictures that README.md shows are linked instead of being in the page a second time."""
    path = folder / PAGE
    page = NOTE_IN_PAGE.sub("", path.read_text(encoding="utf-8"))
    files = dict(IMAGE.findall((folder / README).read_text(encoding="utf-8")))
    page = PICTURE.sub(lambda found: _linked(found, files.get(unescape(found["title"]))), page)
    page = EMBEDDED.sub(lambda found: base64.b64encode(_shrink(base64.b64decode(found[0]))).decode(), page)
    page = RUN_LINK.sub(r"\1", page)
    note = (
        f'<p class="source">{escape(one_line(" ".join(notes)))} <a href="{history}">History of these results</a>.</p>'
    )
    _write(path, page.replace("<h2>", f"{note}<h2>", 1))


def _linked(found: re.Match[str], file: str | None) -> str:
    return found[0] if file is None else f'<img alt="{found["title"]}" src="{FIGURES}/{file}">'


def _tidy_readme(folder: Path, notes: Sequence[str], history: str) -> None:
    text = NOTE.sub("", (folder / README).read_text(encoding="utf-8"))
    kept = list(dict.fromkeys(name for _, name in IMAGE.findall(text)))[:MOST_FIGURES]
    text = IMAGE.sub(lambda found: found[0] if found[2] in kept else f"{found[1]}: see [{PAGE}]({PAGE}).", text)
    lines = [line for line in text.splitlines() if "(tables/)" not in line and not line.startswith("Files: ")]
    files = f"Files: every table in [{TABLES}]({TABLES}), every figure in [{PAGE}]({PAGE}), one record a line in "
    lines += [f"{files}[records.jsonl](records.jsonl)."]
    note = " ".join(["Source:", *map(for_markdown, notes), f"See the [history of these results]({history})."])
    text = "\n".join([*lines, ""])
    _write(folder / README, text.replace("\n## ", f"\n{note}\n\n## ", 1))


def _tidy_figures(folder: Path) -> None:
    """Keep the pictures that the README shows."""
    shown = {name for _, name in IMAGE.findall((folder / README).read_text(encoding="utf-8"))}
    for path in sorted((folder / FIGURES).glob("*")):
        if path.name not in shown:
            path.unlink()
            continue
        content = path.read_bytes()
        smaller = _shrink(content)
        if smaller != content:
            with replacing(path) as temporary:
                temporary.write_bytes(smaller)


def _shrink(png: bytes) -> bytes:
    """The picture in at most 256 colours, a third of its size; as it is where that gains nothing."""
    with Image.open(io.BytesIO(png)) as image:
        if image.mode == "P":
            return png
        colours = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        written = io.BytesIO()
        colours.save(written, "PNG", optimize=True, dpi=image.info.get("dpi", (72, 72)))
    return min(written.getvalue(), png, key=len)


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
