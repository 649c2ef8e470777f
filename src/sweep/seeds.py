"""Repeats a run with several seeds: `seeds=3`."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from src.config import RUN_KEYS, Config
from src.errors import UserError
from src.run.launch import TrainFunction
from src.run.messages import shell_override
from src.run.run_folder import (
    LAST_CHECKPOINT,
    SEED_FOLDERS,
    RunResult,
    Status,
    lock_folder,
    read_result_or_empty,
    start_run_folder,
    write_failure,
    write_result,
)
from src.sweep.leaderboard import LeaderboardRow
from src.sweep.leaderboard_files import format_leaderboard
from src.sweep.runs import read_runs_in_folder

log = logging.getLogger(__name__)


def train_each_seed(train: TrainFunction, config: Config, folder: Path) -> float | None:
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
    start_run_folder(folder, config.subset(RUN_KEYS))
    seeds = range(config.seed, config.seed + config.seeds)
    seed_folders = [folder / SEED_FOLDERS.replace("*", str(seed)) for seed in seeds]
    for seed, seed_folder in zip(seeds, seed_folders, strict=True):
        log.info(f"seed={seed}")
        try:
            with lock_folder(seed_folder):
                train(copy_config_for_single_seed(config, seed), seed_folder)
        except UserError as error:
            # The runs of the other seeds may still succeed.
            log.info(f"Failed: {error}")
            write_failure(seed_folder, str(error))
        except KeyboardInterrupt:
            checkpoints = [seed_folder / LAST_CHECKPOINT for seed_folder in seed_folders]
            if any(path.exists() for path in checkpoints):
                log.info(how_to_resume(folder))
            raise
    return summarize_seeds(folder, seed_folders)


def copy_config_for_single_seed(config: Config, seed: int) -> Config:
    """Return the settings for one of the seeds."""
    # `replace` calls `__init__`, which sets the two attributes below to their defaults.
    seed_config = replace(config, seed=seed, seeds=1)
    seed_config.is_seed_run = True
    other_overrides = []
    for override in config.overrides:
        if not override.startswith(("seed=", "seeds=")):
            other_overrides.append(override)
    seed_config.overrides = (*other_overrides, f"seed={seed}")
    return seed_config


def summarize_seeds(folder: Path, seed_folders: Sequence[Path]) -> float | None:
    """Print and write the mean metrics of the runs of all seeds, and return the mean score.

    Raises:
        UserError: if a run has failed.
    """
    # The runs are a sweep over seeds, with a leaderboard of one row.
    row = LeaderboardRow(settings={}, runs=read_runs_in_folder(folder, sweep=folder, settings={}))
    log.info("\n".join(["", *format_leaderboard([row], keys=[]), "", f"Run          {folder}"]))
    if row.failures:
        n_failed = f"{len(row.failures)} of {len(seed_folders)}"
        raise UserError(f"seeds failed: {n_failed}: {row.failures[0]}")
    statuses = {read_result_or_empty(seed_folder).status for seed_folder in seed_folders}
    is_finished = statuses == {Status.FINISHED}
    status = Status.FINISHED if is_finished else Status.STOPPED
    metrics = {**row.statistics, "seconds": sum(row.values("seconds"))}
    write_result(folder, RunResult(status, metrics, reason=""))
    if not is_finished:
        log.info(how_to_resume(folder))
    return row.score


def how_to_resume(folder: Path) -> str:
    """Return a message with the command that resumes the runs of all seeds."""
    return f"To go on:\npython -m src.train {shell_override('resume', folder)}"
