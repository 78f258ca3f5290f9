"""What a run's network says of images: classes, probabilities, and the error where the classes are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from depthlab.data.image_folders import subfolders
from depthlab.data.pictures import AnyImages
from depthlab.errors import InputError
from depthlab.runs import as_table

if TYPE_CHECKING:
    from depthlab.runs.open_run import OpenRun


@dataclass(frozen=True)
class Predictions:
    """The answers to N images.

    Args:
        names: the images' files, or their numbers.
        classes: the names of the classes.
        probabilities: float32 (N, num_classes).
        top: the numbers of the likeliest classes, (N, k), the likeliest first.
        notes: what was changed about images before the network saw them, with the number of images.
    """

    names: list[str]
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    top: NDArray[np.int64]
    notes: dict[str, int]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The number of the likeliest class of each image, (N,)."""
        return self.top[:, 0]

    @property
    def top_names(self) -> list[list[str]]:
        """The names of the likeliest classes of each image."""
        return [[self.classes[idx] for idx in row] for row in self.top]

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each image: image, class, confidence, then class_2, confidence_2 and so on."""
        rows = []
        for name, top, probabilities in zip(self.names, self.top, self.probabilities, strict=True):
            row: dict[str, Any] = {"image": name}
            for rank, idx in enumerate(top, start=1):
                end = f"_{rank}" if rank > 1 else ""
                row |= {f"class{end}": self.classes[idx], f"confidence{end}": float(probabilities[idx])}
            rows.append(row)
        return rows

    def table(self) -> Any:
        """`rows`, as a pandas table where pandas is installed."""
        return as_table(self.rows())

    def error(self, labels: Sequence[int] | NDArray[np.int64]) -> float:
        """The part of the images whose class is not in `labels` (N,), in percent."""
        return 100 * int((self.labels != np.asarray(labels)).sum()) / len(self)

    def confusion(self, labels: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """How many images of each class (rows) were given each class (columns)."""
        from sklearn.metrics import confusion_matrix

        matrix: NDArray[np.int64] = confusion_matrix(labels, self.labels, labels=range(len(self.classes)))
        return matrix


def predict(run: OpenRun, images: AnyImages, top: int = 5, weights: str = "last") -> Predictions:
    """See `OpenRun.predict`."""
    if not run.classes:
        task = run.config.task.registered
        raise InputError(f"{run.name} has task={task}: it names no classes. run.outputs(images) returns its numbers.")
    if not top >= 1:
        raise InputError(f"top={top}: an integer >= 1 is expected.")
    pictures = run.preprocessing.pictures(images)
    scores = run.outputs(pictures, weights)
    # The first of equal scores, as the error in the record counts them.
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :top]
    return Predictions(pictures.names, run.classes, scores.softmax(dim=1).numpy(), order.numpy(), dict(pictures.notes))


def labels_of(folder: Path, files: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64] | None:
    """The class of each file in a folder that has a folder for each class; None for other folders.

    Raises:
        InputError: some of the folders are classes of the run and others are not.
    """
    names = [path.name for path in subfolders(folder)] if folder.is_dir() else []
    unknown = [name for name in names if name not in classes]
    if not names or len(unknown) == len(names):
        return None
    if unknown:
        raise InputError(f"{folder / unknown[0]} is no class of the run. Its classes: {', '.join(classes)}.")
    parts = [Path(file).relative_to(folder).parts[0] for file in files]
    loose = [file for file, part in zip(files, parts, strict=True) if part not in classes]
    if loose:
        raise InputError(f"{loose[0]} lies beside the classes' folders. Put it into one of them, or elsewhere.")
    return np.array([list(classes).index(part) for part in parts], dtype=np.int64)
