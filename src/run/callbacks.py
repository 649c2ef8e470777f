"""What goes on beside the training: lines and a bar, checkpoints, an orderly end."""

import io
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, callbacks, plugins
from tqdm import tqdm

from src.data.batch import Batch
from src.files import write_bytes
from src.models.checkpoint import VERSION, read_checkpoint
from src.models.registry import SCORE
from src.run.signals import STOP_HANDLER, StopHandler, is_worker

log = logging.getLogger(__name__)

SHOWN = "{percentage:3.0f}% |{bar}| {remaining} left, {rate_fmt}{postfix}"
BAR: Any = {"bar_format": SHOWN, "unit": " names", "unit_scale": True, "dynamic_ncols": True}


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
        self._since = 0.0
        if is_worker():  # its own lock would outlive a worker that is killed
            tqdm.set_lock(threading.RLock())
        self._bar = tqdm(disable=True)

    @property
    def names_per_second(self) -> float:
        """Speed of the training loop alone."""
        return self.names / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Show the bar, if the output is a terminal."""
        self.started = True
        names = self.names_per_iteration
        total, done = pl_module.hparams["iterations"] * names, pl_module.iteration * names
        alone = trainer.is_global_zero and not is_worker()
        hidden = None if alone else True  # None: unless this is a terminal
        self._bar = tqdm(total=total, initial=done, disable=hidden, leave=False, **BAR)

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Print the examples that are due, move the bar and the clock."""
        losses, done = outputs["losses"], pl_module.iteration  # without this batch
        for row in range(-(done + 1) % self.print_every, len(losses), self.print_every):
            if row < len(batch.lengths) and losses[row].isfinite():
                self._print(pl_module, done + row + 1, outputs, batch, row)
        shown = {"loss": float(losses.double().mean())}
        if SCORE in trainer.callback_metrics:
            shown["val"] = float(trainer.callback_metrics[SCORE])
        self._bar.set_postfix(shown, refresh=False)
        names = len(losses) * self.names_per_iteration
        self._bar.update(names)
        self.names += names
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now

    def _print(self, model: Any, iteration: int, outputs: Any, batch: Batch, row: int) -> None:
        categories = model.hparams["network"]["categories"]
        share = iteration / model.hparams["iterations"]
        letters = torch.split(batch.letters, batch.lengths.tolist())[row]
        guess, right = categories[outputs["guesses"][row]], categories[batch.targets[row]]
        verdict = "CORRECT" if guess == right else f"WRONG ({right})"
        said = f"{model.network.alphabet.decode(letters)} / {guess}  {verdict}"
        with tqdm.external_write_mode():  # above the bar
            log.info(f"{iteration:>9}  {share:>4.0%}  {outputs['losses'][row]:.4f}  {said}")

    def teardown(self, *_: Any, **__: Any) -> None:
        """Take the bar away."""
        self._bar.close()

    on_exception = teardown


class AtomicCheckpointIO(plugins.TorchCheckpointIO):
    """Writes checkpoints atomically, and verifies their checksums when reading them.

    Lightning itself writes to the temporary folder first, which may be on another disk, and ignores
    checksums.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, *_: Any, **__: Any) -> None:
        """Write a new file, then replace the previous checkpoint by it."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # as torch hides what is wrong with a file
        torch.save({**checkpoint, "version": VERSION}, content)
        write_bytes(Path(path), content.getvalue())

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint onto the CPU."""
        return read_checkpoint(Path(path))


class Checkpoint(callbacks.ModelCheckpoint):
    """A file that is written at validations: the last one's, or the one of the highest `monitor`.

    Of another checkpoint's state it takes the score alone: Lightning's own would hold paths, delete
    what they name, and forget the score when the folder has moved.
    """

    def __init__(self, file: Path, monitor: str | None = None) -> None:
        super().__init__(file.parent, file.stem, monitor, mode="max", enable_version_counter=False)
        self.file = file

    def state_dict(self) -> dict[str, Any]:
        """Return the score of the file."""
        return {} if self.best_model_score is None else {"score": float(self.best_model_score)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the score, if the file is still there."""
        if "score" in state_dict and not self.file.is_file():
            log.info(f"{self.file}: is gone; the best weights from here on are kept")
        elif "score" in state_dict:
            self.best_model_score = self.kth_value = torch.tensor(float(state_dict["score"]))
            self.best_model_path = self.kth_best_model_path = self.format_checkpoint_name({})
            self.best_k_models = {self.best_model_path: self.kth_value}


class StopOnSignal(Callback):
    """Stops training at the start of the next batch after a signal, and writes a checkpoint.

    At that point the weights and the model's `iteration` agree. A run of a sweep also stops if the
    process of the sweep has died.

    Args:
        file: where to write the checkpoint.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._parent = os.getppid() if is_worker() else None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Record signals from now on, because the compiler of the kernel cannot be interrupted."""
        STOP_HANDLER.is_polled = stage == "fit"

    def on_train_start(self, *_: Any) -> None:
        """Replace Lightning's signal handlers, which would stop without a checkpoint."""
        if isinstance(signal.getsignal(signal.SIGINT), StopHandler):
            STOP_HANDLER.install()

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Stop if a process of the run has received a signal.

        Raises:
            KeyboardInterrupt: to stop.
        """
        should_stop = STOP_HANDLER.signum != 0 or self._parent not in (None, os.getppid())
        if trainer.strategy.reduce_boolean_decision(should_stop, all=False):
            trainer.save_checkpoint(self.file)
            raise KeyboardInterrupt

    def teardown(self, *_: Any, **__: Any) -> None:
        """Let signals raise KeyboardInterrupt at once again."""
        STOP_HANDLER.is_polled = False

    on_exception = teardown
