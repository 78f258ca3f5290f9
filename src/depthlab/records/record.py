"""The record of a run: what it was, on what it ran, what came out. Reports read nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from depthlab.errors import InputError
from depthlab.records.atomic_files import replacing
from depthlab.records.published_files import RECORDS, published_record, published_runs
from depthlab.records.record_checks import REQUIRED, STATUSES, VERSION, check_record
from depthlab.records.safe_files import read_inside

__all__ = ["REQUIRED", "STATUSES", "VERSION", "Record", "Segment", "find_records", "read_record", "write_record"]

FILE_NAME = "record.json"
MOST_BYTES = 32 * 2**20
FILE_KEYS = {"segments": "stretches"}  # what an attribute is called in the file, where that differs

Json = dict[str, Any]


@dataclass(frozen=True)
class _Parsed:
    """Reading and writing what records and their segments have in common.

    `present` keeps the keys of the file in their order, and `unknown` those of other versions, so that a file comes
    back as it was.
    """

    present: tuple[str, ...] = field(default=(), repr=False, compare=False, kw_only=True)
    unknown: Json = field(default_factory=dict, repr=False, kw_only=True)

    @classmethod
    def _own_fields(cls) -> list[Field[Any]]:
        return [each for each in fields(cls) if each.name not in ("present", "unknown")]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From the content of a file that was checked."""
        names = {FILE_KEYS.get(each.name, each.name): each.name for each in cls._own_fields()}
        known = {names[key]: value for key, value in values.items() if key in names}
        unknown = {key: value for key, value in values.items() if key not in names}
        if "segments" in known:
            known["segments"] = tuple(Segment.from_dict(segment) for segment in known["segments"])
        return cls(**known, present=tuple(values), unknown=unknown)

    def to_dict(self) -> Json:
        """As the file has it: the keys that were in it, then those that were set since."""
        values = {FILE_KEYS.get(each.name, each.name): each for each in self._own_fields()}
        written: Json = {}
        for key in (*self.present, *values, *self.unknown):
            if key in self.unknown:
                written[key] = self.unknown[key]
            elif key in self.present or _is_set(self, values[key]):
                written[key] = self.get(key)
        return written

    def get(self, key: str, default: Any = None) -> Any:
        """The value under a key of the file."""
        own = {FILE_KEYS.get(each.name, each.name): each.name for each in self._own_fields()}
        if key not in own:
            return self.unknown.get(key, default)
        value = getattr(self, own[key])
        if key == "stretches":
            return [segment.to_dict() for segment in value]
        return default if value is None and key not in self.present else value

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value


def _is_set(parsed: _Parsed, own: Field[Any]) -> bool:
    default = own.default_factory() if own.default_factory is not MISSING else own.default
    return bool(default is MISSING or getattr(parsed, own.name) != default)


@dataclass(frozen=True)
class Segment(_Parsed):
    """What one process did of a run, from its start or continuation to its end; "stretches" in the file."""

    from_step: int = 0
    to_step: int = 0
    started_at: str | None = None
    training_seconds: float = 0.0
    wall_seconds: float = 0.0
    warm_up_steps: int = 0
    warm_up_seconds: float = 0.0
    device: str | None = None
    num_threads: int | None = None
    compiled: bool | None = None
    captured: bool | None = None
    versions: dict[str, str] | None = None
    git: Json | None = None
    machine: Json | None = None
    code: Json | None = None


