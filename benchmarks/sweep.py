"""`make bench`: sweeps, side by side with the tutorial's plain loop, and serial with parallel.

    python -m benchmarks.sweep

Prints what a 3×3 grid costs against nine runs of the plain loop, what a second core saves, and what
each of 100 short runs in one process costs in time and memory.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hydra import compose, initialize_config_dir

from benchmarks.measure import measured, run_module
from src.config import CONFIG_FOLDER

HIDDEN = (64, 128, 256)
GRID = ("lr=0.001,0.005,0.01", f"hidden={','.join(map(str, HIDDEN))}")
ITERATIONS = 100_000  # train.yaml's
PLAIN = 20_000  # names the plain loop is timed over; its time is proportional to them
JOBS = 100
SEEDS, SERIAL = "seed=range(3)", "hydra/launcher=basic"


def row(what: str, value: str, target: str = "") -> None:
    """Print one row of the table."""
    print(f"{what:<52}{value:>10}  {f'(target: {target})' if target else ''}".rstrip(), flush=True)


def sweep(folder: Path, *overrides: str) -> float:
    """Run a sweep; return the wall time of the whole command."""
    return run_module("src.train", "-m", f"hydra.sweep.dir={folder}", *overrides)[0]


def grid(folder: Path) -> None:
    """Compare a 3×3 grid with nine plain loops, and 27 runs with and without two workers."""
    ours = sweep(folder / "grid", *GRID)
    plain = 0.0
    for hidden in HIDDEN:
        result = str(folder / "plain.pt")
        seconds, _ = run_module("benchmarks.tutorial_loop", result, str(PLAIN), str(hidden))
        plain += 3 * seconds * ITERATIONS / PLAIN
    row("3×3 grid, s", f"{ours:.1f}")
    row("as many names in the plain loop, s", f"{plain:.0f}")
    row("ratio", f"{ours / plain:.3f}×", "at most 0.10×")
    print()

    cores = sweep(folder / "cores", *GRID, SEEDS)
    serial = sweep(folder / "serial", *GRID, SEEDS, SERIAL)
    again = sweep(folder / "again", *GRID, SEEDS)
    row("27 runs one after the other, s", f"{serial:.1f}")
    row("27 runs on this machine's cores, mean of two, s", f"{(cores + again) / 2:.1f}")
    row(f"ratio on {os.cpu_count()} cores", f"{(cores + again) / 2 / serial:.2f}×", "at most 0.55×")


def composed() -> float:
    """Return the processor time that Hydra takes to compose a run's settings."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        start = time.process_time()
        for seed in range(10):
            compose("train", ["iterations=1000", f"seed={seed}"])
    return (time.process_time() - start) / 10


def many(folder: Path, started: float) -> None:
    """Measure time and memory of many short runs in one process.

    Args:
        folder: for them.
        started: what such a process takes beside the runs, processor seconds.
    """
    command = [sys.executable, "-m", "src.train", "-m", f"hydra.sweep.dir={folder}"]
    start = time.perf_counter()
    words = ("iterations=1000", f"seed=range({JOBS})", SERIAL)
    process = subprocess.Popen([*command, *words], stdout=subprocess.DEVNULL)
    resident: dict[int, float] = {}  # after so many runs, MiB
    status = Path(f"/proc/{process.pid}/status")
    ended = 0
    while not ended:
        done = len(list(folder.glob("*/loss.png")))
        if done not in resident:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            resident[done] = int(lines.get("VmRSS", "0 kB").split()[0]) / 1024
        time.sleep(0.02)
        ended, _, usage = os.wait4(process.pid, os.WNOHANG)
    wall, processor = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    metrics = [json.loads(file.read_text()) for file in folder.glob("*/metrics.json")]
    training = sum(each["iterations"] / each["names_per_second"] for each in metrics)
    row(f"{len(metrics)} runs of 1,000 iterations, whole command, s", f"{wall:.1f}")
    beside = (processor - training - started) / JOBS
    row("a run, all but its training loop, processor s", f"{beside:.2f}", "at most 0.15")
    row("  of these Hydra composing its settings, twice", f"{2 * composed():.2f}")
    after_10, after_all = resident[10], resident[JOBS - 1]
    row("resident memory after 10 runs, MiB", f"{after_10:,.0f}")
    row(f"resident memory after {JOBS - 1} runs, MiB", f"{after_all:,.0f}")
    row("ratio", f"{after_all / after_10:.2f}×", "at most 1.05×")


def main() -> None:
    """Measure all of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep(folder / "warm", "iterations=1000", "seed=0,1", SERIAL)  # has the kernel compiled
        many(folder / "many", measured("-c", "import src.run.report, src.sweep.runs").processor)
        print()
        grid(folder)


if __name__ == "__main__":
    main()
