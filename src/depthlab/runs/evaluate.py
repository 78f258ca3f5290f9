"""From a run's directory back to its network, its data and its numbers."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from depthlab.config.check import check
from depthlab.config.hardware import probe, resolve
from depthlab.config.images import ImageSpec
from depthlab.config.registry import installed_extensions
from depthlab.config.schema import TrainConfig
from depthlab.data.pictures import LARGEST_SIZE
from depthlab.errors import InputError
from depthlab.records.checkpoints import checkpoint_path, list_checkpoints, load_checkpoint
from depthlab.records.published_files import RECORDS
from depthlab.records.record import Record, find_records, read_record
from depthlab.records.record_checks import check_record
from depthlab.runs.build import build_data, build_module, build_network, build_trainer
from depthlab.runs.code import code_of, in_words
from depthlab.shown_text import one_line

if TYPE_CHECKING:
    from depthlab.data.datamodule import ImageDataModule

SHOWN = 5  # runs, in a message


def evaluate_run(path: str | Path, data_dir: str | None = None, accelerator: str | None = None) -> dict[str, float]:
    """Measure every split again with a run's last weights, as the end of the run did.

    Args:
        path: the run's directory.
        data_dir: where the data lie, if not where they were. Without it nothing is downloaded: the folder that a
            record names may be a stranger's choice.
        accelerator: on which device, if not on the kind that the run used.

    Returns:
        Metrics by name, such as "test/err" in percent.

    Raises:
        InputError: the run did not finish, or its weights or data are absent or other ones.
    """
    directory = Path(path)
    record = read_record(directory)
    check_finished(record, directory)
    config = check_recorded(record)
    say_other_code(config, record)
    _adapt(config, record, data_dir, accelerator)
    data = build_data(config, may_download=bool(data_dir))
    check_same_data(data, record)
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, and then replaced
        network = build_network(config, data.image_spec, data.num_outputs)
    put_weights(network, load_last(directory, record)["network"], str(directory))
    module = build_module(config, network, data.num_outputs)
    build_trainer(config.trainer, None, [], []).test(module, datamodule=data, verbose=False)
    return module.compute_metrics()


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


def load_run(path: str | Path) -> tuple[nn.Module, Record]:
    """The network of a run with its last weights, in evaluation mode on the CPU, and the run's record.

    `open_run` returns these and what else belongs to them, normalisation and classes first of all.

    Raises:
        InputError: `path` is not a run's directory, its network is not installed, or its checkpoint is missing,
            damaged or of another network.
    """
    directory = Path(path)
    record = read_record(directory)
    config = check_recorded(record)
    say_other_code(config, record)
    state = load_last(directory, record)["network"]
    return build_recorded(config, record, state, str(directory)).eval(), record


def check_recorded(record: Record) -> TrainConfig:
    """The configuration of a record, checked; where an extension is missing or another version, that is said.

    Raises:
        InputError: the configuration is not valid here.
    """
    installed, used = installed_extensions(), record.extensions or {}
    missing = [f"{name} {version}" for name, version in used.items() if name not in installed]
    for name, version in used.items():
        if name in installed and installed[name] != version:
            _note(f"The extension {name} is {installed[name]} here; the run used {version}.")
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
        _say_once(f"The code differs from the run's: {in_words(differences)}.", record.run, record.finished_at)


@cache
def _say_once(line: str, *run: object) -> None:
    _note(line)


def _note(line: str) -> None:
    """A line beside a command's answer, which may be JSON."""
    print(one_line(line), file=sys.stderr)  # names come from the record


def load_last(directory: Path, record: Record) -> dict[str, Any]:
    """The checkpoint of a run's last step.

    Raises:
        InputError: it is missing or damaged.
    """
    checkpoint = checkpoint_path(directory, record.steps)
    if not checkpoint.exists():
        found = ", ".join(path.name for path in list_checkpoints(directory)) or "none"
        raise InputError(
            f"{directory} has no checkpoint of its last step ({checkpoint.name}); there is: {found}. "
            "The run's command with rerun=true makes it again."
        )
    return load_checkpoint(checkpoint)


