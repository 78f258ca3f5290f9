"""The registered components as options of Hydra's groups, as Hydra finds them; the work is in depthlab.config."""

from __future__ import annotations

from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf


def _same_store(store: ConfigStore, memo: dict[int, Any]) -> ConfigStore:
    return store


# Hydra deep-copies its repository of configurations, and with it this singleton, once for each group that it lists:
# more than half the time of --help. What the store holds is copied when it is loaded, so one store is enough.
ConfigStore.__deepcopy__ = _same_store  # type: ignore[attr-defined]  # it defines none


class RegistrySource(ConfigSource):
    """Serves what depthlab.config.hydra_options composes under the scheme registry://."""

    @staticmethod
    def scheme() -> str:
        return "registry"

    def load_config(self, config_path: str) -> ConfigResult:
        from depthlab.config.hydra_options import options  # not needed by commands that compose nothing

        group, _, name = self._normalize_file_name(config_path).removesuffix(".yaml").rpartition("/")
        if name not in options().get(group, {}):
            raise ConfigLoadError(f"{config_path} is no registered option")
        config = OmegaConf.create(options()[group][name])
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", config, header={"package": None})

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        from depthlab.config.hydra_options import options

        return config_path in options()

    def is_config(self, config_path: str) -> bool:
        from depthlab.config.hydra_options import options

        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        return name in options().get(group, {})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        from depthlab.config.hydra_options import options

        found: list[str] = []
        if results_filter in (None, ObjectType.GROUP) and config_path == "":
            found += [group for group in options() if group]
        if results_filter in (None, ObjectType.CONFIG):
            found += options().get(config_path, {})
        return sorted(set(found))


class RegistrySearchPath(SearchPathPlugin):
    """Puts the registry behind the files on Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("depthlab", "registry://")
