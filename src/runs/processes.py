"""The processes of one run, if it has several: one leads, writes and speaks; the others follow.

Lightning starts each of them with the command line that the first was started with.
"""

import time
from subprocess import TimeoutExpired

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

PATIENCE = 5.0
"""Seconds that followers have to end by themselves."""


def leads_run(distributed: bool) -> bool:
    """Return whether this process leads its run.

    Args:
        distributed: whether the run has several. Elsewhere, the number that a cluster gave this
            process means nothing: each of them has a run of its own.
    """
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined] # Lightning sets it
    return rank == 0 or not distributed


def end_followers(trainer: Trainer) -> None:
    """Wait until the followers that this process started have ended; if need be, end them."""
    end = time.monotonic() + PATIENCE
    for process in getattr(trainer.strategy.launcher, "procs", ()):
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except TimeoutExpired:
            process.kill()
