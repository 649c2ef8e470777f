"""The runs of a sweep, which may take place in other processes or on other machines.

The main process of the sweep learns about them only from the files in their folders.
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
from src.files import write_bytes_atomically
from src.models.registry import SCORE
from src.run.preflight import N_RUNS_VARIABLE
from src.run.run_folder import (
    LAST_CHECKPOINT,
    METRICS_FILE,
    SEED_FOLDER_PATTERN,
    Status,
    create_and_lock_folder,
    read_result_or_empty,
    read_settings,
    write_failure_reason,
)
from src.run.signals import STOP_HANDLER
from src.streams import redirect_stdout_to_devnull
from src.sweep.leaderboard import EndedRun

log = logging.getLogger(__name__)

TrainFunction = Callable[[Config, Path], float | None]
"""A function that trains with some settings, writes its files to a folder and returns the score."""

OVERRIDES_FILE = "overrides.json"
"""In the folder of a run: the overrides of its command line, as a list."""

FAILURE_SCORE = 0.0
"""Score of a run that failed. With the worst accuracy, a search avoids such settings."""


def train_run_of_sweep_unless_finished(
    *,
    train: TrainFunction,
    read_config: Callable[[], Config],
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
        read_config: returns the settings, or raises a UserError.
        folder: the folder of the run.
        number: the number of the run in the sweep.
        overrides: the overrides of the run, `key=value`.

    Raises:
        KeyboardInterrupt: if the sweep is to stop.
        Exception: if the program has a bug.
    """
    show_only_warnings_on_console()
    logging.raiseExceptions = False  # if the disk is full, the error is reported once
    # A signal that arrived between two runs has only been recorded so far.
    if STOP_HANDLER.signum:
        raise KeyboardInterrupt
    with create_and_lock_folder(folder):
        try:
            # The leaderboard shows the overrides of a run even if its settings are invalid.
            write_bytes_atomically(folder / OVERRIDES_FILE, json.dumps(overrides).encode())
            config = read_config()
            # An earlier command with the same overrides may have had other settings, for example
            # from an experiment that was edited since then.
            delete_run_with_other_settings(config, folder)
            # `train` would return the score as well, but only the line printed here says that the
            # run has not been repeated.
            if read_result_or_empty(folder).status == Status.FINISHED:
                print_outcome_of_run_and_runs_left(folder, number, "already finished")
                return read_result_or_empty(folder).metrics.get(SCORE)
            score = train(config, folder)
            seconds = read_result_or_empty(folder).metrics["seconds"]  # training has written it
        except Exception as error:
            # Every error is recorded as the failure of this run. Only a bug also ends the sweep.
            record_and_print_failure(error, folder, number)
            if not isinstance(error, UserError | OSError):
                raise
            return FAILURE_SCORE
    outcome = "done" if score is None else f"validation balanced accuracy {score:.3f}"
    print_outcome_of_run_and_runs_left(folder, number, f"{outcome}, {seconds:.1f} s")
    return score


def record_and_print_failure(error: Exception, folder: Path, number: int) -> None:
    """Write the reason why a run failed to its log and its metrics.json, and print it."""
    # The reason is shown in one line of the console and of the leaderboard.
    reason = " ".join(str(error).split()) or type(error).__name__
    log.info(f"Failed: {reason}")
    with suppress(UserError):  # the disk may be full
        write_failure_reason(folder, reason)
    print_outcome_of_run_and_runs_left(folder, number, f"failed: {reason}")


def show_only_warnings_on_console() -> None:
    """Let the log handlers that write to stdout show warnings and errors only."""
    for handler in logging.getLogger().handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.setLevel(logging.WARNING)


def delete_run_with_other_settings(config: Config, folder: Path) -> None:
    """Delete the files of the run in a folder if it has other settings."""
    if read_settings(folder) == config.subset(RUN_KEYS):
        return
    # Without this, training would resume from a checkpoint of the other run.
    shutil.rmtree(folder / LAST_CHECKPOINT.parent, ignore_errors=True)
    for seed_folder in folder.glob(SEED_FOLDER_PATTERN):
        shutil.rmtree(seed_folder, ignore_errors=True)
    (folder / METRICS_FILE).unlink(missing_ok=True)
    for picture in folder.glob("*.png"):
        picture.unlink(missing_ok=True)


