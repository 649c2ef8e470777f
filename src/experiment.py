"""One run: data → model → trainer → fit → test → report → score."""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, loggers
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger

from src.config import LOGGERS, Config
from src.data.alphabet import ALPHABET
from src.data.datamodule import NamesDataModule
from src.errors import UserError
from src.leaderboard import SCORE
from src.models.classifier import NameClassifier
from src.pictures import as_png, confusion_png, loss_figure
from src.progress import Progress
from src.report import summary, write_report

log = logging.getLogger(__name__)


def run_experiment(config: Config, folder: Path) -> float | None:
    """Do one run, all its files into `folder`; return its validation balanced accuracy, if any.

    Raises:
        UserError: if the settings, the corpus or the training went wrong.
    """
    start = time.perf_counter()
    be_quiet()
    torch.set_num_threads(1)  # matrices this small lose more to a second thread than they gain
    data = NamesDataModule(
        data_dir=config.data_dir,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        seed=config.seed,
        iterations=config.iterations,
        chunk=config.log_every,
        epoch_size=config.epoch_size,
    )
    log.info(data.summary())
    torch.manual_seed(config.seed)
    model = NameClassifier(data.categories, ALPHABET, config.hidden, config.lr, config.backend)
    progress = Progress(data.categories, config.iterations, config.print_every)
    epochs = -(-config.iterations // config.epoch_size)
    trainer = make_trainer(folder, progress, epochs, len(data.val) > 0, config.trainer)
    trainer.logger = logger = make_logger(folder, config.logger)
    with ctrl_c_explained(model, folder):
        trainer.fit(model, data)
        scores = dict(trainer.callback_metrics)  # of the last validation, with the final weights
        if len(data.test):
            trainer.test(model, data, verbose=False)
            scores |= trainer.callback_metrics
        metrics = {
            "train/loss": progress.curve[-1][1],
            **{name: float(score) for name, score in scores.items()},
            "iterations": model.iteration,
            "seconds": time.perf_counter() - start,
            "names_per_second": progress.names_per_second,
        }
        side, names = data.pictured()
        matrix = model.confusion_matrix(names.__getitems__(range(len(names))))
        title = f"Guesses on the {side} names, % of each true category"
        loss = as_png(loss_figure(progress.curve))
        confusion = confusion_png(matrix, data.categories, title)
        write_report(folder, logger, config.hyperparameters(), metrics, loss, confusion)
    log.info(summary(metrics, folder, logger))
    return metrics.get(SCORE)


@contextmanager
def ctrl_c_explained(model: NameClassifier, folder: Path) -> Iterator[None]:
    """Say how far a run came that Ctrl-C ends; pass it on as KeyboardInterrupt."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stopped:
        first: BaseException | None = stopped
        if isinstance(stopped, SystemExit):  # what Lightning makes of Ctrl-C
            first = stopped.__context__
        if not isinstance(first, KeyboardInterrupt):
            raise
        log.info(f"Interrupted at iteration {model.iteration:,}; what is done is in {folder}")
        raise KeyboardInterrupt from None


def be_quiet() -> None:
    """Silence what others say while they work: tips, hardware lists, advice for larger models."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.raiseExceptions = False  # nobody reads the output any more: `… | head`
    warnings.filterwarnings("ignore", module="lightning")


def make_trainer(
    folder: Path, progress: Callback, epochs: int, validates: bool, arguments: dict[str, Any]
) -> Trainer:
    """Return a Trainer, with `arguments`, that validates and saves after each epoch."""
    checkpoints = folder / "checkpoints"
    last = ModelCheckpoint(checkpoints, "last", enable_version_counter=False)
    best = ModelCheckpoint(
        checkpoints, "best", monitor=SCORE, mode="max", enable_version_counter=False
    )
    try:
        return Trainer(
            max_epochs=epochs,
            reload_dataloaders_every_n_epochs=1,  # each epoch has examples of its own
            callbacks=[progress, last, best] if validates else [progress, last],
            logger=False,  # made later, as it writes
            default_root_dir=folder,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            **arguments,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise UserError(f"trainer: {error}") from None


def make_logger(folder: Path, description: dict[str, Any]) -> Logger:
    """Return the logger that `description` names; only Lightning's own classes are allowed."""
    arguments = dict(description)
    target = arguments.pop("_target_")
    name = target.removeprefix(f"{LOGGERS}.")
    if name not in loggers.__all__:
        raise UserError(f"logger._target_={target}: {LOGGERS} has {', '.join(loggers.__all__)}")
    try:
        logger: Any = getattr(loggers, name)(save_dir=folder, **arguments)
        _ = logger.experiment  # some of the arguments are only looked at now
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise UserError(f"logger: {error}") from None
    return cast("Logger", logger)
