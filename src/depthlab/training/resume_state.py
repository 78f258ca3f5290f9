"""The state from which a run continues exactly, as tensors and plain data."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from depthlab.errors import InputError
from depthlab.training.lightning_counters import set_current_epoch, set_global_step
from depthlab.training.meter import Totals
from depthlab.training.module import SupervisedModule

COMPUTED_BY = ("foreach", "fused", "capturable")
MISSING = object()


def capture(trainer: Trainer, module: SupervisedModule, log_state: dict[str, Any]) -> dict[str, Any]:
    """The state after update number `module.step`. Every process calls this; the first one's result is kept.

    The order of images, crops and flips and the learning rate are functions of the step and need no state.
    Lightning's own loop counters are left out on purpose: nothing here reads them.
    """
    return {
        "step": module.step,
        "network": module.network.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "precision": trainer.precision_plugin.state_dict(),
        "random": torch.get_rng_state(),
        "train_totals": Totals.of(module.train_meter).as_list(),
        "log": log_state,
        "callbacks": {each.state_key: state for each in _stateful(trainer) if (state := each.state_dict())},
    }


def _stateful(trainer: Trainer) -> list[Callback]:
    """The callbacks that keep a state; what our other ones know follows from the step."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if type(callback).state_dict is not Callback.state_dict]


class RestoreState(Callback):
    """Puts a captured state back, once Lightning has made the optimiser and before the first step.

    Weights and step are put back before, where the network is built.

    Args:
        state: what `capture` returned.
        epoch: how many of Lightning's epochs are over.
    """

    def __init__(self, state: dict[str, Any], epoch: int) -> None:
        self.state = state
        self.epoch = epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Optimiser, loss scale, random state and meters."""
        assert isinstance(pl_module, SupervisedModule)
        with load_errors(self.state):
            _load(trainer.optimizers[0], self.state["optimizer"])
            if self.state["precision"]:
                trainer.precision_plugin.load_state_dict(self.state["precision"])
            torch.set_rng_state(self.state["random"])
            if trainer.is_global_zero:  # the sums were added up over the processes; they count once
                pl_module.train_meter.put([float(total) for total in self.state["train_totals"]])
            saved = self.state.get("callbacks", {})
            for callback in _stateful(trainer):
                if callback.state_key in saved:
                    callback.load_state_dict(saved[callback.state_key])
        set_global_step(trainer, pl_module.step)
        set_current_epoch(trainer, self.epoch)


class UnsavedState(Callback):
    """Notices what other callbacks keep between steps and have no `state_dict` for: a continued run starts it anew.

    Args:
        callbacks: those whose work counts.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        stateless = [each for each in callbacks if type(each).state_dict is Callback.state_dict]
        self._before: list[tuple[Callback, dict[str, Any]]] = [(each, _outline(each)) for each in stateless]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what there is before the first step."""
        self._before = [(callback, _outline(callback)) for callback, _ in self._before]

    def found(self) -> dict[str, list[str]]:
        """The attributes that have changed since training began, by the callback's name; each callback once."""
        changed: dict[str, list[str]] = {}
        for callback, before in self._before:
            if names := [name for name, now in _outline(callback).items() if before.get(name, MISSING) != now]:
                changed[type(callback).__name__] = names
        self._before = [each for each in self._before if type(each[0]).__name__ not in changed]
        return changed


def _outline(callback: Callback) -> dict[str, Any]:
    """A callback's data: plain values, and which object holds the others; a collection also by its length."""
    found: dict[str, Any] = {}
    for name, value in vars(callback).items():
        if isinstance(value, bool | int | float | str | None):
            found[name] = value
        elif isinstance(value, list | dict | set | deque):
            found[name] = (id(value), len(value))
        elif isinstance(value, tuple | torch.Tensor):
            found[name] = id(value)
    return found


@contextmanager
def load_errors(state: dict[str, Any]) -> Iterator[None]:
    """Turn errors while a checkpoint is restored into an `InputError`.

    Raises:
        InputError: the checkpoint is of another network, optimiser or version, or forged.
    """
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split()[:30])
        raise InputError(
            f"The checkpoint of step {state['step']} does not fit this run ({reason}). "
            "Remove it to go on from the one before it."
        ) from None


def _load(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the saved state, except for the implementation of updates, which depends on the present device."""
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    own = [{**saved, **{key: group[key] for key in COMPUTED_BY if key in group}} for saved, group in groups]
    optimizer.load_state_dict({**state, "param_groups": own})
