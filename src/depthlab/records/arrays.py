"""The arrays beside a record, diagnostics/*.npz: what the report's figures need of a network's inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthlab.records.atomic_files import replacing

FOLDER = "diagnostics"


def arrays_path(directory: Path, name: str) -> Path:
    """Where the arrays called `name` lie in a run's directory."""
    return directory / FOLDER / f"{name}.npz"


def write_arrays(directory: Path, name: str, **arrays: NDArray[Any]) -> None:
    """Put arrays beside the record, in place of those before; plain numbers and text only, nothing pickled."""
    path = arrays_path(directory, name)
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:  # an open file: numpy would add .npz to a name
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_arrays(directory: Path, name: str) -> dict[str, NDArray[Any]]:
    """The arrays that an earlier stretch of the run wrote.

    Raises:
        OSError, ValueError, zipfile.BadZipFile: there are none, or the file is damaged.
    """
    with np.load(arrays_path(directory, name), allow_pickle=False) as file:
        return dict(file.items())
