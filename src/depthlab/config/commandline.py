"""The command line: put into the order that Hydra accepts, its names checked, Hydra's errors shortened."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from depthlab.config.combinations import check_name
from depthlab.config.hydra_options import option_names
from depthlab.config.nearest import nearest
from depthlab.config.program import command_words
from depthlab.config.registry import broken
from depthlab.config.registry import groups as registered_groups
from depthlab.config.schema import known_keys
from depthlab.errors import InputError

NEEDED = ("hydra.launcher", "hydra.sweeper", "hydra/launcher", "hydra/sweeper")
CHOSEN = ("data", "model", "optimizer", "schedule", "task", "trainer")  # of these groups something is always chosen
COMPLETION_FLAGS = ("-sc", "--shell-completion", "--shell_completion")
# Hydra's options that take a value as the next word, which is not an override.
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


def options_first(arguments: Sequence[str]) -> list[str]:
    """`arguments` with the options in front: Hydra 1.3.8 refuses overrides on both sides of one (its issue 3053).

    Raises:
        InputError: the last option lacks its value.
    """
    options, overrides = _split(arguments)
    return [*options, *overrides]


def check_names(arguments: Sequence[str], config_dir: Path) -> None:
    """Refuse overrides of keys and groups that do not exist, also behind + and ++, and options whose extra is missing.

    Raises:
        InputError: names the key, the value and the nearest valid name, or what to install.
    """
    groups = sorted({path.name for path in config_dir.iterdir() if path.is_dir()} | {*registered_groups()})
    keys = known_keys()
    if any(argument in COMPLETION_FLAGS for argument in arguments):
        return  # what follows is for the shell
    _check_options(arguments)
    for text in _split(arguments)[1]:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise InputError(f"{text}: not KEY=VALUE as Hydra reads it ({str(error).splitlines()[0]}).") from None
        module, extra = EXTRAS.get(text, ("sys", ""))
        if importlib.util.find_spec(module) is None:
            raise InputError(f"{text}: {module} is not installed. Type: pip install -e '.[{extra}]'")
        _check_hydra_override(text, override)
        _check_group(text, override, groups, config_dir)
        name = override.key_or_group
        if name == "name" and not override.is_sweep_override() and "${" not in text:
            check_name(name, str(override.value()))  # here: Hydra makes a folder of it before all other checks
        if name.split(".")[0].split("/")[0] == "hydra" or name in groups or name in keys:
            continue
        raise InputError(f"{text}: no such key or group. {nearest(name, [*keys, *groups])}")


def job_words(argv: Sequence[str]) -> tuple[str, ...]:
    """The words before the overrides that repeat a job alone: the program, and the folder of files that it needs."""
    folder = get_args_parser().parse_args(list(argv[1:])).config_dir
    return (*command_words(argv, "train"), *(("--config-dir", folder) if folder else ()))


def _check_hydra_override(text: str, override: Override) -> None:
    name = override.key_or_group
    if "_target_" in text:
        raise InputError(f"{text}: no code can be named here. A launcher is chosen with hydra/launcher=pool.")
    if name.startswith("hydra.sweeper.params"):
        raise InputError(f"{text}: a sweep is typed as -m KEY=VALUE,VALUE. Files alone set hydra.sweeper.params.")
    if name == "hydra.searchpath":
        raise InputError(f"{text}: add a folder of configuration files with --config-dir DIR.")
    if name in NEEDED and "." in name and override.value() is not None and not isinstance(override.value(), dict):
        raise InputError(f"{text}: a group of keys. Choose another one with {name.replace('.', '/')}=OPTION")
    if name in NEEDED and override.value() is None:
        raise InputError(f"{text}: a sweep needs one. Leave it out for the default.")


def _check_group(text: str, override: Override, groups: Sequence[str], config_dir: Path) -> None:
    name, value = override.key_or_group, override.value()
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP and name not in groups:
        raise InputError(f"{text}: glob chooses among the options of a group, and {name} is a key.")
    is_group = name in groups or name.startswith("hydra/")
    if is_group and not override.is_sweep_override() and not _are_options(value):
        raise InputError(f"{text}: an option of {name} is a name.")
    selecting = name in registered_groups() and registered_groups()[name].selector is not None
    if selecting and isinstance(value, list):
        raise InputError(f"{text}: one {name} is chosen. To run several, sweep: -m {name}=A,B")
    if override.is_add() and name in CHOSEN:
        raise InputError(f"{text}: a {name} is chosen already. Replace it with {text.lstrip('+')}")
    if name in groups and value is None and not override.is_delete():
        files = {path.stem for path in (config_dir / name).glob("*.yaml")}
        options = ", ".join(sorted(files | {*option_names(name)}))
        may_be_absent = name in registered_groups() and registered_groups()[name].identity_default == ""
        none = f" Without one: ~{name}" if may_be_absent else ""
        raise InputError(f"{text}: a group needs one of its options: {options}.{none}")


def _are_options(value: object) -> bool:
    """Whether a group may be told this: a name, some names, null, or nothing."""
    return value is None or all(isinstance(each, str) for each in (value if isinstance(value, list) else [value]))


def _check_options(arguments: Sequence[str]) -> None:
    """Refuse options of Hydra that contradict each other, or that would replace the files of this project."""
    options = get_args_parser().parse_args(list(arguments))
    for name in ("config_path", "config_name", "experimental_rerun"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name.replace('_', '-')}: not possible here. Add files with --config-dir DIR.")
    if options.package and not options.cfg:
        raise InputError("--package: only together with --cfg job, --cfg all or --cfg hydra.")
    if options.resolve and not (options.cfg or options.help):
        raise InputError("--resolve: only together with --cfg job, --cfg all or --cfg hydra.")
    asked = {"--cfg": options.cfg, "--info": options.info, "-m": options.multirun, "--run": options.run}
    given = [name for name, value in asked.items() if value]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)}: one at a time. --cfg job shows a sweep's configuration without -m.")


def composed(overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """The resolved configuration of one run, not yet checked, for commands that start none.

    Args:
        overrides: those of `train`.
        folder: the configuration files.

    Raises:
        InputError, and what `CONFIGURATION_ERRORS` lists: `explain` says either in a few lines.
    """
    check_names(overrides, folder)
    with initialize_config_dir(config_dir=str(folder), version_base="1.3"):
        tree = OmegaConf.to_container(compose("train", overrides=list(overrides)), resolve=True)
    return cast(dict[str, Any], tree)


def explain(error: Exception) -> str:
    """An error about a configuration, Hydra's and OmegaConf's among them, in a few lines."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        if group in registered_groups() and option in registered_groups()[group].duplicates:
            return registered_groups()[group].duplicates[option]
        lines = [f"{group}={option}: no such option. {nearest(option, list(error.options))}", *broken().values()]
        return "\n".join(lines)
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


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options with their values, and the overrides."""
    options: list[str] = []
    overrides: list[str] = []
    takes_value = False
    for argument in arguments:
        is_option = takes_value or argument.startswith("-")
        (options if is_option else overrides).append(argument)
        takes_value = argument in OPTIONS_WITH_VALUE
    if takes_value and overrides:
        raise InputError(f"{options[-1]}: a value is expected behind it.")  # it would take the first override for one
    return options, overrides
