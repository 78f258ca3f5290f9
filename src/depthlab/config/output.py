"""Standard output and standard error that cannot end a run: `| head`, a full disk and `>&-` only lose text."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any

STREAMS = {"stdout": 1, "stderr": 2}


class LossyFile(FileIO):
    """A file whose writes never fail: after the first error everything written to it is discarded."""

    def write(self, data: Any) -> int:
        """Write the bytes, or discard them."""
        try:
            return super().write(data)
        except OSError:
            # The descriptor itself, so that processes started from here discard their output too.
            _open_null(self.fileno())
            return len(data)


def open_missing_streams() -> None:
    """Open /dev/null in the place of closed streams (`>&-`), whose descriptors the next file would get."""
    for name, descriptor in STREAMS.items():
        if getattr(sys, name) is None:
            _open_null(descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))
            setattr(sys, f"__{name}__", getattr(sys, name))


def outlive_readers(names: Iterable[str] = STREAMS) -> None:
    """From now on a print to these streams cannot fail. Streams that somebody has replaced stay as they are."""
    for name in names:
        stream = getattr(sys, name)
        if isinstance(stream, TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _lossy(stream))


def _lossy(stream: TextIOWrapper) -> TextIOWrapper:
    try:
        stream.flush()
    except OSError:  # of what was printed before; it would fail again when the old stream is closed
        _open_null(stream.fileno())
    return TextIOWrapper(
        BufferedWriter(LossyFile(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _open_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
