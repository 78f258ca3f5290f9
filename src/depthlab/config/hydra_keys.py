"""What configuration files may say to Hydra itself: checked before Hydra acts on it.

Hydra imports and calls whatever `_target_` names in its own part of a configuration, writes log files where that part
says and makes folders there. An experiment file of a stranger could run code and overwrite files, even in a dry run.
The files of this project set the keys of `hydra`; every other file is limited to a few of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from depthlab.config.combinations import check_name
from depthlab.config.identity import flatten
from depthlab.config.sweep_size import check_sweep
from depthlab.errors import InputError

SEARCHER = "hydra_plugins.depthlab_pool.SearchSweeper"  # checks its space itself
OWN_LAUNCHER = "hydra_plugins.depthlab_pool.PoolLauncher"  # composes the jobs itself and uses nothing of their `hydra`
HYDRAS_OWN = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"  # runs the jobs in this process
# Hydra fills these in itself, from the command line.
FILLED_IN = ("overrides.", "runtime.", "job.override_dirname")
# Of a launcher: numbers and names. Not where it writes, what a scheduler is told besides, or to which cluster it talks.
LAUNCHER_KEYS = (
    *("jobs_per_device", "on_error", "retries", "mps"),
    *("name", "timeout_min", "max_num_timeout", "signal_delay_s", "nodes", "tasks_per_node", "gpus_per_node"),
    *("cpus_per_task", "mem_gb", "partition", "account", "array_parallelism", "stderr_to_stdout"),
    *("ray.init.num_cpus", "ray.remote.num_gpus", "ray.remote.num_cpus", "ray.remote.max_calls"),
)
PLAIN = re.compile(r"[\w.,:@+-]*")  # what a value of a launcher may consist of: it may become a line of a script


def check_hydra_keys(arguments: Sequence[str], config_dir: Path) -> Path | None:
    """Refuse configuration files that set more of `hydra` than they may, and sweeps that are empty or too large.

    Args:
        arguments: the command line.
        config_dir: the folder of the project's own configuration files.

    Returns:
        The folder of a sweep whose jobs a cluster's launcher starts in processes of its own; None for all else.

    Raises:
        InputError: names the key and what is allowed.
    """
    options = get_args_parser().parse_args(list(arguments))
    if options.help or options.hydra_help or options.shell_completion or options.info is not None or options.cfg:
        return None  # these only print what was composed
    overrides = OverridesParser.create().parse_overrides(options.overrides)
    loader = _loader(config_dir, options.config_dir)
    trusted = _compose(_loader(config_dir), [each for each in overrides if _is_hydra(each)])
    composed = _compose(loader, overrides)
    _compare(composed, trusted)
    check_name("name", str(composed.name))  # the folder of a sweep has this name, and Hydra makes it
    params = composed.hydra.sweeper.params or {}
    is_sweep = options.multirun or composed.hydra.mode is RunMode.MULTIRUN
    if composed.hydra.sweeper._target_ == SEARCHER:
        _check_search(composed, is_sweep)
    elif typed := [str(each.input_line) for each in overrides if each.key_or_group.startswith("search.")]:
        raise InputError(f"{typed[0]}: without a search it means nothing. Type -m hydra/sweeper=search as well.")
    elif is_sweep:
        jobs = check_sweep(overrides, {str(key): value for key, value in params.items()})
        if composed.hydra.launcher._target_ != OWN_LAUNCHER:
            for choice in _choices(jobs, loader):
                others = [each for each in overrides if each.key_or_group != choice.key_or_group]
                _compare(_compose(loader, [*others, choice]), trusted)
            return None if composed.hydra.launcher._target_ == HYDRAS_OWN else Path(composed.hydra.sweep.dir)
    return None


def _check_search(composed: DictConfig, is_sweep: bool) -> None:
    if not is_sweep:
        raise InputError("hydra/sweeper=search: a search has many runs. Type -m as well.")
    if composed.hydra.launcher._target_ != OWN_LAUNCHER:
        raise InputError("hydra/sweeper=search: it stops runs of this machine's queue. Leave hydra/launcher=pool.")


def _is_hydra(override: Override) -> bool:
    return re.split(r"[./@]", override.key_or_group)[0] == "hydra"


def _loader(config_dir: Path, added: str | None = None) -> ConfigLoaderImpl:
    search_path = create_config_search_path(str(config_dir))
    if added is not None:
        path = Path(added).resolve()
        if not path.is_dir():
            raise InputError(f"--config-dir {added}: there is no such folder.")
        search_path.prepend("command-line", f"file://{path}", SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(search_path)


def _compose(loader: ConfigLoaderImpl, overrides: Sequence[Override]) -> DictConfig:
    lines = [str(override.input_line) for override in overrides]
    # MULTIRUN: sweeps over several values are allowed, and left out of what is composed here.
    try:
        return loader.load_configuration("train", lines, RunMode.MULTIRUN)
    except (ValueError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        # Hydra's own errors are of other kinds: these are what its code meets in words that it does not expect.
        said = str(error).partition("\n")[0]
        raise InputError(f"{' '.join(lines)}: Hydra can compose nothing from this ({said}).") from None


def _compare(composed: DictConfig, trusted: DictConfig) -> None:
    """Refuse what differs from the project's own files and the command line, unless a file may set it."""
    before = _hydra_part(trusted)
    for key, value in _hydra_part(composed).items():
        if (key not in before or before[key] != value) and not _may_be_set(key, value):
            raise InputError(
                f"hydra.{key}={value}: a configuration file may set hydra.mode, hydra.sweeper.params and numbers and "
                "names of hydra.launcher, nothing else of Hydra. Remove it from the file."
            )


def _hydra_part(config: DictConfig) -> dict[str, Any]:
    part: Any = OmegaConf.to_container(config.hydra, resolve=False)
    return flatten(part)


def _may_be_set(key: str, value: Any) -> bool:
    if key.startswith("launcher."):
        return key.removeprefix("launcher.") in LAUNCHER_KEYS and PLAIN.fullmatch(str(value)) is not None
    return key in ("mode", "sweeper.params") or key.startswith(("sweeper.params.", *FILLED_IN))


def _choices(jobs: Mapping[str, Override], loader: ConfigLoaderImpl) -> Iterator[Override]:
    """Each choice among files that a sweep makes. Other launchers compose in their jobs, where nothing is checked."""
    groups = set(loader.list_groups(""))
    parser = OverridesParser.create(config_loader=loader)
    for key, override in jobs.items():
        if override.key_or_group in groups:
            values = override.sweep_string_iterator() if override.is_sweep_override() else [override.value()]
            yield from (parser.parse_override(f"{key}={value}") for value in values)
