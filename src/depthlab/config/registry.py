"""The components that are installed, by group and name: ours, those of a clone's own files, and those of packages.

Components register themselves where they are declared. Ours are found by walking the package's rooms, each of which
may have a package `components`. Those of others are found where code is installed, and nowhere else: as a module in
the namespace package `depthlab_extensions` (in a clone, a file in src/depthlab_extensions), or through an entry point
of the group "depthlab.extensions". A configuration, a record or a checkpoint chooses among registered names.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import depthlab
from depthlab.config.nearest import nearest
from depthlab.config.spec import Spec, check_declaration, keys_of
from depthlab.errors import InputError

NAMESPACE = "depthlab_extensions"
ENTRY_POINTS = "depthlab.extensions"
S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Extension:
    """Installed code, not ours, that registers components: its name and version, as records list them."""

    name: str
    version: str


@dataclass(frozen=True)
class Component:
    """A registered spec, where it was declared, and by which extension; None for ours."""

    spec: type[Spec]
    file: str
    extension: Extension | None


@dataclass
class Group:
    """A group of components.

    Args:
        name: the group, as the configuration and Hydra call it.
        base: what its specs derive from.
        selector: the key that names the chosen component; None where any number of them may be on at once.
        identity_default: the component that is left out of a run's identity, with the same meaning as for keys.
        reserved: keys of the section in which the components lie, which no component may have for a name.
    """

    name: str
    base: type[Spec]
    selector: str | None
    identity_default: str | None = None
    components: dict[str, Component] = field(default_factory=dict)
    reserved: tuple[str, ...] = ()
    duplicates: dict[str, str] = field(default_factory=dict)  # names registered twice, with a message


_groups: dict[str, Group] = {}
_broken: dict[str, str] = {}  # extensions that could not be imported, and why
_loading: list[Extension] = []  # the extension whose modules are being imported


def define_group(
    name: str, selector: str | None = None, identity_default: str | None = None, reserved: tuple[str, ...] = ()
) -> Callable[[type[S]], type[S]]:
    """Declare a group; decorates the class that its specs derive from."""

    def decorate(base: type[S]) -> type[S]:
        _groups[name] = Group(name, base, selector, identity_default, reserved=reserved)
        return base

    return decorate


def register(group: str, name: str) -> Callable[[type[S]], type[S]]:
    """Register a spec under its group and name: a decorator above @dataclass(frozen=True).

    Raises:
        InputError: there is no such group, or the spec is only half declared.
    """

    def decorate(spec: type[S]) -> type[S]:
        _check_registration(group, name, spec)
        spec.registered = name
        found = _groups[group]
        file = sys.modules[spec.__module__].__file__ or spec.__module__
        other = found.components.get(name)
        if other is not None and (other.file, other.spec.__qualname__) != (file, spec.__qualname__):
            found.duplicates[name] = (
                f"{group} {name!r} is registered twice, in {other.file} and in {file}. Rename one of the two."
            )
            return spec
        found.components[name] = Component(spec, file, _loading[-1] if _loading else None)
        return spec

    return decorate


def _check_registration(group: str, name: str, spec: type[Spec]) -> None:
    if group not in _groups:
        raise InputError(f"@register({group!r}, {name!r}): no such group. {nearest(group, sorted(_groups))}")
    if not name.isidentifier():
        raise InputError(f"@register({group!r}, {name!r}): use letters, digits and _ in the name.")
    base = _groups[group].base
    if not (isinstance(spec, type) and issubclass(spec, base)):
        raise InputError(f"@register({group!r}, {name!r}): the class must derive from {base.__name__}.")
    if name in _groups[group].reserved:
        raise InputError(
            f"@register({group!r}, {name!r}): {spec.__module__}.{spec.__qualname__} has the name of a key that every "
            f"configuration has in {group!r}. Rename it."
        )
    check_declaration(spec, name)
    taken = {_groups[group].selector, *dir(base)} - {*keys_of(base)}  # what Depthlab asks every spec of the group for
    for key in keys_of(spec):
        if key in taken:
            raise InputError(f"{spec.__module__}.{spec.__qualname__}: the key {key!r} is taken. Rename it.")


def groups() -> dict[str, Group]:
    """Every group with its components, all of which are imported now."""
    load()
    return _groups


def components(group: str) -> dict[str, Component]:
    """The components of a group by name; names that two files register are not among them."""
    found = groups()[group]
    return {name: each for name, each in found.components.items() if name not in found.duplicates}


def presets(group: str) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """The presets of a group's components by name: the component, and the keys that differ from its defaults.

    A preset with the name of a component, or of another preset, is not among them; the first one stays.
    """
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for component, each in components(group).items():
        for name, values in each.spec.presets.items():
            if name not in groups()[group].components:
                found.setdefault(name, (component, values))
    return found


def lookup(group: str, name: str) -> type[Spec]:
    """The spec registered as `name`.

    Raises:
        InputError: there is none; the message has the nearest name, and says which extensions are broken.
    """
    found = groups()[group]
    if name in found.duplicates:
        raise InputError(found.duplicates[name])
    if name not in found.components:
        selector = f"{group}.{found.selector}={name}" if found.selector else f"{group}.{name}"
        broken = "".join(f"\n{message}" for message in _broken.values())
        raise InputError(f"{selector}: no such {group}. {nearest(name, list(components(group)))}{broken}")
    return found.components[name].spec


def broken() -> dict[str, str]:
    """The extensions that cannot be imported, each with a line that says why."""
    load()
    return dict(_broken)


def find_extension(spec: type[Spec]) -> Extension | None:
    """The extension that registered a spec; None for ours."""
    for group in groups().values():
        for component in group.components.values():
            if component.spec is spec:
                return component.extension
    return None


def installed_extensions() -> dict[str, str]:
    """The names and versions of the extensions that registered anything."""
    found = [each.extension for group in groups().values() for each in group.components.values()]
    return {extension.name: extension.version for extension in found if extension}


@cache
def load() -> None:
    """Import every component, once."""
    for module in _own_modules():
        importlib.import_module(module)
    for extension, module in extension_modules():
        with _importing(extension):
            importlib.import_module(module)


def _own_modules() -> Iterator[str]:
    for room in pkgutil.iter_modules(depthlab.__path__, "depthlab."):
        if room.ispkg and importlib.util.find_spec(f"{room.name}.components"):
            package = importlib.import_module(f"{room.name}.components")
            yield from (module.name for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."))


def extension_modules() -> list[tuple[Extension, str]]:
    """The modules that extensions register components in, in the order in which they are imported.

    A snapshot of the code has a list of them as `EXTENSIONS`: what was installed since is not there.
    """
    namespace = importlib.util.find_spec(NAMESPACE)
    if namespace is not None and namespace.origin is not None:  # a namespace package has none
        listed = getattr(importlib.import_module(NAMESPACE), "EXTENSIONS", None)
        if listed is not None:
            return [(Extension(name, version), module) for name, version, module in listed]
    places = list(namespace.submodule_search_locations or []) if namespace else []
    return [*_files_in(places), *_entry_points()]


def _files_in(places: list[str]) -> Iterator[tuple[Extension, str]]:
    for found in sorted(pkgutil.iter_modules(places, f"{NAMESPACE}."), key=lambda module: module.name):
        spec = importlib.util.find_spec(found.name)
        yield Extension(found.name, _content_version(spec.origin if spec else None)), found.name


def _entry_points() -> Iterator[tuple[Extension, str]]:
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        distribution = point.dist
        name, version = (distribution.name, distribution.version) if distribution else (point.name, "-")
        yield Extension(name, version), point.module


def _content_version(file: str | None) -> str:
    """The version of a file, or of a folder: the hash of its content, which for a folder is that of all its files."""
    if file is None or not Path(file).is_file():
        return "-"
    path = Path(file)
    digest = hashlib.sha256(path.read_bytes())
    inside = path.parent.rglob("*") if path.name == "__init__.py" else ()
    for other in sorted(each for each in inside if each != path and each.is_file() and _counts(each, path.parent)):
        digest.update(f"\n{other.relative_to(path.parent).as_posix()}\n".encode() + other.read_bytes())
    return f"sha256:{digest.hexdigest()[:12]}"


def _counts(file: Path, folder: Path) -> bool:
    """Not what Python compiled, nor hidden files, which editors leave."""
    return not any(part == "__pycache__" or part.startswith(".") for part in file.relative_to(folder).parts)


@contextmanager
def _importing(extension: Extension) -> Iterator[None]:
    """Record an error during the import of an extension: runs that do not use it still work."""
    _loading.append(extension)
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _broken[extension.name] = _failure(extension, error)
    finally:
        _loading.pop()


def _failure(extension: Extension, error: BaseException) -> str:
    """A line with the file and line of the extension, not of ours, at which its import failed."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if "importlib" not in frame.filename and not _is_ours(frame.filename)]
    if theirs:  # the libraries that it calls, such as dataclasses, are not where the mistake is
        folder = Path(theirs[0].filename).parent
        theirs = [frame for frame in theirs if Path(frame.filename).is_relative_to(folder)]
    place = f"{theirs[-1].filename}:{theirs[-1].lineno}: " if theirs else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}: "
    reason = str(error).partition("\n")[0]
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return f"The extension {extension.name} cannot be imported: {place}{kind}{reason}"


def _is_ours(filename: str) -> bool:
    return Path(filename).is_relative_to(Path(__file__).resolve().parent.parent)
