"""Random brightness, contrast and saturation."""

from __future__ import annotations

from dataclasses import dataclass

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.data.spec import AugmentationSpec


@register("augment", "color_jitter")
@dataclass(frozen=True)
class ColorJitter(AugmentationSpec):
    """Random brightness, contrast and saturation. See `depthlab.data.augment`."""

    main = "strength"
    stage = "bytes"

    strength: float = key(
        0.0,
        identity_default=0,
        minimum=0,
        maximum=1,
        help="brightness, contrast and saturation are multiplied by 1 - s to 1 + s; 0 is off",
    )
