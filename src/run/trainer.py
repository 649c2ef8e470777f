"""Builds the Lightning `Trainer` of a run."""

from math import ceil
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from src.config import Config
from src.data.datamodule import NamesDataModule
from src.errors import UserError
from src.models.registry import SCORE
from src.run.callbacks import Checkpoint, Progress, StopOnSignal
from src.run.checkpoint_io import AtomicCheckpointIO
from src.run.loggers import make_callbacks
from src.run.messages import first_line_of_message
from src.run.run_folder import BEST_CHECKPOINT, LAST_CHECKPOINT


def build_trainer_and_progress(
    config: Config, folder: Path, data: NamesDataModule
) -> tuple[Trainer, Progress]:
    """Return the trainer of a run and its progress callback, which also measures the speed.

    Args:
        config: the settings of the run.
        folder: the folder of the run, for its checkpoints.
        data: the data module, for the length of the run.

    Raises:
        UserError: if Lightning rejects one of the `trainer.` settings.
    """
    # With print_every=0, 10 examples are printed per run.
    print_every = config.print_every or ceil(data.run_length.iterations / 10)
    progress = Progress(print_every, data.sampler.names_per_iteration)
    callbacks: list[Callback] = [progress, StopOnSignal(folder / LAST_CHECKPOINT)]
    if len(data.val_dataset):  # without validation, there are no best weights
        callbacks.append(Checkpoint(folder / BEST_CHECKPOINT, monitor=SCORE))
    callbacks.append(Checkpoint(folder / LAST_CHECKPOINT))
    callbacks += make_callbacks(config.callbacks)
    gradient_clip = None  # None means that Lightning does not clip the gradients.
    # `OnlineClassifier` clips the gradients itself, because Lightning cannot clip them in manual
    # optimization.
    if config.clip > 0 and not config.is_online:
        gradient_clip = config.clip
    try:
        trainer = Trainer(
            max_epochs=-1,  # the model sets `should_stop` after the last iteration
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            gradient_clip_val=gradient_clip,
            use_distributed_sampler=False,  # TrainBatchSampler splits each batch between the ranks
            num_sanity_val_steps=0,
            logger=False,  # Report creates the loggers
            default_root_dir=folder,
            **config.non_null_trainer_arguments,
        )
    except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
        raise UserError(f"trainer: {first_line_of_message(error)}") from error
    return trainer, progress
