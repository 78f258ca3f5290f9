"""Erases rectangles (Zhong et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.data.spec import AugmentationSpec


@register("augment", "random_erasing")
@dataclass(frozen=True)
class RandomErasing(AugmentationSpec):
    """Erases rectangles (Zhong et al. 2020). See `depthlab.data.augment`."""

    main = "strength"
    stage = "images"

    strength: float = key(
        0.0,
        identity_default=0,
        minimum=0,
        maximum=1,
        help="the probability that a rectangle of an image is erased; 0 is off",
    )
