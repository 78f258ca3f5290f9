"""Which code a run is of: the fingerprint of the source that could influence it, and what differs from a record's.

Covered are the modules of Depthlab that `depthlab.runs.run` and the components of a configuration import, however
indirectly, and the extensions that the configuration uses, each as a whole. Errors and records are left out: they say
and keep what came out. So are commands, sweeps and reports, and the components that a run does not use.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import depthlab
from depthlab.config.registry import NAMESPACE
from depthlab.errors import InputError
from depthlab.runs.source import SourceCache, total

if TYPE_CHECKING:
    from depthlab.config.schema import TrainConfig
    from depthlab.config.spec import Spec
    from depthlab.records.record import Record  # importing it takes a tenth of a second, as numpy does

PACKAGE = "depthlab"
RUN = "depthlab.runs.run"
# They say and keep what came out, or are about the code itself.
LEFT_OUT = frozenset(
    {"depthlab", "depthlab.errors", "depthlab.shown_text", "depthlab.config.nearest"}
    | {f"depthlab.runs.{name}" for name in ("code", "evaluate", "images", "outcome", "snapshot", "source")}
)
RECORDS = "depthlab.records"
OF_RECORDS = ("depthlab.records.checkpoints", "depthlab.records.weight_files")  # what a run starts or goes on from
SUFFIXES = (".py", ".pyx", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h")  # of the source in an extension's folder
LIBRARIES = ("site-packages", "dist-packages")
NAMED = 5  # files, in a message
BEFORE_CODE = "its record is from before code was recorded: whether the code has changed since is not known"


@dataclass(frozen=True)
class Code:
    """The source of a run: the digest of each file by its name below the folder that it is imported from."""

    files: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """One digest of all."""
        return total(self.files.items())

    def as_dict(self) -> dict[str, Any]:
        """As a record holds it."""
        return {"fingerprint": self.fingerprint, "files": dict(self.files)}

    def differences(self, recorded: Any) -> list[str]:
        """The files that differ from those of a record's `code`, or a line where it does not say which.

        None at all where the record is from before code was recorded.
        """
        if recorded is None:
            return []
        files = recorded.get("files") if isinstance(recorded, Mapping) else None
        if not _is_readable(recorded, files):
            return ["not known: the record's fingerprint cannot be read"]
        if recorded["fingerprint"] == self.fingerprint:
            return []
        if files is None:
            return ["not known: the record has a fingerprint without the files"]
        names = sorted({*files, *self.files})
        return [name for name in names if files.get(name) != self.files.get(name)]


def _is_readable(recorded: Any, files: Any) -> bool:
    if not isinstance(recorded, Mapping) or not isinstance(recorded.get("fingerprint"), str):
        return False
    if files is None:
        return True
    are_texts = isinstance(files, Mapping) and all(isinstance(digest, str) for digest in files.values())
    return are_texts and total(files.items()) == recorded["fingerprint"]


def code_of(config: TrainConfig) -> Code:
    """The source that a run of this configuration is made by, as it lies on disk now."""
    return read_code(roots_of(config))


def roots_of(config: TrainConfig) -> tuple[str, ...]:
    """The modules from which a run of this configuration imports everything else."""
    return (RUN, *sorted({type(spec).__module__ for spec in specs_in_use(config)}))


def differences_that_matter(code: Code, record: Record, directory: Path) -> list[str]:
    """What differs from the code of a run that would be taken for done, or continued; see `Code.differences`."""
    return code.differences(record.code) if has_work(record, directory) else []


def has_work(record: Record, directory: Path) -> bool:
    """Whether a run has come to anything that a new start would not repeat."""
    return record.is_done or any((directory / "checkpoints").glob("step-*.ckpt"))


def refuse_other_code(directory: Path, record: Record, differences: Sequence[str]) -> None:
    """Say that a run is of other code, and what to type.

    Raises:
        InputError: always.
    """
    done = f"this run {record.status}" if record.is_done else f"this run was trained up to step {record.steps:,}"
    accepts = "takes it as it is" if record.is_done else "goes on with the present code"
    raise InputError(
        f"{directory}: {done} with other code than the present one.\n  differs: {in_words(differences)}\n"
        f"code=any {accepts}; rerun=true moves it into .aside and repeats it."
    )


def in_words(differences: Sequence[str]) -> str:
    """The files that differ, the first few by name."""
    more = len(differences) - NAMED
    return ", ".join(differences[:NAMED]) + (f" and {more} more" if more > 0 else "")


def specs_in_use(config: TrainConfig) -> list[Spec]:
    """The components that a configuration consists of."""
    chosen = [config.data, config.model, config.optimizer, config.schedule, config.task, config.loss]
    found: list[Spec] = [spec for spec in chosen if spec is not None]
    for on in (config.augmentations, config.callbacks, config.metrics, config.loggers):
        found += on.values()
    return found


def read_code(roots: Sequence[str]) -> Code:
    """The source of the modules named and of all that they import."""
    sources = SourceCache()
    walk = _Walk(sources)
    walk.follow(roots)
    sources.save()
    return Code(walk.digests)


def units_of(modules: Sequence[str]) -> list[Unit]:
    """Modules of extensions, and what they import that is no library, each as a whole."""
    walk = _Walk(SourceCache())
    walk.follow(modules)
    return list(walk.units.values())


class _Walk:
    """From modules to what they import, and so on: digests by file, and the units of extensions by name."""

    def __init__(self, sources: SourceCache) -> None:
        self.digests: dict[str, str] = {}
        self.units: dict[str, Unit] = {}
        self._sources = sources
        self._modules = _modules()

    def follow(self, roots: Sequence[str]) -> None:
        waiting, seen = [*roots], set(roots)
        while waiting:
            name = waiting.pop()
            imports = {each for file, path in self._files_of(name) for each in self._read(file, path)}
            around = {package for each in imports for package in _with_parents(each)}
            new = [each for each in around - seen if _is_followed(each, self._modules, name)]
            seen.update(new)
            waiting += new

    def _read(self, file: str, path: Path) -> Sequence[str]:
        source = self._sources.read(path)
        self.digests[file] = source.digest
        return source.imports

    def _files_of(self, name: str) -> Iterator[tuple[str, Path]]:
        """The file of one of our modules; of an extension all source, so that none need be imported to be noticed."""
        if name.partition(".")[0] == PACKAGE:
            is_of_records = name == RECORDS or name.startswith(f"{RECORDS}.")
            if name in self._modules and name not in LEFT_OUT and (name in OF_RECORDS or not is_of_records):
                path = self._modules[name]
                yield f"{PACKAGE}/{path.relative_to(_package()).as_posix()}", path
            return
        unit = find_unit(name)
        if unit is not None and unit.name not in self.units:
            self.units[unit.name] = unit
            yield from ((file, path) for file, path in unit.files() if path.suffix in SUFFIXES)


def _with_parents(name: str) -> Iterator[str]:
    """A module and the packages around it, whose files are imported before its own."""
    parts = name.split(".")
    yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _is_followed(name: str, modules: Mapping[str, Path], importer: str) -> bool:
    """Ours are followed to ours. An extension's go to ours, and to code that is not installed as a library is."""
    top = name.partition(".")[0]
    if top == PACKAGE:
        return name in modules
    return not importer.startswith(f"{PACKAGE}.") and top not in sys.stdlib_module_names and not _is_library(top)


