"""The folder of a run: its files, its lock and its result.

Imports neither torch nor Hydra, because all programs look for runs before they load a model.
"""

import json
import logging
import os
from contextlib import suppress
from enum import Enum
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock, Timeout

from src.errors import UserError
from src.files import remove_temp_files, write_bytes_atomically
from src.models.registry import SCORE

log = logging.getLogger(__name__)

OUTPUTS = Path("outputs")
"""Folder of all runs by default."""
CONFIG_FILE = "config.yaml"
"""The settings of a run as plain values, by key."""
SWEEP_CONFIG_FILE = "multirun.yaml"
"""A file that Hydra writes to the folder of a sweep."""
METRICS_FILE = "metrics.json"
"""The result of a run; see `RunResult`."""
LAST_CHECKPOINT = Path("checkpoints/last.ckpt")
"""The latest weights of a run, from which it is resumed."""
BEST_CHECKPOINT = Path("checkpoints/best.ckpt")
"""The weights of a run with the highest validation score."""
SEED_FOLDER_PATTERN = "seed_*"
"""Pattern of the folders that `get_seed_folder` returns."""

Metrics = dict[str, float]
"""Values of metrics by tag, such as `test/accuracy`, and `iterations`, `seconds` and
`names_per_second`."""


class Status(str, Enum):
    """How a run ended."""

    FINISHED = "finished"
    STOPPED = "stopped"  # by the Trainer, before the last iteration
    INTERRUPTED = "interrupted"  # by a signal
    DIVERGED = "diverged"  # the loss is no longer finite
    FAILED = "failed"

    @property
    def is_usable(self) -> bool:
        """Whether programs may use the weights and scores of a run that ended like this."""
        return self in (Status.FINISHED, Status.STOPPED)

    @property
    def is_failure(self) -> bool:
        """Whether a run that ended like this counts as failed in a leaderboard."""
        return self in (Status.DIVERGED, Status.FAILED)


class RunResult(NamedTuple):
    """The result of a run, as metrics.json contains it."""

    status: Status | None
    """None if the run has not ended."""
    metrics: Metrics
    reason: str
    """The error message if the run failed; otherwise empty."""


def read_result_or_empty(folder: Path) -> RunResult:
    """Return the result of a run.

    If metrics.json is missing or damaged, the status is None and there are no metrics.
    """
    try:
        content = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        status = Status(content.pop("status"))
        reason = str(content.pop("reason", ""))
        # `isfinite` raises an error for values that are not numbers.
        metrics = {name: value for name, value in content.items() if isfinite(value)}
        return RunResult(status, metrics, reason)
    except Exception:  # the content can be anything, and so can the errors that it causes
        return RunResult(status=None, metrics={}, reason="")


def write_result(folder: Path, result: RunResult) -> None:
    """Write the metrics.json of a run."""
    content: dict[str, Any] = {"status": result.status}
    if result.reason:
        content["reason"] = result.reason
    for name, value in result.metrics.items():
        # JSON has no infinity. The norm of the hidden state can overflow while the loss is finite.
        if isfinite(value):
            content[name] = value
    text = json.dumps(content, indent=2)
    write_bytes_atomically(folder / METRICS_FILE, f"{text}\n".encode())


def write_failure_reason(folder: Path, reason: str) -> None:
    """Record in the metrics.json of a run why the run failed."""
    result = read_result_or_empty(folder)
    # A run that diverged has already written its metrics, which are kept.
    status = Status.DIVERGED if result.status == Status.DIVERGED else Status.FAILED
    write_result(folder, RunResult(status, result.metrics, reason))


