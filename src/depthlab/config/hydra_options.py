"""What Hydra may compose besides the files in configs/: the defaults of every section, and an option a component.

`hydra_plugins.depthlab_options` shows these to Hydra as a source of configurations. Hydra's own ConfigStore would do
too, but Hydra copies its whole content a hundred times for --help.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from depthlab.config.registry import Group, components, groups, presets
from depthlab.config.schema import SEARCH, SECTIONS, RunKeys, SearchConfig
from depthlab.config.spec import OptionalSpec, composed_values

ALWAYS_THERE = ("augment", "logger")  # groups whose components are listed also where they are off
BASE = "base"


@cache
def options() -> dict[str, dict[str, dict[str, Any]]]:
    """For each group its options, and for each option what it composes; the group "" holds the base configuration."""
    found: dict[str, dict[str, dict[str, Any]]] = {
        "": {BASE: _base()},
        "trainer": {"auto": composed_values(SECTIONS["trainer"])},
        "logger": {"csv": {}},
    }
    for group in groups().values():
        own = found.setdefault(group.name, {})
        own.update({name: _node(group, name, {}) for name in components(group.name)})
        own.update({name: _node(group, *preset) for name, preset in presets(group.name).items()})
    return found


def option_names(group: str) -> list[str]:
    """The options of a group that no file is needed for."""
    return sorted(options().get(group, {}))


def _base() -> dict[str, Any]:
    base: dict[str, Any] = composed_values(RunKeys)
    base |= {section: composed_values(cls) for section, cls in SECTIONS.items() if section != "trainer"}
    for group in groups().values():
        if group.selector is None:
            base.setdefault(group.name, {}).update(_off_values(group.name))
    return {**base, SEARCH: composed_values(SearchConfig), "loss": None}


def _off_values(group: str) -> dict[str, Any]:
    if group not in ALWAYS_THERE:
        return {}
    found = {}
    for name, component in components(group).items():
        assert issubclass(component.spec, OptionalSpec)
        found[name] = component.spec.off_value()
    return found


def _node(group: Group, name: str, preset: Mapping[str, Any]) -> dict[str, Any]:
    spec = components(group.name)[name].spec
    values = {**composed_values(spec), **preset}
    if group.selector is not None:
        return {group.selector: name, **values}
    return {**getattr(spec, "options", {}), name: values or True}


def steps_if_deep(depth: int, threshold: int, steps: int) -> int:
    """`steps` from depth `threshold` on, else 0: the warm-up of the paper's deep networks."""
    return steps if depth >= threshold else 0


OmegaConf.register_new_resolver("steps_if_deep", steps_if_deep, replace=True)