def put_weights(network: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Put weights into `network`, all of them or none. Raises InputError where they are another network's."""
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:40])
        raise InputError(f"{where} holds another network than its record names: {reason} ...") from None


def check_same_data(data: ImageDataModule, record: Record) -> None:
    """Raise InputError where these are not the images that the run saw."""
    expected = record.data.get("fingerprint")
    if expected is not None and data.fingerprint() != expected:
        raise InputError(
            f"{data.spec.name} is not what the run saw: its fingerprint is {data.fingerprint()}, "
            f"the record's {expected}."
        )


def build_recorded(config: TrainConfig, record: Record, state: dict[str, Tensor], where: str) -> nn.Module:
    """The network as the record names it, with these weights.

    Raises:
        InputError: the record's sizes are no numbers that a network can have, or the weights are another network's.
            No memory is taken for such a network.
    """
    shape, num_outputs = record.data.get("image_shape"), record.data.get("num_classes")
    sizes = [*shape, num_outputs] if isinstance(shape, list) else []
    if len(sizes) != 4 or not all(type(size) is int and 0 < size <= LARGEST_SIZE for size in sizes):
        raise InputError(f"{where}: its record does not say for which images the network is.")
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, and then replaced
        _check_num_weights(config, ImageSpec(*sizes[:3]), sizes[3], state, where)
        network = build_network(config, ImageSpec(*sizes[:3]), sizes[3])
    put_weights(network, state, where)
    return network


def _check_num_weights(
    config: TrainConfig, images: ImageSpec, num_outputs: int, state: dict[str, Tensor], where: str
) -> None:
    try:
        with torch.device("meta"), _NothingDrawn():
            expected = sum(each.numel() for each in build_network(config, images, num_outputs).state_dict().values())
    except NotImplementedError:  # an extension's network that computes while it is built
        return
    except (RuntimeError, ValueError, OverflowError) as error:  # sizes whose product is no number of torch's
        raise InputError(f"{where}: its network cannot be built ({str(error).splitlines()[0]}).") from None
    found = sum(each.numel() for each in state.values())
    if found != expected:
        raise InputError(f"{where} holds another network than its record names: {found:,} numbers, not {expected:,}.")


class _NothingDrawn(TorchFunctionMode):
    """Leaves tensors undrawn. On the meta device torch would import its compiler for `normal_`, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is Tensor.normal_ else func(*args, **(kwargs or {}))


def check_finished(record: Record, directory: Path) -> None:
    """Raise InputError where a run has no final weights, with the command that makes them."""
    if record.status == "diverged":
        raise InputError(
            f"{directory} diverged: its weights are not numbers any more. Its record and curves are whole."
        )
    if record.status != "finished":
        checkpoints = list_checkpoints(directory)
        earlier = f"\nIts weights so far can be opened by themselves: {checkpoints[0]}" if checkpoints else ""
        raise InputError(
            f"{directory} is not finished ({record.status}, step {record.steps:,}). "
            f"Its command continues it:\n{record.command}{earlier}"
        )


def find_run(folder: Path) -> Path:
    """The directory of the one run at or below `folder`.

    Raises:
        InputError: there is no such folder, or several runs in it.
    """
    if not folder.exists() and not (folder.parent / RECORDS).exists():
        raise InputError(f"run={folder}: there is no such directory or file.")
    found = list(find_records(folder))
    if len(found) > 1:
        names = ", ".join(str(each) for each in found[:SHOWN])
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise InputError(f"run={folder}: which of its {len(found)} runs? There are {names}{more}.")
    return found[0] if found else folder


def record_of(content: dict[str, Any], file: Path) -> Record:
    """The record in a checkpoint; of an older one, that of the run's directory around it.

    Raises:
        InputError: there is none, or it is damaged.
    """
    values = content.get("record")
    if values is None:
        directory = file.parent.parent
        try:
            return read_record(directory)
        except InputError:
            raise InputError(
                f"{file} does not say of which run it is. Checkpoints of this version do; an older one is opened in "
                "its run's directory."
            ) from None
    check_record(values, file)
    return Record.from_dict(values)
