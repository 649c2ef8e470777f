"""Standard streams that are closed, or whose reader has gone."""

import os
import sys
from pathlib import Path


def replace_closed_streams() -> None:
    """Replace standard streams that were closed when the program started by the null device."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            null_device = Path(os.devnull).open("r+", encoding="utf-8")  # noqa: SIM115 # stays open
            # The worker processes of a sweep inherit the stream.
            os.set_inheritable(null_device.fileno(), True)
            setattr(sys, name, null_device)


def redirect_stdout_to_devnull() -> None:
    """Discard all further output.

    Called after a BrokenPipeError, so that Python does not report the same error again at exit.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
