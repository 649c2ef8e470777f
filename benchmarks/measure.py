"""Time and memory of a whole process, from start to exit.

    python -m benchmarks.measure COMMAND [ARG ...]

Prints wall and processor time in seconds and peak memory in MiB. A process of its own, because
Linux counts the memory of the process that starts a command towards the command's peak.
"""

import os
import subprocess
import sys
import time
from typing import NamedTuple


class Usage(NamedTuple):
    """What a command took."""

    wall: float
    """Seconds."""
    processor: float
    """Seconds, of all cores together."""
    peak: float
    """MiB."""


def measured(*python: str, status: int = 0) -> Usage:
    """Run `python …` to its end, which is to have an exit status; return what it took."""
    own = [sys.executable, "-m", __name__, sys.executable, *python]
    ended = subprocess.run(own, check=False, capture_output=True, text=True)
    if ended.returncode != status:
        sys.exit(f"{' '.join(python)} failed:\n{ended.stderr}")
    return Usage(*map(float, ended.stdout.split()))


def run_module(*command: str) -> tuple[float, float]:
    """Run `python -m COMMAND …` to its end; return its wall time in seconds and peak in MiB."""
    usage = measured("-m", *command)
    return usage.wall, usage.peak


def main() -> None:
    """Run the command and print its figures."""
    start = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall, processor = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    print(wall, processor, usage.ru_maxrss / 1024)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
