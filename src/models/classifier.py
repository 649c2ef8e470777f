"""NameClassifier: what Lightning evaluates, however it was trained."""

from dataclasses import asdict
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
from src.models.decision import PRIORS, Decision, fit_decision


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
    """Scores names in batches, and keeps the curves; how it is trained is its subclasses' part.

    Args:
        n_categories: the outputs.
        log_every: iterations per point of the loss curve.
    """

    def __init__(self, n_categories: int, log_every: int) -> None:
        super().__init__()
        self.n_categories = n_categories
        self.log_every = log_every
        self.iteration = 0
        """Iterations done so far."""
        self.history: list[tuple[int, dict[str, float]]] = []
        """What was logged so far: iteration and values."""
        self.losses: list[Tensor] = []
        """Of the iterations since the last point of the loss curve."""
        self.decision: Decision | None = None
        """How to answer under each prior; known at the end of training."""
        alone: Any = {"sync_on_compute": False}  # of several processes, each scores all names
        self.loss = MeanMetric(**alone)
        self.scores = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(n_categories, average="micro", **alone),
                "balanced_accuracy": BalancedAccuracy(n_categories, average="macro", **alone),
                "macro_f1": MulticlassF1Score(n_categories, average="macro", **alone),
                "top3_accuracy": MulticlassAccuracy(
                    n_categories, average="micro", top_k=min(3, n_categories), **alone
                ),
            },
            compute_groups=False,  # BalancedAccuracy shares no computation with the others
        )

    def log_probabilities(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Read letters, end to end, of names with these lengths [B]: → log-probabilities [B, C]."""
        raise NotImplementedError

    def trained_on(self, losses: Tensor) -> None:
        """Take the losses of the next iterations to the curve."""
        self.iteration += len(losses)
        self.losses.append(losses)
        if self.iteration % self.log_every == 0 or self.trainer.is_last_batch:
            self._record({"train/loss": torch.cat(self.losses).double().mean()})
            self.losses.clear()

    def diverged(self, iteration: int) -> DivergenceError:
        """Return the error of a loss that is not finite."""
        return DivergenceError(
            f"lr={self.hparams['lr']}: the loss is no longer finite at iteration {iteration:,}; "
            "try a lower lr"
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
        log_probabilities = self.log_probabilities(batch.letters, batch.lengths)  # [B, C]
        losses = F.nll_loss(log_probabilities, batch.categories, reduction="none")
        if not losses.isfinite().all():
            raise self.diverged(self.iteration)
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
    def decide(self, batch: Batch, trained_prior: list[float], corpus_prior: list[float]) -> None:
        """Fit the decision to names that were not trained on."""
        logp = self.log_probabilities(batch.letters, batch.lengths)
        self.decision = fit_decision(logp, batch.categories, trained_prior, corpus_prior)

    @torch.inference_mode()
    def score_priors(self, stage: str, batch: Batch) -> None:
        """Log what the names of a batch are guessed under each prior."""
        assert self.decision is not None
        logp = self.log_probabilities(batch.letters, batch.lengths)
        for prior in PRIORS:
            self.scores.update(self.decision.log_probabilities(logp, prior), batch.categories)
            values = self.scores.compute()
            self.scores.reset()
            del values["top3_accuracy"]
            self._record({f"{stage}/{prior}/{name}": value for name, value in values.items()})

    @torch.inference_mode()
    def confusion_matrix(self, batch: Batch) -> Tensor:
        """Return how often each true category (row) was guessed as each other, int64 [C, C]."""
        guesses = self.log_probabilities(batch.letters, batch.lengths).argmax(dim=1)
        return multiclass_confusion_matrix(guesses, batch.categories, self.n_categories)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the iteration and the curves beside the weights."""
        checkpoint["iteration"] = self.iteration
        checkpoint["history"] = self.history
        checkpoint["losses"] = self.losses
        if self.decision is not None:
            checkpoint["decision"] = asdict(self.decision)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the iteration and the curves from beside the weights."""
        self.iteration = checkpoint["iteration"]
        self.history = [
            (int(iteration), dict(values)) for iteration, values in checkpoint["history"]
        ]
        self.losses = list(checkpoint["losses"])
