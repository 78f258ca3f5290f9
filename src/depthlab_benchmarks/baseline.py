"""The plain PyTorch loop of public reproductions: torchvision's transforms, a DataLoader with workers, fp32, SGD.

python -m depthlab_benchmarks.baseline DESCRIPTOR CONFIG.json NUM_WORKERS [FACTOR...]

The recipe is the configuration's: the same images, network, initial weights, batch, crops and flips, optimiser and
learning rate. As in those loops, images are padded before they are normalised, so that the border is black rather
than average, and loss and accuracy are read after each step. TF32 stays as torch sets it: on for convolutions on a
GPU, off for matrix products. The optimiser updates as torch chooses: all parameters together (foreach) on a GPU.

A factor is one thing that this project does otherwise, so that each can be measured alone (see `settings.FACTORS`).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from depthlab.config.hardware import probe
from depthlab.config.schema import TrainConfig
from depthlab.data.datamodule import ImageDataModule
from depthlab.optim.parameter_groups import parameter_groups
from depthlab.runs.build import build_data, build_network, build_schedule
from depthlab_benchmarks.clock import Clock
from depthlab_benchmarks.recipe import read_config, torch_device
from depthlab_benchmarks.settings import FACTORS
from depthlab_benchmarks.side_settings import describe_side

PREFETCH = 2  # batches a worker, the DataLoader's default


class PilImages(Dataset[tuple[Tensor, int]]):
    """The training images one by one through a transform, as torchvision's data sets serve them."""

    def __init__(self, data: ImageDataModule, transform: Any) -> None:
        self.images, self.labels = data.arrays["train"]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, idx: int) -> tuple[Tensor, int]:
        image = self.images[idx]
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        return self.transform(picture), int(self.labels[idx])


def build_transform(config: TrainConfig, data: ImageDataModule) -> Any:
    """Crop, flip, to float, normalise.

    Raises:
        ValueError: the normalisation is by pixel, which torchvision's Normalize cannot do.
    """
    if config.data.normalization != "per_channel":
        raise ValueError(f"data.normalization={config.data.normalization}: the baseline does per_channel only")
    deviation = 1 / (255 * data.normalization.scale)
    mean = data.normalization.offset[0, 0] * deviation
    steps = [transforms.RandomCrop(data.image_shape[:2], padding=config.data.crop_padding)]
    steps += [transforms.RandomHorizontalFlip()] if config.data.flip else []
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean.tolist(), deviation.tolist())])


def build_loader(config: TrainConfig, data: ImageDataModule, num_workers: int, pin_memory: bool) -> DataLoader[Any]:
    """Shuffled batches, all of them full."""
    return DataLoader(
        PilImages(data, build_transform(config, data)),
        batch_size=config.data.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=num_workers,
        pin_memory=pin_memory,
    )


def endless(loader: DataLoader[Any]) -> Iterator[list[Tensor]]:
    """Epoch after epoch."""
    while True:
        yield from loader


def our_batches(data: ImageDataModule, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a run, in torch's default memory layout."""
    for step in itertools.count():
        batch = data.train_batch(step, device)
        yield batch.images.contiguous(), batch.labels


def build_plain_network(config: TrainConfig, data: ImageDataModule, channels_last: bool = False) -> nn.Module:
    """The same network and weights, in torch's default memory layout unless asked otherwise."""
    network = build_network(config, data.image_spec, data.num_outputs)
    return network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def main() -> None:
    """Train until the clock ends the process."""
    clock = Clock(int(sys.argv[1]))
    config = read_config(sys.argv[2])
    device = torch_device(config)
    clock.set_device(device.type == "cuda")
    torch.backends.cudnn.benchmark = True
    torch.set_num_threads(config.trainer.num_threads or probe().cpu_cores)
    data, factors = build_data(config), frozenset(sys.argv[4:])
    assert factors <= FACTORS.keys(), factors
    network = build_plain_network(config, data, "channels_last" in factors).to(device)
    if "batches" in factors:
        train(config, network, our_batches(data, device), device, clock, factors)
    else:
        loader = build_loader(config, data, int(sys.argv[3]), pin_memory=device.type == "cuda")
        train(config, network, endless(loader), device, clock, factors)


def train(
    config: TrainConfig,
    network: nn.Module,
    batches: Iterator[Sequence[Tensor]],
    device: torch.device,
    clock: Clock,
    factors: frozenset[str] = frozenset(),
) -> None:
    """The loop."""
    is_bf16 = "bf16" in factors
    schedule, spec = build_schedule(config), config.optimizer
    # None leaves the choice to torch: all parameters together (foreach) on a GPU. False would rule that out too.
    optimizer: Any = spec.build(parameter_groups(network, spec.weight_decay, spec.decay_norm_and_bias), fused=None)
    clock.settings = describe_side(network, optimizer, "bf16-mixed" if is_bf16 else "32-true", device)
    loss_sum = num_right = 0.0
    network.train()
    forward = torch.compile(network) if "compiled" in factors else network
    for step, (images, labels) in enumerate(batches):
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        if "channels_last" in factors:
            images = images.contiguous(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        with clock.spans.span("network"):
            with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
                scores = forward(images)
            loss = F.cross_entropy(scores.float(), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        loss_sum += loss.item()
        num_right += (scores.argmax(1) == labels).sum().item()
        clock.note_loss(loss)
        clock.steps_done()


if __name__ == "__main__":
    main()
