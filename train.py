"""The command line of a run or a sweep: compose the configuration, hand over. python train.py --help"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any, cast

import hydra
from omegaconf import DictConfig, OmegaConf

from depthlab.commandline import CONFIGURATION_ERRORS, check_names, explain, multirun_first
from depthlab.errors import InputError
from depthlab.job import EXIT_INPUT, perform
from depthlab.records.frozen import freeze

CONFIG_DIR = Path(__file__).resolve().parent / "configs"
composed: list[DictConfig] = []


# Hydra composes and is done: it would print its own lines around whatever a run raises.
@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def compose(config: DictConfig) -> None:
    """Keep what Hydra composed. In a sweep the launcher takes over instead."""
    composed.append(config)


def main() -> int:
    """Run what was typed; the exit code."""
    command = shlex.join(["python", *sys.argv])
    sys.argv[1:] = multirun_first(sys.argv[1:])
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises then, rather than printing and exiting by itself
    try:
        check_names(sys.argv[1:], CONFIG_DIR)
        compose()
        if not composed:
            return 0
        tree = OmegaConf.to_container(composed[0], resolve=True)
    except (InputError, *CONFIGURATION_ERRORS) as error:
        if wants_traceback:
            raise
        print(f"error: {error if isinstance(error, InputError) else explain(error)}", file=sys.stderr)
        return EXIT_INPUT
    return _run(cast(dict[str, Any], tree), command)


def _run(tree: dict[str, Any], command: str) -> int:
    if tree["trainer"]["strategy"] == "ddp" and not tree["dry_run"]:
        # Lightning starts the other processes with this one's command line, which must not go through Hydra again.
        path = freeze(tree, command)
        os.execv(sys.executable, [sys.executable, "-m", "depthlab.job", str(path)])
    return perform(tree, command)


if __name__ == "__main__":
    sys.exit(main())
