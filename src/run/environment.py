"""The state of the process while a model is trained."""

import gc
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from tqdm import tqdm

from src.run.signals import is_sweep_worker

LIGHTNING_LOGGERS = ("lightning.pytorch", "lightning.fabric")
PROFILER_LOGGER = "lightning.pytorch.profilers"


@contextmanager
def training_environment() -> Iterator[None]:
    """Run a `with` block with a single torch thread, and without Lightning's tips and warnings.

    If several processes train together, only the one of rank 0 prints. Objects that exist already
    are excluded from garbage collection; this is not undone.
    """
    with (
        single_torch_thread(),
        hidden_tracebacks(),
        silenced_lightning(),
        silenced_unless_rank_zero(),
    ):
        # tqdm's default lock is shared by forked processes. If one of them were killed while it
        # holds the lock, the others would hang.
        tqdm.set_lock(threading.RLock())
        freeze_objects_and_enable_gc_once()
        yield


@contextmanager
def single_torch_thread() -> Iterator[None]:
    """Let torch use one thread in a `with` block."""
    import torch  # takes seconds

    previous_n_threads = torch.get_num_threads()
    # For matrices this small, a second thread costs more time than it saves.
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(previous_n_threads)


@contextmanager
def hidden_tracebacks() -> Iterator[None]:
    """Hide tracebacks of other threads and of failed log messages in a `with` block."""
    previous_excepthook = threading.excepthook
    previous_raise_exceptions = logging.raiseExceptions
    # TensorBoard writes its file in a thread, which fails if the disk is full. The main thread then
    # fails as well, and reports the error without a traceback.
    threading.excepthook = lambda _: None
    # By default, logging prints a traceback if the reader of the output has gone, as in
    # `python -m src.train | head`.
    logging.raiseExceptions = False
    try:
        yield
    finally:
        threading.excepthook = previous_excepthook
        logging.raiseExceptions = previous_raise_exceptions


@contextmanager
def silenced_lightning() -> Iterator[None]:
    """Suppress Lightning's tips and warnings in a `with` block."""
    names = (*LIGHTNING_LOGGERS, PROFILER_LOGGER)
    previous_levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in LIGHTNING_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        # If there is a profiler, the user has asked for its report.
        logging.getLogger(PROFILER_LOGGER).setLevel(logging.INFO)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for name, level in previous_levels.items():
            logging.getLogger(name).setLevel(level)


def is_rank_zero() -> bool:
    """Return whether this is the only process of the run, or the one of rank 0."""
    from lightning.pytorch.utilities import rank_zero_only  # takes seconds

    return getattr(rank_zero_only, "rank", 0) == 0


def is_rank_zero_outside_sweep_workers() -> bool:
    """Return whether this is the only process, or the first one, of a run outside of a sweep.

    Only such a process shows progress bars. Those of several processes would overwrite each other.
    """
    return is_rank_zero() and not is_sweep_worker()


@contextmanager
def silenced_unless_rank_zero() -> Iterator[None]:
    """Suppress messages and warnings in a `with` block, unless this is the process of rank 0."""
    # All processes would print the same lines.
    if not is_rank_zero():
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@cache  # The body runs once: later, it would also exclude what the first run of a sweep has left.
def freeze_objects_and_enable_gc_once() -> None:
    """Exclude all existing objects from garbage collection, then enable garbage collection.

    Most of these objects belong to imported modules and are never garbage. Excluding them saves a
    tenth of the training time. `run_cli_and_exit` has disabled garbage collection for the imports.
    Only the first call in a process has an effect.
    """
    gc.freeze()
    gc.enable()
