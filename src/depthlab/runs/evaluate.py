"""From a run's directory back to its network, its data and its numbers."""

from __future__ import annotations

from pathlib import Path

import torch

from depthlab.config.hardware import probe, resolve
from depthlab.config.schema import TrainConfig
from depthlab.records.record import Record, read_record
from depthlab.runs.build import build_data, build_module, build_network, build_trainer
from depthlab.runs.open_run import check_recorded, check_same_data, load_last, put_weights


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
    _adapt(config, record, data_dir, accelerator)
    data = build_data(config)
    check_same_data(data, record)
    network = build_network(config, data.image_spec, data.num_outputs)
    put_weights(network, load_last(directory, record)["network"], str(directory))
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
