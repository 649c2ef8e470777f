"""Training in batches: one optimizer step for many names, by ordinary autograd."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from src.data.tensors import Batch
from src.models.classifier import NameClassifier
from src.models.network import make_network

WARM_UP = 0.05
"""Of all iterations, in which a cosine schedule comes up to the learning rate."""
NGRAM_LR = 0.1
"""Learning rate of the n-grams, a few hundred smoothing weights that share nothing with a cell."""

NGRAM_EVERY = 3
"""Iterations for each of the n-grams: they have learned all there is in a third of a cell's."""


class BatchedClassifier(NameClassifier):
    """A network trained in batches.

    All arguments are plain values and are kept in the checkpoint, so that it can be used without
    the corpus.

    Args:
        network: the arguments of `make_network`.
        iterations: of the whole run, for the schedule.
        seed: of dropout.
        lr: learning rate, the highest of the schedule.
        optimizer: `sgd` or `adamw`.
        schedule: `constant`, or `cosine`: up in a twentieth of the iterations, then down to 0.
        weight_decay: as the optimizer has it.
        clip: largest norm of the recurrent network's gradient; 0: any.
        label_smoothing: share of each label that is spread over all categories.
        log_every: iterations per point of the loss curve.
    """

    def __init__(
        self,
        network: dict[str, Any],
        iterations: int,
        seed: int,
        lr: float,
        optimizer: str,
        schedule: str,
        weight_decay: float,
        clip: float,
        label_smoothing: float,
        log_every: int,
    ) -> None:
        super().__init__(len(network["categories"]), log_every)
        self.save_hyperparameters(ignore=() if schedule == "cosine" else ("iterations",))
        self.network = make_network(**network)
        self.iterations = iterations
        self.seed = seed
        self.lr = lr
        self.optimizer = optimizer
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.clip = clip
        self.label_smoothing = label_smoothing
        self._optimizer_state: dict[str, Any] | None = None

    def log_probabilities(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Read letters, end to end, of names with these lengths [B]: → log-probabilities [B, C]."""
        probabilities: Tensor = self.network(letters, lengths)
        return probabilities

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer; the schedule sets its learning rate before each step."""
        recurrent = [w for w in self.network.recurrent.parameters() if w.requires_grad]
        groups = [{"params": recurrent, "lr": self.lr, "weight_decay": self.weight_decay}]
        if self.network.ngrams is not None:
            ngrams = list(self.network.ngrams.parameters())
            groups.append({"params": ngrams, "lr": NGRAM_LR, "weight_decay": 0.0})
        optimizer = SGD(groups) if self.optimizer == "sgd" else AdamW(groups, betas=(0.9, 0.99))
        if self._optimizer_state is not None:  # where the checkpoint left it
            optimizer.load_state_dict(self._optimizer_state)
        return optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the loss, and the guess for the batch's first name [1].

        Raises:
            DivergenceError: if the loss is not finite.
        """
        # Seeded anew for each iteration, dropout is the same in a run that was resumed.
        # torch.manual_seed would note the whole stack for each kind of device that is absent.
        seed = (self.seed << 31) + self.iteration
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)
        for group, highest in zip(self._groups(), (self.lr, NGRAM_LR), strict=False):
            group["lr"] = highest * self._factor()
        losses, guess = self._losses(batch)
        loss = losses.sum()
        n_names = len(batch.lengths)
        sums = n_names * torch.stack((losses[0].detach(), loss.detach(), loss.new_tensor(1)))
        first, whole, names = self.trainer.strategy.reduce(sums)  # their means over all processes
        if not whole.isfinite():
            raise self.diverged(self.iteration + 1)
        shown = (first / names).reshape(1).cpu()
        self.trained_on(shown)
        # Each process counts by its names: DDP then takes the gradient's mean over the processes.
        return {"loss": n_names / names * loss, "losses": shown, "guesses": guess}

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean loss of each part of the network, and the guess for the first name [1].

        Where processes share a batch, one may have none of its names.
        """
        if not len(batch.lengths):
            weights = [w.sum() for w in self.network.recurrent.parameters() if w.requires_grad]
            return 0 * torch.stack(weights), batch.categories
        both = self.iteration % NGRAM_EVERY == 0
        parts = self.network.parts(batch.letters, batch.lengths, batch.categories, both)
        losses = [self._loss(part, batch.categories) for part in parts]
        return torch.stack(losses), parts[0][:1].argmax(dim=1)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Shorten a gradient that is too long."""
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.network.recurrent.parameters(), self.clip)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the optimizer's state, too."""
        super().on_load_checkpoint(checkpoint)
        (self._optimizer_state,) = checkpoint["optimizer_states"]

    def _loss(self, log_probabilities: Tensor, categories: Tensor) -> Tensor:
        smoothing = self.label_smoothing
        right = F.nll_loss(log_probabilities, categories)
        return (1 - smoothing) * right - smoothing * log_probabilities.mean()

    def _groups(self) -> list[dict[str, Any]]:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        return list(optimizer.param_groups)

    def _factor(self) -> float:
        if self.schedule == "constant":
            return 1.0
        up = (self.iteration + 1) / max(1, WARM_UP * self.iterations)
        return min(1.0, up) * (1 + math.cos(math.pi * self.iteration / self.iterations)) / 2
