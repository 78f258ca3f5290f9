"""An exponential moving average of the weights, kept in addition to the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from depthlab.training.module import SupervisedModule


class WeightAverage(Callback):
    """Keeps an exponential moving average of the network's weights and buffers.

    Lightning's own averaging callback replaces the weights by the averages and relies on Lightning's checkpoints, which
    a run does not write. Here the averages are measured in addition to the last weights.

    Args:
        decay: the part of the average that each step keeps.
    """

    acts_each_step = True

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._average: AveragedModel | None = None
        self._saved: dict[str, Tensor] | None = None
        self._seen_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the present weights, or from the averages of a checkpoint."""
        assert isinstance(pl_module, SupervisedModule)
        self._seen_step = pl_module.step
        averaging = get_ema_multi_avg_fn(self.decay)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(pl_module.network, multi_avg_fn=averaging, use_buffers=True)
        if self._saved is not None:
            self._average.load_state_dict(self._saved)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the weights after an update to the average."""
        assert isinstance(pl_module, SupervisedModule)
        if pl_module.step != self._seen_step and self._average is not None:
            self._seen_step = pl_module.step
            self._average.update_parameters(pl_module.network)

    def state_dict(self) -> dict[str, Any]:
        """The averages, as tensors."""
        state = self._saved if self._average is None else self._average.state_dict()
        return {} if state is None else {"average": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore saved averages, now or when training starts."""
        self._saved = dict(state_dict["average"])
        if self._average is not None:
            self._average.load_state_dict(self._saved)

    def averages(self) -> dict[str, Tensor]:
        """The averaged weights and buffers under the network's own names."""
        state: dict[str, Tensor] = self.state_dict().get("average", {})
        return {name.removeprefix("module."): value for name, value in state.items() if name.startswith("module.")}

    @contextmanager
    def in_place(self, module: SupervisedModule) -> Iterator[None]:
        """Put the averages into the network until the block ends."""
        kept = {name: value.clone() for name, value in module.network.state_dict().items()}
        module.network.load_state_dict(self.averages())
        try:
            yield
        finally:
            module.network.load_state_dict(kept)
