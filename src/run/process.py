"""What a process is like while one of its runs goes on: quiet, and when it may be ended."""

import gc
import logging
import multiprocessing
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

SIGNALS = [each for each in signal.Signals if each.name in ("SIGINT", "SIGTERM", "SIGUSR1")]
"""Ctrl-C; what ends a program politely; SLURM's word that time is nearly up."""


PLAN = "NAMES_RNN_PLAN"
"""In the environment of a sweep and its workers: how many runs, and since when."""


class Wish:
    """The command's handler of signals. A second signal ends at once; so does one nobody awaits."""

    def __init__(self) -> None:
        self.signum = 0
        """Of the signal that came."""
        self.awaited = False
        """Whether somebody looks at `signum` soon."""

    def __call__(self, signum: int, _: Any) -> None:
        """Note the signal, or end.

        Raises:
            KeyboardInterrupt: to end.
        """
        first, self.signum = not self.signum, signum
        if is_worker():  # a run ends soon, and whoever started it does not wait for long
            return
        if not (first and self.awaited):
            workers = multiprocessing.active_children() if first else []
            for worker in workers:
                worker.terminate()
            time.sleep(2 if workers else 0)  # joblib kills them next
            raise KeyboardInterrupt

    def listen(self) -> dict[int, Any]:
        """Take over the signals; they go to the main thread alone. Return who had them."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {signum: signal.signal(signum, self) for signum in SIGNALS}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over the signals, for a while."""
        before = self.listen()
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def is_worker() -> bool:
    """Whether another process of the program has started this one, for some of a sweep's runs."""
    return multiprocessing.current_process().name != "MainProcess"


WISH = Wish()
"""This process's."""


@cache
def freeze() -> None:
    """Have Python collect garbage, but not look through all of torch: a tenth of a training's time.

    Once: what a sweep's first run leaves behind would stay with what the second freezes.
    """
    gc.freeze()
    gc.enable()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what others say meanwhile: tips, hardware lists, advice for larger models."""
    import torch  # takes seconds

    theirs = [logging.getLogger("lightning.pytorch"), logging.getLogger("lightning.fabric")]
    before = threading.excepthook, logging.raiseExceptions, torch.get_num_threads()
    # TensorBoard writes in a thread. When the disk is full, the next write in ours says so, too.
    threading.excepthook = lambda failed: None
    logging.raiseExceptions = False  # nobody reads the output any more: `… | head`
    torch.set_num_threads(1)  # matrices this small lose more to a second thread than they gain
    levels = [logger.level for logger in theirs]
    freeze()
    try:
        for logger in theirs:
            logger.setLevel(logging.ERROR)
        logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # as asked for
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(theirs, levels, strict=True):
            logger.setLevel(level)
        threading.excepthook, logging.raiseExceptions = before[:2]
        torch.set_num_threads(before[2])
