"""NameClassifier: the network as Lightning trains and evaluates it."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassRecall,
)
from torchmetrics.functional.classification import multiclass_confusion_matrix

from src.data.tensors import Batch
from src.errors import UserError
from src.models.online_sgd import OnlineSGD
from src.models.rnn import RNN, read_names


class DivergenceError(UserError):
    """The loss is no longer finite."""


class BalancedAccuracy(MulticlassRecall):
    """Recall averaged over the categories that have names.

    torchmetrics' own macro average counts a category without names as recall 0 as soon as it is
    guessed once.
    """

    def compute(self) -> Tensor:
        """Return the mean recall, a scalar."""
        tp, _, _, fn = self._final_state()
        support = tp + fn
        return (tp[support > 0] / support[support > 0]).mean()


class NameClassifier(LightningModule):
    """An RNN, trained one name at a time and evaluated in batches.

    All arguments are plain values and are kept in the checkpoint, so that it can be used without
    the corpus.

    Args:
        categories: the names of the categories, in index order.
        alphabet: the letters, in index order.
        hidden: size of the hidden state.
        lr: learning rate.
        backend: `compiled` or `autograd`, see `online_sgd`.
        log_every: names per point of the loss curve.
    """

    def __init__(
        self,
        categories: list[str],
        alphabet: str,
        hidden: int,
        lr: float,
        backend: str,
        log_every: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False  # OnlineSGD takes a step for each name by itself
        self.rnn = RNN(len(alphabet), hidden, len(categories))
        self.lr = lr
        self.backend = backend
        self.log_every = log_every
        self.iteration = 0
        """Names trained on so far."""
        self.history: list[tuple[int, dict[str, float]]] = []
        """What was logged so far: iteration and values."""
        self.losses: list[Tensor] = []
        """Of the names since the last point of the loss curve."""
        n = len(categories)
        self.loss = MeanMetric()
        self.scores = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(n, average="micro"),
                "balanced_accuracy": BalancedAccuracy(n, average="macro"),
                "macro_f1": MulticlassF1Score(n, average="macro"),
                "top3_accuracy": MulticlassAccuracy(n, average="micro", top_k=min(3, n)),
            },
            compute_groups=False,  # BalancedAccuracy shares no computation with the others
        )

    def configure_optimizers(self) -> OnlineSGD:
        """Return plain SGD, one step a name."""
        return OnlineSGD(self.rnn, self.lr, self.backend)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Train on each name of the batch in turn; return their losses and guesses, each [B].

        Raises:
            DivergenceError: if a loss is not finite; the weights are those before the batch then.
        """
        before = [weight.detach().clone() for weight in self.rnn.parameters()]
        losses, guesses = self.optimizers().step(batch=batch)  # type: ignore[union-attr] # one only
        bad = losses.isfinite().logical_not().nonzero()
        if len(bad) or not all(weight.isfinite().all() for weight in self.rnn.parameters()):
            with torch.no_grad():
                for weight, good in zip(self.rnn.parameters(), before, strict=True):
                    weight.copy_(good)
            # The last step may have gone wrong, too; its loss was before it.
            raise self._diverged(self.iteration + (int(bad[0]) + 1 if len(bad) else len(losses)))
        self.iteration += len(losses)
        self.losses.append(losses)
        if self.iteration % self.log_every == 0 or self.trainer.is_last_batch:
            self._record({"train/loss": torch.cat(self.losses).double().mean()})
            self.losses.clear()
        return {"losses": losses, "guesses": guesses}

    def _diverged(self, iteration: int) -> DivergenceError:
        return DivergenceError(
            f"lr={self.lr}: the loss is no longer finite at iteration {iteration:,}; try a lower lr"
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch."""
        self._score(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of all validation names."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores of all test names."""
        self._finish("test")

    def _score(self, batch: Batch) -> None:
        log_probabilities = read_names(self.rnn, batch.letters, batch.lengths)  # [B, C]
        losses = F.nll_loss(log_probabilities, batch.categories, reduction="none")
        if not losses.isfinite().all():
            raise self._diverged(self.iteration)
        self.loss.update(losses)
        self.scores.update(log_probabilities, batch.categories)

    def _finish(self, stage: str) -> None:
        scores = {"loss": self.loss.compute(), **self.scores.compute()}
        values = {f"{stage}/{name}": value for name, value in scores.items()}
        self.loss.reset()
        self.scores.reset()
        self.log_dict(values, logger=False)  # for the checkpoints and whoever called the trainer
        self._record(values)

    def _record(self, values: dict[str, Tensor]) -> None:
        """Log over iterations; Lightning itself would log over batches."""
        numbers = {name: float(value) for name, value in values.items()}
        self.history.append((self.iteration, numbers))
        for logger in self.loggers:
            logger.log_metrics(numbers, step=self.iteration)

    def curve(self, tag: str) -> list[tuple[int, float]]:
        """Return what was logged under a tag: iteration and value."""
        return [(iteration, values[tag]) for iteration, values in self.history if tag in values]

    def final_scores(self) -> dict[str, float]:
        """Return the last value of everything logged."""
        return {name: value for _, values in self.history for name, value in values.items()}

    @torch.inference_mode()
    def confusion_matrix(self, batch: Batch) -> Tensor:
        """Return how often each true category (row) was guessed as each other, int64 [C, C]."""
        guesses = read_names(self.rnn, batch.letters, batch.lengths).argmax(dim=1)
        return multiclass_confusion_matrix(guesses, batch.categories, self.rnn.i2o.out_features)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the iteration and the curves beside the weights."""
        checkpoint["iteration"] = self.iteration
        checkpoint["history"] = self.history
        checkpoint["losses"] = self.losses

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the iteration and the curves from beside the weights."""
        self.iteration = checkpoint["iteration"]
        self.history = [
            (int(iteration), dict(values)) for iteration, values in checkpoint["history"]
        ]
        self.losses = list(checkpoint["losses"])
