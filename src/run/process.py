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


class StopRequest:
    """A signal handler that records a stop signal, so that training stops at its next batch.

    A second signal, or one outside of training, raises KeyboardInterrupt at once. In a worker of a
    sweep it is only recorded, because a run ends soon.
    """

    def __init__(self) -> None:
        self.signum = 0
        """Number of the signal that was received; 0 for none."""
        self.is_polled = False
        """Whether training is running, which checks `signum` at each batch."""

    def __call__(self, signum: int, _: Any) -> None:
        """Record the signal, or end the program.

        Raises:
            KeyboardInterrupt: if this is the second signal, or training is not running.
        """
        first, self.signum = not self.signum, signum
        if is_worker():  # a run ends soon, and whoever started it does not wait for long
            return
        if not (first and self.is_polled):
            workers = multiprocessing.active_children() if first else []
            for worker in workers:
                worker.terminate()
            time.sleep(2 if workers else 0)  # joblib kills them next
            raise KeyboardInterrupt

    def install(self) -> dict[int, Any]:
        """Install the handler, if this is the main thread, and return the previous handlers."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {signum: signal.signal(signum, self) for signum in SIGNALS}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the handler for the duration of a `with` block."""
        before = self.install()
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def is_worker() -> bool:
    """Whether another process of the program has started this one, for some of a sweep's runs."""
    return multiprocessing.current_process().name != "MainProcess"


STOP_REQUEST = StopRequest()
"""The only instance in this process."""


@cache
def freeze() -> None:
    """Have Python collect garbage, but not look through all of torch: a tenth of a training's time.

    Once: what a sweep's first run leaves behind would stay with what the second freezes.
    """
    gc.freeze()
    gc.enable()


@contextmanager
def training_environment() -> Iterator[None]:
    """Silence Lightning's tips and warnings, and let torch use a single thread, in a `with` block.

    Garbage collection ignores from now on what was imported before. That is not undone.
    """
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
