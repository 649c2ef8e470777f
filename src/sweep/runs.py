"""The runs of a sweep, which may take place in other processes or on other machines.

All that the process of the sweep knows about them is what they write to their folders.
"""

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from src.config import RUN_KEYS, Config
from src.errors import UserError
from src.files import write_bytes
from src.models.registry import SCORE
from src.run.launch import TrainFunction
from src.run.preflight import N_RUNS_VARIABLE
from src.run.run_folder import (
    LAST_CHECKPOINT,
    METRICS_FILE,
    SEED_FOLDERS,
    Status,
    lock_folder,
    read_result_or_empty,
    read_settings,
    write_failure,
)
from src.run.signals import STOP_HANDLER
from src.streams import redirect_stdout_to_devnull
from src.sweep.leaderboard import Run

log = logging.getLogger(__name__)

OVERRIDES_FILE = "overrides.json"
"""In the folder of a run: the overrides of its command line, as a list."""


def train_run_of_sweep_unless_finished(
    train: TrainFunction,
    build_config: Callable[[], Config],
    folder: Path,
    number: int,
    overrides: list[str],
) -> float | None:
    """Execute one run of a sweep, unless its folder contains its result, and return its score.

    If the run fails for a reason that the user can fix, the reason is written to its folder, its
    score is 0, and the sweep continues. The output of the run goes to its log file; the console
    gets one line.

    Args:
        train: trains with some settings.
        build_config: returns the settings, or raises a UserError.
        folder: the folder of the run.
        number: the number of the run in the sweep.
        overrides: the overrides of the run, `key=value`.

    Raises:
        KeyboardInterrupt: if the sweep is to stop.
        Exception: if the program has a bug.
    """
    silence_console()
    logging.raiseExceptions = False  # if the disk is full, the error is reported once
    if STOP_HANDLER.signum:  # the signal came during the previous run
        raise KeyboardInterrupt
    with lock_folder(folder):
        # Every error is recorded as the failure of this run. Only a bug also ends the sweep.
        try:
            write_bytes(folder / OVERRIDES_FILE, json.dumps(overrides).encode())
            config = build_config()
            discard_run_with_other_settings(config, folder)
            if read_result_or_empty(folder).status == Status.FINISHED:
                print_end(folder, number, "done before")
                return read_result_or_empty(folder).metrics.get(SCORE)
            score = train(config, folder)
            seconds = read_result_or_empty(folder).metrics["seconds"]
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            log.info(f"Failed: {reason}")
            with suppress(UserError):  # the disk may be full
                write_failure(folder, reason)
            print_end(folder, number, f"failed: {reason}")
            if not isinstance(error, UserError | OSError):
                raise  # a bug of the program, with its traceback
            return 0.0  # a search then avoids such settings
    outcome = "done" if score is None else f"validation balanced accuracy {score:.4f}"
    print_end(folder, number, f"{outcome}, {seconds:.1f} s")
    return score


def silence_console() -> None:
    """Let the handlers of the console show warnings only."""
    for handler in logging.getLogger().handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.setLevel(logging.WARNING)


def discard_run_with_other_settings(config: Config, folder: Path) -> None:
    """Delete the files of the run in a folder if it has other settings."""
    if read_settings(folder) == config.subset(RUN_KEYS):
        return
    # Training would resume from a checkpoint.
    for path in (folder / LAST_CHECKPOINT.parent, *folder.glob(SEED_FOLDERS)):
        shutil.rmtree(path, ignore_errors=True)
    for path in (folder / METRICS_FILE, *folder.glob("*.png")):
        path.unlink(missing_ok=True)


def print_end(folder: Path, number: int, outcome: str) -> None:
    """Print how a run ended, and how many runs of the sweep are left."""
    n_left = int(os.environ.get(N_RUNS_VARIABLE, "0")) - count_ended_runs(folder.parent, number)
    if n_left > 0:
        outcome += f"; {n_left} left"
    print_line(f"\t#{number} : {outcome}")


def count_ended_runs(sweep: Path, number: int) -> int:
    """Return how many runs of a sweep have ended.

    Args:
        sweep: the folder of the sweep.
        number: the number of the run that has just ended. If the sweep is repeated, runs that
            failed are repeated in the order of their numbers, so those with higher numbers are
            still to come.
    """
    n_ended = 0
    for file in sweep.glob(f"*/{OVERRIDES_FILE}"):
        status = read_result_or_empty(file.parent).status
        run_number = file.parent.name.partition("-")[0]
        is_due = run_number.isdecimal() and int(run_number) > number
        if status is not None and not (status.is_failure and is_due):
            n_ended += 1
    return n_ended


def print_line(text: str) -> None:
    """Print a text, unless the reader of the output has gone: `python -m src.train -m … | head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        redirect_stdout_to_devnull()


def read_runs(sweep: Path) -> list[Run]:
    """Return the runs of a sweep that have ended or failed, in the order of their numbers."""
    runs = []
    for file in sweep.glob(f"**/{OVERRIDES_FILE}"):
        runs += read_runs_in_folder(file.parent, sweep, settings=read_overrides(file))
    return sorted(runs, key=lambda run: (len(run.number), run.name))


def read_runs_in_folder(folder: Path, sweep: Path, settings: dict[str, str]) -> list[Run]:
    """Return the run in a folder if it has ended or failed; with `seeds=`, one run for each seed.

    Args:
        folder: the folder of the run.
        sweep: the folder of the sweep, to which the names of the runs are relative.
        settings: the overrides of the run.
    """
    runs = []
    for run_folder in sorted(folder.glob(SEED_FOLDERS)) or [folder]:
        result = read_result_or_empty(run_folder)
        if result.status is None:  # the run has not ended
            continue
        name = run_folder.relative_to(sweep).as_posix()
        if result.status.is_failure:
            failure = result.reason or result.status.value
            runs.append(Run(name, settings, metrics={}, failure=failure))
        elif result.status.is_usable:
            runs.append(Run(name, settings, result.metrics, failure=""))
    return runs


def read_overrides(file: Path) -> dict[str, str]:
    """Return the overrides in a file by key. They are empty if the file cannot be read."""
    overrides = {}
    try:
        for override in json.loads(file.read_text("utf-8")):
            key, _, value = override.partition("=")
            overrides[key] = value
    except Exception:  # the content can be anything, and so can the errors that it causes
        return {}
    return overrides
