"""The checks that every configuration passes before anything starts.

A configuration is checked by the same function wherever it comes from: composed by Hydra, frozen for a sweep, or
read back from a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from depthlab.config.combinations import check_combinations
from depthlab.config.identity import flatten
from depthlab.config.nearest import nearest
from depthlab.config.registry import Group, components, groups, lookup
from depthlab.config.schema import PLACES, SEARCH, SECTIONS, RunKeys, SearchConfig, TrainConfig
from depthlab.config.spec import Key, OptionalSpec, Spec, keys_of, range_error
from depthlab.errors import InputError


def check(tree: Any) -> TrainConfig:
    """The configuration as typed objects.

    Args:
        tree: a resolved configuration, plain dicts and lists.

    Raises:
        InputError: an unknown or missing key, a wrong type, an unknown choice or a value out of range;
            the message names the key, the value and the nearest valid one.
    """
    if not isinstance(tree, Mapping):
        raise InputError(f"configuration={tree!r}: a group of keys is expected here.")
    _check_plain(tree)
    _check_top_level(tree)
    check_search(tree.get(SEARCH, {}))
    parts: dict[str, Any] = {name: tree[name] for name in keys_of(RunKeys) if name in tree}
    parts = dict(vars(_typed(RunKeys, parts, "")))
    optional = {group.name for group in groups().values() if group.selector is None}
    for section, cls in SECTIONS.items():
        own = _fixed_part(section, cls, tree.get(section, {})) if section in optional else tree.get(section, {})
        parts[section] = _typed(cls, own, section)
    for group in groups().values():
        if group.selector is None:
            parts[PLACES[group.name]] = _switched_on(group.name, tree.get(group.name) or {})
        else:
            parts[group.name] = _chosen(group, tree.get(group.name))
    config = TrainConfig(**parts)
    check_values(config)
    return config


def check_search(node: Any) -> SearchConfig:
    """The keys of a search, which a configuration may hold and a run does not have.

    Raises:
        InputError: as `check`.
    """
    search: SearchConfig = _typed(SearchConfig, node, SEARCH, defaults=True)
    for name, info in keys_of(SearchConfig).items():
        _check_value(f"{SEARCH}.{name}", info, getattr(search, name))
    return search


def _check_plain(tree: Mapping[str, Any]) -> None:
    """Refuse what OmegaConf would look up elsewhere, and numbers that nothing here can hold."""
    for name, value in flatten(tree).items():
        if isinstance(value, str) and "${" in value:
            raise InputError(f"{name}={value}: a reference is not resolved, or not allowed here.")
        if value == "???":
            raise InputError(f"{name} is missing from the configuration.")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise InputError(f"{name}={str(value)[:20]}...: the number is too large.")


def _check_top_level(tree: Mapping[str, Any]) -> None:
    known = [*keys_of(RunKeys), *SECTIONS, SEARCH, *(name for name in groups() if name not in SECTIONS)]
    for name, value in tree.items():
        if name not in known:
            raise InputError(f"{name}={value}: no such key. {nearest(str(name), known)}")


def _chosen(group: Group, node: Any) -> Spec | None:
    """The spec of a group of which one component is chosen."""
    assert group.selector is not None
    if node is None and group.identity_default is not None:  # of a record from before the group, or left at its default
        return None if group.identity_default == "" else lookup(group.name, group.identity_default)()
    if not isinstance(node, Mapping):
        raise InputError(f"{group.name} is missing from the configuration.")
    spec = lookup(group.name, str(node.get(group.selector)))
    values = {name: value for name, value in node.items() if name != group.selector}
    chosen: Spec = _typed(spec, values, group.name)
    return chosen.completed()


def _switched_on(group: str, node: Any) -> dict[str, Any]:
    """The specs of a group of which any number may be on."""
    if not isinstance(node, Mapping):
        raise InputError(f"{group}={node!r}: a group of keys is expected here.")
    fixed = keys_of(SECTIONS[group]) if group in SECTIONS else {}
    on: dict[str, Any] = {}
    for name, value in node.items():
        if name in fixed:
            continue
        spec = lookup(group, str(name))
        assert issubclass(spec, OptionalSpec)
        values = spec.to_keys(value)
        if values is None:
            continue
        found = _typed(spec, values, f"{group}.{name}", defaults=True)
        if found.is_on:
            on[str(name)] = found
    return on


def _fixed_part(section: str, cls: Any, node: Any) -> Any:
    """The keys of a section that are not components."""
    if not isinstance(node, Mapping):
        return node
    known = [*keys_of(cls), *components(section)]
    unknown = [name for name in node if name not in known]
    for name in unknown:
        if name in groups()[section].duplicates:
            continue
        raise InputError(f"{section}.{name}={node[name]}: no such key. {nearest(str(name), known)}")
    return {name: value for name, value in node.items() if name in keys_of(cls)}


def _typed(cls: Any, node: Any, prefix: str, defaults: bool = False) -> Any:
    """`node` as an instance of `cls`; unknown keys, missing keys and wrong types are refused by name."""
    dotted = f"{prefix}." if prefix else ""
    if not isinstance(node, Mapping):
        raise InputError(f"{prefix or 'configuration'}={node!r}: a group of keys is expected here.")
    own = keys_of(cls)
    for name, value in node.items():
        if name not in own:
            raise InputError(f"{dotted}{name}={value}: no such key. {nearest(str(name), list(own))}")
    for f in fields(cls):
        # OmegaConf takes every number but 0 for true.
        if f.type in (bool, "bool") and type(node.get(f.name)) in (int, float) and node[f.name] not in (0, 1):
            raise InputError(f"{dotted}{f.name}={node[f.name]}: true or false is expected.")
    missing = [name for name, info in own.items() if name not in node and not (defaults or info.may_be_absent)]
    if missing:
        raise InputError(f"{dotted}{missing[0]} is missing from the configuration.")
    try:
        merged = OmegaConf.merge(_schema(cls), dict(node))
        empty = sorted(OmegaConf.missing_keys(merged))
        if empty:
            raise InputError(f"{dotted}{empty[0]} is missing from the configuration.")
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        name = _full_name(prefix, cls, str(error.full_key or error.key))
        reason = (error.msg or str(error)).splitlines()[0]
        raise InputError(f"{name}: {reason}.") from None


@cache
def _schema(cls: Any) -> Any:
    """The keys of `cls` as OmegaConf has them; building them takes longer than merging values into a copy."""
    return OmegaConf.structured(cls)


def _full_name(prefix: str, cls: Any, name: str) -> str:
    """The name under which a configuration has a key: a component's only key has that of the component."""
    if getattr(cls, "main", None) == name and list(keys_of(cls)) == [name]:
        return prefix
    return f"{prefix}.{name}" if prefix else name


