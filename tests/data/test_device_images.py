"""Batches of images: equal to a slow definition, normalised alike in every split, laid out as the network wants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from depthlab.data import image_files as files_module
from depthlab.data.device_images import DeviceImages, Normalization, fit_normalization
from depthlab.data.train_stream import AugmentParams
from depthlab.errors import InputError

CPU = torch.device("cpu")
KINDS = ("per_pixel", "per_channel")


def random_images(num_images: int = 40, size: int = 6, channels: int = 3) -> np.ndarray:
    """Images whose channels, rows and columns all have statistics of their own."""
    random = np.random.RandomState(0)
    slope = np.linspace(20, 120, size)[:, None, None] + np.linspace(0, 60, size)[None, :, None]
    images = slope + random.randint(0, 60, (num_images, size, size, channels)) + 5 * np.arange(channels)
    return images.astype(np.uint8)


def every_crop(num_images: int, padding: int) -> AugmentParams:
    """Each image at each offset, mirrored and not."""
    sides = torch.arange(2 * padding + 1)
    image, top, left, flip = torch.cartesian_prod(torch.arange(num_images), sides, sides, torch.arange(2)).T
    return AugmentParams(image, top, left, flip == 1)


def on_device(images: np.ndarray, normalization: Normalization, padding: int) -> DeviceImages:
    return DeviceImages(images, np.arange(len(images)), normalization, padding, CPU)


def normalized_by_hand(images: np.ndarray, kind: str) -> np.ndarray:
    """What the README says of `data.normalization`, in float64."""
    scaled = images / 255
    if kind == "per_pixel":
        return scaled - scaled.mean(axis=0)
    return (scaled - scaled.mean(axis=(0, 1, 2))) / scaled.std(axis=(0, 1, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("padding", "channels"), [(0, 1), (1, 3), (4, 1)])
def test_a_training_batch_is_a_crop_of_the_padded_normalised_image_then_a_flip(
    kind: str, padding: int, channels: int
) -> None:
    images = random_images(5, 6, channels)
    draws = every_crop(5, padding)
    batch, labels = on_device(images, fit_normalization(images, kind), padding).train_batch(draws)
    border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(normalized_by_hand(images, kind), border)
    for got, image, top, left, flip in zip(batch, draws.image_idx, draws.top, draws.left, draws.flip, strict=True):
        crop = padded[image, top : top + 6, left : left + 6]
        expected = crop[:, ::-1] if flip else crop
        np.testing.assert_allclose(got.permute(1, 2, 0), expected, atol=2e-6)
    assert labels.tolist() == draws.image_idx.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_comes_after_subtraction(kind: str) -> None:
    images = random_images()
    corner = AugmentParams(
        torch.arange(4), torch.zeros(4, dtype=int), torch.zeros(4, dtype=int), torch.zeros(4, dtype=bool)
    )
    batch, _ = on_device(images, fit_normalization(images, kind), 2).train_batch(corner)
    assert not batch[:, :, :2].any()
    assert not batch[:, :, :, :2].any()
    assert batch[:, :, 2:, 2:].abs().min() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [0, 3])
def test_an_evaluation_batch_is_the_whole_image_as_it_is(kind: str, padding: int) -> None:
    images = random_images()
    batch, labels = on_device(images, fit_normalization(images, kind), padding).eval_batch(3, 9)
    expected = normalized_by_hand(images, kind)[3:9]
    np.testing.assert_allclose(batch.permute(0, 2, 3, 1), expected, atol=2e-6)
    assert labels.tolist() == list(range(3, 9))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_float32_in_channels_last_memory(mode: str, channels: int) -> None:
    images = random_images(channels=channels)
    held = on_device(images, fit_normalization(images, "per_pixel"), 2)
    batch, _ = held.train_batch(every_crop(4, 2)) if mode == "train" else held.eval_batch(0, 4)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)


def moments(batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean image, and mean and deviation of each channel."""
    return batch.mean(0), batch.mean((0, 2, 3)), batch.std((0, 2, 3), correction=0)


def test_per_pixel_leaves_no_mean_image_and_does_not_rescale() -> None:
    images = random_images()
    batch, _ = on_device(images, fit_normalization(images, "per_pixel"), 0).eval_batch(0, len(images))
    assert moments(batch)[0].abs().max() < 1e-6
    assert (batch.amax() - batch.amin()).item() < 1.0


def test_per_channel_leaves_mean_0_and_deviation_1() -> None:
    images = random_images()
    batch, _ = on_device(images, fit_normalization(images, "per_channel"), 0).eval_batch(0, len(images))
    mean_image, mean, deviation = moments(batch)
    assert mean.abs().max() < 1e-5
    assert (deviation - 1).abs().max() < 1e-5
    assert mean_image.abs().max() > 0.1


def test_a_channel_that_is_the_same_everywhere_is_only_shifted() -> None:
    images = np.random.RandomState(0).randint(0, 255, (20, 4, 4, 3)).astype(np.uint8)
    images[..., 2] = 9
    normalization = fit_normalization(images, "per_channel")
    assert normalization.scale.isfinite().all()
    assert normalization.deviations()[2] == pytest.approx(1)
    with pytest.raises(InputError, match="colour"):
        fit_normalization(np.full_like(images, 9), "per_channel")


def test_statistics_in_chunks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(41)
    whole = fit_normalization(images, "per_channel")
    monkeypatch.setattr(files_module, "CHUNK_IMAGES", 10)
    chunked = fit_normalization(images, "per_channel")
    assert torch.allclose(whole.scale, chunked.scale)
    assert torch.allclose(whole.offset, chunked.offset)


def test_deviations_are_what_channels_were_divided_by() -> None:
    images = np.random.RandomState(0).randint(0, 256, (50, 4, 4, 3)).astype(np.uint8)
    assert fit_normalization(images, "per_pixel").deviations() == pytest.approx([1, 1, 1])
    expected = (images / 255).std(axis=(0, 1, 2))
    assert fit_normalization(images, "per_channel").deviations() == pytest.approx(expected.tolist(), rel=1e-5)
