"""`make reliability`: runs that are killed at random moments and resumed.

    python -m benchmarks.reliability [SEED]

Kills runs with SIGKILL and resumes them, then counts those whose weights, metrics and TensorBoard
points are bit for bit those of a run that was never killed. Ends other runs with SIGTERM, some of
them before their first validation, and counts those that end within two seconds and leave a
checkpoint that can be loaded.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.inference.trained_model import load_model
from src.run.run_folder import Status, read_result_or_empty

N_KILLED_RUNS = 30
N_TERMINATED_RUNS = 20
MAX_SECONDS_TO_END = 2.0
"""Time that a run may take to end after SIGTERM."""
SETTINGS = ("iterations=200000", "hidden=64", "log_every=500", "val_every=4000", "seed=1")
VALIDATE_OFTEN = "val_every=500"
"""A run with this override writes so many checkpoints that some are killed while they do."""
VALIDATE_NEVER = "val_every=100000000"
LARGE_NETWORK = "hidden=2048"
Overrides = tuple[str, ...]
KILLED_RUNS: tuple[Overrides, ...] = ((), (VALIDATE_OFTEN,))
"""Overrides of the runs that are killed, which are used in turn."""
TERMINATED_RUNS: tuple[Overrides, ...] = (
    (),
    (VALIDATE_OFTEN,),
    (VALIDATE_NEVER,),
    (LARGE_NETWORK,),
    (LARGE_NETWORK, VALIDATE_NEVER),
)
"""Overrides of the runs that are terminated, which are used in turn. Some are terminated before
their first validation, and some during a long training step."""


class Outcome(NamedTuple):
    """Everything that a run leaves, except the time it took."""

    weights: list[dict[str, bytes]]
    """The weights of the last and of the best checkpoint by name."""
    metrics: dict[str, Any]
    points: dict[str, list[tuple[int, float]]]
    """Points of the curves in TensorBoard, an iteration and a value, by tag."""


class CompleteRun(NamedTuple):
    """A run that was not killed."""

    outcome: Outcome
    seconds: float
    """Time from the start of training to the end of the process."""


def start_training(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    """Start `python -m src.train`, and return when the training has started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "src.train", *overrides],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(folder.glob("events.out.tfevents.*")):
        if process.poll() is not None:
            sys.exit(f"the run failed:\n{process.communicate()[1]}")
        time.sleep(0.001)
    return process