def check_values(config: TrainConfig) -> None:
    """Refuse values out of range, unknown choices and keys that contradict each other, by name."""
    for prefix, holder in _holders(config):
        for name, info in keys_of(type(holder)).items():
            _check_value(_full_name(prefix, type(holder), name), info, getattr(holder, name))
        if isinstance(holder, Spec):
            holder.check()
    check_combinations(config)


def _holders(config: TrainConfig) -> list[tuple[str, Any]]:
    """Everything that holds keys, with the group or component that it is."""
    found: list[tuple[str, Any]] = [(section, getattr(config, section)) for section in SECTIONS]
    for group in groups().values():
        held = getattr(config, PLACES.get(group.name, group.name))
        if group.selector is None:
            found += [(f"{group.name}.{name}", spec) for name, spec in held.items()]
        elif held is not None:
            found.append((group.name, held))
    run_keys = RunKeys(**{f.name: getattr(config, f.name) for f in fields(RunKeys)})
    return [("", run_keys), *found]


def _check_value(name: str, info: Key, value: Any) -> None:
    if info.choices is not None and value is not None and value not in info.choices:
        raise InputError(f"{name}={value}: no such choice. {nearest(str(value), info.choices)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name}={value}: must be a finite number.")
    problem = range_error(name, info, value)
    if problem:
        raise InputError(problem)
