"""Standard output and standard error that cannot end a run: `| head`, a full disk and `>&-` only lose text."""

from __future__ import annotations

import os
import sys
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any

STREAMS = {"stdout": 1, "stderr": 2}


class LossyFile(FileIO):
    """A file that discards output after a write error of one of the types in `forgives`."""

    forgives: type[OSError] = BrokenPipeError

    def write(self, data: Any) -> int:
        """Write the bytes, or discard these and all that follow."""
        try:
            return super().write(data)
        except self.forgives:
            # The descriptor itself, so that processes started from here discard their output too.
            _open_null(self.fileno())
            return len(data)


def prepare_streams() -> None:
    """For the start of a process: a reader that leaves (`| head`) is no error, and closed streams are opened.

    The descriptor of a closed stream (`>&-`) would be that of the next file which is opened.
    """
    for name, descriptor in STREAMS.items():
        if getattr(sys, name) is None:
            _open_null(descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))
        setattr(sys, name, _lossy(getattr(sys, name)))


def outlive_output() -> None:
    """From now on no print can fail, on a full disk neither. Streams that were not prepared stay as they are."""
    for name in STREAMS:
        raw = getattr(getattr(getattr(sys, name), "buffer", None), "raw", None)
        if isinstance(raw, LossyFile):
            raw.forgives = OSError


def _lossy(stream: TextIOWrapper) -> TextIOWrapper:
    stream.flush()
    return TextIOWrapper(
        BufferedWriter(LossyFile(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="replace",  # a terminal without ± shows a ?
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _open_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    if null == descriptor:
        os.set_inheritable(descriptor, True)
    else:
        os.dup2(null, descriptor)
        os.close(null)
