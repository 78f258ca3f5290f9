"""The streams of a two-stream network alone, and whether the output is the sum of theirs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from depthlab.models import TwoStream, count_params
from depthlab.models.freezing import streams
from depthlab.runs.defects import Defect


@torch.no_grad()
def stream_scores(network: nn.Module, images: Tensor) -> dict[str, Any] | None:
    """Each stream alone, and by how much their sum differs from the output. None for a network of one stream."""
    if not isinstance(network, TwoStream):
        return None
    copied = copy.deepcopy(network).eval()
    alone, both = dict(zip(streams(copied), copied.scores(images), strict=True)), copied(images)
    rows = []
    for prefix, scores in alone.items():
        num_tensors = len(list(streams(copied)[prefix].parameters()))
        size = {"num_params": count_params(streams(copied)[prefix]), "num_tensors": num_tensors}
        agrees = float((scores.argmax(dim=1) == both.argmax(dim=1)).float().mean())
        rows.append(
            {"stream": prefix.rstrip("."), **size, "mean_abs_score": float(scores.abs().mean()), "agrees": agrees}
        )
    difference = float((sum(alone.values()) - both).abs().max())
    return {"alone": rows, "difference": difference, "mean_abs_score": float(both.abs().mean())}


def additivity_defects(found: dict[str, Any]) -> list[Defect]:
    """The defect of an output that is not the sum of its streams: float32 keeps seven digits, and rounds a sum once."""
    if found["difference"] <= 1e-5 * max(1.0, found["mean_abs_score"]):
        return []
    text = f"the output differs from the sum of the streams by up to {found['difference']:.3g}"
    return [Defect("stream not connected", "the output", text)]
