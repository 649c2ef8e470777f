"""`python -m src.train`: compose → data → model → trainer → fit → test → report → score."""

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from src.config import Config, from_hydra, register
from src.errors import UserError

if TYPE_CHECKING:  # torch and Lightning take seconds to import: not before the settings are checked
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)
register()


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Train with the settings of configs/ and the command line."""
    try:
        return train(from_hydra(cfg), Path(HydraConfig.get().runtime.output_dir))
    except (UserError, OSError) as error:
        raise CompactHydraException(str(error)) from None  # Hydra shows the message alone


def train(config: Config, folder: Path) -> float | None:
    """Do one run, all its files into `folder`; return its validation balanced accuracy, if any.

    Raises:
        UserError: if the settings, the corpus or the training went wrong.
    """
    start = time.perf_counter()
    import torch
    from tqdm.contrib.logging import logging_redirect_tqdm

    from src.data.alphabet import ALPHABET
    from src.data.datamodule import NamesDataModule
    from src.models.classifier import NameClassifier
    from src.progress import Progress
    from src.report import confusion_figure, loss_figure, table, write_report

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
    trainer = make_trainer(config, folder, progress, validates=len(data.val) > 0)
    trainer.logger = logger = make_logger(config, folder)
    try:
        with logging_redirect_tqdm():
            trainer.fit(model, data)
    except SystemExit:  # what Lightning makes of Ctrl-C
        log.info(f"Interrupted at iteration {model.iteration:,}; what is done is in {folder}")
        raise KeyboardInterrupt from None

    scores = dict(trainer.callback_metrics)
    if len(data.test):
        trainer.test(model, data, verbose=False)
        scores |= trainer.callback_metrics
    metrics: dict[str, float] = {"train/loss": progress.curve[-1][1]}
    metrics |= {name: float(score) for name, score in scores.items()}
    metrics["iterations"] = model.iteration
    metrics["seconds"] = time.perf_counter() - start
    metrics["names_per_second"] = progress.names_per_second

    side, names = data.pictured()
    matrix = model.confusion_matrix(names.__getitems__(range(len(names))))
    confusion = confusion_figure(
        matrix, data.categories, f"Guesses on the {side} names, % of each true category"
    )
    write_report(folder, logger, config.plain(), metrics, loss_figure(progress.curve), confusion)
    log.info(table(metrics))
    log.info(
        f"\n{model.iteration:,} iterations at {progress.names_per_second:,.0f} names/s, "
        f"{metrics['seconds']:.1f} s in all\n"
        f"Run          {folder}\nTensorBoard  tensorboard --logdir outputs"
    )
    return metrics.get("val/balanced_accuracy")


def make_logger(config: Config, folder: Path) -> "Logger":
    """Return the logger that `logger` describes; only Lightning's own classes are allowed."""
    from lightning.pytorch import loggers

    arguments = dict(config.logger)
    target = str(arguments.pop("_target_", None))
    package, _, name = target.rpartition(".")
    if package != loggers.__name__ or name not in loggers.__all__:
        raise UserError(f"logger._target_={target}: must be a class of {loggers.__name__}")
    try:
        logger: Any = getattr(loggers, name)(save_dir=folder, **arguments)
        _ = logger.experiment  # some of the arguments are only looked at now
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise UserError(f"logger: {error}") from None
    return cast("Logger", logger)


def make_trainer(config: Config, folder: Path, progress: "Callback", validates: bool) -> "Trainer":
    """Return a Trainer that validates and saves after each epoch and keeps quiet about it."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # tips, hardware, progress
    warnings.filterwarnings("ignore", module="lightning")  # advice for larger data and models

    checkpoints = folder / "checkpoints"
    callbacks = [progress, ModelCheckpoint(checkpoints, "last", enable_version_counter=False)]
    if validates:
        monitor = "val/balanced_accuracy"
        callbacks.append(
            ModelCheckpoint(
                checkpoints, "best", monitor=monitor, mode="max", enable_version_counter=False
            )
        )
    try:
        return Trainer(
            max_epochs=-(-config.iterations // config.epoch_size),
            reload_dataloaders_every_n_epochs=1,  # each epoch has examples of its own
            callbacks=callbacks,
            logger=False,  # made after this, as it writes
            default_root_dir=folder,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            **config.trainer,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise UserError(f"trainer: {error}") from None


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports a program that Ctrl-C ended
