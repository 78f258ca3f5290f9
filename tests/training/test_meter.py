"""Loss and error against torchmetrics' own accuracy and torch's own mean."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from depthlab.data.batch import Batch
from depthlab.tasks.task import ClassificationTask
from depthlab.training.meter import Counts, SumMeter, Totals

RANDOM = torch.Generator().manual_seed(0)
BATCHES = [(torch.randn(n, 10, generator=RANDOM), torch.randint(0, 10, (n,), generator=RANDOM)) for n in (7, 1, 32)]


def counts(scores: Tensor, labels: Tensor, loss_sum: Tensor, *mixed: Tensor) -> Counts:
    """What a batch adds to the meter; `mixed` are its images' other labels and the shares of the first ones."""
    batch = Batch(scores, labels, "train", *mixed)
    return loss_sum, *ClassificationTask().sums(scores, batch), len(labels)


def count(meter: SumMeter, batches: list[tuple[Tensor, Tensor]]) -> SumMeter:
    for scores, labels in batches:
        meter.update(*counts(scores, labels, F.cross_entropy(scores, labels, reduction="sum")))
    return meter


def err(totals: Totals) -> float:
    return ClassificationTask().values(totals.sums, totals.num_images)["err"]


def test_loss_and_error_are_those_of_all_images_at_once() -> None:
    totals = Totals.of(count(SumMeter(1), BATCHES))
    scores, labels = (torch.cat(part) for part in zip(*BATCHES, strict=True))
    accuracy = MulticlassAccuracy(num_classes=10, average="micro")(scores, labels)
    assert err(totals) == pytest.approx(100 - 100 * accuracy.item(), abs=1e-4)
    assert totals.loss == pytest.approx(F.cross_entropy(scores, labels).item(), rel=1e-6)
    assert totals.num_images == 40


def test_error_is_a_percentage_of_wrong_answers() -> None:
    scores = torch.eye(4)
    meter = count(SumMeter(1), [(scores, torch.tensor([0, 1, 2, 0]))])
    assert err(Totals.of(meter)) == 25.0
    assert Totals.of(meter).sums[0] == 1


def test_the_processes_sums_are_added_up() -> None:
    meter = SumMeter(1, dist_sync_fn=lambda value, group: [value, 2 * value], distributed_available_fn=lambda: True)
    alone, together = Totals.of(count(SumMeter(1), BATCHES)), Totals.of(count(meter, BATCHES))
    assert together.as_list() == pytest.approx([3 * value for value in alone.as_list()])
    assert Totals.of(count(meter, BATCHES)).num_images == 3 * 80  # a reading leaves the process's own sums as they were


def test_a_reset_forgets() -> None:
    meter = count(SumMeter(1), BATCHES)
    meter.reset()
    assert Totals.of(meter).as_list() == [0.0] * 5
    assert Totals.of(count(meter, BATCHES[:1])).num_images == 7


def test_saved_sums_go_on_as_if_never_interrupted() -> None:
    whole = count(SumMeter(1), BATCHES)
    continued = SumMeter(1)
    continued.put(Totals.of(count(SumMeter(1), BATCHES[:2])).as_list())
    assert Totals.of(count(continued, BATCHES[2:])).as_list() == Totals.of(whole).as_list()


def test_nothing_seen_is_nan_not_zero() -> None:
    assert math.isnan(Totals.zero(1).loss)
    assert math.isnan(err(Totals.zero(1)))


def test_a_nan_loss_stays_visible() -> None:
    meter = SumMeter(1)
    meter.update(torch.tensor(math.nan), torch.tensor(0), 2)
    assert math.isnan(Totals.of(meter).loss)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_came_before_is_summed_apart(value: float) -> None:
    meter = SumMeter(1)
    assert Totals.of(meter).finite_loss is None
    for loss_sum, num_images in ((6.0, 2), (3.0, 1), (value, 2), (5.0, 2), (-value, 2)):
        meter.update(torch.tensor(loss_sum), 0, num_images)
    totals = Totals.of(meter)
    assert (totals.finite_loss, totals.num_finite_images, totals.num_images) == (3.0, 3, 9)


def test_sums_of_an_older_checkpoint_go_on() -> None:
    meter = SumMeter(1)
    meter.put([6.0, 1.0, 2.0])
    meter.update(torch.tensor(3.0), 1, 1)
    assert Totals.of(meter).as_list() == [9.0, 2.0, 3.0, 9.0, 3.0]


def test_sums_of_many_steps_keep_their_digits() -> None:
    meter, value = SumMeter(1), torch.tensor(0.1)
    for _ in range(20_000):
        meter.loss_sum += value  # what update does, without the rest
    assert meter.loss_sum.item() == pytest.approx(20_000 * value.item(), rel=1e-9)


def test_totals_add_and_subtract_part_by_part() -> None:
    total = Totals([5.0, 3, 10, 4.0, 8]) + Totals([1.0, 1, 2, 0.5, 1])
    assert total.as_list() == [6.0, 4, 12, 4.5, 9]
    assert (total - Totals([1.0, 1, 2, 0.5, 1])).as_list() == [5.0, 3, 10, 4.0, 8]
    assert (total.loss, err(total)) == (0.5, pytest.approx(100 / 3))


def test_an_answer_to_a_mixed_image_is_right_by_the_share_of_its_class() -> None:
    scores = torch.eye(3)[[0, 1, 2, 0]]  # predicts 0, 1, 2, 0
    labels, others = torch.tensor([0, 0, 0, 0]), torch.tensor([1, 1, 1, 0])
    weight = torch.tensor([0.7, 0.7, 0.7, 0.7])
    meter = SumMeter(1)
    meter.update(*counts(scores, labels, torch.tensor(0.0), others, weight))
    # 0.3 wrong, 0.7 wrong, all wrong, and both labels right.
    assert Totals.of(meter).sums[0] == pytest.approx(0.3 + 0.7 + 1.0, abs=1e-6)
    going_on = SumMeter(1)
    going_on.put(Totals.of(meter).as_list())
    assert going_on.sums()[1] == meter.sums()[1]
