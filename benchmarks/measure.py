"""Measures the time and the memory of a whole process, from its start to its exit.

    python -m benchmarks.measure COMMAND [ARG ...]

Prints wall time and processor time in seconds, and peak memory in MiB. This is a process of its
own, because Linux counts the memory of the process that starts a command towards the peak of the
command.
"""

import os
import subprocess
import sys
import time
from typing import NamedTuple


class Usage(NamedTuple):
    """The time and the memory that a command took."""

    wall_seconds: float
    processor_seconds: float
    """Sum over all cores."""
    peak_mib: float
    """The largest resident memory in MiB."""


def measure_python(*arguments: str, exit_status: int = 0) -> Usage:
    """Run Python to its end and return what it took.

    Exits with a message if the exit status is not `exit_status`.

    Args:
        arguments: the arguments of Python.
        exit_status: the expected exit status.
    """
    command = [sys.executable, "-m", __name__, sys.executable, *arguments]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode != exit_status:
        sys.exit(f"{' '.join(arguments)} failed:\n{result.stderr}")
    wall_seconds, processor_seconds, peak_mib = result.stdout.split()
    return Usage(float(wall_seconds), float(processor_seconds), float(peak_mib))


def run_module(*command: str) -> tuple[float, float]:
    """Run `python -m COMMAND …` to its end; return its wall time in seconds and peak in MiB."""
    usage = measure_python("-m", *command)
    return usage.wall_seconds, usage.peak_mib


def main() -> None:
    """Run the command and print what it took."""
    start = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall_seconds = time.perf_counter() - start
    processor_seconds = usage.ru_utime + usage.ru_stime
    peak_mib = usage.ru_maxrss / 1024  # Linux reports KiB
    print(wall_seconds, processor_seconds, peak_mib)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
