"""Lightning callbacks: progress output, checkpoints and graceful interruption."""

import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tqdm import tqdm

from src.data.batch import Batch
from src.models.classifier import NameClassifier
from src.models.registry import SCORE
from src.run.signals import STOP_HANDLER, StopHandler, is_sweep_worker

log = logging.getLogger(__name__)

BAR_FORMAT = "{percentage:3.0f}% |{bar}| {remaining} left, {rate_fmt}{postfix}"


class Progress(Callback):
    """Prints the tutorial's line at regular intervals, shows a progress bar and measures the speed.

    Args:
        print_every: iterations between printed lines.
        names_per_iteration: mean number of names in an iteration.

    Attributes:
        has_started: whether training has started.
        n_names: number of names that the trainer has trained on.
        seconds: time spent on sampling names and training on them, without validations and
            checkpoints.
    """

    def __init__(self, print_every: int, names_per_iteration: float) -> None:
        self.print_every = print_every
        self.names_per_iteration = names_per_iteration
        self.has_started = False
        self.n_names = 0.0
        self.seconds = 0.0
        self._last_time = 0.0
        # By default, forked processes share the lock of tqdm, and one that is killed would keep it.
        tqdm.set_lock(threading.RLock())
        self._bar = tqdm(disable=True)

    @property
    def names_per_second(self) -> float:
        """The speed of the training loop alone."""
        return self.n_names / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Show the progress bar if the output is a terminal."""
        self.has_started = True
        # The bars of several processes would overwrite each other.
        is_alone = trainer.is_global_zero and not is_sweep_worker()
        self._bar = tqdm(
            total=pl_module.run_length.iterations * self.names_per_iteration,
            initial=pl_module.iteration * self.names_per_iteration,
            disable=None if is_alone else True,  # with None, the bar needs a terminal
            leave=False,
            bar_format=BAR_FORMAT,
            unit=" names",
            unit_scale=True,
            dynamic_ncols=True,
        )

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock again after a validation."""
        self._last_time = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Print the examples that are due, and update the progress bar and the clock."""
        self._print_examples(pl_module, outputs, batch)
        losses = outputs["losses"]
        postfix = {"loss": float(losses.double().mean())}  # of this batch
        if SCORE in trainer.callback_metrics:
            postfix["val"] = float(trainer.callback_metrics[SCORE])
        self._bar.set_postfix(postfix, refresh=False)
        n_names = len(losses) * self.names_per_iteration
        self._bar.update(n_names)
        self.n_names += n_names
        now = time.perf_counter()
        self.seconds += now - self._last_time
        self._last_time = now

    def _print_examples(self, model: NameClassifier, outputs: Any, batch: Batch) -> None:
        """Print the examples of a batch that are due.

        Args:
            model: the model, whose `iteration` does not include the batch yet: Lightning calls the
                hooks of callbacks before those of the model.
            outputs: what `training_step` returned.
            batch: the names.
        """
        losses = outputs["losses"]  # one for each iteration
        # With print_every=5000, iterations 5000, 10000 … are due.
        first_iteration = model.iteration + 1
        n_since_due = first_iteration % self.print_every
        first_due = (self.print_every - n_since_due) % self.print_every  # index in the batch
        for index in range(first_due, len(losses), self.print_every):
            # With DDP, this process may have no names in a batch.
            if index < len(batch.lengths) and losses[index].isfinite():
                line = self._format_example(model, outputs, batch, index)
                with tqdm.external_write_mode():  # above the progress bar
                    log.info(line)

    def _format_example(self, model: NameClassifier, outputs: Any, batch: Batch, index: int) -> str:
        """Return the tutorial's line for one example of a batch."""
        categories = model.network.categories
        iteration = model.iteration + index + 1
        progress = iteration / model.run_length.iterations
        letters = torch.split(batch.letters, batch.lengths.tolist())[index]
        name = model.network.alphabet.decode(letters)
        guess = categories[outputs["guesses"][index]]
        target = categories[batch.targets[index]]
        verdict = "CORRECT" if guess == target else f"WRONG ({target})"
        loss = outputs["losses"][index]
        return f"{iteration:>9}  {progress:>4.0%}  {loss:.4f}  {name} / {guess}  {verdict}"

    def teardown(self, *_: Any, **__: Any) -> None:
        """Remove the progress bar."""
        self._bar.close()

    on_exception = teardown


class Checkpoint(ModelCheckpoint):
    """A checkpoint file that is written at validations.

    The state of Lightning's own callback contains paths. If the folder of the run has been moved,
    Lightning would delete files at the old paths and forget the score. This class restores only
    the score.

    Args:
        file: the file to write.
        monitor: the metric whose highest value selects the weights. If None, every validation
            writes the file.
    """

    def __init__(self, file: Path, monitor: str | None = None) -> None:
        super().__init__(
            dirpath=file.parent,
            filename=file.stem,
            monitor=monitor,
            mode="max",
            enable_version_counter=False,
        )
        self.file = file

    def state_dict(self) -> dict[str, Any]:
        """Return the score of the weights in the file, if it has one."""
        if self.best_model_score is None:
            return {}
        return {"score": float(self.best_model_score)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the score if the file still exists."""
        if "score" not in state_dict:
            return
        if not self.file.is_file():
            log.info(f"{self.file}: is gone; the best weights from here on are kept")
            return
        # What Lightning would have stored if it had written the file itself.
        score = torch.tensor(float(state_dict["score"]))
        path = self.format_checkpoint_name({})
        self.best_model_score = score
        self.kth_value = score
        self.best_model_path = path
        self.kth_best_model_path = path
        self.best_k_models = {path: score}


class StopOnSignal(Callback):
    """Stops training at the start of the next batch after a signal, and writes a checkpoint.

    At that point the weights and the model's `iteration` agree. A run of a sweep also stops if the
    process of the sweep has died.

    Args:
        file: where to write the checkpoint.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._sweep_process = os.getppid() if is_sweep_worker() else None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Only record signals from now on, because compiling the kernel cannot be interrupted."""
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
        is_orphan = self._sweep_process is not None and self._sweep_process != os.getppid()
        should_stop = STOP_HANDLER.signum != 0 or is_orphan
        # If several processes train together, all of them stop at the same batch.
        if trainer.strategy.reduce_boolean_decision(should_stop, all=False):
            trainer.save_checkpoint(self.file)
            raise KeyboardInterrupt

    def teardown(self, *_: Any, **__: Any) -> None:
        """From now on, a signal raises KeyboardInterrupt immediately, as before training."""
        STOP_HANDLER.is_polled = False

    on_exception = teardown
