"""Classification report and most confused pairs, from stored test predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depthlab.report.core.diagnostics import Array, Members, confusion
from depthlab.report.core.table import Cell, Table

MOST_PAIRS = 10


def class_report(members: Sequence[Members], classes: Sequence[str]) -> Table:
    """Precision, recall, F1 and support of each class and network, as means over runs."""
    rows: list[tuple[Cell, ...]] = []
    for member in members:
        counts = [confusion([arrays], len(classes)) for arrays in member.arrays]
        means = np.mean([_scores(one) for one in counts], axis=0)
        support = counts[0].sum(axis=1)
        rows += [
            (member.group.label, name, *(float(100 * score) for score in means[:, idx]), int(support[idx]))
            for idx, name in enumerate(classes)
        ]
    caption = (
        "Test images of each class, means over runs in percent; a class that is never predicted has precision and F1 0."
    )
    header = ("network", "class", "precision (%)", "recall (%)", "F1 (%)", "support")
    return Table("classes", caption, header, tuple(rows))


def confused_pairs(members: Sequence[Members], classes: Sequence[str]) -> Table:
    """The pairs of label and prediction that each network confuses most."""
    rows: list[tuple[Cell, ...]] = []
    for member in members:
        counts = confusion(member.arrays, len(classes))
        totals = counts.sum(axis=1)
        wrong = counts - np.diag(np.diag(counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
        for label, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
            number = int(wrong[label, predicted])
            if number:
                share = 100 * number / int(totals[label])
                rows.append((member.group.label, classes[label], classes[predicted], number, share))
    caption = f"The {MOST_PAIRS} most frequent confusions of each network, test images of all runs together."
    header = ("network", "label", "predicted", "images", "% of the label's images")
    return Table("confused_pairs", caption, header, tuple(rows))


def _scores(counts: Array) -> Array:
    """Precision, recall and F1 as rows, one column a class."""
    hits = np.diag(counts).astype(float)
    precision = hits / np.maximum(counts.sum(axis=0), 1)
    recall = hits / np.maximum(counts.sum(axis=1), 1)
    f1 = 2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1)
    scores: Array = np.stack([precision, recall, f1])
    return scores
