"""What the final test shows of a network, for the figures: layer responses, predictions, confident mistakes.

Both callbacks listen to the test that the run makes anyway and add no pass of their own. All processes measure
their own images; the first one writes what all have found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from depthlab.data.batch import Batch
from depthlab.data.datamodule import ImageDataModule
from depthlab.records.arrays import write_arrays
from depthlab.training.callbacks.gradient_norms import layers_3x3
from depthlab.training.module import SupervisedModule

RESPONSE_IMAGES = 1000
NUM_MISTAKES = 25


class LayerResponses(Callback):
    """The standard deviation of each layer's output after batch norm, before nonlinearity or addition (Figure 7).

    Read off the final test's own pass over the training images, the first 1,000 of them, so that it costs no pass
    of its own: responses.npz.

    Args:
        data: says which images a process has.
        directory: the run's.
    """

    def __init__(self, data: ImageDataModule, directory: Path) -> None:
        self.data = data
        self.directory = directory
        self._handles: list[RemovableHandle] = []
        self._sums = torch.zeros(0)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing summed yet: for each layer values, their sum and the sum of their squares."""
        assert isinstance(pl_module, SupervisedModule)
        self._layers = layers_3x3(pl_module.network)
        self._sums = torch.zeros(len(self._layers), 3, device=pl_module.device)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Listen to the layers while a batch has some of the images."""
        if batch.split == "train":
            num_images = RESPONSE_IMAGES - positions(self.data, batch.split, batch_idx).start
            if num_images > 0:
                self._listen(num_images)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Listen no longer."""
        while self._handles:
            self._handles.pop().remove()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the deviations over all processes' images."""
        count, total, squares = _summed(trainer, self._sums).double().cpu().unbind(dim=1)
        if trainer.is_global_zero and self._layers:
            std = (squares / count - (total / count) ** 2).clamp(min=0).sqrt()
            names = np.array([layer.name for layer in self._layers])
            write_arrays(self.directory, "responses", layer=names, std=std.float().numpy())

    def _listen(self, num_images: int) -> None:
        def listener(idx: int) -> Any:
            def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
                values = output[:num_images].float()
                squares = torch.linalg.vector_norm(values) ** 2
                self._sums[idx] += torch.stack([squares.new_tensor(values.numel()), values.sum(), squares])

            return add

        self._handles = [layer.norm.register_forward_hook(listener(idx)) for idx, layer in enumerate(self._layers)]


class Predictions(Callback):
    """What the final test predicts for each test image, and its most confident mistakes.

    Caught as the test computes them: predictions.npz and mistakes.npz.

    Args:
        data: the test images.
        directory: the run's.
    """

    def __init__(self, data: ImageDataModule, directory: Path) -> None:
        self.data = data
        self.directory = directory
        self.predicted = torch.zeros(0)
        self.confidence = torch.zeros(0)
        self._scores = torch.zeros(0)
        self._handle: RemovableHandle | None = None

    @property
    def labels(self) -> NDArray[np.int64]:
        """The true class of each test image."""
        return self.data.arrays["test"][1]

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the scores that the test computes."""
        num_images, device = self.data.num_images("test"), pl_module.device
        self.predicted = torch.zeros(num_images, dtype=torch.int64, device=device)
        self.confidence = torch.zeros(num_images, device=device)
        self._handle = pl_module.register_forward_hook(self._keep)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note the batch's classes and their probabilities at the images' places."""
        if batch.split == "test":
            own = positions(self.data, batch.split, batch_idx)
            predicted = self._scores.argmax(dim=1)
            self.predicted[own] = predicted
            self.confidence[own] = self._scores.softmax(dim=1).gather(1, predicted[:, None])[:, 0]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what all processes found: each has zeros where others have images."""
        assert self._handle is not None
        self._handle.remove()
        self.predicted = _summed(trainer, self.predicted).cpu()
        self.confidence = _summed(trainer, self.confidence).cpu()
        if trainer.is_global_zero:
            self._write(self.predicted.numpy(), self.confidence.numpy())

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._scores = output

    def _write(self, predicted: NDArray[np.int64], confidence: NDArray[np.float32]) -> None:
        images, labels = self.data.arrays["test"]
        answers: dict[str, NDArray[Any]] = {"label": labels, "predicted": predicted, "confidence": confidence}
        write_arrays(self.directory, "predictions", index=np.arange(len(labels)), **answers)
        wrong = np.flatnonzero(predicted != labels)
        worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:NUM_MISTAKES]
        chosen = {key: values[worst] for key, values in answers.items()}
        write_arrays(self.directory, "mistakes", image=images[worst], index=worst, **chosen)


def positions(data: ImageDataModule, split: str, batch_idx: int) -> slice:
    """Which images of `split` this process has in evaluation batch `batch_idx`."""
    start = batch_idx * data.spec.eval_batch_size
    return slice(*data.share(start, min(start + data.spec.eval_batch_size, data.num_images(split))))


def _summed(trainer: Trainer, values: Tensor) -> Tensor:
    """The sum over all processes."""
    total = trainer.strategy.reduce(values, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total
