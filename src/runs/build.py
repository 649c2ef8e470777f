"""From the settings to the parts of a run: names, model, trainer, logger."""

import logging
import threading
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, loggers
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from src.config import LOGGERS, Config
from src.data.alphabet import ALPHABET
from src.data.datamodule import NamesDataModule
from src.errors import UserError
from src.metrics import SCORE
from src.models.batched import BatchedClassifier
from src.models.classifier import NameClassifier
from src.models.online import OnlineClassifier
from src.runs.checkpoints import WholeCheckpointIO


def make_data(config: Config) -> NamesDataModule:
    """Return the names of a run."""
    return NamesDataModule(
        data_dir=config.data_dir,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        seed=config.seed,
        iterations=config.iterations,
        log_every=config.log_every,
        epoch_size=config.epoch_size,
        chunk=config.chunk,
        batch_size=None if config.online else config.batch_size,
        sampling=config.sampling,
    )


def make_model(config: Config, data: NamesDataModule) -> NameClassifier:
    """Return the untrained model of a run."""
    torch.manual_seed(config.seed)
    if config.online:
        return OnlineClassifier(
            data.categories, ALPHABET, config.hidden, config.lr, config.backend, config.log_every
        )
    names = {"alphabet": ALPHABET, "categories": data.categories, "shares": data.shares()}
    model = BatchedClassifier({**names, **config.network()}, **config.optimization())
    if model.network.ngrams is not None:
        every = data.distinct.whole()
        model.network.ngrams.count(every.letters, every.lengths, every.categories)
    return model


def make_best(folder: Path) -> ModelCheckpoint:
    """Return what keeps best.ckpt, of the highest score so far, in a folder."""
    return ModelCheckpoint(
        folder,
        "best",
        monitor=SCORE,
        mode="max",
        save_on_train_epoch_end=False,  # but after the validation, so that last.ckpt knows of it
        enable_version_counter=False,
    )


def make_trainer(config: Config, folder: Path, callbacks: list[Callback], epochs: int) -> Trainer:
    """Return a Trainer that validates after each epoch."""
    arguments = dict(config.trainer)
    if config.distributed:
        # Letter n-grams are not trained in each iteration; no buffer ever changes.
        arguments["strategy"] = DDPStrategy(
            find_unused_parameters=config.ngrams > 0, broadcast_buffers=False
        )
    try:
        return Trainer(
            max_epochs=epochs,
            reload_dataloaders_every_n_epochs=1,  # each epoch has examples of its own
            use_distributed_sampler=False,  # ours shares them out
            callbacks=callbacks,
            plugins=[WholeCheckpointIO()],
            enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
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
    """Return the logger that `description` names; only Lightning's own classes are allowed.

    What an earlier part of the run has logged is deleted: it is to be logged again.
    """
    arguments = dict(description)
    target = arguments.pop("_target_")
    name = target.removeprefix(f"{LOGGERS}.")
    if name not in loggers.__all__:
        raise UserError(f"logger._target_={target}: {LOGGERS} has {', '.join(loggers.__all__)}")
    for key, value in arguments.items():
        if type(value) is int and value < 1:
            raise UserError(f"logger.{key}={value}: must be above 0")
    if name in ("TensorBoardLogger", "CSVLogger"):  # or others would not find what they wrote
        for key in ("name", "version"):
            if arguments.get(key) != "":
                raise UserError(f"logger.{key}={arguments.get(key)}: must be empty")
    for pattern in ("events.out.tfevents.*", "metrics.csv"):
        for path in folder.glob(pattern):
            path.unlink()
    try:
        logger: Any = getattr(loggers, name)(save_dir=folder, **arguments)
        _ = logger.experiment  # some of the arguments are only looked at now
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise UserError(f"logger: {error}") from None
    return cast("Logger", logger)


def be_quiet(leads: bool) -> None:
    """Silence what others say while they work: tips, hardware lists, advice for larger models.

    A process that does not lead its run says nothing at all.
    """
    if not leads:
        logging.getLogger("src").setLevel(logging.ERROR)
    for name in ("lightning.pytorch", "lightning.fabric", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.raiseExceptions = False  # nobody reads the output any more: `… | head`
    warnings.filterwarnings("ignore", module="lightning")
    # TensorBoard writes in a thread. When the disk is full, the next write in ours says so, too.
    threading.excepthook = lambda failed: None
