"""Which parts of a network train: its streams, its stages, its classifier."""

from __future__ import annotations

from typing import Any

from torch import nn

from depthlab.models.streams import TwoStream


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of a frozen part: it uses its averages and keeps them, whatever mode the network is put into."""

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        """Stays in evaluation mode."""
        return super().train(False)

    def reset_running_stats(self) -> None:
        """Does nothing: the statistics are frozen too."""


def streams(network: nn.Module) -> dict[str, Any]:
    """The networks with one input that a network consists of, by the prefix of their parameters' names."""
    if isinstance(network, TwoStream):
        return {"colour.": network.colour, "brightness.": network.brightness}
    return {"": network}


def classifier_prefixes(network: nn.Module) -> tuple[str, ...]:
    """How the names of the classifiers' parameters begin; empty for a network that names none (`classifier_name`)."""
    named = {prefix: getattr(stream, "classifier_name", None) for prefix, stream in streams(network).items()}
    return tuple(f"{prefix}{name}." for prefix, name in named.items() if name)


def freeze(network: nn.Module, what: str) -> None:
    """Take parts of a network out of training, and hold the statistics of their batch norm.

    Args:
        network: one of ours.
        what: "none"; "backbone", everything but the classifier; or "until:NAME", everything up to and with that
            stage, in both streams of a network that has two.

    Raises:
        ValueError: there is no such stage.
    """
    if what == "none":
        return
    for stream in streams(network).values():
        for part in _frozen_parts(stream, what):
            part.requires_grad_(False)
            for module in part.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.__class__ = FrozenBatchNorm2d
                    module.eval()


def _frozen_parts(stream: Any, what: str) -> list[nn.Module]:
    parts = stream.parts()
    if what == "backbone":
        return list(parts.values())
    stage = what.removeprefix("until:")
    if not what.startswith("until:") or stage not in stream.stage_names:
        raise ValueError(f"freeze={what!r}: none, backbone, or until: with one of {', '.join(stream.stage_names)}")
    names = list(parts)
    return [parts[name] for name in names[: names.index(stage) + 1]]
