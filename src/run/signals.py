"""Stopping a run by Ctrl-C or another signal."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
"""Ctrl-C; the request to end a program; SLURM's warning that a job is about to reach its limit."""

STOP_SIGNALS = [sig for sig in signal.Signals if sig.name in SIGNAL_NAMES]
"""The signals that stop a run. Windows has no SIGUSR1."""

WORKER_EXIT_SECONDS = 2
"""Time that the worker processes of a sweep have to write their checkpoints."""


class StopHandler:
    """A signal handler that records a stop signal, so that training stops at its next batch.

    A second signal, or one outside of training, raises KeyboardInterrupt at once. In a worker
    process of a sweep, signals are only recorded: training checks for them at each batch. The
    docstring of src/launch.py shows when a command is in which state.
    """

    def __init__(self) -> None:
        self.signum = 0
        """Number of the signal that was received; 0 for none."""
        self.is_training = False
        """Whether a model is being trained. Training checks `signum` at each batch."""

    def __call__(self, signum: int, _: Any) -> None:
        """Record the signal, or end the program.

        Raises:
            KeyboardInterrupt: if this is the second signal, or training is not running, except in a
                worker process of a sweep.
        """
        is_first = self.signum == 0
        self.signum = signum
        if is_sweep_worker():
            # Even a signal that arrives before training, or a second one, is only recorded. The run
            # stops at its next batch.
            return
        if is_first and self.is_training:
            # An exception within a batch would leave the weights and the iteration in disagreement.
            return
        # A second signal finds the workers already asked to end, and does not wait for them.
        if is_first:
            terminate_workers_and_wait()
        raise KeyboardInterrupt

    def install(self) -> dict[int, Any]:
        """Install the handler for all stop signals, if this is the main thread.

        Returns:
            The previous handler of each signal; empty if this is not the main thread.
        """
        # Python lets only the main thread set signal handlers.
        if threading.current_thread() is not threading.main_thread():
            return {}
        previous_handlers = {}
        for signum in STOP_SIGNALS:
            previous_handlers[int(signum)] = signal.signal(signum, self)
        return previous_handlers

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Let signals end the program at once in a `with` block.

        If the handler is not installed, or this is a worker process, nothing changes.
        """
        is_installed = signal.getsignal(signal.SIGINT) is self
        # If a worker ended at once, joblib would report this as a crash.
        if not is_installed or is_sweep_worker():
            yield
            return
        for signum in STOP_SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        try:
            yield
        finally:
            self.install()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the handler for the duration of a `with` block."""
        previous_handlers = self.install()
        try:
            yield
        finally:
            for signum, handler in previous_handlers.items():
                signal.signal(signum, handler)


# A process has one handler for each signal, so one instance is enough.
STOP_HANDLER = StopHandler()
"""The instance that all modules use."""


def is_sweep_worker() -> bool:
    """Return whether this is a worker process, which another process has started for a sweep."""
    # The workers of joblib have names such as LokyProcess-1.
    return multiprocessing.current_process().name != "MainProcess"


def terminate_workers_and_wait() -> None:
    """Ask all worker processes to end, and give them time to write their checkpoints."""
    # The terminal sends Ctrl-C to the workers as well, but other signals reach this process only.
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.terminate()
    if workers:
        time.sleep(WORKER_EXIT_SECONDS)  # joblib kills the workers afterwards
