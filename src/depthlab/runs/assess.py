"""How good the answers of networks are: error, calibration, classes that are confused, ensembles and pairs of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from depthlab.config.registry import groups, lookup
from depthlab.data.image_files import FileImages
from depthlab.data.pictures import AnyImages
from depthlab.data.spec import ImagesSpec
from depthlab.errors import InputError
from depthlab.runs.open_run import LabelledImages, OpenRun
from depthlab.runs.predict import labels_of

Labels = NDArray[np.int64]
TTA = ("flip",)
BINS = 15  # of the confidence, for the calibration error
CONFUSED = 10  # pairs that are listed
RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Question:
    """Images, the classes that are right, and what they are called: a split of a run, or other data."""

    images: AnyImages
    labels: Labels
    name: str


def ask(run: OpenRun, split: str, data: str | None) -> Question:
    """The images that a run is to be measured on.

    Args:
        run: whose classes they have.
        split: train, val or test of the run's own data, or of another data set.
        data: a folder with a folder for each class, or the name of a data set at its defaults; None: the run's own.

    Raises:
        InputError: there are no such images, or their classes are others.
    """
    if not run.classes:
        raise InputError(f"{run.name} learned no classes: there is nothing more to say than its metrics.")
    if data is None:
        own = run.data(split)
        if not len(own.labels):
            raise InputError(f"split={split}: {run.name} set no such images aside.")
        return Question(own.images, own.labels, f"{run.record.data['name']} {split}")
    if Path(data).is_dir():
        pictures = run.preprocessing.pictures(data)
        labels = labels_of(Path(data), pictures.names, run.classes)
        if labels is None:
            raise InputError(
                f"data={data}: a folder for each class is expected. The classes: {', '.join(run.classes)}."
            )
        return Question(pictures, labels, data)
    return _other_data(run, split, data)


def _other_data(run: OpenRun, split: str, name: str) -> Question:
    if name not in groups()["data"].components:
        raise InputError(f"data={name}: there is no such folder, and no data set of this name.")
    spec = lookup("data", name)()
    assert isinstance(spec, ImagesSpec)
    if "???" in vars(spec).values():  # a key without a default
        raise InputError(f"data={name}: it has no defaults. Give a folder with a folder for each class.")
    source = spec.read(Path(run.config.paths.data_dir))
    if tuple(source.classes) != run.classes:
        theirs, ours = ", ".join(source.classes), ", ".join(run.classes)
        raise InputError(f"data={name}: its classes are {theirs}; those of {run.name} are {ours}.")
    parts = {"train": (source.train_images, source.train_labels), "test": (source.test_images, source.test_labels)}
    if split not in parts:
        raise InputError(f"split={split}: of another data set train and test can be measured.")
    return Question(*parts[split], f"{name} {split}")


def log_probabilities(run: OpenRun, images: AnyImages, weights: str = "last", tta: str | None = None) -> NDArray[Any]:
    """Of every class for each image, float64 (N, num_classes).

    Args:
        run: whose network answers.
        images: as in `OpenRun.preprocess`.
        weights: as in `OpenRun.network`.
        tta: "flip" averages the probabilities of an image and its mirror image.
    """
    if tta not in (None, *TTA):
        raise InputError(f"tta={tta}: the choices are {', '.join(TTA)}.")
    views = [run.outputs(images, weights, flip) for flip in ((False, True) if tta == "flip" else (False,))]
    return average([view.double().log_softmax(dim=1).numpy() for view in views])


def average(members: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The logarithm of the mean probabilities; of one member, its own."""
    if len(members) == 1:
        return members[0]
    found: NDArray[Any] = np.logaddexp.reduce(members, axis=0) - np.log(len(members))
    return found


def wrong(scores: NDArray[Any], labels: Labels) -> NDArray[np.bool_]:
    """Which answers are wrong, (N,)."""
    found: NDArray[np.bool_] = scores.argmax(axis=1) != labels
    return found


def summarize(scores: NDArray[Any], labels: Labels, classes: Sequence[str]) -> dict[str, Any]:
    """Errors in percent, mean loss, calibration, a report for each class, and the pairs most often confused.

    `ece` is the expected calibration error of Guo et al. 2017 with 15 bins of equal width, from 0 to 1; `reliability`
    the bins that are not empty: mean confidence, part that is right, number of images.
    """
    from sklearn.metrics import classification_report, confusion_matrix, top_k_accuracy_score

    numbers = range(len(classes))
    answers = scores.argmax(axis=1)
    matrix = confusion_matrix(labels, answers, labels=numbers)
    found: dict[str, Any] = {"num_images": len(labels), "err": 100 * int(wrong(scores, labels).sum()) / len(labels)}
    if len(classes) > 5:
        right = top_k_accuracy_score(labels, scores, k=5, labels=numbers, normalize=False)
        found["err_top5"] = 100 * (len(labels) - int(right)) / len(labels)
    report = classification_report(
        labels, answers, labels=numbers, target_names=list(classes), output_dict=True, zero_division=0
    )
    return {
        **found,
        "loss": float(-scores[np.arange(len(labels)), labels].mean()),
        **_calibration(scores, answers == labels),
        "classes": {name: report[name] for name in classes},
        "confused": _confused(matrix, classes),
    }


