"""Train a run or a sweep: compose the configuration, check it, start."""

from __future__ import annotations

import datetime
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

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
Snapshot = tuple[Path, str]  # its folder and its digest


def main(arguments: Sequence[str] | None = None) -> int:
    """`train` as the whole of a process, whose streams and signals are prepared first."""
    exits.prepare_signals()
    prepare_streams()
    return train(sys.argv[1:] if arguments is None else arguments)


def train(arguments: Sequence[str], observer: Observer | None = None) -> int:
    """Run a command line and return the exit code.

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
        with _frozen_code(check_hydra_keys(sys.argv[1:], config_dir())) as code:
            tree = _compose(command, code)
        frozen = freeze_if_shared(tree, command) if tree else None
    except (InputError, OSError, *CONFIGURATION_ERRORS) as error:
        if wants_traceback:
            raise
        outlive_output()
        print(f"error: {explain(error)}", file=sys.stderr)
        return exits.MISTAKE
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    if frozen is not None:
        become_first_process(frozen)
    return perform(tree, command, observer=observer) if tree else exits.DONE


@contextmanager
def _frozen_code(sweep_dir: Path | None) -> Iterator[Snapshot | None]:
    """A snapshot of the code for the jobs that a cluster's launcher starts, removed when all have ended well.

    Such launchers pass the environment on. Jobs may outlive this process, and then need the snapshot.
    """
    if sweep_dir is None:
        yield None
        return
    from depthlab.runs.snapshot import FOLDER, python_path, remove_snapshot, take_snapshot  # not needed by --help

    folder = sweep_dir / f"{FOLDER}-{datetime.datetime.now():%Y%m%d-%H%M%S-%f}"
    digest = take_snapshot(folder)
    if digest is None:
        print(f"{folder} holds {os.pathsep!r}, so the jobs import the code where it is: do not edit it.")
        yield None
        return
    os.environ["PYTHONPATH"] = python_path(folder)
    yield folder.resolve(), digest
    remove_snapshot(folder)


def _compose(command: str, code: Snapshot | None) -> Tree | None:
    """The resolved configuration of a single run; None after a sweep or an option such as --help."""
    composed: list[DictConfig] = []
    folder = code[0] / "depthlab" / "configs" if code else config_dir()  # jobs on a cluster compose there
    task = _task(command, composed, code)
    hydra.main(version_base="1.3", config_path=str(folder), config_name="train")(task)()
    return _resolved(composed[0]) if composed else None


def _resolved(config: DictConfig) -> Tree:
    return cast(Tree, OmegaConf.to_container(config, resolve=True))


def _task(command: str, composed: list[DictConfig], code: Snapshot | None) -> TaskFunction:
    """What Hydra calls with a configuration. A function inside another is pickled whole for Slurm and Ray.

    A single run is only kept in `composed`, since Hydra would print lines of its own around what a run raises. The
    default launcher of sweeps starts processes and does not call this; others (basic, Slurm, Ray) do for each job.
    """

    def take(config: DictConfig) -> None:
        if HydraConfig.get().mode is not RunMode.MULTIRUN:
            composed.append(config)
            return
        try:
            if code:
                from depthlab.runs.snapshot import check_snapshot

                check_snapshot(*code)
        except InputError as error:
            print(f"error: {error}")
            raise SystemExit(exits.MISTAKE) from None
        tree = _resolved(config)
        if check(tree).trainer.strategy == "ddp":
            # Lightning would start the other processes with the command line of Slurm's or Ray's worker.
            print("error: trainer.strategy=ddp: this launcher takes runs of one process. Start the run alone there.")
            raise SystemExit(exits.MISTAKE)
        if failure := perform(tree, command):
            raise SystemExit(failure)

    return take


def freeze_if_shared(tree: Tree, command: str) -> Path | None:
    """The frozen configuration of a run that several processes share, None for any other run.

    Lightning starts the other processes with the command line of the first, which must not go through Hydra again.
    """
    config = check(tree)
    return freeze(tree, command) if config.trainer.strategy == "ddp" and not config.dry_run else None


def become_first_process(frozen: Path) -> NoReturn:
    """Go on as the first of the processes that share a run."""
    exits.block_signals()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "depthlab.runs.process", str(frozen)])
