"""The state of the process while a model is trained."""

import gc
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

LIGHTNING_LOGGERS = ("lightning.pytorch", "lightning.fabric")


@contextmanager
def training_environment() -> Iterator[None]:
    """Run a `with` block with a single torch thread, and without Lightning's tips and warnings.

    Objects that exist already are excluded from garbage collection; this is not undone.
    """
    with single_torch_thread(), hidden_tracebacks(), silenced_lightning():
        exclude_existing_objects_from_garbage_collection()
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
    previous_levels = {name: logging.getLogger(name).level for name in LIGHTNING_LOGGERS}
    try:
        for name in LIGHTNING_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        # If there is a profiler, the user has asked for its report.
        logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for name, level in previous_levels.items():
            logging.getLogger(name).setLevel(level)


@cache  # A second call would also exclude the objects that the first run of a sweep has left.
def exclude_existing_objects_from_garbage_collection() -> None:
    """Exclude imported modules from garbage collection, which saves a tenth of the training time.

    This also enables garbage collection, which `run_cli_and_exit` has disabled.
    """
    gc.freeze()
    gc.enable()
