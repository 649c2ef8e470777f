"""What goes on beside the training: lines and a bar, checkpoints, an orderly end."""

import io
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tqdm import tqdm

from src.data.letters import Batch, decode
from src.run.files import SCORE, VERSION, read_checkpoint, written_whole
from src.run.process import WISH, Wish

log = logging.getLogger(__name__)


class Progress(Callback):
    """Prints the tutorial's line every `print_every` iterations; shows a bar; keeps the time.

    Args:
        print_every: iterations between lines.
        names_per_iteration: on average.
    """

    def __init__(self, print_every: int, names_per_iteration: float) -> None:
        self.print_every = print_every
        self.names_per_iteration = names_per_iteration
        self.started = False
        self.names = 0.0
        """Trained on since the trainer started."""
        self.seconds = 0.0
        """Spent drawing them and training on them; no validation, no checkpoint."""
        self._since: float | None = None
        self._bar = tqdm(disable=True)

    @property
    def names_per_second(self) -> float:
        """Speed of the training loop alone."""
        return self.names / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Show the bar, if the output is a terminal."""
        self.started = True
        self._bar = tqdm(
            total=round(pl_module.hparams["iterations"] * self.names_per_iteration),
            initial=round(pl_module.iteration * self.names_per_iteration),
            unit=" names",
            unit_scale=True,
            disable=None if trainer.is_global_zero else True,
            leave=False,
        )

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Print the examples that are due, move the bar."""
        losses, done = outputs["losses"], pl_module.iteration  # without this batch
        for row in range(-(done + 1) % self.print_every, len(losses), self.print_every):
            if row < len(batch.lengths) and losses[row].isfinite():
                self._print(pl_module.hparams, done + row + 1, outputs, batch, row)
        self.names += len(losses) * self.names_per_iteration
        shown = {"loss": f"{float(losses.double().mean()):.3f}"}
        if SCORE in trainer.callback_metrics:
            shown["val balanced accuracy"] = f"{float(trainer.callback_metrics[SCORE]):.3f}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(len(losses) * self.names_per_iteration)

    def _print(self, hparams: Any, iteration: int, outputs: Any, batch: Batch, row: int) -> None:
        categories, share = hparams["network"]["categories"], iteration / hparams["iterations"]
        letters = torch.split(batch.letters, batch.lengths.tolist())[row]
        loss, guess = outputs["losses"][row], int(outputs["guesses"][row])
        category = int(batch.categories[row])
        verdict = "CORRECT" if guess == category else f"WRONG ({categories[category]})"
        said = f"{decode(bytes(letters.tolist()))} / {categories[guess]}  {verdict}"
        with tqdm.external_write_mode():  # above the bar
            log.info(f"{iteration:>9}  {share:>4.0%}  {loss:.4f}  {said}")

    def on_validation_start(self, *_: Any) -> None:
        """Stop the clock."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def on_train_epoch_end(self, *_: Any) -> None:
        """Stop the clock, if no validation did."""
        self.on_validation_start()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Take the bar away."""
        self._bar.close()

    def on_exception(self, *_: Any) -> None:
        """Likewise."""
        self.on_validation_start()
        self._bar.close()


class WholeCheckpointIO(TorchCheckpointIO):
    """Reads and writes checkpoints as this program does.

    Lightning's own writing stages a file in the temporary folder, which may be on another disk;
    its reading does not look at checksums.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, *_: Any, **__: Any) -> None:
        """Write the checkpoint beside the previous one, then put it in its place."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # as torch hides what is wrong with a file
        torch.save({**checkpoint, "version": VERSION}, content)
        with written_whole(Path(path), "wb") as file:
            file.write(content.getbuffer())

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint onto the CPU."""
        return read_checkpoint(Path(path))


class Checkpoint(ModelCheckpoint):
    """A file that is written at validations: the last one's, or the one of the highest `monitor`.

    Of another checkpoint's state it takes the score alone: Lightning's own would hold paths, delete
    what they name, and forget the score when the folder has moved.
    """

    def __init__(self, file: Path, monitor: str | None = None) -> None:
        # The best is saved first, after the validation, so that last.ckpt knows of its score.
        when = {"save_on_train_epoch_end": False if monitor else None}
        how: Any = {"mode": "max", "enable_version_counter": False, **when}
        super().__init__(file.parent, file.stem, monitor, **how)
        self.file = file

    def state_dict(self) -> dict[str, Any]:
        """Return the score of the file."""
        score = self.best_model_score
        return {} if score is None else {"score": float(score)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the score, if the file is still there."""
        if "score" not in state_dict:
            return
        if not self.file.is_file():
            log.info(f"{self.file}: is gone; the best weights from here on are kept")
            return
        path = self.format_checkpoint_name({})
        self.best_model_score = self.kth_value = torch.tensor(float(state_dict["score"]))
        self.best_model_path = self.kth_best_model_path = path
        self.best_k_models = {path: self.kth_value}


class Interruption(Callback):
    """Ends a run that is wished to end at the start of a batch, with a checkpoint.

    There the weights and the model's `iteration` agree. A run whose sweep has died ends, too.

    Args:
        file: the checkpoint.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        worker = multiprocessing.current_process().name != "MainProcess"
        self._parent = os.getppid() if worker else None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Await signals, already while the kernel is compiled: the compiler cannot take them."""
        WISH.awaited = stage == "fit"

    def on_train_start(self, *_: Any) -> None:
        """Take the signals back from Lightning, which would end without a checkpoint."""
        if isinstance(signal.getsignal(signal.SIGINT), Wish):
            WISH.listen()

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """End if that is wished, in all processes of the run together.

        Raises:
            KeyboardInterrupt: then.
        """
        orphaned = self._parent is not None and os.getppid() != self._parent
        wished = bool(WISH.signum) or orphaned
        if trainer.strategy.reduce_boolean_decision(wished, all=False):
            trainer.save_checkpoint(self.file)
            raise KeyboardInterrupt

    def teardown(self, *_: Any, **__: Any) -> None:
        """From now on a signal ends at once."""
        WISH.awaited = False

    def on_exception(self, *_: Any) -> None:
        """Likewise."""
        WISH.awaited = False
