"""A snapshot of the code in a sweep's folder: its jobs import that, whatever is edited while they wait.

It holds the package, its launchers and options for Hydra, and the extensions that are installed. `EXTENSIONS` in its
depthlab_extensions, a regular package there, lists these, so that nothing installed later is among them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path

import depthlab
from depthlab.config.folder import config_dir
from depthlab.config.registry import NAMESPACE, extension_modules
from depthlab.errors import InputError
from depthlab.records.environment import PLACE, SNAPSHOT, git_state, source_diff
from depthlab.runs.code import in_words, units_of

FOLDER = "code"
PLUGINS = "hydra_plugins"
MOST_COPIED = 256 * 1024  # bytes; larger files that are no source, such as an extension's weights, are linked


def take_snapshot(folder: Path) -> str | None:
    """Copy the code into `folder`, which is made; the SHA-256 of the list of its files.

    None where its path cannot be put on Python's.

    Raises:
        OSError: the folder cannot be written.
    """
    if os.pathsep in str(folder.absolute()):
        return None
    folder.mkdir(parents=True)
    package = Path(depthlab.__path__[0])
    _copy_package(package, folder / package.name)
    if not (package / "configs").exists():  # of a wheel they are in the package
        shutil.copytree(config_dir(), folder / package.name / "configs")
    (folder / PLUGINS).mkdir()
    for path in sorted((package.parent / PLUGINS).glob("depthlab_*.py")):
        _copy(path, folder / PLUGINS / path.name)
    extensions = extension_modules()
    for unit in units_of([module for _, module in extensions]):
        for name, path in unit.files():
            _copy(path, folder / name)
    (folder / NAMESPACE).mkdir(exist_ok=True)
    listed = [(extension.name, extension.version, module) for extension, module in extensions]
    text = f'"""The extensions when this snapshot was taken: name, version, module."""\n\nEXTENSIONS = {listed!r}\n'
    (folder / NAMESPACE / "__init__.py").write_text(text, encoding="utf-8")
    manifest = {"git": git_state(), "diff": source_diff(), "files": _digests(folder)}
    content = json.dumps(manifest, indent=1)
    (folder / SNAPSHOT).write_text(content, encoding="utf-8")
    return hashlib.sha256(content.encode()).hexdigest()


def check_snapshot(folder: Path, digest: str | None) -> None:
    """Refuse to go on with other code than that of the snapshot in `folder`; None as its digest stands for no snapshot.

    Raises:
        InputError: it was altered or removed, or this process imported its code from elsewhere.
    """
    if digest is None:
        return
    again = "The same line starts the sweep again, with the code as it is now."
    if folder.resolve() != PLACE:
        raise InputError(f"This job is to run the code in {folder}, and imported {PLACE / 'depthlab'}. {again}")
    try:
        content = (folder / SNAPSHOT).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise InputError(f"{folder / SNAPSHOT} was altered after the sweep was launched. {again}")
        listed, found = json.loads(content)["files"], _digests(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}). {again}") from None
    altered = [name for name in sorted({*listed, *found}) if listed.get(name) != found.get(name)]
    if altered:
        raise InputError(f"{folder} was altered after the sweep was launched: {in_words(altered)}. {again}")


def python_path(folder: Path) -> str:
    """PYTHONPATH for a process that is to import the snapshot in `folder`."""
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(folder.resolve()), *([before] if before else [])])


def remove_snapshot(folder: Path) -> None:
    """Remove a snapshot that nothing imports any more."""
    with suppress(OSError):
        shutil.rmtree(folder)


def _copy_package(source: Path, target: Path) -> None:
    for path in _files_below(source):
        _copy(path, target / path.relative_to(source))


def _files_below(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - {"__pycache__"})
        yield from (Path(place, name) for name in sorted(names))


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its times, by which Python knows the compiled form beside it, and that form."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix != ".py" and source.stat().st_size > MOST_COPIED:
        target.symlink_to(source.resolve())
        return
    shutil.copy2(source, target)
    if source.suffix == ".py":
        _copy_compiled(source, target)


def _copy_compiled(source: Path, target: Path) -> None:
    with suppress(OSError, NotImplementedError):  # none, or no such thing here
        compiled = Path(cache_from_source(str(source)))
        if compiled.parent == source.parent / "__pycache__" and compiled.is_file():
            (target.parent / "__pycache__").mkdir(exist_ok=True)
            shutil.copy2(compiled, target.parent / "__pycache__" / compiled.name)


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a snapshot but those that Python adds; of a link, where it leads."""
    found = {}
    for path in _files_below(folder):
        if path != folder / SNAPSHOT:
            content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found
