"""Checkpoints: written whole, often enough, and taken up again."""

import io
import time
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from src.errors import UserError
from src.files import written_whole
from src.models.classifier import NameClassifier
from src.runs.interruption import Interruption
from src.trained import load_checkpoint

EVERY = 1.0
"""Seconds between checkpoints, where no iterations are given."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the previous one, then puts it in its place."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write the checkpoint.

        Raises:
            UserError: if the disk is full, say; the previous checkpoint is still there.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # as torch hides what is wrong with a file
        torch.save(checkpoint, content)
        with written_whole(Path(path), "wb") as file:
            file.write(content.getbuffer())


class LastCheckpoint(Callback):
    """Keeps `last.ckpt`, where a run can be taken up again: the end of a chunk of names.

    Args:
        model: the model that is trained.
        file: the checkpoint.
        every: iterations between checkpoints, at least; 0: about a second.
        interruption: a wish to end is granted when the checkpoint is there.
    """

    def __init__(
        self, model: NameClassifier, file: Path, every: int, interruption: Interruption
    ) -> None:
        self.model = model
        self.file = file
        self.every = every
        self.interruption = interruption
        self.iteration = model.iteration
        """Of the checkpoint."""
        self._time = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals from Lightning, which would end without a checkpoint."""
        self.interruption.listen()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write a checkpoint if one is due; after an epoch's last chunk comes its validation."""
        if not trainer.is_last_batch:
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint if one is due."""
        self._save_if_due(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write the last weights, unless they are bad already."""
        good = all(weight.isfinite().all() for weight in self.model.parameters())
        if isinstance(exception, UserError) and good:
            self._save(trainer)

    def _save_if_due(self, trainer: Trainer) -> None:
        if self.every:
            due = self.model.iteration - self.iteration >= self.every
        else:
            due = time.monotonic() - self._time >= EVERY
        wished, due = _anywhere(trainer, self.interruption.wished, due)
        if wished or due:
            self._save(trainer)
        if wished:
            self.interruption.end()

    def check(self, trainer: Trainer) -> None:
        """End, if this process or another of the same run was asked to."""
        if any(_anywhere(trainer, self.interruption.wished)):
            self.interruption.end()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the final weights."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.file)
        self.iteration = self.model.iteration
        self._time = time.monotonic()


def _anywhere(trainer: Trainer, *here: bool) -> list[bool]:
    """Return which of these hold in any process of the run."""
    if trainer.world_size == 1:
        return list(here)
    held = torch.tensor(here, dtype=torch.float, device=trainer.strategy.root_device)
    held = trainer.strategy.reduce(held, reduce_op="max")
    return [bool(each) for each in held]


def read_last(file: Path, settings: dict[str, Any], split: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint that a run with these settings and this split of the corpus wrote.

    Raises:
        UserError: if it is damaged, or another run's, or the corpus has changed since.
    """
    checkpoint = load_checkpoint(file)
    try:
        if checkpoint["hyper_parameters"] != settings:
            raise UserError(f"{file}: is of a run with other settings")
        if checkpoint["NamesDataModule"] != split:
            raise UserError(f"{file}: the names or their split have changed since; start a new run")
    except (KeyError, TypeError):
        raise UserError(f"{file}: not a checkpoint of this program") from None
    return dict(checkpoint)
