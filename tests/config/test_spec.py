"""Keys and specs: what a declaration says, which values it takes, and what a switched component may be given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any

import pytest

from depthlab.config.check import check
from depthlab.config.registry import Component, components, groups, lookup, register
from depthlab.config.schema import PLACES, SECTIONS, RunKeys, as_dict
from depthlab.config.spec import Key, OptionalSpec, composed_values, key, keys_of, range_error
from depthlab.errors import InputError
from depthlab.training.spec import CallbackSpec

from ..conftest import compose_tree

ALL = [
    (group, name, each)
    for group, found in groups().items()
    for name, each in found.components.items()
    if each.extension is None
]
IDS = [f"{group}.{name}" for group, name, _ in ALL]
TREE = compose_tree("trainer=cpu", "data=digits")


@dataclass(frozen=True)
class TwoKeys(CallbackSpec):
    """A callback with keys of every kind of range."""

    rate: float = key(0.5, minimum=0, maximum=1, help="from 0 to 1")
    kind: str = key("a", choices=("a", "b"), help="one of two")
    every: list[int] = key((1, 2), positive=True, help="each above 0")
    limit: int | None = key(None, below=10, help="less than 10, or null")


@dataclass(frozen=True)
class ByNumber(CallbackSpec):
    """A callback for one key of which a plain value stands."""

    main = "strength"

    strength: int = key(3, positive=True, help="above 0")


@dataclass(frozen=True)
class NoKeys(CallbackSpec):
    """A callback without keys."""


OWN = {"two_keys": TwoKeys, "by_number": ByNumber, "no_keys": NoKeys}


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    for name, spec in OWN.items():
        register("callbacks", name)(spec)
    yield
    for name in OWN:
        del groups()["callbacks"].components[name]


def switched(name: str, value: Any) -> dict[str, Any]:
    """What is on where a configuration has `callbacks.NAME=value`."""
    return dict(check({**TREE, "callbacks": {name: value}}).callbacks)


@pytest.mark.parametrize("name", ["two_keys", "by_number", "no_keys", "ema"])
@pytest.mark.parametrize("value", [None, False])
def test_null_and_false_switch_a_component_off(name: str, value: Any) -> None:
    assert switched(name, value) == {}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("two_keys", True, TwoKeys()),
        ("two_keys", {}, TwoKeys()),
        ("two_keys", {"rate": 1}, TwoKeys(rate=1.0)),
        ("two_keys", {"every": [4], "limit": 9}, TwoKeys(every=[4], limit=9)),
        ("by_number", True, ByNumber()),
        ("by_number", 7, ByNumber(7)),
        ("by_number", {"strength": 7}, ByNumber(7)),
        ("no_keys", True, NoKeys()),
        ("no_keys", {}, NoKeys()),
    ],
)
def test_true_a_number_and_a_mapping_switch_it_on(name: str, value: Any, expected: OptionalSpec) -> None:
    (found,) = switched(name, value).values()
    assert found == expected
    written = as_dict(check({**TREE, "callbacks": {name: value}}))["callbacks"]
    assert written == {name: type(expected).to_value(expected)}
    assert switched(name, written[name]) == {name: expected}  # a record is read as it was written


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("two_keys", 5, r"callbacks.two_keys=5: a group of keys is expected here."),
        ("two_keys", "a", r"callbacks.two_keys='a': a group of keys is expected here."),
        ("two_keys", [1], "a group of keys is expected here"),
        ("no_keys", 1, "a group of keys is expected here"),
        ("two_keys", {"rat": 1}, "callbacks.two_keys.rat=1: no such key. Did you mean rate?"),
        ("two_keys", {"rate": "fast"}, "callbacks.two_keys.rate: Value 'fast'"),
        ("two_keys", {"rate": -0.1}, "callbacks.two_keys.rate=-0.1: must not be negative."),
        ("two_keys", {"rate": 1.5}, "callbacks.two_keys.rate=1.5: must be 1 or less."),
        ("two_keys", {"kind": "c"}, "callbacks.two_keys.kind=c: no such choice. Valid: a, b."),
        ("two_keys", {"every": [1, 0]}, "callbacks.two_keys.every=[1, 0]: must be greater than 0."),
        ("two_keys", {"limit": 10}, "callbacks.two_keys.limit=10: must be less than 10."),
        ("by_number", 0, "callbacks.by_number=0: must be greater than 0."),
        ("by_number", "many", "callbacks.by_number: Value 'many'"),
        ("two_key", {}, "callbacks.two_key: no such callbacks. Did you mean two_keys?"),
    ],
)
def test_any_other_value_is_refused_by_name(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        switched(name, value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("rules", "good", "bad"),
    [
        ({"positive": True}, [1, 0.1, [1, 2], None], {0: "must be greater than 0", -1: "must be greater than 0"}),
        ({"minimum": 0}, [0, 5], {-1: "must not be negative"}),
        ({"minimum": -1}, [-1, 0], {-2: "must be -1 or more"}),
        ({"below": 1}, [0.99, -5], {1: "must be less than 1", 2: "must be less than 1"}),
        ({"maximum": 1}, [1, 0], {1.5: "must be 1 or less"}),
        ({"minimum": 2, "below": 4}, [2, 3], {1: "must be 2 or more", 4: "must be less than 4"}),
        ({}, [-1e30, 0, "word", True, None], {}),
    ],
    ids=str,
)
def test_a_range_has_its_ends(rules: dict[str, Any], good: list[Any], bad: dict[float, str]) -> None:
    info = Key("help", 0, **rules)
    for value in good:
        assert range_error("group.key", info, value) is None
    for number, message in bad.items():
        assert range_error("group.key", info, number) == f"group.key={number}: {message}."


def test_not_a_number_is_out_of_every_range() -> None:
    for rules in ({"positive": True}, {"minimum": 0}, {"below": 1}, {"maximum": 1}):
        assert range_error("key", Key("help", 0, **rules), float("nan")) is not None  # type: ignore[arg-type]


def test_a_key_that_came_later_may_be_absent() -> None:
    assert not Key("help", 0).may_be_absent
    assert not Key("help", 0, identity=False).may_be_absent
    assert Key("help", 0, identity=False, optional=True).may_be_absent
    assert Key("help", 0, identity_default=None).may_be_absent
    later = Key("help", 0, identity_default=0)
    assert [later.identifies(value) for value in (0, 0.0, 1, None)] == [False, False, True, True]
    assert not Key("help", 0, identity=False).identifies(5)


@pytest.mark.parametrize("default", [[1], {"a": 1}, {1}])
def test_a_mutable_default_is_refused_where_it_is_written(default: Any) -> None:
    with pytest.raises(InputError, match=r"the default is mutable\. Give a tuple"):
        key(default, help="shared by all")


def test_lists_are_copied_wherever_they_go() -> None:
    one, other = TwoKeys(), TwoKeys()
    one.every.append(3)
    one.values()["every"].append(4)
    composed_values(TwoKeys)["every"].append(5)
    assert (one.every, other.every, TwoKeys().every) == ([1, 2, 3], [1, 2], [1, 2])


@pytest.mark.parametrize(("group", "name", "component"), ALL, ids=IDS)
def test_every_registered_spec_is_frozen_documented_and_says_what_its_keys_are(
    group: str, name: str, component: Component
) -> None:
    spec = component.spec
    assert spec.registered == name
    assert lookup(group, name) is spec
    assert (spec.__doc__ or "").strip()
    assert not (spec.__doc__ or "").startswith(f"{spec.__name__}("), "dataclass wrote it"
    assert {f.name for f in fields(spec)} == {*keys_of(spec)}
    for each in keys_of(spec).values():
        assert each.help
        assert not each.help.endswith(".")
    assert spec.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        TwoKeys().rate = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("section", [*SECTIONS.values(), RunKeys], ids=lambda cls: cls.__name__)
def test_every_fixed_section_says_what_its_keys_are(section: Any) -> None:
    assert {f.name for f in fields(section)} == {*keys_of(section)}
    assert all(each.help for each in keys_of(section).values())


def test_every_default_is_in_its_own_range() -> None:
    for group, name, component in ALL:
        for own, info in keys_of(component.spec).items():
            value = composed_values(component.spec)[own]
            if not isinstance(value, str):
                assert range_error(own, info, value) is None, (group, name, own)
            elif info.choices is not None:
                assert value in info.choices, (group, name, own)


def test_every_group_of_switches_has_a_place_in_the_configuration() -> None:
    assert {name for name, group in groups().items() if group.selector is None} == {*PLACES}


def test_names_that_are_registered_are_listed() -> None:
    assert {"cifar", "imagenet", "wide", "dense", "densenet"} <= {*components("model")}
    assert {"cifar10", "cifar100", "mnist", "digits", "noisy_digits", "image_folder"} <= {*components("data")}
    assert {"classification", "regression"} <= {*components("task")}
