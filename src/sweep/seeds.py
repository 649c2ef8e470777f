"""Repeats a run (one Hydra job) with several seeds: `seeds=3`."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from src.config import RUN_KEYS, Config
from src.errors import UserError
from src.files import relative_to_current_folder
from src.run.messages import format_folder_override
from src.run.run_folder import (
    LAST_CHECKPOINT,
    RunResult,
    Status,
    create_and_lock_folder,
    get_seed_folder,
    read_result_or_empty,
    start_run_folder,
    write_failure_reason,
    write_result,
)
from src.sweep.leaderboard import LeaderboardRow
from src.sweep.leaderboard_files import format_leaderboard_table
from src.sweep.runs import TrainFunction, read_run_or_its_seeds

log = logging.getLogger(__name__)


def train_each_seed_and_average(train: TrainFunction, config: Config, folder: Path) -> float | None:
    """Train once for each seed, one after the other, and return the mean score.

    The run of each seed has a folder of its own, `seed_<seed>`. If a run fails, the others are
    still executed.

    Args:
        train: trains with one seed.
        config: the settings, with the first seed and the number of seeds.
        folder: the folder for all of these runs.

    Raises:
        UserError: if a run has failed.
        KeyboardInterrupt: if a signal ended a run.
    """
    # The folder of all seeds has settings and a result as well, so that it can be resumed and
    # compared like that of a single run.
    start_run_folder(folder, config.subset(RUN_KEYS))
    seeds = range(config.seed, config.seed + config.seeds)
    seed_folders = [get_seed_folder(folder, seed) for seed in seeds]
    for seed, seed_folder in zip(seeds, seed_folders, strict=True):
        log.info(f"seed={seed}")
        try:
            with create_and_lock_folder(seed_folder):
                train(copy_config_for_single_seed(config, seed), seed_folder)
        except UserError as error:
            # The runs of the other seeds may still succeed.
            log.info(f"Failed: {error}")
            write_failure_reason(seed_folder, str(error))
        except KeyboardInterrupt:
            # Before the first checkpoint, there is nothing to resume.
            if any((seed_folder / LAST_CHECKPOINT).exists() for seed_folder in seed_folders):
                log.info(format_resume_message(folder))
            raise
    return print_and_write_mean_of_seeds(folder, seed_folders)


def copy_config_for_single_seed(config: Config, seed: int) -> Config:
    """Return a copy of the settings for one of the seeds."""
    # `replace` calls `__init__`, so `is_seed_run` and `overrides` must be set again.
    seed_config = replace(config, seed=seed, seeds=1)
    seed_config.is_seed_run = True
    # The title of a run in figures and in TensorBoard consists of its overrides, so they have to
    # contain the seed.
    overrides = []
    for override in config.overrides:
        if not override.startswith(("seed=", "seeds=")):
            overrides.append(override)
    overrides.append(f"seed={seed}")
    seed_config.overrides = tuple(overrides)
    return seed_config


def print_and_write_mean_of_seeds(folder: Path, seed_folders: Sequence[Path]) -> float | None:
    """Print and write the mean metrics of the runs of all seeds, and return the mean score.

    Raises:
        UserError: if a run has failed. Nothing is written in this case.
    """
    # The mean is shown in a leaderboard with a single row.
    runs = read_run_or_its_seeds(folder, sweep_folder=folder, settings={})
    row = LeaderboardRow(settings={}, runs=runs)
    lines = ["", *format_leaderboard_table([row], keys=[]), "", f"Run          {folder}"]
    log.info("\n".join(lines))
    if row.failures:
        n_failed = len(row.failures)
        n_seeds = len(seed_folders)
        raise UserError(f"{n_failed} of {n_seeds} seeds failed: {row.failures[0]}")
    # The whole run can be resumed if the Trainer has stopped one of its parts early.
    statuses = {read_result_or_empty(seed_folder).status for seed_folder in seed_folders}
    is_finished = statuses == {Status.FINISHED}
    status = Status.FINISHED if is_finished else Status.STOPPED
    # The seconds of all seeds add up, whereas all other metrics are means.
    metrics = row.means_and_deviations
    metrics["seconds"] = sum(row.metric_values("seconds"))
    write_result(folder, RunResult(status, metrics, reason=""))
    if not is_finished:
        log.info(format_resume_message(folder))
    return row.score


def format_resume_message(folder: Path) -> str:
    """Return a message with the command that resumes the runs of all seeds."""
    # Aligned with the line that starts with `Run`.
    override = format_folder_override("resume", relative_to_current_folder(folder))
    return f"Resume       python -m src.train {override}"
