"""A published folder: the records of all its runs in one file, their curves in one, their arrays in one.

    records.jsonl        one record a line
    curves.csv.gz        the rows of every metrics.csv, with the run's name in front
    diagnostics.npz.xz   the arrays RUN/NAME/ARRAY

A run of such a folder is called by the directory that it would have there, `results/digits_depth/RUN`: what reads
run directories reads these files for a directory that does not exist. Nothing here depends on what is in a record.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthlab.errors import InputError
from depthlab.records.atomic_files import replacing
from depthlab.records.safe_files import MOST_BYTES, read_array, read_inside

RECORDS = "records.jsonl"
CURVES = "curves.csv.gz"
# Compressed as a whole: runs of one sweep share labels, images and names of layers, so this takes a third of the space
# that arrays compressed one by one take. `numpy.load(lzma.open(path))` reads it too.
ARRAYS = "diagnostics.npz.xz"
MOST_UNPACKED = 4 * MOST_BYTES  # of a folder's arrays; those of one CIFAR-10 run are 0.3 MB
NO_DATE = (1980, 1, 1, 0, 0, 0)  # in the archive, so that equal arrays give equal bytes

Arrays = dict[str, NDArray[Any]]
Rows = tuple[Sequence[str], Iterable[Sequence[str]]]  # header and rows of one run's curves


def published_runs(folder: Path) -> tuple[str, ...]:
    """The names of the runs in a published folder, in the order of the file; none where it cannot be read."""
    try:
        return tuple(_read(folder, RECORDS, _lines))
    except (OSError, InputError):
        return ()


def is_published(directory: Path) -> bool:
    """Whether `directory` stands for a run of a published folder."""
    return published_record(directory) is not None


def published_record(directory: Path) -> str | None:
    """The record of a published run as JSON text; None where `directory` is not one."""
    if (directory / "record.json").exists() or not (directory.parent / RECORDS).exists():
        return None
    lines: dict[str, str] = _read(directory.parent, RECORDS, _lines)
    return lines.get(directory.name)


def published_curves(directory: Path) -> str:
    """The curves of a published run as CSV text.

    Raises:
        InputError: the folder holds none of this run, or the file is damaged.
    """
    has_curves = (directory.parent / CURVES).exists()
    curves: dict[str, str] = _read(directory.parent, CURVES, _curves) if has_curves else {}
    if directory.name not in curves:
        raise InputError(f"{directory.parent / CURVES} holds no curves of {directory.name}.")
    return curves[directory.name]


def published_arrays(directory: Path, name: str) -> Arrays:
    """The arrays called `name` of a published run.

    Raises:
        FileNotFoundError: there are none.
        InputError, zipfile.BadZipFile: the file is damaged.
    """
    archive = _read(directory.parent, ARRAYS, _archive)
    prefix = f"{directory.name}/{name}/"
    members = [member for member in archive.namelist() if member.startswith(prefix)]
    if not members:
        raise FileNotFoundError(f"{directory.parent / ARRAYS} holds no {name} of {directory.name}")
    return {member.removeprefix(prefix).removesuffix(".npy"): read_array(archive, member) for member in members}


def published_array_names(directory: Path) -> list[str]:
    """Which arrays a published run has."""
    if not (directory.parent / ARRAYS).exists():
        return []
    members = [member.split("/") for member in _read(directory.parent, ARRAYS, _archive).namelist()]
    return sorted({parts[1] for parts in members if parts[0] == directory.name and len(parts) == 3})


def write_published(
    folder: Path, records: Mapping[str, dict[str, Any]], curves: Mapping[str, Rows], arrays: Mapping[str, Arrays]
) -> None:
    """Write the three files. Equal content gives equal bytes, whenever it is written with the same liblzma and zlib.

    Args:
        folder: is there.
        records: by the run's name.
        curves: header and rows by the run's name.
        arrays: by RUN/NAME.

    Raises:
        InputError: the arrays are too large to be read again; nothing is written.
    """
    packed = _packed(arrays)
    _write(folder / RECORDS, "".join(f"{json.dumps(records[name], allow_nan=False)}\n" for name in records).encode())
    _write(folder / CURVES, gzip.compress(_curves_text(curves).encode("utf-8"), mtime=0))
    _write(folder / ARRAYS, packed)


def _packed(arrays: Mapping[str, Arrays]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for place, each in arrays.items():
            for key, array in each.items():
                member = io.BytesIO()
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{place}/{key}.npy", NO_DATE), member.getvalue())
    if buffer.tell() > MOST_UNPACKED:
        raise InputError(
            f"The arrays of these runs are too large for one folder ({buffer.tell():,} bytes; at most "
            f"{MOST_UNPACKED:,}).\nPublish them in several folders."
        )
    return lzma.compress(buffer.getbuffer())


def _curves_text(curves: Mapping[str, Rows]) -> str:
    columns = list(dict.fromkeys(column for header, _ in curves.values() for column in header))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *columns])
    for run, (header, rows) in curves.items():
        places = [header.index(column) if column in header else None for column in columns]
        writer.writerows([run, *("" if place is None else row[place] for place in places)] for row in rows)
    return text.getvalue()


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _read(folder: Path, name: str, parse: Callable[[bytes, Path], Any]) -> Any:
    """The parsed content of a file of a published folder, kept as long as the file stays the same."""
    found = (folder / name).stat()
    return _parsed(folder, name, found.st_mtime_ns, found.st_size, parse)


@lru_cache(maxsize=12)
def _parsed(folder: Path, name: str, changed_at: int, size: int, parse: Callable[[bytes, Path], Any]) -> Any:
    return parse(read_inside(folder, name), folder / name)


def _lines(content: bytes, path: Path) -> dict[str, str]:
    """Each run's line; a line without a run's name is nobody's."""
    lines = {}
    try:
        for line in content.decode("utf-8").splitlines():
            record = json.loads(line)
            name = record.get("run") if isinstance(record, dict) else None
            if isinstance(name, str) and name and "/" not in name and name not in (".", ".."):
                lines[name] = line
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}).") from None
    return lines


def _curves(content: bytes, path: Path) -> dict[str, str]:
    """Each run's rows as the text of a file of its own."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            text = file.read(MOST_BYTES).decode("utf-8")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}).") from None
    header, *rows = text.splitlines() or [""]
    first, _, columns = header.partition(",")
    if first != "run":
        raise InputError(f"{path} is not a file of curves: its first column is not 'run'.")
    found: dict[str, list[str]] = {}
    for row in rows:
        name, _, values = row.partition(",")
        found.setdefault(name, [columns]).append(values)
    return {name: "\n".join([*lines, ""]) for name, lines in found.items()}


def _archive(content: bytes, path: Path) -> zipfile.ZipFile:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_BYTES)
    try:
        unpacked = unpacker.decompress(content, MOST_UNPACKED)
        archive = zipfile.ZipFile(io.BytesIO(unpacked)) if unpacker.eof else None
    except (lzma.LZMAError, EOFError, zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is damaged ({error}).") from None
    if archive is None:
        raise InputError(f"{path} is cut off, or has more than {MOST_UNPACKED:,} bytes when it is unpacked.")
    return archive
