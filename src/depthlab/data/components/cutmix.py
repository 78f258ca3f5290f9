"""Replaces a rectangle of each image by another one's (Yun et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.data.spec import AugmentationSpec


@register("augment", "cutmix")
@dataclass(frozen=True)
class Cutmix(AugmentationSpec):
    """Replaces a rectangle of each image by another one's (Yun et al. 2019). See `depthlab.data.augment`."""

    main = "strength"
    stage = "mix"

    strength: float = key(
        0.0,
        identity_default=0,
        minimum=0,
        maximum=1000,
        help="alpha of Beta(alpha, alpha); 1 is usual; 0 is off",
    )