def print_outcome_of_run_and_runs_left(run_folder: Path, run_number: int, outcome: str) -> None:
    """Print how a run ended, and how many runs of the sweep are left."""
    # The number is unknown (0) for some sweepers. In workers on other machines, the variable is
    # missing.
    n_runs = int(os.environ.get(N_RUNS_VARIABLE, "0"))
    if n_runs > 0:
        n_left = n_runs - count_ended_runs(run_folder.parent, run_number)
        # The folder of a sweep can contain more runs, from an earlier command with more values.
        if n_left > 0:
            outcome += f"; {n_left} left"
    print_unless_pipe_is_closed(f"Run {run_number}: {outcome}")


def count_ended_runs(sweep_folder: Path, run_number: int) -> int:
    """Return how many runs of a sweep have ended, without failed ones that will be repeated.

    Args:
        sweep_folder: the folder of the sweep.
        run_number: the number of the run that has just ended. If the sweep is repeated, runs that
            failed are repeated in the order of their numbers, so those with a higher number will
            still be repeated.
    """
    n_ended = 0
    for overrides_file in sweep_folder.glob(f"*/{OVERRIDES_FILE}"):
        run_folder = overrides_file.parent
        status = read_result_or_empty(run_folder).status
        if status is None:
            continue
        # A folder is called 3-lr_0.01, for example.
        number = run_folder.name.partition("-")[0]
        is_later = number.isdecimal() and int(number) > run_number
        will_be_repeated = status.is_failure and is_later
        if not will_be_repeated:
            n_ended += 1
    return n_ended


def print_unless_pipe_is_closed(text: str) -> None:
    """Print a text. If the reader has gone (`python -m src.train -m … | head`), discard it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        redirect_stdout_to_devnull()


def read_ended_runs(sweep_folder: Path) -> list[EndedRun]:
    """Return the finished, stopped and failed runs of a sweep, in the order of their numbers."""
    runs = []
    for overrides_file in sweep_folder.glob(f"**/{OVERRIDES_FILE}"):
        overrides = read_overrides_or_empty(overrides_file)
        runs += read_run_or_its_seeds(overrides_file.parent, sweep_folder, overrides)
    return sorted(runs, key=make_number_sort_key)


def make_number_sort_key(run: EndedRun) -> tuple[int, str]:
    """Return the sort key of a run that sorts runs by their numbers, then by their seeds."""
    # The number is a text. It has no leading zeros, so the longer of two numbers is the higher one.
    return len(run.id), run.name


def read_run_or_its_seeds(
    folder: Path, sweep_folder: Path, settings: dict[str, str]
) -> list[EndedRun]:
    """Return the finished, stopped or failed run in a folder; with `seeds=`, one for each seed.

    Args:
        folder: the folder of the run.
        sweep_folder: the folder of the sweep, to which the names of the runs are relative.
        settings: the overrides of the run by key.
    """
    run_folders = sorted(folder.glob(SEED_FOLDER_PATTERN))
    if not run_folders:
        run_folders = [folder]
    runs = []
    for run_folder in run_folders:
        result = read_result_or_empty(run_folder)
        if result.status is None:  # the run has not ended
            continue
        name = run_folder.relative_to(sweep_folder).as_posix()
        if result.status.is_failure:
            failure = result.reason or result.status.value
            runs.append(EndedRun(name, settings, metrics={}, failure=failure))
        elif result.status.is_usable:
            runs.append(EndedRun(name, settings, metrics=result.metrics, failure=""))
        # An interrupted run is neither. It is left out, because it will be resumed.
    return runs


def read_overrides_or_empty(overrides_file: Path) -> dict[str, str]:
    """Return the overrides in a file by key, or an empty dictionary if it cannot be read."""
    overrides = {}
    try:
        for override in json.loads(overrides_file.read_text("utf-8")):
            key, _, value = override.partition("=")
            overrides[key] = value
    except Exception:  # the content can be anything, and so can the errors that it causes
        return {}
    return overrides
