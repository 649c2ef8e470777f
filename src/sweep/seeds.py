"""A run that is repeated with other seeds, for its mean score."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from src.config import FLAT, SETTINGS, Config, typed
from src.errors import UserError
from src.run import files
from src.sweep.leaderboard import Row, table
from src.sweep.runs import read_run

log = logging.getLogger(__name__)


def repeat(
    train: Callable[[Config, Path], float | None], config: Config, folder: Path
) -> float | None:
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
    folder.mkdir(parents=True, exist_ok=True)
    (folder / files.FILE).unlink(missing_ok=True)
    settings = yaml.safe_dump(config.pick(FLAT), sort_keys=False)
    files.write_bytes(folder / SETTINGS, settings.encode())
    go_on = f"To go on:\npython -m src.train {typed('resume', folder)}"
    for seed in range(config.seed, config.seed + config.seeds):
        part = folder / files.PARTS.replace("*", str(seed))
        log.info(f"seed={seed}")
        try:
            with files.lock(part):
                train(_with(config, seed), part)
        except UserError as error:
            log.info(f"Failed: {error}")
            files.write_failure(part, str(error))
        except KeyboardInterrupt:
            if any(folder.glob(f"{files.PARTS}/checkpoints/last.ckpt")):
                log.info(go_on)
            raise
    row = Row({}, read_run(folder, folder, {}))
    log.info("\n".join(["", *table([row], []), "", f"Run          {folder}"]))
    if row.failures:
        raise UserError(f"seeds failed: {len(row.failures)} of {config.seeds}: {row.failures[0]}")
    ended = {files.read_metrics(part)[0] for part in folder.glob(files.PARTS)}
    status = files.FINISHED if ended == {files.FINISHED} else files.STOPPED
    values = {name: row.values(name) for name in row.runs[0].metrics}
    numbers = {name: mean(each) for name, each in values.items()}
    spreads = {f"{k}_std": stdev(each) for k, each in values.items() if "/" in k and each[1:]}
    files.write_metrics(folder, status, numbers | {"seconds": sum(values["seconds"])} | spreads)
    if status == files.STOPPED:
        log.info(go_on)
    return row.score


def _with(config: Config, seed: int) -> Any:
    one: Any = replace(config, seed=seed, seeds=1)
    words = [word for word in config.given if not word.startswith(("seed=", "seeds="))]
    one.given, one.part = (*words, f"seed={seed}"), True
    return one
