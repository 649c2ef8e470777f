"""`make bench`: sweeps, compared with the tutorial's plain loop, and serial with parallel ones.

    python -m benchmarks.sweep

Prints the time of a 3×3 grid and that of nine runs of the plain loop, how much time a second core
saves, and the time and the memory that each of 100 short runs in one process takes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from hydra import compose, initialize_config_dir

from benchmarks.measure import measure_python, run_module
from src.config import CONFIG_FOLDER
from src.run import resolvers as resolvers  # registers what the YAML files refer to

HIDDEN_SIZES = (64, 128, 256)
GRID = ("lr=0.001,0.005,0.01", f"hidden={','.join(map(str, HIDDEN_SIZES))}")
N_ITERATIONS = 100_000  # the default
N_TUTORIAL_NAMES = 20_000
"""Number of names that the plain loop is timed with; its time is proportional to them."""
N_SHORT_RUNS = 100
N_COMPOSITIONS = 10
THREE_SEEDS = "seed=range(3)"
SERIAL_LAUNCHER = "hydra/launcher=basic"


def print_row(label: str, value: str, target: str = "") -> None:
    """Print one row of the table."""
    description = f"(target: {target})" if target else ""
    print(f"{label:<52}{value:>10}  {description}".rstrip(), flush=True)


def measure_sweep(folder: Path, *overrides: str) -> float:
    """Run a sweep, and return the wall time of the whole command in seconds."""
    seconds, _ = run_module("src.train", "-m", f"hydra.sweep.dir={folder}", *overrides)
    return seconds


def compare_grid_with_tutorial(folder: Path) -> None:
    """Print the time of a 3×3 grid, and of the plain loop for as many names."""
    grid_seconds = measure_sweep(folder / "grid", *GRID)
    tutorial_seconds = 0.0
    for hidden in HIDDEN_SIZES:
        result = str(folder / "plain.pt")
        seconds, _ = run_module(
            "benchmarks.tutorial_loop", result, str(N_TUTORIAL_NAMES), str(hidden)
        )
        # Each hidden size is trained with three learning rates.
        tutorial_seconds += 3 * seconds * N_ITERATIONS / N_TUTORIAL_NAMES
    print_row("3×3 grid, s", f"{grid_seconds:.1f}")
    print_row("as many names in the plain loop, s", f"{tutorial_seconds:.0f}")
    print_row("ratio", f"{grid_seconds / tutorial_seconds:.3f}×", "at most 0.10×")


def compare_serial_with_parallel(folder: Path) -> None:
    """Print the time of 27 runs in one process, and of the same runs on all cores."""
    first_seconds = measure_sweep(folder / "cores", *GRID, THREE_SEEDS)
    serial_seconds = measure_sweep(folder / "serial", *GRID, THREE_SEEDS, SERIAL_LAUNCHER)
    second_seconds = measure_sweep(folder / "again", *GRID, THREE_SEEDS)
    parallel_seconds = (first_seconds + second_seconds) / 2
    ratio = parallel_seconds / serial_seconds
    print_row("27 runs one after the other, s", f"{serial_seconds:.1f}")
    print_row("27 runs on this machine's cores, mean of two, s", f"{parallel_seconds:.1f}")
    print_row(f"ratio on {os.cpu_count()} cores", f"{ratio:.2f}×", "at most 0.55×")


def measure_composition() -> float:
    """Return the processor time in seconds that Hydra takes to compose the settings of a run."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        start = time.process_time()
        for seed in range(N_COMPOSITIONS):
            compose("train", ["iterations=1000", f"seed={seed}"])
    return (time.process_time() - start) / N_COMPOSITIONS


class SweepUsage(NamedTuple):
    """What a sweep of short runs took."""

    wall_seconds: float
    processor_seconds: float
    resident_mib: dict[int, float]
    """Resident memory in MiB, by the number of runs that have ended."""


def monitor_sweep(folder: Path) -> SweepUsage:
    """Run many short runs in one process, and observe its memory."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "src.train",
            "-m",
            f"hydra.sweep.dir={folder}",
            "iterations=1000",
            f"seed=range({N_SHORT_RUNS})",
            SERIAL_LAUNCHER,
        ],
        stdout=subprocess.DEVNULL,
    )
    resident_mib: dict[int, float] = {}
    ended_pid = 0
    while not ended_pid:
        n_ended_runs = len(list(folder.glob("*/loss.png")))
        if n_ended_runs not in resident_mib:
            resident_mib[n_ended_runs] = read_resident_memory(process.pid)
        time.sleep(0.02)
        ended_pid, _, usage = os.wait4(process.pid, os.WNOHANG)
    return SweepUsage(
        wall_seconds=time.perf_counter() - start,
        processor_seconds=usage.ru_utime + usage.ru_stime,
        resident_mib=resident_mib,
    )


def read_resident_memory(pid: int) -> float:
    """Return the resident memory of a process in MiB; 0 if it has just ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "VmRSS":
            return int(value.split()[0]) / 1024  # in KiB
    return 0.0


def measure_short_runs(folder: Path, start_up_seconds: float) -> None:
    """Print the time and the memory that many short runs in one process take.

    Args:
        folder: for the runs.
        start_up_seconds: processor time that such a process takes in addition to the runs.
    """
    usage = monitor_sweep(folder)
    training_seconds = 0.0
    metrics_files = list(folder.glob("*/metrics.json"))
    for file in metrics_files:
        metrics = json.loads(file.read_text())
        training_seconds += metrics["iterations"] / metrics["names_per_second"]
    label = f"{len(metrics_files)} runs of 1,000 iterations, whole command, s"
    print_row(label, f"{usage.wall_seconds:.1f}")
    other_seconds = usage.processor_seconds - training_seconds - start_up_seconds
    seconds_per_run = other_seconds / N_SHORT_RUNS
    label = "a run without its training loop, processor s"
    print_row(label, f"{seconds_per_run:.2f}", "at most 0.15")
    # They are composed once to check them, and once for the run.
    composition_seconds = 2 * measure_composition()
    print_row("  of this, Hydra composing its settings, twice", f"{composition_seconds:.2f}")
    after_10_runs = usage.resident_mib[10]
    after_all_runs = usage.resident_mib[N_SHORT_RUNS - 1]
    print_row("resident memory after 10 runs, MiB", f"{after_10_runs:,.0f}")
    print_row(f"resident memory after {N_SHORT_RUNS - 1} runs, MiB", f"{after_all_runs:,.0f}")
    print_row("ratio", f"{after_all_runs / after_10_runs:.2f}×", "at most 1.05×")


def main() -> None:
    """Measure short runs, a grid and the use of several cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # This sweep compiles the kernel.
        measure_sweep(folder / "warm", "iterations=1000", "seed=0,1", SERIAL_LAUNCHER)
        start_up = measure_python("-c", "import src.run.report, src.sweep.runs")
        measure_short_runs(folder / "many", start_up.processor_seconds)
        print()
        compare_grid_with_tutorial(folder)
        print()
        compare_serial_with_parallel(folder)


if __name__ == "__main__":
    main()
