"""NameClassifier: a network trained and scored by Lightning; OnlineClassifier: a step a name."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassRecall

from src.data.batch import Batch
from src.errors import UserError
from src.models.calibration import Calibration
from src.models.network import Network
from src.models.online_sgd import OnlineSGD
from src.models.registry import PRIORS
from src.models.rnn import RNN, read_name


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
        return (tp / (tp + fn)).nanmean()  # 0 / 0, a category without names, is NaN


class MacroF1(MulticlassF1Score):
    """F1 averaged over the categories that have names; torchmetrics' own as above."""

    def compute(self) -> Tensor:
        """Return the mean F1, a scalar."""
        tp, fp, _, fn = self._final_state()
        return (2 * tp / (2 * tp + fp + fn))[tp + fn > 0].mean()


class NameClassifier(LightningModule):
    """A network trained in batches: one optimizer step on the mean loss of many names.

    An iteration is one optimizer step. All arguments are plain values and are kept in the
    checkpoint, so that it can be used without the corpus.

    Args:
        network: the arguments of `Network`.
        lr: learning rate, the highest of the schedule.
        iterations: of the whole run; then the training ends.
        log_every: iterations per point of the loss curve.
        val_every: iterations between validations.
        seed: of dropout.
        optimizer: `sgd` or `adamw`.
        schedule: `constant`, or `cosine`: up in a twentieth of the iterations, then down to 0.
        weight_decay: as the optimizer has it.
        label_smoothing: share of each label that is spread over all categories.
    """

    def __init__(
        self,
        network: dict[str, Any],
        lr: float = 0.005,
        iterations: int = 100_000,
        log_every: int = 1000,
        val_every: int = 5000,
        seed: int = 0,
        optimizer: str = "sgd",
        schedule: str = "constant",
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = Network(**network)
        self.iteration = 0
        """Iterations done so far."""
        self.history: list[tuple[int, dict[str, float]]] = []
        """What was logged so far: iteration and values."""
        self.calibration: Calibration | None = None
        """How to answer under each prior; known at the end of training."""
        self._losses: list[Tensor] = []  # since the last point of the loss curve
        c = len(network["categories"])
        self.loss = MeanMetric()
        metrics: dict[str, Any] = {
            "accuracy": MulticlassAccuracy(c, average="micro"),
            "balanced_accuracy": BalancedAccuracy(c, average="macro"),
            "macro_f1": MacroF1(c, average="macro"),
            "top3_accuracy": MulticlassAccuracy(c, average="micro", top_k=min(3, c)),
        }
        # BalancedAccuracy shares no computation with the others.
        self.scores = MetricCollection(metrics, compute_groups=False)

    def forward(self, batch: Batch) -> Any:
        """Return the log-probabilities of the categories [B, C] for a batch of names."""
        return self.network(batch.letters, batch.lengths)

    def configure_optimizers(self) -> Any:
        """Return the optimizer, and its schedule if the learning rate changes."""
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        adamw = partial(AdamW, betas=(0.9, 0.99), fused=True)
        kind = SGD if self.hparams["optimizer"] == "sgd" else adamw
        optimizer = kind(weights, lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"])
        if self.hparams["schedule"] == "constant":
            return optimizer

        def factor(iteration: int) -> float:
            up = (iteration + 1) / max(1, 0.05 * self.hparams["iterations"])
            down = (1 + math.cos(math.pi * iteration / self.hparams["iterations"])) / 2
            return float(min(1.0, up) * down)

        return [optimizer], [{"scheduler": LambdaLR(optimizer, factor), "interval": "step"}]

    def on_train_start(self) -> None:
        """Tell the loggers, which are new, what was logged before the run was taken up."""
        for iteration, values in self.history:
            for logger in self.loggers:
                logger.log_metrics(values, step=iteration)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the mean loss, and the guess for the batch's first name [1]."""
        # Seeded anew for each iteration, dropout is the same in a run that was resumed.
        # torch.manual_seed would note the whole stack for each kind of device that is absent.
        seed = (self.hparams["seed"] << 31) + self.iteration
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)
        if n := len(batch.lengths):
            log_probabilities = self(batch)
            smoothing = self.hparams["label_smoothing"]
            right = F.nll_loss(log_probabilities, batch.targets)
            loss = (1 - smoothing) * right - smoothing * log_probabilities.mean()
            guess = log_probabilities[:1].argmax(dim=1)
        else:  # of processes that share a small batch, one may have none of its names
            loss = torch.stack([0 * weight.sum() for weight in self.network.parameters()]).sum()
            guess = batch.targets
        # Each process counts by its names: DDP then takes the gradient's mean over the processes.
        sums = n * torch.stack((loss.detach(), loss.new_tensor(1)))
        whole, names = self.trainer.strategy.reduce(sums)  # their means over all processes
        return {"loss": n / names * loss, "losses": (whole / names).reshape(1), "guesses": guess}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Take the losses of the batch's iterations to the curve.

        Raises:
            DivergenceError: if one of them is not finite.
        """
        losses = outputs["losses"].cpu()
        if len(bad := losses.isfinite().logical_not().nonzero()):
            raise self._diverged(self.iteration + int(bad[0]) + 1)
        self.iteration += len(losses)
        self._losses.append(losses)
        whole = self.iteration % self.hparams["log_every"] == 0
        if whole or self.iteration >= self.hparams["iterations"]:
            if not all(weight.isfinite().all() for weight in self.network.parameters()):
                raise self._diverged(self.iteration)  # the last step went wrong, after its loss
            loss = torch.cat(self._losses).double().mean().item()
            self._record({"train/loss": loss, **self.beside()})
        if whole:
            self._losses.clear()

    def beside(self) -> dict[str, float]:
        """Return what goes with a point of the loss curve: the learning rate, where it changes."""
        constant, optimizer = self.hparams["schedule"] == "constant", self.trainer.optimizers[0]
        return {} if constant else {"train/lr": optimizer.param_groups[0]["lr"]}

    def on_train_epoch_end(self) -> None:
        """End after the last iteration."""
        self.trainer.should_stop |= self.iteration >= self.hparams["iterations"]

    def _diverged(self, iteration: int) -> DivergenceError:
        lr, clip = self.hparams["lr"], self.hparams.get("clip", self.trainer.gradient_clip_val) or 0
        when = f"lr={lr} clip={clip:g}: the loss is no longer finite at iteration {iteration:,}"
        return DivergenceError(f"{when}; try a lower lr or clip{'' if clip else '=500'}")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch."""
        log_probabilities = self(batch)
        losses = F.nll_loss(log_probabilities, batch.targets, reduction="none")
        if not losses.isfinite().all():
            raise self._diverged(self.iteration)
        self.loss.update(losses)
        self.scores.update(log_probabilities, batch.targets)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log the scores of all names of the stage, validation or test."""
        stage = "test" if self.trainer.testing else "val"
        scores = {"loss": self.loss.compute(), **self.scores.compute()}
        values = {f"{stage}/{name}": float(value) for name, value in scores.items()}
        self.loss.reset()
        self.scores.reset()
        fits = self.trainer.state.fn == "fit"
        # Lightning takes them to its checkpoints, and after a fit to the loggers, at this step.
        self.log_dict({**values, "step": float(self.iteration)}, logger=not fits)
        if not self.trainer.sanity_checking:
            self._record(values, tell=fits)

    on_test_epoch_end = on_validation_epoch_end

    def _record(self, values: dict[str, float], tell: bool = True) -> None:
        """Log over iterations; Lightning itself would log over batches."""
        self.history.append((self.iteration, values))
        for logger in self.loggers if tell else []:
            logger.log_metrics(values, step=self.iteration)

    def curve(self, tag: str) -> list[tuple[int, float]]:
        """Return what was logged under a tag: iteration and value."""
        return [(iteration, values[tag]) for iteration, values in self.history if tag in values]

    def final_scores(self) -> dict[str, float]:
        """Return the last value of everything logged."""
        return {name: value for _, values in self.history for name, value in values.items()}

    @torch.inference_mode()
    def log_probabilities(self, batches: Iterable[Batch]) -> Tensor:
        """Return the log-probabilities [N, C] of all names of some batches."""
        there = (self.transfer_batch_to_device(batch, self.device, 0) for batch in batches)
        return torch.cat([self(batch).cpu() for batch in there])

    def score_priors(self, stage: str, logp: Tensor, targets: Tensor) -> dict[str, float]:
        """Return the scores under each prior of names with log-probabilities [N, C]."""
        assert self.calibration is not None
        scores: dict[str, Tensor] = {}
        for prior in PRIORS:
            metrics = self.scores.clone(prefix=f"{stage}/{prior}/")
            scores |= metrics(self.calibration.log_probabilities(logp, prior), targets)
        return {name: float(value) for name, value in scores.items() if "top3" not in name}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what goes with the weights: where the run is, and its curves.

        Lightning's own counters are left out: the data loader begins at `iteration`, and with them
        a run taken up amid an epoch would be validated where the whole run is not.
        """
        del checkpoint["loops"]
        checkpoint.update(iteration=self.iteration, history=self.history, losses=self._losses)
        if self.calibration is not None:
            checkpoint["decision"] = self.calibration.to_checkpoint()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the run where the checkpoint was written."""
        every = {"train/loss": self.hparams["log_every"], "val/loss": self.hparams["val_every"]}

        def stays(iteration: int, values: dict[str, float]) -> bool:  # the whole run has it, too
            ended = iteration >= self.hparams["iterations"]
            return any(tag in values and (ended or iteration % n == 0) for tag, n in every.items())

        self.iteration = int(checkpoint["iteration"])
        self.history = [(int(i), dict(v)) for i, v in checkpoint["history"] if stays(i, v)]
        self._losses = [losses.float() for losses in checkpoint["losses"]]


class OnlineClassifier(NameClassifier):
    """The tutorial's training: an iteration is one name, and a plain SGD step.

    Args:
        backend: `autograd` for the tutorial's own lines; `compiled`, see `online_sgd`, takes the
            same steps, many times as fast.
        clip: largest norm of a name's gradient, a longer one is shortened to it; 0: any.
        others: those of NameClassifier.
    """

    def __init__(self, backend: str = "compiled", clip: float = 500.0, **others: Any) -> None:
        super().__init__(**others)
        self.automatic_optimization = False  # a step for each name of the batch, in turn

    @property
    def rnn(self) -> RNN:
        """The hand-written cell."""
        return cast("RNN", self.network.recurrent.rnn)

    def configure_optimizers(self) -> SGD:
        """Return plain SGD."""
        if self.hparams["backend"] == "compiled":
            return OnlineSGD(self.rnn, self.hparams["lr"], self.hparams["clip"])
        return SGD(self.rnn.parameters(), self.hparams["lr"])

    @torch.no_grad()
    def beside(self) -> dict[str, float]:
        """Return the norm of the hidden state after 20 letters; it explodes before the loss."""
        hidden = self.rnn.init_hidden()  # [1, H]
        for letter in torch.eye(20, self.rnn.i2h.in_features - hidden.shape[1]):  # the first 20
            hidden = self.rnn.i2h(torch.cat((letter[None], hidden), dim=1))
        return {"train/hidden_norm": hidden.norm().item()}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Train on each name of the batch; return its loss and guess [B], before its step."""
        optimizer: Any = self.optimizers()
        if self.hparams["backend"] == "compiled":
            losses, guesses = optimizer.step(batch=batch)
            return {"losses": losses, "guesses": guesses}
        steps, criterion, n_symbols = [], nn.NLLLoss(), len(self.network.alphabet.symbols)
        for name, category in batch.examples(n_symbols):  # one-hot [L, 1, S], index [1]
            output = read_name(self.rnn, name)  # [1, C]
            loss = criterion(output, category)
            optimizer.zero_grad()
            self.manual_backward(loss)
            if clip := self.hparams["clip"]:
                nn.utils.clip_grad_norm_(self.rnn.parameters(), clip)
            optimizer.step()
            steps.append((loss.detach(), output.argmax()))
        losses, guesses = map(torch.stack, zip(*steps, strict=True))
        return {"losses": losses, "guesses": guesses}