def _calibration(scores: NDArray[Any], is_right: NDArray[np.bool_]) -> dict[str, Any]:
    from sklearn.calibration import calibration_curve
    from torchmetrics.functional.classification import binary_calibration_error

    confidence = np.exp(scores.max(axis=1)).clip(0, 1)
    right, mean = calibration_curve(is_right, confidence, n_bins=BINS)
    edges = np.linspace(0, 1, BINS + 1)[1:-1]  # the curve's own
    counts = np.bincount(np.searchsorted(edges, confidence))
    # Of answers and not of classes: a binary problem whose probability is the confidence.
    ece = binary_calibration_error(torch.from_numpy(confidence), torch.from_numpy(is_right).long(), n_bins=BINS)
    bins = zip(mean.tolist(), right.tolist(), counts[counts > 0].tolist(), strict=True)
    return {"ece": float(ece), "reliability": [list(each) for each in bins]}


def _confused(matrix: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    off = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    order = np.argsort(-off, axis=None, kind="stable")[:CONFUSED]
    pairs = [divmod(int(place), len(matrix)) for place in order]
    return [{"class": classes[a], "predicted": classes[b], "images": int(off[a, b])} for a, b in pairs if off[a, b]]


def compare(first: NDArray[Any], second: NDArray[Any], labels: Labels) -> dict[str, Any]:
    """Two runs on the same images: agreement in percent, and McNemar's exact test of equal errors.

    `only_first` and `only_second` are the images that one of the two alone gets wrong.
    """
    from scipy.stats import binomtest

    a, b = wrong(first, labels), wrong(second, labels)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_first + only_second
    return {
        "agreement": 100 * float((first.argmax(axis=1) == second.argmax(axis=1)).mean()),
        "only_first": only_first,
        "only_second": only_second,
        "p": float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
    }


def ensemble_gain(members: Sequence[NDArray[Any]], labels: Labels) -> dict[str, Any]:
    """The error of the mean of the members' probabilities, and by how much the mean of their errors exceeds it.

    The interval is a percentile bootstrap over images, which keeps each image's members together: it says what other
    test images would change, not other seeds.
    """
    from scipy.stats import bootstrap

    each = np.stack([wrong(member, labels) for member in members])
    together = wrong(average(members), labels)
    gain = 100 * (each.mean(axis=0) - together)
    interval = bootstrap(
        (gain,), np.mean, n_resamples=RESAMPLES, batch=50, confidence_level=LEVEL, method="percentile", rng=0
    ).confidence_interval
    return {
        "members": [100 * float(row.mean()) for row in each],
        "err": 100 * float(together.mean()),
        "gain": float(gain.mean()),
        "interval": [float(interval.low), float(interval.high)],
        "num_images": len(labels),
    }


def pairs(names: Sequence[str], members: Sequence[NDArray[Any]], labels: Labels) -> list[dict[str, Any]]:
    """`compare` for every two members."""
    found = combinations(zip(names, members, strict=True), 2)
    return [{"first": a, "second": b, **compare(x, y, labels)} for (a, x), (b, y) in found]


def check_alike(first: OpenRun, other: OpenRun, split: str, data: str | None) -> None:
    """Raise InputError where two runs do not answer the same question: other classes, or other images."""
    if other.classes != first.classes:
        is_order = sorted(other.classes) == sorted(first.classes)
        what = "the same classes in another order" if is_order else f"other classes ({', '.join(other.classes)})"
        raise InputError(f"{other.name} has {what} than {first.name}. An ensemble needs runs of one data set.")
    if data is None and other.record.data.get("fingerprint") != first.record.data.get("fingerprint"):
        mine, theirs = first.data(split), other.data(split)
        if not (np.array_equal(mine.labels, theirs.labels) and _same_images(mine, theirs)):
            raise InputError(
                f"{other.name} has other {split} images ({other.record.data['name']}) than {first.name} "
                f"({first.record.data['name']}). An ensemble needs runs of one data set."
            )


def _same_images(first: LabelledImages, second: LabelledImages) -> bool:
    a, b = first.images, second.images
    if isinstance(a, FileImages) and isinstance(b, FileImages):
        return a.paths == b.paths
    return a.shape == b.shape and bool(np.array_equal(a[:], b[:]))
