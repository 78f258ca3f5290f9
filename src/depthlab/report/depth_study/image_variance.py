"""The interval of a difference in test error over runs and test images, from stored predictions.

On a small test set the choice of images matters as much as the seed. The variance of the difference is the sum of the
variance over runs (each network's own) and the variance over images of the difference of the networks' mean errors.
The residual variance is part of both, so the sum is a little too large rather than too small (Owen 2007).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depthlab.errors import InputError
from depthlab.report.core.diagnostics import Array, read_arrays
from depthlab.report.core.groups import Group
from depthlab.report.core.statistics import Difference, combine, welch

# From this many test images on, their choice adds little to what the seeds do.
LARGE_TEST_SET = 10_000
TOLERANCE = 0.01  # points by which an error may differ from that of its stored predictions


def two_way(first: Group, second: Group, key: str) -> Difference:
    """`first` minus `second` over runs and images; over runs alone where the test set is large or predictions miss."""
    samples = [first.sample(key), second.sample(key)]
    images = image_variance(first, second, key)
    return welch(*samples) if images is None else combine(samples, [1.0, -1.0], images)


def image_variance(first: Group, second: Group, key: str) -> tuple[float, int] | None:
    """The variance that the choice of test images adds to a difference, and their number; None where unknown.

    It is unknown where a run diverged, where predictions are missing or are not those of the recorded error, and
    where two runs were tested on different images. For a large test set it is not computed.
    """
    if first.diverged or second.diverged or not is_small_test_set([first, second], key):
        return None
    wrong = [_mean_wrong(group, key) for group in (first, second)]
    if wrong[0] is None or wrong[1] is None or not np.array_equal(wrong[0][1], wrong[1][1]):
        return None
    differences = 100 * (wrong[0][0] - wrong[1][0])
    if len(differences) < 2:
        return None
    return float(np.var(differences, ddof=1) / len(differences)), len(differences)


def is_small_test_set(groups: Sequence[Group], key: str) -> bool:
    """Whether an interval over these groups should cover the choice of images."""
    numbers = [run.num_images(key) for group in groups for run in group.runs]
    return all(number is not None and number < LARGE_TEST_SET for number in numbers)


def _mean_wrong(group: Group, key: str) -> tuple[Array, Array] | None:
    """For each test image the share of runs that misclassify it, and the labels."""
    wrong, labels = [], None
    for run in group.finished:
        try:
            arrays = read_arrays(run, "predictions")
        except InputError:
            return None
        mistakes = arrays["label"] != arrays["predicted"]
        if labels is not None and not np.array_equal(labels, arrays["label"]):
            return None
        if not mistakes.size or abs(100 * float(mistakes.mean()) - (run.value(key) or 0.0)) > TOLERANCE:
            return None
        labels = arrays["label"]
        wrong.append(mistakes)
    return None if labels is None else (np.mean(wrong, axis=0), labels)