@dataclass(frozen=True)
class Unit:
    """Code of others that is taken as a whole: a module that is one file, or a package with all below it.

    Args:
        name: dotted, such as "mylab" or "depthlab_extensions.mixer".
        path: the file, or the package's folder.
    """

    name: str
    path: Path

    def files(self) -> Iterator[tuple[str, Path]]:
        """Each file by its name below the folder that the unit is imported from."""
        place = self.name.replace(".", "/")
        if self.path.is_file():
            yield f"{place}{self.path.suffix}", self.path
            return
        for path in sorted(self.path.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{place}/{path.relative_to(self.path).as_posix()}", path


def find_unit(module: str) -> Unit | None:
    """What a module of an extension belongs to; None where it has no file that could be read."""
    parts = module.split(".")
    for length in range(2 if parts[0] == NAMESPACE else 1, len(parts) + 1):
        name = ".".join(parts[:length])
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return None
        if spec is None or (spec.origin is None and not spec.submodule_search_locations):
            return None
        if spec.origin is not None:  # otherwise a namespace package, which may be shared with others
            path = Path(spec.origin)
            return Unit(name, path.parent if spec.submodule_search_locations else path) if path.is_file() else None
    return None


@cache
def _is_library(top: str) -> bool:
    """Whether a module is installed with a version of its own, which is recorded, or is not there."""
    if top == NAMESPACE:
        return False
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return True
    places = [spec.origin, *(spec.submodule_search_locations or [])] if spec else []
    paths = [Path(place) for place in places if place]
    return not paths or any(set(path.parts) & set(LIBRARIES) for path in paths)


def _package() -> Path:
    return Path(depthlab.__path__[0])


@cache
def _modules() -> dict[str, Path]:
    """Our modules by name."""
    root = _package()
    found = {}
    for path in root.rglob("*.py"):
        parts = [PACKAGE, *path.relative_to(root).with_suffix("").parts]
        found[".".join(parts).removesuffix(".__init__")] = path
    return found
