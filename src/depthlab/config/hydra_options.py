"""What Hydra may compose besides the files in configs/: the defaults of every section, and an option a component."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore

from depthlab.config.registry import Group, components, groups
from depthlab.config.schema import SECTIONS, RunKeys
from depthlab.config.spec import OptionalSpec, composed_values

ALWAYS_THERE = ("augment", "logger")  # groups whose components are listed also where they are off


def store_options() -> None:
    """Put the defaults and the options into Hydra's ConfigStore. YAML files are read over them."""
    store = ConfigStore.instance()
    base: dict[str, Any] = composed_values(RunKeys)
    base |= {section: composed_values(cls) for section, cls in SECTIONS.items() if section != "trainer"}
    for group in groups().values():
        if group.selector is None:
            base.setdefault(group.name, {}).update(_off_values(group.name))
        for name in components(group.name):
            store.store(group=group.name, name=name, node=_node(group, name), provider="depthlab")
    base["loss"] = None
    store.store(name="base", node=base, provider="depthlab")
    store.store(group="trainer", name="auto", node=composed_values(SECTIONS["trainer"]), provider="depthlab")
    store.store(group="logger", name="csv", node={}, provider="depthlab")


def option_names(group: str) -> list[str]:
    """The options of a group that no file is needed for."""
    found = {"trainer": ["auto"], "logger": ["csv"]}.get(group, [])
    return sorted([*found, *(components(group) if group in groups() else ())])


def _off_values(group: str) -> dict[str, Any]:
    if group not in ALWAYS_THERE:
        return {}
    found = {}
    for name, component in components(group).items():
        assert issubclass(component.spec, OptionalSpec)
        found[name] = component.spec.off_value()
    return found


def _node(group: Group, name: str) -> dict[str, Any]:
    spec = components(group.name)[name].spec
    values = composed_values(spec)
    if group.selector is not None:
        return {group.selector: name, **values}
    return {**getattr(spec, "options", {}), name: values or True}
