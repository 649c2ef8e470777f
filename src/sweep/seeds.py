"""A run that is repeated with other seeds, for its mean score."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from src.config import RUN_KEYS, Config
from src.errors import UserError
from src.run.launch import TrainFunction
from src.run.messages import shell_override
from src.run.run_folder import (
    SEED_FOLDERS,
    RunResult,
    Status,
    lock_folder,
    read_result,
    start_run_folder,
    write_failure,
    write_result,
)
from src.sweep.leaderboard import Row, table
from src.sweep.runs import read_run

log = logging.getLogger(__name__)


def train_each_seed(train: TrainFunction, config: Config, folder: Path) -> float | None:
    """Do a run once for each of its seeds, one after the other; return the mean score.

    Each is a run of its own, in `folder/seed_<seed>/`. If one fails, the others are done.

    Args:
        train: does one.
        config: its settings.
        folder: for its files.

    Raises:
        UserError: if one has failed.
        KeyboardInterrupt: if a signal ended it.
    """
    start_run_folder(folder, config.subset(RUN_KEYS))
    go_on = f"To go on:\npython -m src.train {shell_override('resume', folder)}"
    others = [word for word in config.overrides if not word.startswith(("seed=", "seeds="))]
    for seed in range(config.seed, config.seed + config.seeds):
        part = folder / SEED_FOLDERS.replace("*", str(seed))
        log.info(f"seed={seed}")
        try:
            with lock_folder(part):
                one: Any = replace(config, seed=seed, seeds=1)
                one.overrides, one.is_seed_run = (*others, f"seed={seed}"), True
                train(one, part)
        except UserError as error:
            log.info(f"Failed: {error}")
            write_failure(part, str(error))
        except KeyboardInterrupt:
            if any(folder.glob(f"{SEED_FOLDERS}/checkpoints/last.ckpt")):
                log.info(go_on)
            raise
    row = Row({}, read_run(folder, folder, {}))
    log.info("\n".join(["", *table([row], []), "", f"Run          {folder}"]))
    if row.failures:
        raise UserError(f"seeds failed: {len(row.failures)} of {config.seeds}: {row.failures[0]}")
    ended = {read_result(part)[0] for part in folder.glob(SEED_FOLDERS)}
    status = Status.FINISHED if ended == {Status.FINISHED} else Status.STOPPED
    metrics = row.means | {"seconds": sum(row.values("seconds"))}
    write_result(folder, RunResult(status, metrics, ""))
    if status == Status.STOPPED:
        log.info(go_on)
    return row.score
