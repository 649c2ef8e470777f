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
    """Silence Lightning's tips and warnings, and let torch use a single thread, in a `with` block.

    Objects that exist already are excluded from garbage collection; this is not undone.
    """
    import torch  # takes seconds

    previous_excepthook = threading.excepthook
    previous_raise_exceptions = logging.raiseExceptions
    previous_n_threads = torch.get_num_threads()
    previous_levels = {name: logging.getLogger(name).level for name in LIGHTNING_LOGGERS}
    # TensorBoard writes its file in a thread. If the disk is full, the next write in the main
    # thread fails as well, and its error is reported.
    threading.excepthook = lambda _: None
    # The reader of the output may have gone: `python -m src.train | head`.
    logging.raiseExceptions = False
    # For matrices this small, a second thread costs more time than it saves.
    torch.set_num_threads(1)
    exclude_existing_objects_from_garbage_collection()
    try:
        for name in LIGHTNING_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        # The report of a profiler has been requested by the user.
        logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for name, level in previous_levels.items():
            logging.getLogger(name).setLevel(level)
        threading.excepthook = previous_excepthook
        logging.raiseExceptions = previous_raise_exceptions
        torch.set_num_threads(previous_n_threads)


@cache  # once per process: the objects of a sweep's first run should be collected
def exclude_existing_objects_from_garbage_collection() -> None:
    """Exclude imported modules from garbage collection, which saves a tenth of the training time.

    Garbage collection is enabled if it was disabled while the modules were imported.
    """
    gc.freeze()
    gc.enable()
