"""Train a run or a sweep: compose the configuration, check it, start."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from depthlab.config.check import check
from depthlab.config.commandline import CONFIGURATION_ERRORS, check_names, explain, options_first
from depthlab.config.folder import config_dir
from depthlab.config.hydra_keys import check_hydra_keys
from depthlab.config.output import outlive_output, prepare_streams
from depthlab.config.program import command_words
from depthlab.errors import InputError
from depthlab.runs import exits
from depthlab.runs.frozen import freeze
from depthlab.runs.process import perform

if TYPE_CHECKING:
    from depthlab.runs.observer import Observer

Tree = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """`train` as the whole of a process, whose streams and signals are prepared first."""
    exits.stop_when_asked(also=())  # Ctrl-C is handled in `train`
    prepare_streams()
    return train(sys.argv[1:] if arguments is None else arguments)


def train(arguments: Sequence[str], observer: Observer | None = None) -> int:
    """Run what was typed; the exit code.

    Args:
        arguments: Hydra's options and overrides.
        observer: is told about the run. Runs of a sweep, which have processes of their own, have none.
    """
    command = shlex.join([*command_words(sys.argv, "train"), *arguments])
    # The options of hydra/launcher=ray have the name of its plugin's schema, on purpose.
    warnings.filterwarnings("ignore", message="\\s*'hydra/launcher/ray' is validated against ConfigStore")
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them and exiting
    try:
        sys.argv[1:] = options_first(arguments)
        check_names(sys.argv[1:], config_dir())
        check_hydra_keys(sys.argv[1:], config_dir())
        tree = _compose(command)
        frozen = _freeze_if_shared(tree, command) if tree else None
    except (InputError, OSError, *CONFIGURATION_ERRORS) as error:
        if wants_traceback:
            raise
        outlive_output()
        print(f"error: {explain(error)}", file=sys.stderr)
        return exits.MISTAKE
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    if frozen is not None:
        os.execv(sys.executable, [sys.executable, "-P", "-m", "depthlab.runs.process", str(frozen)])
    return perform(tree, command, observer=observer) if tree else exits.DONE


def _compose(command: str) -> Tree | None:
    """The resolved configuration of a single run; None after a sweep or an option such as --help."""
    composed: list[DictConfig] = []
    hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")(_task(command, composed))()
    return _resolved(composed[0]) if composed else None


def _resolved(config: DictConfig) -> Tree:
    return cast(Tree, OmegaConf.to_container(config, resolve=True))


def _task(command: str, composed: list[DictConfig]) -> TaskFunction:
    """What Hydra calls with a configuration. A function inside another is pickled whole for Slurm and Ray.

    A single run is only kept in `composed`, since Hydra would print lines of its own around what a run raises. The
    default launcher of sweeps starts processes and does not call this; others (basic, Slurm, Ray) do for each job.
    """

    def take(config: DictConfig) -> None:
        if HydraConfig.get().mode is not RunMode.MULTIRUN:
            composed.append(config)
            return
        tree = _resolved(config)
        if check(tree).trainer.strategy == "ddp":
            # Lightning would start the other processes with the command line of Slurm's or Ray's worker.
            print("error: trainer.strategy=ddp: this launcher takes runs of one process. Start the run alone there.")
            raise SystemExit(exits.MISTAKE)
        if code := perform(tree, command):
            raise SystemExit(code)

    return take


def _freeze_if_shared(tree: Tree, command: str) -> Path | None:
    """The frozen configuration of a run that several processes share, None for any other run.

    Lightning starts the other processes with the command line of the first, which must not go through Hydra again.
    """
    config = check(tree)
    return freeze(tree, command) if config.trainer.strategy == "ddp" and not config.dry_run else None
