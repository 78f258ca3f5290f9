"""What data sets tell networks about their images."""

from __future__ import annotations

from typing import NamedTuple


class ImageSpec(NamedTuple):
    """Size and channels of the images that a network receives."""

    height: int
    width: int
    channels: int
