"""The command line of a run or a sweep: compose the configuration, hand over. python train.py --help"""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from io import TextIOWrapper
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from depthlab.config.check import check
from depthlab.config.commandline import CONFIGURATION_ERRORS, check_names, explain, multirun_first
from depthlab.config.hydra_options import store_options
from depthlab.errors import InputError
from depthlab.runs import exits
from depthlab.runs.frozen import freeze
from depthlab.runs.process import perform

CONFIG_DIR = Path(__file__).resolve().parent / "configs"
command = shlex.join(["python", *sys.argv])
composed: list[DictConfig] = []


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def compose(config: DictConfig) -> None:
    """Keep what Hydra composed: it would print its own lines around whatever a run raises.

    In a sweep our launcher takes over instead; any other one (basic, Slurm, Ray) calls this for each job.
    """
    if HydraConfig.get().mode is not RunMode.MULTIRUN:
        composed.append(config)
        return
    tree = _resolved(config)
    if check(tree).trainer.strategy == "ddp":
        # Lightning would start its other processes with the command line of Slurm's or Ray's worker.
        print("error: trainer.strategy=ddp: this launcher takes runs of one process. Start the run alone there.")
        raise SystemExit(exits.MISTAKE)
    if code := perform(tree, command):
        raise SystemExit(code)


def _resolved(config: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def main() -> int:
    """Run what was typed; the exit code."""
    sys.argv[1:] = multirun_first(sys.argv[1:])
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Our options for Ray bear the name of its plugin's and hold all that it needs.
    warnings.filterwarnings("ignore", message="\\s*'hydra/launcher/ray' is validated against ConfigStore")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises then, rather than printing and exiting by itself
    try:
        store_options()
        check_names(sys.argv[1:], CONFIG_DIR)
        compose()
        tree = _resolved(composed[0]) if composed else None
        frozen = _freeze_if_shared(tree) if tree else None
    except (InputError, OSError, *CONFIGURATION_ERRORS) as error:
        if wants_traceback:
            raise
        print(f"error: {explain(error)}", file=sys.stderr)
        return exits.MISTAKE
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    if frozen is not None:
        os.execv(sys.executable, [sys.executable, "-P", "-m", "depthlab.runs.process", str(frozen)])
    return perform(tree, command) if tree else exits.DONE


def _freeze_if_shared(tree: dict[str, Any]) -> Path | None:
    """The frozen configuration of a run that several processes share.

    Lightning starts the others with this one's command line, which must not go through Hydra again.
    """
    config = check(tree)
    return freeze(tree, command) if config.trainer.strategy == "ddp" and not config.dry_run else None


if __name__ == "__main__":
    exits.stop_when_asked(also=())  # Ctrl-C has its own way out of what Hydra does
    for stream in (sys.stdout, sys.stderr):
        cast(TextIOWrapper, stream).reconfigure(errors="replace")  # a terminal that has no ± shows a ?
    sys.exit(main())