@dataclass(frozen=True)
class Record(_Parsed):
    """One run.

    Args:
        status: "running", "finished", "failed" or "diverged".
        name: the sweep's name.
        config: the resolved configuration.
        model: name, depth, residual, num_params, num_macs; empty until the network is built.
        data: name, sizes of the splits, classes, fingerprint; empty until the data are read.
        metrics: final values by name, such as "test/err" in percent; None where nothing was measured.
        steps: optimiser updates taken.
        task: what was learned, with its metrics (see `depthlab.records.metrics`); None means classification.
        stopped_early: {"step", "reason"} of a run that ended before `trainer.max_steps`.
        metrics_ema: the metrics of averaged weights, where they were measured too.
        weights_measured: which weights `metrics` is of: "last".
        weights_sha256: hash of the final weights.
        extensions: version by name of each extension in use.
        extended_from: run, steps and weights_sha256 of the finished run that this one took over.
        code: the source that ran: `fingerprint`, `files` with a digest each, `diff` where it differed from its commit;
            None in records from before it was kept. Segments have no `files`.
        machine: CPU model, instruction set, operating system.
        published: how a published copy was shortened.
    """

    status: str
    name: str
    seed: int
    command: str
    config: Json
    model: Json
    data: Json
    metrics: dict[str, float | None]
    steps: int
    version: int = VERSION
    run: str | None = None
    recipe: str | None = None
    weights: Json | None = None
    wall_seconds: float | None = None
    images_per_second: float | None = None
    peak_memory_mib: float | None = None
    precision: str | None = None
    num_processes: int | None = None
    device: str | None = None
    num_threads: int | None = None
    compiled: bool | None = None
    captured: bool | None = None
    versions: dict[str, str] | None = None
    git: Json | None = None
    machine: Json | None = None
    started_at: str | None = None
    finished_at: str | None = None
    segments: tuple[Segment, ...] = ()
    failure: Json | None = None
    divergence: Json | None = None
    task: Json | None = None
    stopped_early: Json | None = None
    metrics_ema: dict[str, float | None] | None = None
    weights_measured: str | None = None
    weights_sha256: str | None = None
    extensions: dict[str, str] | None = None
    extended_from: Json | None = None
    code: Json | None = None
    published: Json | None = None

    @property
    def is_done(self) -> bool:
        """Whether the run has ended with a result."""
        return self.status in ("finished", "diverged")


def write_record(directory: Path, record: Record | Mapping[str, Any]) -> None:
    """Put `record` in `directory`, in place of the one before. NaN and infinity become null: JSON has neither."""
    text = json.dumps(as_written(record), indent=2, allow_nan=False)
    with replacing(directory / FILE_NAME) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def as_written(record: Record | Mapping[str, Any]) -> Json:
    """A record as files hold it: with its version, NaN and infinity as null."""
    values = record.to_dict() if isinstance(record, Record) else dict(record)
    return {**_finite({"version": VERSION, **values}), "version": VERSION}


def read_record(directory: Path) -> Record:
    """The record of the run in `directory`, which may be one that was published (see `published_files`).

    Raises:
        InputError: there is none, or it is cut short, of a newer version, or not what a record must be.
    """
    path = directory / FILE_NAME
    try:
        text = published_record(directory)
        content = read_inside(directory, FILE_NAME, MOST_BYTES) if text is None else text
        values = json.loads(content if isinstance(content, str) else content.decode("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{directory} is not a run directory: it holds no {FILE_NAME}.") from None
    except NotADirectoryError:
        raise InputError(f"{directory} is not a directory.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}). Delete the run's directory and repeat the run.") from None
    check_record(values, path)
    return Record.from_dict(values)


def check_name(record: Record, directory: Path) -> None:
    """Refuse a run's directory that has another name than its record says.

    Raises:
        InputError: it was renamed, or copied to the name of another run.
    """
    if record.run not in (None, directory.name):
        raise InputError(
            f"{directory} holds the record of {str(record.run)[:200]!r}: it was copied or renamed by hand. "
            "Give it that name again, or remove it."
        )


def find_records(root: Path) -> Iterator[Path]:
    """Every run below `root`, or `root` itself, in the order of their names; none that was set aside.

    A run of a published folder is called by the directory that it would have there.
    """
    found = [path.parent for path in root.rglob(FILE_NAME)]
    for path in root.rglob(RECORDS):
        found += [path.parent / name for name in published_runs(path.parent)]
    if published_record(root) is not None:
        found.append(root)
    for directory in sorted(set(found)):
        if not any(part.startswith(".") for part in directory.relative_to(root).parts):
            yield directory


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
