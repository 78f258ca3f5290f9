"""The order of images, crops and flips: every image once an epoch, and a function of (seed, epoch, position) alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from depthlab.data import train_stream as stream_module
from depthlab.data.train_stream import AugmentParams, TrainStream

STREAM = TrainStream(
    num_images=50,
    batch_size=8,
    seed=1,
    padding=4,
    flip=True,
    last_batch="wrap",
    frozen=False,
    device=torch.device("cpu"),
)
FIELDS = ("image_idx", "top", "left", "flip")


def epoch(stream: TrainStream, number: int) -> AugmentParams:
    """A whole epoch as one batch."""
    return replace(stream, batch_size=stream.num_images).batch(number)


def joined(parts: list[AugmentParams]) -> dict[str, list[int]]:
    return {name: torch.cat([getattr(part, name) for part in parts]).tolist() for name in FIELDS}


def same(a: AugmentParams, b: AugmentParams) -> bool:
    return joined([a]) == joined([b])


@pytest.mark.parametrize("last_batch", ["wrap", "short"])
@pytest.mark.parametrize("batch_size", [1, 7, 8, 25, 49, 50])
def test_batches_cut_the_sequence_of_epochs_and_lose_nothing(last_batch: str, batch_size: int) -> None:
    stream = replace(STREAM, batch_size=batch_size, last_batch=last_batch)
    whole = joined([epoch(STREAM, number) for number in range(3)])
    num_batches = 3 * stream.batches_per_epoch() if last_batch == "short" else 150 // batch_size
    cut = joined([stream.batch(number) for number in range(num_batches)])
    length = 150 if last_batch == "short" else num_batches * batch_size
    assert cut == {name: values[:length] for name, values in whole.items()}


def test_an_epoch_uses_every_image_once() -> None:
    for number in range(3):
        order = epoch(STREAM, number).image_idx.tolist()
        assert sorted(order) == list(range(50))
        assert order != sorted(order)


def test_every_batch_is_full_in_wrap_mode() -> None:
    assert {len(STREAM.batch(number).image_idx) for number in range(30)} == {8}


def test_the_last_batch_of_an_epoch_is_what_is_left_in_short_mode() -> None:
    stream = replace(STREAM, last_batch="short")
    sizes = [len(stream.batch(number).image_idx) for number in range(stream.batches_per_epoch() + 1)]
    assert sizes == [8] * 6 + [2] + [8]


@pytest.mark.parametrize(("num_images", "batches"), [(48, 6), (49, 7), (50, 7), (8, 1)])
def test_batches_per_epoch_counts_the_last_one_whole(num_images: int, batches: int) -> None:
    assert replace(STREAM, num_images=num_images).batches_per_epoch() == batches


def test_a_batch_does_not_depend_on_what_was_drawn_before() -> None:
    expected = {number: STREAM.batch(number) for number in range(40)}
    stream_module._draw_epoch.cache_clear()
    torch.manual_seed(99)
    assert all(same(STREAM.batch(number), expected[number]) for number in (37, 0, 39, 6, 13, 6))


@pytest.mark.parametrize(
    "change", [{"seed": 0}, {"seed": 2}, {"seed": 1 + (1 << 32)}, {"seed": (1 << 63) + 1}], ids=str
)
def test_another_seed_gives_other_draws(change: dict[str, int]) -> None:
    one, other = epoch(STREAM, 0), epoch(replace(STREAM, **change), 0)
    for name in FIELDS:
        assert getattr(one, name).tolist() != getattr(other, name).tolist()


def test_epochs_differ_in_order_crops_and_flips() -> None:
    epochs = [epoch(STREAM, number) for number in range(4)]
    for one, other in pairwise(epochs):
        assert all(getattr(one, name).tolist() != getattr(other, name).tolist() for name in FIELDS)


def test_seed_and_epoch_are_not_interchangeable() -> None:
    assert not same(epoch(replace(STREAM, seed=1), 2), epoch(replace(STREAM, seed=2), 1))


def test_draws_are_fixed_for_ever() -> None:
    # Seen with the first release; RandomState's streams are frozen (NEP 19), and old runs must go on exactly.
    stream = replace(STREAM, num_images=10, batch_size=4, padding=2)
    assert joined([stream.batch(0), stream.batch(2)]) == {
        "image_idx": [2, 9, 3, 7, 5, 8, 0, 4],
        "top": [4, 1, 3, 1, 4, 3, 2, 4],
        "left": [1, 4, 4, 2, 0, 4, 0, 2],
        "flip": [False, False, True, False, False, True, True, False],
    }


@pytest.mark.parametrize("padding", [0, 2, 4])
def test_offsets_run_from_0_to_twice_the_padding_uniformly(padding: int) -> None:
    draws = epoch(replace(STREAM, num_images=9000, padding=padding), 0)
    expected = 9000 / (2 * padding + 1)
    for offsets in (draws.top, draws.left):
        counts = torch.bincount(offsets)
        assert len(counts) == 2 * padding + 1
        assert ((counts - expected).abs() <= 5 * expected**0.5).all()


def test_flips_are_half_of_the_images() -> None:
    flips = epoch(replace(STREAM, num_images=10_000), 0).flip
    assert flips.dtype == torch.bool
    assert flips.float().mean().item() == pytest.approx(0.5, abs=0.025)


def test_offsets_and_flips_are_independent_of_each_other() -> None:
    draws = epoch(replace(STREAM, num_images=10_000), 0)
    columns = torch.stack([getattr(draws, name).float() for name in FIELDS])
    assert (torch.corrcoef(columns) - torch.eye(4)).abs().max().item() < 0.05


def test_without_flips_the_rest_is_drawn_alike() -> None:
    with_flips, without = epoch(STREAM, 0), epoch(replace(STREAM, flip=False), 0)
    assert not without.flip.any()
    assert all(getattr(with_flips, name).tolist() == getattr(without, name).tolist() for name in FIELDS[:3])


def test_a_frozen_stream_repeats_its_first_batch_in_the_centre() -> None:
    frozen = replace(STREAM, frozen=True)
    for number in (0, 1, 100):
        draws = frozen.batch(number)
        assert draws.image_idx.tolist() == STREAM.batch(0).image_idx.tolist()
        assert set(draws.top.tolist()) == set(draws.left.tolist()) == {4}
        assert not draws.flip.any()
