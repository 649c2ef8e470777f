"""A sweep: each of its runs, and what remains to be done when it ends.

The runs may take place in other processes and on other machines. What is known of them is what
they leave in their folders.
"""

import json
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from src.config import RUN_KEYS, Config
from src.errors import UserError
from src.files import write_bytes
from src.models.registry import SCORE
from src.run.launch import TrainFunction
from src.run.messages import shell_override
from src.run.run_folder import (
    METRICS_FILE,
    SEED_FOLDERS,
    Status,
    lock_folder,
    read_result,
    read_settings,
    write_failure,
)
from src.run.signals import STOP_HANDLER
from src.streams import redirect_stdout_to_devnull
from src.sweep.leaderboard import Run, ranked, repetitions, swept_keys, table, write_csvs

log = logging.getLogger(__name__)

TRAIN = ("python", "-m", "src.train")
PLAN = "NAMES_RNN_PLAN"
"""In the environment of a sweep and its workers: how many runs, and since when."""
RAN = "overrides.json"
"""In a run's folder: the overrides that it ran with."""


def run_of_sweep(
    train: TrainFunction,
    settings: Callable[[], Config],
    folder: Path,
    number: int,
    overrides: list[str],
) -> float | None:
    """Do one run of a sweep in its folder, unless it is there already; return its score.

    A run that goes wrong, as far as a user can mend it, leaves its reason and scores 0; the sweep
    goes on. Its lines go to its log; the console gets one.

    Args:
        train: does it.
        settings: makes its settings.
        folder: for its files.
        number: of the run in its sweep.
        overrides: what was set, `key=value` each.
    """
    for handler in logging.getLogger().handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.setLevel(logging.WARNING)
    logging.raiseExceptions = False  # a full disk is told once
    if STOP_HANDLER.signum:
        raise KeyboardInterrupt  # the one before was to end
    with lock_folder(folder):
        try:
            write_bytes(folder / RAN, json.dumps(overrides).encode())
            config = settings()
            status, numbers, _ = read_result(folder)
            if read_settings(folder) != config.subset(RUN_KEYS):
                for path in (folder / "checkpoints", *folder.glob(SEED_FOLDERS)):
                    shutil.rmtree(path, ignore_errors=True)
                for path in (folder / METRICS_FILE, *folder.glob("*.png")):
                    path.unlink(missing_ok=True)
            elif status == Status.FINISHED:
                _say(folder, number, "done before")
                return numbers.get(SCORE)
            score = train(config, folder)
            seconds = read_result(folder)[1]["seconds"]
        except Exception as error:  # whatever it is, it is this run's failure
            reason = " ".join(str(error).split()) or type(error).__name__
            log.info(f"Failed: {reason}")
            with suppress(UserError):  # a full disk, again
                write_failure(folder, reason)
            _say(folder, number, f"failed: {reason}")
            if not isinstance(error, UserError | OSError):
                raise  # a bug: it is shown where it is
            return 0.0  # a search is to keep away from there
    shown = "done" if score is None else f"validation balanced accuracy {score:.4f}"
    _say(folder, number, f"{shown}, {seconds:.1f} s")
    return score


def _say(folder: Path, number: int, how: str) -> None:
    """Print how a run has ended, how many are left, and when these will be done."""
    runs, begun = map(float, os.environ.get(PLAN, "0 inf").split())
    noted = [file for file in folder.parent.glob(f"*/{RAN}") if file.stat().st_mtime >= begun]
    ended = [
        end.stat().st_mtime for file in noted if (end := file.with_name(METRICS_FILE)).exists()
    ]
    left, new = int(runs) - len(ended), sum(end >= begun for end in ended)
    if left > 0:
        how += f"; {left} left"
        if new:
            until = time.localtime(time.time() + left * (time.time() - begun) / new)
            how += f", until {time.strftime('%H:%M:%S', until)}"
    _tell(f"\t#{number} : {how}")


def _tell(text: str) -> None:
    """Print, for as long as somebody reads it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `… | head` has seen enough
        redirect_stdout_to_devnull()


def read_runs(sweep: Path) -> list[Run]:
    """Return the runs of a sweep that ended, failed ones too, in the order of their numbers."""
    files_of = sweep.glob(f"**/{RAN}")
    runs = [run for file in files_of for run in read_run(file.parent, sweep, _typed_in(file))]
    return sorted(runs, key=lambda run: (len(run.number), run.name))


def read_run(folder: Path, above: Path, settings: dict[str, str]) -> list[Run]:
    """Return a run that ended; of several seeds, those that did."""
    runs = []
    for part in sorted(folder.glob(SEED_FOLDERS)) or [folder]:
        status, numbers, reason = read_result(part)
        failed = (reason or status) if status in (Status.FAILED, Status.DIVERGED) else ""
        if failed or status in (Status.FINISHED, Status.STOPPED):
            name = part.relative_to(above).as_posix()
            runs.append(Run(name, settings, {} if failed else numbers, failed))
    return runs


def _typed_in(file: Path) -> dict[str, str]:
    try:
        words = [word.partition("=") for word in json.loads(file.read_text("utf-8"))]
        return {key: value for key, _, value in words}
    except Exception:  # whatever its content provokes
        return {}


def finish_sweep(folder: Path, status: int) -> int:
    """Print and write the leaderboard of the runs in `folder`; return the exit status.

    Args:
        folder: of the sweep.
        status: the exit status so far; above 128 after Ctrl-C or another signal.
    """
    from src.run.figures import as_png  # matplotlib takes half a second
    from src.sweep.figure import sweep_figure

    runs = read_runs(folder)
    failed = sum(bool(run.failed) for run in runs)
    if runs:
        rows = ranked(runs)
        keys = [key for key in swept_keys(runs) if key != "seed"]
        _tell("\n".join(["", *table(rows, keys), ""]))
        if rows[0].score is not None:
            best = rows[0].settings
            words = [f"{key}={value}" for key, value in best.items() if key != "cluster"]
            if seeds := repetitions(rows[0]):
                words += ["-m", f"seed={','.join(seeds)}"]
            elif "experiment" in best:
                words += ["hydra.mode=RUN"]  # it may ask for a sweep
            _tell(f"Best settings  {shlex.join([*TRAIN, *words])}")
            _tell(f"Best run       python -m src.predict --checkpoint {shlex.quote(str(folder))}")
        _tell(f"Leaderboard    {folder}/leaderboard.*")
        _tell(f"TensorBoard    tensorboard --logdir {shlex.quote(str(folder))}")
        try:
            write_csvs(folder, rows)
            write_bytes(folder / "leaderboard.png", as_png(sweep_figure(keys, rows)))
        except (UserError, OSError) as error:
            _tell(f"Not written    {error}")
            status = status or 1
    if status > 128:
        _tell(f"Interrupted; runs done: {len(runs) - failed}")
    if failed:
        _tell(f"Runs failed: {failed} of {len(runs)}")
    if failed or (runs and status) or status > 128:
        words = [word for word in sys.argv[1:] if not word.startswith("hydra.sweep.dir=")]
        sweep_folder = shell_override("hydra.sweep.dir", folder)
        _tell(f"To go on       {shlex.join([*TRAIN, *words])} {sweep_folder}")
    return status or int(failed > 0)
