"""From a run's directory back to its network, its data and its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from depthlab.config.check import check
from depthlab.config.hardware import probe, resolve
from depthlab.config.images import ImageSpec
from depthlab.config.registry import installed_extensions
from depthlab.config.schema import TrainConfig
from depthlab.data.datamodule import ImageDataModule
from depthlab.errors import InputError
from depthlab.records.checkpoints import checkpoint_path, list_checkpoints, load_checkpoint
from depthlab.records.record import Record, read_record
from depthlab.runs.build import build_data, build_module, build_network, build_trainer
from depthlab.runs.code import code_of, in_words

# More than any data set has; a record with a larger number is damaged or means harm.
LARGEST_SIZE = 100_000


def load_run(path: str | Path) -> tuple[nn.Module, Record]:
    """The network of a run with its last weights, in evaluation mode on the CPU, and the run's record.

    Nothing in the directory can make this run code: the configuration chooses among installed networks by name,
    and the checkpoint is loaded as tensors and plain data.

    Raises:
        InputError: `path` is not a run's directory, its network is not installed, or its checkpoint is missing,
            damaged or of another network.
    """
    directory = Path(path)
    record = read_record(directory)
    images, num_outputs = _sizes(record.data, directory)
    config = check_recorded(record)
    say_other_code(config, record)
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, and then replaced
        network = build_network(config, images, num_outputs)
    load_weights(network, directory, record)
    return network.eval(), record


def check_recorded(record: Record) -> TrainConfig:
    """The configuration of a record, checked; where an extension is missing or another version, that is said.

    Raises:
        InputError: the configuration is not valid here.
    """
    installed, used = installed_extensions(), record.extensions or {}
    missing = [f"{name} {version}" for name, version in used.items() if name not in installed]
    for name, version in used.items():
        if name in installed and installed[name] != version:
            print(f"The extension {name} is {installed[name]} here; the run used {version}.")
    try:
        config = check(record.config)
    except InputError as error:
        if missing:
            raise InputError(f"The run uses an extension that is not installed here: {', '.join(missing)}.") from None
        raise error
    return config


def say_other_code(config: TrainConfig, record: Record) -> None:
    """A line where the code here is not that of the record, whose configuration is `config`."""
    if differences := code_of(config).differences(record.code):
        print(f"The code differs from the run's: {in_words(differences)}.")


def _sizes(data: dict[str, Any], directory: Path) -> tuple[ImageSpec, int]:
    """The images and the number of outputs as the record names them, if these are numbers that a network can have."""
    shape, num_outputs = data.get("image_shape"), data.get("num_classes")
    sizes = [*shape, num_outputs] if isinstance(shape, list) else []
    if len(sizes) != 4 or not all(type(size) is int and 0 < size <= LARGEST_SIZE for size in sizes):
        raise InputError(f"{directory}: its record does not say for which images the network is.")
    return ImageSpec(*sizes[:3]), sizes[3]


def load_weights(network: nn.Module, directory: Path, record: Record) -> None:
    """Put the weights of a run's last step into `network`, all of them or none."""
    checkpoint = checkpoint_path(directory, record.steps)
    if not checkpoint.exists():
        found = ", ".join(path.name for path in list_checkpoints(directory)) or "none"
        raise InputError(
            f"{directory} has no checkpoint of its last step ({checkpoint.name}); there is: {found}. "
            "The run's command with rerun=true makes it again."
        )
    content = load_checkpoint(checkpoint)
    try:
        network.load_state_dict(content["network"])
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:40])
        raise InputError(f"{checkpoint} holds another network than {directory.name} names: {reason} ...") from None


def evaluate_run(path: str | Path, data_dir: str | None = None, accelerator: str | None = None) -> dict[str, float]:
    """Measure every split again with a run's last weights, as the end of the run did.

    Args:
        path: the run's directory.
        data_dir: where the data lie, if not where they were.
        accelerator: on which device, if not on the kind that the run used.

    Returns:
        Metrics by name, such as "test/err" in percent.
    """
    directory = Path(path)
    record = read_record(directory)
    config = check_recorded(record)
    say_other_code(config, record)
    _adapt(config, record, data_dir, accelerator)
    data = build_data(config)
    _check_same_data(data, record)
    network = build_network(config, data.image_spec, data.num_outputs)
    load_weights(network, directory, record)
    module = build_module(config, network, data.num_outputs)
    build_trainer(config.trainer, None, [], []).test(module, datamodule=data, verbose=False)
    return module.measured()


def _adapt(config: TrainConfig, record: Record, data_dir: str | None, accelerator: str | None) -> None:
    """One process, the run's precision, and its number of threads, on which the order of sums depends."""
    if data_dir:
        config.paths.data_dir = data_dir
    config.trainer.devices = 1
    config.trainer.strategy = "auto"
    config.trainer.profiler = None
    config.trainer.accelerator = accelerator or config.trainer.accelerator
    config.trainer = resolve(config.trainer, probe())
    torch.set_num_threads(record.num_threads or 1)


def _check_same_data(data: ImageDataModule, record: Record) -> None:
    expected = record.data.get("fingerprint")
    if expected is not None and data.fingerprint() != expected:
        raise InputError(
            f"{data.spec.name} is not what the run saw: its fingerprint is {data.fingerprint()}, "
            f"the record's {expected}."
        )
