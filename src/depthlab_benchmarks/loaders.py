"""The input path alone: batches made and thrown away, by this project or by torchvision and a DataLoader.

python -m depthlab_benchmarks.loaders DESCRIPTOR CONFIG.json ours | NUM_WORKERS
"""

from __future__ import annotations

import itertools
import sys

import torch

from depthlab.config.hardware import probe
from depthlab.config.schema import TrainConfig
from depthlab.data.datamodule import ImageDataModule
from depthlab.runs.build import build_data
from depthlab_benchmarks.baseline import PREFETCH, build_loader, endless
from depthlab_benchmarks.clock import Clock
from depthlab_benchmarks.recipe import read_config, torch_device


def main() -> None:
    """Make batches until the clock ends the process."""
    clock = Clock(int(sys.argv[1]))
    config, who = read_config(sys.argv[2]), sys.argv[3]
    device = torch_device(config)
    clock.set_device(device.type == "cuda")
    torch.set_num_threads(config.trainer.num_threads or probe().cpu_cores)
    data = build_data(config)
    if who == "ours":
        make_ours(data, device, clock)
    else:
        make_theirs(config, data, int(who), device, clock)


def make_ours(data: ImageDataModule, device: torch.device, clock: Clock) -> None:
    """What a step calls for its batch."""
    for number in itertools.count():
        data.train_batch(number, device)
        clock.steps_done()


def make_theirs(
    config: TrainConfig, data: ImageDataModule, num_workers: int, device: torch.device, clock: Clock
) -> None:
    """The baseline's loader, and the way to the device."""
    batches = endless(build_loader(config, data, num_workers, pin_memory=device.type == "cuda"))
    for images, labels in batches:
        images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        if clock.steps_done():
            for _ in range(num_workers * PREFETCH):  # waiting since the turn before, and so made at no cost in this one
                next(batches)
            clock.restart()


if __name__ == "__main__":
    main()
