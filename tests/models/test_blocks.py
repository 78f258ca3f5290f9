"""The residual block: where the shortcut is added, and what each option does where the shape changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from depthlab.models import BasicBlock, ZeroPadShortcut


def block_without_f(stride: int = 1, residual: bool = True, shortcut: str = "A") -> BasicBlock:
    """A block whose f is zero everywhere, so that what comes out is what the shortcut does."""
    block = BasicBlock(4, 4 * stride, stride, residual, shortcut).eval()
    nn.init.zeros_(block.conv2.weight)
    return block


def test_the_shortcut_is_added_before_the_last_relu() -> None:
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block_without_f()(x), x.clamp(min=0))


def test_a_plain_block_adds_nothing() -> None:
    block = block_without_f(residual=False)
    assert block.downsample is None
    assert not block(torch.randn(2, 4, 6, 6)).any()


def test_nothing_comes_between_batch_norm_and_addition() -> None:
    block = block_without_f()
    nn.init.constant_(block.bn2.bias, -3.0)  # f = -3: a ReLU inside f would turn it into 0
    x = torch.full((1, 4, 2, 2), 5.0)
    assert torch.equal(block(x), torch.full_like(x, 2.0))


@pytest.mark.parametrize(("stride", "size"), [(2, 6), (2, 7), (1, 5)])
def test_option_a_takes_every_second_pixel_and_adds_zero_channels(stride: int, size: int) -> None:
    x = torch.randn(2, 3, size, size)
    y = ZeroPadShortcut(added_channels=2, stride=stride)(x)
    assert torch.equal(y[:, :3], x[:, :, ::stride, ::stride])
    assert y.shape[1] == 5
    assert not y[:, 3:].any()


@pytest.mark.parametrize(
    ("shortcut", "stride", "kind"),
    [("A", 1, type(None)), ("A", 2, ZeroPadShortcut), ("B", 1, type(None)), ("B", 2, nn.Sequential)]
    + [("C", stride, nn.Sequential) for stride in (1, 2)],
)
def test_options_project_where_the_paper_says(shortcut: str, stride: int, kind: type) -> None:
    assert isinstance(BasicBlock(4, 4 * stride, stride, True, shortcut).downsample, kind)


def test_a_projection_is_a_strided_1x1_convolution_without_bias_and_batch_norm() -> None:
    convolution, norm = BasicBlock(4, 8, 2, True, "B").downsample or ()
    assert (convolution.kernel_size, convolution.stride, convolution.bias) == ((1, 1), (2, 2), None)
    assert isinstance(norm, nn.BatchNorm2d)


def test_the_stride_is_in_the_first_convolution() -> None:
    block = BasicBlock(4, 8, 2, True, "A")
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))


@pytest.mark.parametrize("option", ["a", "D", ""])
def test_another_option_is_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=f"shortcut='{option}'"):
        BasicBlock(4, 8, 2, True, option)