def read_outcome(folder: Path) -> Outcome:
    """Return everything that a run leaves, except the time it took."""
    weights = []
    for name in ("last", "best"):
        checkpoint = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)
        state = checkpoint["state_dict"]
        weights.append({key: weight.numpy().tobytes() for key, weight in state.items()})
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["seconds"], metrics["names_per_second"]
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    points = {}
    for tag in events.Tags()["scalars"]:
        points[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    return Outcome(weights, metrics, points)


def run_to_the_end(folder: Path, overrides: Overrides) -> CompleteRun:
    """Train without an interruption."""
    process = start_training(folder, f"hydra.run.dir={folder}", *SETTINGS, *overrides)
    start = time.perf_counter()
    process.communicate()
    seconds = time.perf_counter() - start
    return CompleteRun(read_outcome(folder), seconds)


def kill_and_resume(
    folder: Path, delay: float, overrides: Overrides, expected: Outcome
) -> tuple[bool, bool]:
    """Kill a run with SIGKILL and resume it.

    Args:
        folder: of the run.
        delay: seconds of training before the run is killed.
        overrides: the settings of the run.
        expected: the outcome of a run with these settings that was not killed.

    Returns:
        Whether the run was killed while it wrote a checkpoint, and whether its outcome is the
        expected one.
    """
    process = start_training(folder, f"hydra.run.dir={folder}", *SETTINGS, *overrides)
    time.sleep(delay)
    process.kill()
    process.communicate()
    was_writing_checkpoint = bool(list(folder.glob("checkpoints/.*.part")))
    command = [sys.executable, "-m", "src.train", f"resume={folder}"]
    resumed = subprocess.run(command, check=False, capture_output=True, text=True)
    is_same = resumed.returncode == 0 and read_outcome(folder) == expected
    return was_writing_checkpoint, is_same


def terminate(folder: Path, delay: float, overrides: Overrides) -> tuple[float, bool]:
    """End a run with SIGTERM, and load its checkpoint.

    Args:
        folder: of the run.
        delay: seconds of training before the signal.
        overrides: the settings of the run.

    Returns:
        The seconds that the run took to end, and whether its exit status and its metrics.json say
        that it was interrupted.
    """
    process = start_training(
        folder, f"hydra.run.dir={folder}", *SETTINGS, "iterations=100000000", *overrides
    )
    time.sleep(delay)
    process.send_signal(signal.SIGTERM)
    signal_time = time.perf_counter()
    process.communicate()
    seconds = time.perf_counter() - signal_time
    result = read_result_or_empty(folder)
    # A run that was ended before its first iteration has no checkpoint.
    if result.metrics.get("iterations"):
        load_model(folder / "checkpoints/last.ckpt")
    has_right_exit_status = process.returncode == 128 + signal.SIGTERM
    return seconds, has_right_exit_status and result.status == Status.INTERRUPTED


def count_killed_runs(folder: Path, delays: random.Random, runs: list[CompleteRun]) -> int:
    """Kill and resume runs, print how many end like a run that was not killed, and return it.

    Args:
        folder: for the runs.
        delays: random generator of the moments.
        runs: a complete run for each of KILLED_RUNS.
    """
    n_same = 0
    n_writing_checkpoint = 0
    for trial in range(N_KILLED_RUNS):
        kind = trial % len(KILLED_RUNS)
        was_writing_checkpoint, is_same = kill_and_resume(
            folder=folder / f"kill{trial}",
            delay=delays.uniform(0, 0.9 * runs[kind].seconds),
            overrides=KILLED_RUNS[kind],
            expected=runs[kind].outcome,
        )
        n_same += is_same
        n_writing_checkpoint += was_writing_checkpoint
    print(f"SIGKILL, resumed: same weights, metrics and points {n_same:>4} of {N_KILLED_RUNS}")
    print(f"  of them killed while a checkpoint was written   {n_writing_checkpoint:>4}")
    return n_same


def count_terminated_runs(folder: Path, delays: random.Random, max_delay: float) -> int:
    """Terminate runs, print how many end properly and in time, and return it."""
    n_ended = 0
    slowest = 0.0
    for trial in range(N_TERMINATED_RUNS):
        overrides = TERMINATED_RUNS[trial % len(TERMINATED_RUNS)]
        delay = delays.uniform(0, max_delay)
        seconds, is_interrupted = terminate(folder / f"term{trial}", delay, overrides)
        n_ended += is_interrupted and seconds <= MAX_SECONDS_TO_END
        slowest = max(slowest, seconds)
    label = f"SIGTERM: a checkpoint to load within {MAX_SECONDS_TO_END:.0f} s"
    print(f"{label}      {n_ended:>4} of {N_TERMINATED_RUNS}")
    print(f"  the slowest, s                                  {slowest:>4.2f}")
    return n_ended


def main() -> None:
    """Count both kinds of runs, and exit with an error if one of them is not as expected."""
    delays = random.Random(int(sys.argv[1]) if sys.argv[1:] else 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = []
        for index, overrides in enumerate(KILLED_RUNS):
            runs.append(run_to_the_end(folder / f"complete{index}", overrides))
        n_same = count_killed_runs(folder, delays, runs)
        n_ended = count_terminated_runs(folder, delays, max_delay=runs[0].seconds)
    sys.exit(n_same != N_KILLED_RUNS or n_ended != N_TERMINATED_RUNS)


if __name__ == "__main__":
    main()
