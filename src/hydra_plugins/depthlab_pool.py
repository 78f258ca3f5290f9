"""The launcher that `-m` uses, and the sweeper `search`. Hydra finds them here; depthlab.sweeps does the work."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class PoolLauncher(Launcher):
    """Runs the jobs of a sweep on the devices of this machine, each in a process of its own."""

    def __init__(
        self,
        jobs_per_device: int | str | None = None,
        on_error: str = "continue",
        retries: int = 0,
        mps: str | bool = "auto",
    ) -> None:
        """The keys of configs/hydra/launcher/pool.yaml, where they are explained."""
        self._settings = (jobs_per_device, on_error, retries, mps)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what composes the jobs; the task function runs in the jobs' own processes, not here."""
        self._loader = hydra_context.config_loader
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Check all jobs, then run them.

        Raises:
            InputError: a job cannot run; none was started.
            SystemExit: not all jobs finished or diverged.
        """
        # Hydra imports its plugins at every start, --help included: what only a sweep needs is imported here.
        from depthlab.config.commandline import job_words
        from depthlab.errors import InputError
        from depthlab.sweeps.launcher import launch
        from depthlab.sweeps.preflight import Request
        from depthlab.sweeps.settings import check_settings

        setup_globals()
        if self._config.hydra.sweeper.get("max_batch_size") is not None:
            raise InputError(
                "hydra.sweeper.max_batch_size: the queue takes all jobs at once. "
                "How many run at a time is hydra.launcher.jobs_per_device."
            )
        settings = check_settings(*self._settings)
        words = job_words(sys.argv)
        requests = [
            Request(tuple(overrides), self._loader.load_sweep_config(self._config, list(overrides)), words)
            for overrides in job_overrides
        ]
        code = launch(requests, Path(self._config.hydra.sweep.dir), settings)
        if code:
            raise SystemExit(code)
        return []


class SearchSweeper(Sweeper):
    """Looks for the best values of the keys that are given with bounds, over the queue of `PoolLauncher`."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        """`params` are those of an experiment's file: what is searched where the command line says nothing."""
        self._params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what composes the jobs."""
        self._loader = hydra_context.config_loader
        self._config = config

    def sweep(self, arguments: list[str]) -> None:
        """Search until `search.trials` configurations are tried.

        Raises:
            InputError: nothing can be searched like this; nothing was started.
            SystemExit: a trial failed, or the search was stopped.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from omegaconf import OmegaConf

        from depthlab.config.check import check_search
        from depthlab.config.commandline import job_words
        from depthlab.config.sweep_size import sweep_parts
        from depthlab.sweeps.launcher import launch_search
        from depthlab.sweeps.preflight import Request
        from depthlab.sweeps.settings import check_settings

        setup_globals()
        parser, words = OverridesParser.create(config_loader=self._loader), job_words(sys.argv)
        parts = sweep_parts(parser.parse_overrides(arguments), self._params)

        def compose(overrides: Sequence[str]) -> Request:
            return Request(tuple(overrides), self._loader.load_sweep_config(self._config, list(overrides)), words)

        launcher = self._config.hydra.launcher
        settings = check_settings(launcher.jobs_per_device, launcher.on_error, launcher.retries)
        keys = check_search(OmegaConf.to_container(self._config.search))
        code = launch_search(parts, compose, keys, Path(self._config.hydra.sweep.dir), settings)
        if code:
            raise SystemExit(code)


# No file in configs/: a sweeper has no keys of its own, those of a search are in the section of this name.
ConfigStore.instance().store(
    group="hydra/sweeper", name="search", node={"_target_": f"{__name__}.SearchSweeper", "params": None}
)
