"""A loop with the mathematics of a run and nothing else: no Lightning, meters, loggers, callbacks or checkpoints.

python -m depthlab_benchmarks.bare DESCRIPTOR CONFIG.json
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import torch
from torch.nn import functional as F

from depthlab.config.hardware import probe
from depthlab.config.schema import TrainConfig
from depthlab.data.datamodule import ImageDataModule
from depthlab.runs.build import build_data, build_module, build_network
from depthlab.training.module import SupervisedModule
from depthlab_benchmarks.clock import Clock
from depthlab_benchmarks.recipe import read_config, torch_device
from depthlab_benchmarks.side_settings import describe_side


def main() -> None:
    """Train until the clock ends the process."""
    clock = Clock(int(sys.argv[1]))
    config = read_config(sys.argv[2])
    device = torch_device(config)
    clock.set_device(device.type == "cuda")
    torch.backends.cudnn.benchmark = True
    torch.set_num_threads(config.trainer.num_threads or probe().cpu_cores)
    data = build_data(config)
    network = build_network(config, data.image_spec, data.num_outputs).to(device)
    train(config, data, build_module(config, network, data.num_outputs), device, clock)


def train(
    config: TrainConfig, data: ImageDataModule, module: SupervisedModule, device: torch.device, clock: Clock
) -> None:
    """The same batches, autocast and optimiser as a run's."""
    optimizer: Any = module.configure_optimizers()
    clock.settings = describe_side(module.network, optimizer, config.trainer.precision, device)
    is_bf16 = config.trainer.precision == "bf16-mixed"
    module.train()
    for step in itertools.count():
        batch = data.train_batch(step, device)
        for group in optimizer.param_groups:
            group["lr"] = module.schedule(step) * group.get("lr_factor", 1.0)
        with clock.spans.span("network"):
            with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16, cache_enabled=False):
                loss = F.cross_entropy(module.network(batch.images).float(), batch.labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        clock.note_loss(loss)
        clock.steps_done()


if __name__ == "__main__":
    main()
