"""Time and memory of a whole process, from start to exit.

    python -m benchmarks.measure COMMAND [ARG ...]

Prints wall time in seconds, peak memory in MiB and processor time in seconds. A process of its own,
because Linux counts the memory of the process that starts a command towards the command's peak.
"""

import os
import subprocess
import sys
import time


def run_module(*command: str) -> tuple[float, float]:
    """Run `python -m COMMAND …` to its end; return its wall time in seconds and peak in MiB."""
    return measured(*command)[:2]


def measured(*command: str) -> tuple[float, float, float]:
    """Do the same; return its processor time in seconds, too."""
    own = [sys.executable, "-m", __name__, sys.executable, "-m", *command]
    ended = subprocess.run(own, check=False, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{ended.stderr}")
    seconds, peak, work = map(float, ended.stdout.split())
    return seconds, peak, work


def main() -> None:
    """Run the command and print its figures."""
    start = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    work = usage.ru_utime + usage.ru_stime
    print(time.perf_counter() - start, usage.ru_maxrss / 1024, work)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
