"""What was typed: put in the order Hydra accepts, its names checked, Hydra's errors said in a few lines."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from depthlab.config.combinations import check_name
from depthlab.config.hydra_options import option_names
from depthlab.config.nearest import nearest
from depthlab.config.registry import groups as registered_groups
from depthlab.config.schema import known_keys
from depthlab.errors import InputError

MULTIRUN_FLAGS = ("-m", "--multirun")
NEEDED = ("hydra.launcher", "hydra.sweeper", "hydra/launcher", "hydra/sweeper")
COMPLETION_FLAGS = ("-sc", "--shell-completion", "--shell_completion")
# Hydra's options that take a value as the next word, which is no override.
OPTIONS_WITH_VALUE = (
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--config-dir",
    "-cd",
)


# What an option of ours needs besides depthlab: the module, and the extra that installs it.
EXTRAS = {"hydra/launcher=slurm": ("submitit", "slurm"), "hydra/launcher=ray": ("ray", "ray")}


def multirun_first(arguments: list[str]) -> list[str]:
    """`arguments` with -m at the front: Hydra 1.3.8 refuses overrides on both sides of it (its issue 3053)."""
    flags = [argument for argument in arguments if argument in MULTIRUN_FLAGS]
    return [*flags[:1], *(argument for argument in arguments if argument not in MULTIRUN_FLAGS)]


def check_names(arguments: list[str], config_dir: Path) -> None:
    """Refuse overrides of keys and groups that do not exist, also behind + and ++, and options whose extra is missing.

    Raises:
        InputError: names the key, the value and the nearest valid name, or what to install.
    """
    groups = sorted({path.name for path in config_dir.iterdir() if path.is_dir()} | {*registered_groups()})
    keys = known_keys()
    if any(argument in COMPLETION_FLAGS for argument in arguments):
        return  # what follows is for the shell
    for text in _overrides(arguments):
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise InputError(f"{text}: not KEY=VALUE as Hydra reads it ({str(error).splitlines()[0]}).") from None
        module, extra = EXTRAS.get(text, ("sys", ""))
        if importlib.util.find_spec(module) is None:
            raise InputError(f"{text}: {module} is not installed. Type: pip install -e '.[{extra}]'")
        name = override.key_or_group
        if name in groups and override.value() is None and not override.is_delete():
            files = {path.stem for path in (config_dir / name).glob("*.yaml")}
            options = ", ".join(sorted(files | {*option_names(name)}))
            raise InputError(f"{text}: a group needs one of its options: {options}.")
        if name in NEEDED and override.value() is None:
            raise InputError(f"{text}: a sweep needs one. Leave it out for the usual one.")
        if name == "name" and not override.is_sweep_override() and "${" not in text:
            check_name(name, str(override.value()))  # here: Hydra makes a folder of it before all other checks
        if name.split(".")[0].split("/")[0] == "hydra" or name in groups or name in keys:
            continue
        raise InputError(f"{text}: no such key or group. {nearest(name, [*keys, *groups])}")


def explain(error: Exception) -> str:
    """An error about a configuration, Hydra's and OmegaConf's among them, in a few lines."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}={option}: no such option. {nearest(option, list(error.options))}"
    if isinstance(error, OSError) and error.strerror:  # Hydra's MissingConfigException is one without
        if error.filename is None:
            return f"what is printed cannot be written ({error.strerror})."
        return f"{error.filename} cannot be written ({error.strerror}). Choose another place with paths.log_dir=..."
    if isinstance(error, YAMLError):
        return f"not YAML that a configuration may hold: {' '.join(str(error).split())}"
    lines = [str(error).splitlines()[0]]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines += str(error.__cause__).splitlines()[:1]
    return "\n".join(lines)


CONFIGURATION_ERRORS = (ConfigCompositionException, HydraException, OmegaConfBaseException, YAMLError)


def _overrides(arguments: list[str]) -> list[str]:
    found, skip = [], False
    for argument in arguments:
        if not skip and not argument.startswith("-"):
            found.append(argument)
        skip = argument in OPTIONS_WITH_VALUE
    return found