def start_run_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Prepare the folder of a run that starts or is resumed.

    Writes the settings to config.yaml and deletes the result of an earlier part of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # An earlier process may have been killed while it was writing a file.
    remove_temp_files(folder)
    # Without metrics.json, other programs see that the run has not ended.
    (folder / METRICS_FILE).unlink(missing_ok=True)
    write_bytes_atomically(folder / CONFIG_FILE, yaml.safe_dump(settings, sort_keys=False).encode())


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings of a run by key, or None if config.yaml cannot be read."""
    try:
        return dict(yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8")))
    except Exception:  # the content can be anything, and so can the errors that it causes
        return None


def get_seed_folder(folder: Path, seed: int) -> Path:
    """Return the folder of one seed within the folder of a run with `seeds=`."""
    return folder / f"seed_{seed}"


def create_and_lock_folder(folder: Path) -> FileLock:
    """Create a folder if it does not exist, and lock it for this process.

    Returns:
        The lock, which is already held. It is released at the end of a `with` block on it, by its
        method `release`, or when the process ends.

    Raises:
        UserError: if another process has locked the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file_lock = FileLock(folder / ".lock")
    try:
        file_lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"{folder}: another process is using this folder") from None
    except (NotImplementedError, OSError) as error:
        # The error is then a missing permission and not a file system without locks. The run could
        # not write its files either.
        if not os.access(folder, os.W_OK):
            raise
        # Some network file systems do not support locks. Training is possible without them.
        log.warning(f"{folder}: cannot be locked ({error}); do not start another run in it")
    return file_lock


def find_checkpoint(run_or_checkpoint: Path | None) -> Path:
    """Return the checkpoint of a run, of the best run in a folder, or of the newest run.

    Args:
        run_or_checkpoint: what to look for:

            - a checkpoint file, which is returned as it is;
            - the folder of a run, for its last checkpoint;
            - a folder that contains runs, such as that of a sweep, for the last checkpoint of the
              run with the highest validation score;
            - None, for the last checkpoint of the newest run in `OUTPUTS`, or of the best run of
              its sweep.

    Raises:
        UserError: if no run can be used, or none of the runs in a folder has a score.
    """
    if run_or_checkpoint is None:
        run = _find_newest_run()
    elif not run_or_checkpoint.is_dir():
        return run_or_checkpoint
    elif (run_or_checkpoint / LAST_CHECKPOINT.parent).exists():
        run = run_or_checkpoint
    else:
        run = _find_best_run(run_or_checkpoint)
    # This is the last and not the best checkpoint, because runs are ranked by the metrics of their
    # last weights.
    return run / LAST_CHECKPOINT


def _find_newest_run() -> Path:
    """Return the folder of the usable run that ended last; in a sweep, that of the best run."""
    end_times = {}
    for folder in _find_usable_runs(OUTPUTS):
        # metrics.json is written at the end of a run.
        end_times[folder] = (folder / METRICS_FILE).stat().st_mtime
    if not end_times:
        raise UserError(f"no finished run in {OUTPUTS}/; train a model first, or use --checkpoint")
    newest_run = max(end_times, key=lambda folder: end_times[folder])
    # Which run of a sweep ends last is arbitrary, so the best run of the sweep is used instead. A
    # run with several seeds is one level deeper.
    for parent in (newest_run.parent, newest_run.parent.parent):
        if (parent / SWEEP_CONFIG_FILE).exists():
            with suppress(UserError):  # without a score, all runs are equally good
                return _find_best_run(parent)
    return newest_run


def _find_best_run(parent: Path) -> Path:
    """Return the folder of the usable run with the highest validation score."""
    scores = {}
    for folder, result in _find_usable_runs(parent).items():
        if SCORE in result.metrics:
            scores[folder] = result.metrics[SCORE]
    if not scores:
        raise UserError(
            f"{parent}: no finished run with a {SCORE}; use the folder of a run, or a checkpoint"
        )
    return max(scores, key=lambda folder: scores[folder])


def _find_usable_runs(parent: Path) -> dict[Path, RunResult]:
    """Map the folder of each finished or stopped run below `parent` to its result."""
    runs = {}
    # In the order of their names, so that the choice between equal scores is always the same.
    for file in sorted(parent.glob(f"**/{METRICS_FILE}")):
        result = read_result_or_empty(file.parent)
        # A run of several seeds has no checkpoints itself; its single runs have.
        has_checkpoints = (file.parent / LAST_CHECKPOINT.parent).exists()
        if result.status and result.status.is_usable and has_checkpoints:
            runs[file.parent] = result
    return runs
