"""The Lightning module that trains and scores a network in batches.

Shapes: B names in a batch, N names in all, C categories.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from src.data.batch import Batch
from src.data.datamodule import NamesDataModule
from src.data.sampler import RunLength
from src.errors import UserError
from src.models.calibration import Calibration
from src.models.checkpoint import rename_keys_of_early_version_4
from src.models.metrics import build_metrics
from src.models.network import Network
from src.models.registry import NETWORK_KEYS, PRIORS

WARMUP_FRACTION = 0.05
"""Share of the iterations in which the learning rate of the cosine schedule rises."""


class DivergenceError(UserError):
    """The loss or a weight is no longer finite."""


class NameClassifier(LightningModule):
    """Trains a network in batches: each iteration is one optimizer step on the mean loss.

    All arguments are plain values, so Lightning stores them in checkpoints, and a checkpoint can be
    used without the corpus. `for_data` builds a model for a data module.

    Args:
        network: the arguments of `Network`.
        lr: learning rate; the highest one if there is a schedule.
        iterations: number of iterations of the whole run.
        log_every: iterations between points of the loss curve.
        val_every: iterations between validations.
        seed: seeds dropout.
        optimizer: `sgd` or `adamw`.
        schedule: `constant`, or `cosine` for a linear warm-up and a cosine decay to 0.
        weight_decay: weight decay of the optimizer.
        label_smoothing: share of each label that is spread over all categories.

    Attributes:
        network: the network.
        iteration: number of iterations done so far.
        history: everything that was logged so far, as pairs of an iteration and values by tag.
        calibration: converts the log-probabilities to those under other priors; None until
            src/train.py sets it after training.
    """

    uses_prior = True
    """Whether the network adds the prior of the training names to its scores."""

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
        self.run_length = RunLength(iterations, log_every, val_every)
        self.iteration = 0
        self.history: list[tuple[int, dict[str, float]]] = []
        self.calibration: Calibration | None = None
        # The losses of all iterations since the last point of the loss curve, batch by batch.
        self._losses_since_point: list[Tensor] = []
        # These are modules of torchmetrics, which Lightning moves to the device of the model.
        self.mean_loss = MeanMetric()
        self.metrics = build_metrics(len(network["categories"]))

    @classmethod
    def for_data(cls, data: NamesDataModule, **settings: Any) -> "NameClassifier":
        """Build a model for the alphabet, the categories and the run length of a data module.

        Args:
            data: the data module.
            settings: arguments of the network (`cell`, `hidden` and the other `NETWORK_KEYS`; see
                `Network`) and of this class (`lr`, `seed` and others). All have defaults.
        """
        network = {
            "alphabet": data.alphabet.to_dict(),
            "categories": data.categories,
            "train_prior": data.train_prior if cls.uses_prior else None,
        }
        training = {}
        for key, value in settings.items():
            if key in NETWORK_KEYS:
                network[key] = value
            else:
                training[key] = value  # the constructor refuses unknown keys
        return cls(
            network=network,
            iterations=data.run_length.iterations,
            log_every=data.run_length.log_every,
            val_every=data.run_length.val_every,
            **training,
        )

    @property
    def clip(self) -> float:
        """Maximum norm of the gradient; 0 for no clipping."""
        return self.trainer.gradient_clip_val or 0

    def forward(self, batch: Batch) -> Any:
        """Return the log-probabilities of the categories [B, C] for a batch of names."""
        return self.network(batch.letters, batch.lengths)

    def configure_optimizers(self) -> Any:
        """Return the optimizer, and the learning-rate schedule if there is one."""
        # The n-gram models are fitted already; their parameters do not require gradients.
        parameters = [weight for weight in self.network.parameters() if weight.requires_grad]
        lr = self.hparams["lr"]
        weight_decay = self.hparams["weight_decay"]
        optimizer: Optimizer
        if self.hparams["optimizer"] == "adamw":
            optimizer = AdamW(
                parameters, lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
            )
        else:
            optimizer = SGD(parameters, lr, weight_decay=weight_decay)
        if self.hparams["schedule"] == "constant":
            return optimizer
        scheduler = LambdaLR(optimizer, warmup_cosine_schedule(self.run_length.iterations))
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def on_train_start(self) -> None:
        """Log the history again if the run is resumed, because the loggers are new."""
        for iteration, values in self.history:
            for logger in self.loggers:
                logger.log_metrics(values, step=iteration)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the loss of a batch, which is one iteration, and a prediction for its first name.

        Progress lines show the prediction; see src/run/callbacks.py.

        Returns:
            A dictionary with the entries

            - `loss`: the mean loss of the names of this process, weighted by their number; a
              scalar.
            - `losses`: the mean loss of the names of all processes, the only element of a tensor
              [1].
            - `guesses`: the predicted category of the first name [1], int64.
        """
        self._seed_dropout()
        n_names = len(batch.lengths)
        if n_names > 0:
            log_probs = self(batch)  # [B, C]
            # Label smoothing: the target is mixed with the uniform distribution, and the
            # cross-entropy with the latter is the negative mean of all log-probabilities.
            smoothing = self.hparams["label_smoothing"]
            nll = F.nll_loss(log_probs, batch.targets)
            loss = (1 - smoothing) * nll - smoothing * log_probs.mean()
            guesses = log_probs[:1].argmax(dim=1)
        else:
            # With DDP, a process may get no names of a small batch, but it must still take part in
            # averaging the gradients. Its loss is 0, but depends on all weights.
            zeros = [0 * weight.sum() for weight in self.network.parameters()]
            loss = torch.stack(zeros).sum()
            guesses = batch.targets  # empty
        # DDP takes the mean of the gradients over the processes. Each process is weighted by its
        # number of names, so that the result is the gradient of the mean loss of all names.
        loss_sum = n_names * loss.detach()
        sums = torch.stack((loss_sum, loss.new_tensor(n_names)))
        mean_sums = self.trainer.strategy.reduce(sums)  # means over processes
        mean_loss_sum, mean_n_names = mean_sums
        loss_of_all_names = mean_loss_sum / mean_n_names  # the number of processes cancels out
        return {
            "loss": n_names / mean_n_names * loss,
            "losses": loss_of_all_names.reshape(1),
            "guesses": guesses,
        }

    def _seed_dropout(self) -> None:
        """Seed dropout for the current iteration, so that a resumed run has the same dropout."""
        # The seed is unique for each pair of a run's seed and an iteration, because a run has fewer
        # than 2^31 iterations.
        seed = (self.hparams["seed"] << 31) + self.iteration
        # `torch.manual_seed` would seed all kinds of devices, which is slow.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Count the iterations of the batch, and log their mean loss if a point is due.

        Raises:
            DivergenceError: if a loss or a weight is not finite.
        """
        losses = outputs["losses"].cpu()  # one for each iteration of the batch
        is_finite = losses.isfinite()
        if not is_finite.all():
            first_index = int(is_finite.logical_not().nonzero()[0])
            raise self._divergence_error(self.iteration + first_index + 1)
        self.iteration += len(losses)
        self._losses_since_point.append(losses)
        is_point = self.iteration % self.run_length.log_every == 0
        is_end = self.iteration >= self.run_length.iterations
        if is_point or is_end:
            # The last step may have gone wrong after its loss was computed.
            if not all(weight.isfinite().all() for weight in self.network.parameters()):
                raise self._divergence_error(self.iteration)
            mean_loss = torch.cat(self._losses_since_point).double().mean().item()
            self._record({"train/loss": mean_loss, **self.extra_values_to_log()})
        # If the run ends between two points, the losses are kept: if it is extended, the next point
        # is the mean of all iterations since the last point.
        if is_point:
            self._losses_since_point.clear()

    def extra_values_to_log(self) -> dict[str, float]:
        """Return further values for a point of the loss curve: the learning rate, if it changes."""
        if self.hparams["schedule"] == "constant":
            return {}
        optimizer = self.trainer.optimizers[0]
        return {"train/lr": optimizer.param_groups[0]["lr"]}

    def on_train_epoch_end(self) -> None:
        """Stop training after the last iteration."""
        # `should_stop` is never set to False, because a callback may have set it to True.
        if self.iteration >= self.run_length.iterations:
            self.trainer.should_stop = True

    def _divergence_error(self, iteration: int) -> DivergenceError:
        """Return the error for a loss or a weight that is not finite in an iteration."""
        settings = f"lr={self.hparams['lr']} clip={self.clip:g}"
        # If clipping is on already, a lower norm may help.
        suggestion = "a lower clip" if self.clip else "clip=500"
        return DivergenceError(
            f"{settings}: the loss or a weight is no longer finite at iteration {iteration:,}; "
            f"try a lower lr or {suggestion}"
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the metrics by one batch.

        Raises:
            DivergenceError: if a loss is not finite.
        """
        log_probs = self(batch)  # [B, C]
        losses = F.nll_loss(log_probs, batch.targets, reduction="none")
        if not losses.isfinite().all():
            raise self._divergence_error(self.iteration)
        self.mean_loss.update(losses)
        self.metrics.update(log_probs, batch.targets)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of all validation or test names."""
        stage = "test" if self.trainer.testing else "val"
        metrics = {"loss": self.mean_loss.compute(), **self.metrics.compute()}
        values = {f"{stage}/{name}": float(value) for name, value in metrics.items()}
        self.mean_loss.reset()
        self.metrics.reset()
        # `log_dict` puts the values into `trainer.callback_metrics`, where callbacks find them. It
        # also passes them to the loggers, except during `fit`: there, Lightning ignores `step` and
        # counts batches instead, so `_record` logs them with the iteration.
        is_fitting = self.trainer.state.fn == "fit"
        self.log_dict({**values, "step": float(self.iteration)}, logger=not is_fitting)
        if not self.trainer.sanity_checking:
            self._record(values, to_loggers=is_fitting)

    on_test_epoch_end = on_validation_epoch_end

    def _record(self, values: dict[str, float], to_loggers: bool = True) -> None:
        """Add values to the history, and log them with the iteration as their step."""
        self.history.append((self.iteration, values))
        if to_loggers:
            for logger in self.loggers:
                logger.log_metrics(values, step=self.iteration)

    def curve(self, tag: str) -> list[tuple[int, float]]:
        """Return the values that were logged under a tag, as pairs of an iteration and a value."""
        return [(iteration, values[tag]) for iteration, values in self.history if tag in values]

    def last_values(self) -> dict[str, float]:
        """Return the last value of each tag that was logged."""
        last_values: dict[str, float] = {}
        for _, values in self.history:
            last_values.update(values)
        return last_values

    @torch.inference_mode()
    def log_probabilities(self, batches: Iterable[Batch]) -> Tensor:
        """Return the log-probabilities of all names of some batches [N, C], on the CPU."""
        results = []
        for batch in batches:
            batch_on_device = self.transfer_batch_to_device(batch, self.device, dataloader_idx=0)
            results.append(self(batch_on_device).cpu())
        return torch.cat(results)

    def score_under_each_prior(
        self, stage: str, log_probs: Tensor, targets: Tensor
    ) -> dict[str, float]:
        """Return the metrics of some names under each prior, as `<stage>/<prior>/<metric>`.

        Args:
            stage: prefix of the tags.
            log_probs: log-probabilities of the names under the training prior [N, C].
            targets: indices of their true categories [N].
        """
        assert self.calibration is not None
        scores = {}
        for prior in PRIORS:
            # A clone, so that the metrics of the model itself are not changed.
            metrics = self.metrics.clone(prefix=f"{stage}/{prior}/")
            values = metrics(self.calibration.log_probabilities(log_probs, prior), targets)
            for tag, value in values.items():
                # The top-3 accuracy is left out, because it hardly depends on the prior.
                if "top3" not in tag:
                    scores[tag] = float(value)
        return scores

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the iteration, the history, the losses and the calibration to a checkpoint."""
        # Lightning's own counters are not needed, because the data loader starts at `iteration`.
        # With them, a run that is resumed in the middle of an epoch would be validated once more.
        del checkpoint["loops"]
        checkpoint["iteration"] = self.iteration
        checkpoint["history"] = self.history
        checkpoint["losses"] = self._losses_since_point
        if self.calibration is not None:
            checkpoint["calibration"] = self.calibration.to_checkpoint()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the iteration, the history and the losses since the last point of the loss curve.

        The calibration is not restored, because it is fitted again after training.
        """
        # Lightning calls this method before it loads the weights.
        rename_keys_of_early_version_4(checkpoint)
        self.iteration = int(checkpoint["iteration"])
        self.history = []
        for iteration, values in checkpoint["history"]:
            if self._is_logged_by_uninterrupted_run(int(iteration), values):
                self.history.append((int(iteration), dict(values)))
        self._losses_since_point = [losses.float() for losses in checkpoint["losses"]]

    def _is_logged_by_uninterrupted_run(self, iteration: int, values: dict[str, float]) -> bool:
        """Return whether a run that was never interrupted would also have logged these values.

        A run logs its end even if no point is due. If it is extended, this extra point is dropped.
        """
        if "train/loss" in values:
            interval = self.run_length.log_every
        elif "val/loss" in values:
            interval = self.run_length.val_every
        else:
            return False  # test scores
        return iteration % interval == 0 or iteration >= self.run_length.iterations


def warmup_cosine_schedule(iterations: int) -> Callable[[int], float]:
    """Return a function that maps an iteration to a factor of the learning rate.

    Args:
        iterations: number of iterations of the whole run.
    """
    warmup_iterations = max(1, WARMUP_FRACTION * iterations)

    def compute_factor(iteration: int) -> float:
        warmup = min(1.0, (iteration + 1) / warmup_iterations)  # rises linearly to 1
        decay = (1 + math.cos(math.pi * iteration / iterations)) / 2  # falls from 1 to 0
        return warmup * decay

    return compute_factor
