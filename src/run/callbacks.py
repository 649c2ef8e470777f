"""Lightning callbacks: progress output, checkpoints and graceful interruption."""

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tqdm import tqdm

from src.data.alphabet import UNKNOWN_SYMBOL
from src.data.batch import Batch
from src.models.classifier import NameClassifier
from src.models.registry import SCORE
from src.run.environment import is_rank_zero_outside_sweep_workers
from src.run.signals import STOP_HANDLER, StopHandler, is_sweep_worker

log = logging.getLogger(__name__)

# As in tqdm's default format, but without the number of iterations, which the percentage shows.
BAR_FORMAT = "{percentage:3.0f}% |{bar}| {remaining} left{postfix}"


class Progress(Callback):
    """Prints examples at regular intervals, shows a progress bar and measures the speed.

    An example is a line in the format of the PyTorch tutorial: a name, its guess and its loss.

    Args:
        print_every: iterations between printed examples.
        names_per_iteration: mean number of names in an iteration.

    Attributes:
        has_started: whether training has started.
        n_names: number of names that the trainer has trained on, counted as `names_per_iteration`
            per iteration. If batches differ in size, this is an estimate.
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
        self._bar = tqdm(disable=True)

    @property
    def names_per_second(self) -> float:
        """The speed of the training loop alone."""
        return self.n_names / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Show the progress bar if the output is a terminal."""
        self.has_started = True
        # tqdm: None shows the bar only if the output is a terminal; True never shows it.
        disable = None if is_rank_zero_outside_sweep_workers() else True
        self._bar = tqdm(
            total=pl_module.run_length.iterations,
            initial=pl_module.iteration,
            disable=disable,
            leave=False,
            bar_format=BAR_FORMAT,
            dynamic_ncols=True,
        )

    def on_train_epoch_start(self, *_: Any) -> None:
        """Restart the clock. An epoch begins after each validation, which is not measured."""
        self._last_time = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Print the examples that are due, and update the progress bar and the clock."""
        self._print_due_examples(pl_module, outputs, batch)
        losses = outputs["losses"]  # [number of iterations in the batch]
        # The values have a fixed number of decimals, so that the bar does not jump.
        values = []
        if self.seconds:
            values.append(f"{self.names_per_second:,.0f} names/s")
        values.append(f"loss={losses.double().mean():.2f}")  # of this batch
        if SCORE in trainer.callback_metrics:
            values.append(f"val_bal_acc={trainer.callback_metrics[SCORE]:.3f}")
        # tqdm redraws the bar at its own intervals.
        self._bar.set_postfix_str(", ".join(values), refresh=False)
        n_iterations = len(losses)
        self._bar.update(n_iterations)
        self.n_names += n_iterations * self.names_per_iteration
        now = time.perf_counter()
        self.seconds += now - self._last_time
        self._last_time = now

    def _print_due_examples(self, model: NameClassifier, outputs: Any, batch: Batch) -> None:
        """Print the examples of a batch that are due.

        In online training, each name of the batch is one iteration, so the iteration with an index
        in the batch is the name with the same index. Otherwise, the whole batch is one iteration
        with the index 0, and its example is the first name.

        Args:
            model: the model, whose `iteration` is that of the previous batch, because Lightning
                calls the hooks of callbacks before those of the model.
            outputs: what `training_step` returned.
            batch: the names.
        """
        losses = outputs["losses"]  # [number of iterations in the batch]
        # With print_every=5000, iterations 5000, 10000 … are due. If the batch starts with
        # iteration 4998, the first due iteration has index 2 in the batch.
        first_iteration = model.iteration + 1
        n_since_due = first_iteration % self.print_every
        n_until_due = (self.print_every - n_since_due) % self.print_every
        for index in range(n_until_due, len(losses), self.print_every):
            # With DDP, this process may have no names in the batch.
            has_name = index < len(batch.lengths)
            # A loss that is not finite is reported by a DivergenceError instead.
            if has_name and losses[index].isfinite():
                line = self._format_example(model, outputs, batch, index)
                with tqdm.external_write_mode():  # above the progress bar
                    log.info(line)

    def _format_example(self, model: NameClassifier, outputs: Any, batch: Batch, index: int) -> str:
        """Return a line like the tutorial's for the name with an index in the batch."""
        categories = model.network.categories
        iteration = model.iteration + index + 1
        progress = iteration / model.run_length.iterations
        letters = torch.split(batch.letters, batch.lengths.tolist())[index]
        # A symbol that the alphabet does not contain is shown as a question mark.
        name = model.network.alphabet.decode(letters).replace(UNKNOWN_SYMBOL, "?")
        guess = categories[outputs["guesses"][index]]
        target = categories[batch.targets[index]]
        verdict = "CORRECT" if guess == target else f"WRONG ({target})"
        loss = outputs["losses"][index]
        # If the percentage hardly changes from line to line, it has a decimal.
        n_decimals = 0 if self.print_every >= model.run_length.iterations / 100 else 1
        return (
            f"{iteration:>9}  {progress:>4.{n_decimals}%}  {loss:.4f}  {name} / {guess}  {verdict}"
        )

    def teardown(self, *_: Any, **__: Any) -> None:
        """Remove the progress bar after training."""
        self._bar.close()

    def on_exception(self, *_: Any, **__: Any) -> None:
        """Remove the progress bar if training fails, in which case `teardown` is not called."""
        self._bar.close()


class Checkpoint(ModelCheckpoint):
    """A checkpoint file that is written at validations.

    The state of Lightning's own callback contains paths. If the folder of the run has been moved,
    restoring this state would delete files at the old paths and forget the score. This class
    restores only the score.

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
        """Restore the score, so that only better weights replace the file, if it still exists."""
        if "score" not in state_dict:
            return
        if not self.file.is_file():
            log.info(f"{self.file}: no longer exists; the best weights from now on will be saved")
            return
        # These are the attributes that `ModelCheckpoint._update_best_and_save` sets.
        score = torch.tensor(float(state_dict["score"]))
        # This is the path of `file`, because its name does not contain metrics.
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
        """Declare that training is running, so that the handler only records signals."""
        # Training has not started yet, but `OnlineSGD` is about to compile its kernel, which must
        # not be interrupted. Stand-alone tests and validations can be interrupted at any time.
        is_fitting = stage == "fit"
        STOP_HANDLER.is_training = is_fitting

    def on_train_start(self, *_: Any) -> None:
        """Replace Lightning's signal handlers, which would stop without a checkpoint."""
        # If our handler was installed, SIGINT still has it, because Lightning replaces only the
        # handler of SIGTERM.
        if isinstance(signal.getsignal(signal.SIGINT), StopHandler):
            STOP_HANDLER.install()

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Stop if a process of the run has received a signal.

        Raises:
            KeyboardInterrupt: to stop.
        """
        # If a parent process dies, the system gives its children another parent.
        is_orphan = self._sweep_process is not None and self._sweep_process != os.getppid()
        should_stop = STOP_HANDLER.signum != 0 or is_orphan
        # If several processes train together, all of them stop at the same batch: `all=False` means
        # that a signal to one of them is enough.
        if trainer.strategy.reduce_boolean_decision(should_stop, all=False):
            trainer.save_checkpoint(self.file)
            raise KeyboardInterrupt

    def teardown(self, *_: Any, **__: Any) -> None:
        """Declare that training has ended, so that a signal raises KeyboardInterrupt at once."""
        STOP_HANDLER.is_training = False

    def on_exception(self, *_: Any, **__: Any) -> None:
        """Do the same if training fails, in which case `teardown` is not called."""
        STOP_HANDLER.is_training = False
