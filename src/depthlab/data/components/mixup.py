"""Blends each image with another one (Zhang et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.data.spec import AugmentationSpec


@register("augment", "mixup")
@dataclass(frozen=True)
class Mixup(AugmentationSpec):
    """Blends each image with another one (Zhang et al. 2018). See `depthlab.data.augment`."""

    main = "strength"
    stage = "mix"

    strength: float = key(
        0.0, identity_default=0, minimum=0, maximum=1000, help="alpha of Beta(alpha, alpha); 0.2 is usual; 0 is off"
    )
