"""What a person sees while it trains: the tutorial's lines, and a bar with loss and names/s."""

import logging
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from src.data.alphabet import decode
from src.data.tensors import Batch
from src.models.classifier import NameClassifier

log = logging.getLogger(__name__)


class Progress(Callback):
    """Prints an example every `print_every` iterations; keeps the time.

    Args:
        model: the model that is trained.
        categories: the names of the categories, in index order.
        iterations: iterations of the whole run.
        print_every: iterations between printed examples.
        names_per_iteration: on average.
    """

    def __init__(
        self,
        model: NameClassifier,
        categories: list[str],
        iterations: int,
        print_every: int,
        names_per_iteration: float,
    ) -> None:
        self.model = model
        self.categories = categories
        self.iterations = iterations
        self.print_every = print_every
        self.names_per_iteration = names_per_iteration
        self.start = model.iteration
        """Iterations done before."""
        self.seconds = 0.0
        """Spent drawing examples and training on them; no validation, no checkpoint."""
        self._epoch_start: float | None = None
        self._bar = tqdm(disable=True)

    @property
    def names_per_second(self) -> float:
        """Speed of the training loop alone."""
        names = (self.model.iteration - self.start) * self.names_per_iteration
        return names / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar, if the output is a terminal."""
        self._bar = tqdm(
            total=round(self.iterations * self.names_per_iteration),
            initial=round(self.start * self.names_per_iteration),
            unit=" names",
            unit_scale=True,
            disable=None,
            leave=False,
        )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._epoch_start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Print the examples that are due, move the bar."""
        losses, guesses = outputs["losses"], outputs["guesses"]
        done = self.model.iteration - len(losses)  # before this batch
        for row in range(
            self.print_every - 1 - done % self.print_every, len(losses), self.print_every
        ):
            self._print(done + row + 1, float(losses[row]), batch, row, int(guesses[row]))
        loss = float(losses.double().mean())
        score = trainer.callback_metrics.get("val/balanced_accuracy")
        shown = {"loss": f"{loss:.3f}"}
        if score is not None:
            shown["val balanced accuracy"] = f"{float(score):.3f}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(len(losses) * self.names_per_iteration)

    def _print(self, iteration: int, loss: float, batch: Batch, row: int, guess: int) -> None:
        end = int(batch.lengths[: row + 1].sum())
        letters = batch.letters[end - int(batch.lengths[row]) : end]
        name = decode(bytes(letters.tolist()))
        category = int(batch.categories[row])
        verdict = "CORRECT" if guess == category else f"WRONG ({self.categories[category]})"
        share = iteration / self.iterations
        with tqdm.external_write_mode():  # above the bar
            log.info(
                f"{iteration:>9}  {share:>4.0%}  {loss:.4f}  "
                f"{name} / {self.categories[guess]}  {verdict}"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._stop_clock()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock, if no validation did."""
        self._stop_clock()

    def _stop_clock(self) -> None:
        if self._epoch_start is not None:
            self.seconds += time.perf_counter() - self._epoch_start
            self._epoch_start = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        self._bar.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take the bar away."""
        self._bar.close()
