"""`make reliability`: runs that are killed at random moments and go on.

    python -m benchmarks.reliability [SEED]

Kills runs with SIGKILL, resumes each, and counts those that end with the weights, metrics and
TensorBoard points of a run that was never killed, bit for bit. Ends others with SIGTERM, some of
them before their first validation, and counts those that leave a checkpoint that can be loaded,
within two seconds.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.inference.trained_model import load_model
from src.run.run_folder import Status, read_result

KILLS = 30
TERMS = 20
WITHIN = 2.0
"""Seconds that a run may take to end."""
SETTINGS = ("iterations=200000", "hidden=64", "log_every=500", "val_every=4000", "seed=1")
OFTEN = "val_every=500"
"""Half of the killed runs write checkpoints all the time, so that some are killed while they do."""
NEVER = "val_every=100000000"
LARGE = "hidden=2048"
Words = tuple[str, ...]
KILLED: tuple[Words, ...] = ((), (OFTEN,))
ENDED: tuple[Words, ...] = ((), (OFTEN,), (NEVER,), (LARGE,), (LARGE, NEVER))
"""Settings of the runs that are ended: some before the first validation, some amid long steps."""


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start `python -m src.train`; return when it trains."""
    process = subprocess.Popen(
        [sys.executable, "-m", "src.train", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(folder.glob("events.out.tfevents.*")):
        if process.poll() is not None:
            sys.exit(f"the run failed:\n{process.communicate()[1]}")
        time.sleep(0.001)
    return process


def outcome(folder: Path) -> tuple[Any, ...]:
    """Return all that a run ends with, but for the time it took."""
    weights = [
        {name: weight.numpy().tobytes() for name, weight in checkpoint["state_dict"].items()}
        for checkpoint in (
            torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)
            for name in ("last", "best")
        )
    ]
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["seconds"], metrics["names_per_second"]
    log = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    log.Reload()
    points = {tag: [(e.step, e.value) for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
    return weights, metrics, points


def kill(folder: Path, moment: float, whole: tuple[Any, ...], *words: str) -> tuple[bool, bool]:
    """Kill a run and resume it: was it amid a checkpoint, and is its outcome the whole run's?"""
    process = start(folder, f"hydra.run.dir={folder}", *SETTINGS, *words)
    time.sleep(moment)
    process.kill()
    process.communicate()
    amid = bool(list(folder.glob("checkpoints/.*.part")))
    command = [sys.executable, "-m", "src.train", f"resume={folder}"]
    resumed = subprocess.run(command, check=False, capture_output=True, text=True)
    return amid, resumed.returncode == 0 and outcome(folder) == whole


def terminate(folder: Path, moment: float, *words: str) -> tuple[float, bool]:
    """End a run: how many seconds did that take, and is there a checkpoint of it to load?"""
    process = start(folder, f"hydra.run.dir={folder}", *SETTINGS, "iterations=100000000", *words)
    time.sleep(moment)
    process.send_signal(signal.SIGTERM)
    sent = time.perf_counter()
    process.communicate()
    seconds = time.perf_counter() - sent
    status, numbers, _ = read_result(folder)
    if numbers.get("iterations"):  # it may be ended before the first, with nothing to keep
        load_model(folder / "checkpoints/last.ckpt")
    return seconds, (process.returncode, status) == (128 + signal.SIGTERM, Status.INTERRUPTED)


def main() -> None:
    """Count both."""
    moments = random.Random(int(sys.argv[1]) if sys.argv[1:] else 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole: dict[Words, tuple[Any, ...]] = {}
        length: dict[Words, float] = {}
        for words in KILLED:
            run = folder / f"whole{len(words)}"
            began = start(run, f"hydra.run.dir={run}", *SETTINGS, *words)
            time_begun = time.perf_counter()
            began.communicate()
            length[words] = time.perf_counter() - time_begun
            whole[words] = outcome(run)
        same = amid = 0
        for trial in range(KILLS):
            words = KILLED[trial % len(KILLED)]
            moment = moments.uniform(0, 0.9 * length[words])
            was_amid, is_same = kill(folder / f"kill{trial}", moment, whole[words], *words)
            same, amid = same + is_same, amid + was_amid
        print(f"SIGKILL, resumed: same weights, metrics and points {same:>4} of {KILLS}")
        print(f"  of them killed while a checkpoint was written   {amid:>4}")
        ended, slowest = 0, 0.0
        for trial in range(TERMS):
            words = ENDED[trial % len(ENDED)]
            moment = moments.uniform(0, length[()])
            seconds, in_order = terminate(folder / f"term{trial}", moment, *words)
            ended, slowest = ended + (in_order and seconds <= WITHIN), max(slowest, seconds)
        print(f"SIGTERM: a checkpoint to load within {WITHIN:.0f} s      {ended:>4} of {TERMS}")
        print(f"  the slowest, s                                  {slowest:>4.2f}")
    sys.exit((same, ended) != (KILLS, TERMS))


if __name__ == "__main__":
    main()
