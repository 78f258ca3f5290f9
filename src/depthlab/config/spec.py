"""What a component declares about itself: its keys, each with type, default, range, help and its part in identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from depthlab.config.nearest import nearest
from depthlab.errors import InputError

_KEY = "depthlab.key"
# Where a key says nothing else: larger numbers of steps, images or threads overflow somewhere.
MOST_COUNT = 10**9
MOST_FLOAT = 1e30
MISSING: Any = "???"  # what OmegaConf takes for a missing value; reports read specs without it
_UNSET: Any = object()


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Args:
        help: what it means, in a line.
        composed: what Hydra composes for it; the default, unless that is an interpolation.
        identity: whether two runs that differ in it are different runs.
        identity_default: the value at which it is left out of the identity and may be absent from a record: runs
            made before the key existed keep their names.
        positive, minimum, below, maximum: the range of numbers; without `below` and `maximum` integers are at most
            1e9 and floats 1e30.
        choices: the values it may have.
        is_path: whether it names a file or folder, which counts by its last name wherever it lies.
        optional: whether a record may lack it, having been made before the key existed.
        column: whether tables of runs, such as TensorBoard's HPARAMS tab, show it.
    """

    help: str
    composed: Any
    identity: bool = True
    identity_default: Any = _UNSET
    positive: bool = False
    minimum: float | None = None
    below: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    is_path: bool = False
    column: bool = False
    optional: bool = False

    @property
    def may_be_absent(self) -> bool:
        """Whether a record may lack it, being older than the key."""
        return self.optional or self.identity_default is not _UNSET

    def identifies(self, value: Any) -> bool:
        """Whether the key, at this value, is part of what a run is."""
        return self.identity and (self.identity_default is _UNSET or self.identity_default != value)


def key(default: Any = MISSING, *, help: str, composed: Any = _UNSET, **rules: Any) -> Any:
    """A key of a spec, in place of a dataclass field. A default list is written as a tuple.

    Args:
        default: its value where nothing is said; without one the key must be given.
        help: what it means, in a line.
        composed: see `Key`, as the other arguments.

    Raises:
        InputError: the default is mutable.
    """
    info = Key(help, default if composed is _UNSET else composed, **rules)
    metadata = {_KEY: info}
    if isinstance(default, list | dict | set):
        raise InputError(f"key({default!r}, ...): the default is mutable. Give a tuple for a list.")
    if isinstance(default, tuple):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def keys_of(cls: Any) -> dict[str, Key]:
    """The keys of a spec, or of a section of the configuration, by name."""
    return {f.name: f.metadata[_KEY] for f in fields(cls) if _KEY in f.metadata}


def composed_values(cls: Any) -> dict[str, Any]:
    """What Hydra composes for the keys of a spec."""
    return {
        name: list(info.composed) if isinstance(info.composed, tuple) else info.composed
        for name, info in keys_of(cls).items()
    }


@dataclass(frozen=True)
class Spec:
    """A component as the configuration sees it: its keys, and how it is built. Subclasses are frozen dataclasses."""

    registered: ClassVar[str] = ""  # its name, set by `register`
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # further options of its group: keys that differ, by name

    def values(self) -> dict[str, Any]:
        """The keys with their values, lists copied."""
        found = {name: getattr(self, name) for name in keys_of(type(self))}
        return {name: list(value) if isinstance(value, list) else value for name, value in found.items()}

    def completed(self) -> Spec:
        """The spec with what follows from its other keys filled in."""
        return self

    def check(self) -> None:
        """Refuse values of the keys that contradict each other.

        Raises:
            InputError: names the key, its value and the remedy.
        """


def check_declaration(cls: type, name: str) -> None:
    """Refuse a spec that is only half declared.

    Raises:
        InputError: names the class, the key and what is missing.
    """
    where = f"{cls.__module__}.{cls.__qualname__}, registered as {name!r}"
    if "__dataclass_fields__" not in vars(cls):
        raise InputError(f"{where}: decorate the class with @dataclass(frozen=True), below @register.")
    for f in fields(cls):
        if _KEY not in f.metadata:
            raise InputError(f"{where}: declare {f.name} with key(..., help=...), as every key.")
    own = keys_of(cls)
    for preset, values in getattr(cls, "presets", {}).items():
        for key in values:
            if key not in own:
                raise InputError(f"{where}: its preset {preset!r} has no such key as {key}. {nearest(key, list(own))}")


def range_error(name: str, info: Key, value: Any) -> str | None:
    """Why `value` is out of the key's range, with its dotted name; None where it is not."""
    if value is None:
        return None
    if info.choices is not None or isinstance(value, str | bool | Mapping):
        return None
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, str):
            continue
        if not isinstance(number, int | float):
            return f"{name}={value}: numbers are expected."
        if info.positive and not number > 0:
            return f"{name}={value}: must be greater than 0."
        if info.minimum is not None and not number >= info.minimum:
            low = "must not be negative." if info.minimum == 0 else f"must be {info.minimum:g} or more."
            return f"{name}={value}: {low}"
        if info.below is not None and not number < info.below:
            return f"{name}={value}: must be less than {info.below:g}."
        most = info.maximum
        if most is None and info.below is None:
            most = MOST_COUNT if isinstance(number, int) else MOST_FLOAT
        if most is not None and not number <= most:
            return f"{name}={value}: must be {most:g} or less."
    return None


@dataclass(frozen=True)
class OptionalSpec(Spec):
    """A component of which any number may be on: under its name the configuration holds its keys, or less.

    null and false are off, true is on with every default, a mapping holds keys. Where `main` names a key, a plain
    number or word stands for it.
    """

    main: ClassVar[str | None] = None

    @classmethod
    def off_value(cls) -> Any:
        """What a configuration holds where it is off; None where it then holds nothing."""
        return None

    @classmethod
    def to_value(cls, spec: Any) -> Any:
        """What a configuration holds where it is on."""
        values = spec.values()
        if cls.main is not None and list(values) == [cls.main]:
            return values[cls.main]
        return values or True

    @classmethod
    def to_keys(cls, value: Any) -> Any:
        """The keys that a value of the configuration stands for; None where it is off."""
        if value is None or value is False:
            return None
        if value is True:
            return {}
        if isinstance(value, Mapping):
            return dict(value)
        return value if cls.main is None else {cls.main: value}

    @property
    def is_on(self) -> bool:
        """Whether its values do anything."""
        return True
