"""Handles standard streams that are closed, or whose reader has gone."""

import os
import sys
from pathlib import Path


def replace_closed_streams() -> None:
    """Open the null device in place of standard streams that were closed when the program started.

    A job scheduler can start programs without these streams. Python then sets `sys.stdout` to None,
    and the next file that the program opens would get the stream's file descriptor.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # It stays open until the process ends.
            null_device = Path(os.devnull).open("r+", encoding="utf-8")  # noqa: SIM115
            # The worker processes of a sweep inherit the stream.
            os.set_inheritable(null_device.fileno(), True)
            setattr(sys, name, null_device)


def redirect_stdout_to_devnull() -> None:
    """Discard all further output of this process.

    This is called after a BrokenPipeError, so that Python does not report the same error again when
    it flushes stdout at exit.
    """
    # Replacing the descriptor also affects output that Python has already buffered.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
