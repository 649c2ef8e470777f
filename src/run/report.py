"""Reports how a run ended: in its folder, in its loggers and on the console."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor

from src.config import RESULT_KEYS, RUN_KEYS, Config
from src.errors import UserError
from src.files import relative_to_current_folder, write_bytes_atomically
from src.models.classifier import DivergenceError, NameClassifier
from src.models.registry import DEFAULT_PRIOR, SCORE
from src.run import figures
from src.run.callbacks import Progress
from src.run.loggers import (
    RunTensorBoardLogger,
    close_loggers,
    delete_log_files,
    make_loggers_and_log_settings,
)
from src.run.messages import first_line_of_message, format_folder_override
from src.run.result_table import format_result_summary
from src.run.run_folder import (
    LAST_CHECKPOINT,
    Metrics,
    RunResult,
    Status,
    start_run_folder,
    write_result,
)

SPLIT_LABELS = {"train": "training", "val": "validation", "test": "test"}
"""Names of the splits in the titles of figures."""

log = logging.getLogger(__name__)


@dataclass
class Report:
    """A context manager around the training of a run, which reports how the run ended.

    If several processes train together, only the one of rank 0 reports.

    Attributes:
        logged_settings: all settings of the run, for its loggers.
        displayed_settings: the settings that identify the run, for the title of the loss curves.
        metric_names: the names of the metrics without the prefix `val/` or `test/`.
        prior_scores: the scores of the test names under each prior, by tag; empty until
            `report_result` is called.
    """

    config: Config
    folder: Path
    """The folder of the run."""
    model: NameClassifier
    trainer: Any
    progress: Progress
    """The callback that measures the speed."""
    is_resumed: bool
    """Whether the run continues from a checkpoint."""

    def __post_init__(self) -> None:
        self.logged_settings = self.config.subset(RESULT_KEYS)
        self.displayed_settings = self.config.displayed_settings
        # With `passes`, the configuration does not contain the actual number of iterations.
        iterations = self.model.run_length.iterations
        self.logged_settings["iterations"] = iterations
        self.displayed_settings["iterations"] = iterations
        # A MetricCollection is a dictionary, whose keys are the names of its metrics.
        self.metric_names = ["loss", *map(str, self.model.metrics)]
        self.prior_scores: Metrics = {}

    def __enter__(self) -> "Report":
        """Write the settings of the run to its folder, and create its loggers."""
        if not self.trainer.is_global_zero:
            return self
        start_run_folder(self.folder, self.config.subset(RUN_KEYS))
        # With `fast_dev_run`, which is for debugging, Lightning logs nothing either.
        if self.trainer.fast_dev_run:
            self.trainer.loggers = []
            return self
        delete_log_files(self.folder)
        self.trainer.loggers = make_loggers_and_log_settings(
            self.config.logger, self.folder, self.logged_settings
        )
        return self

    @property
    def metrics(self) -> Metrics:
        """The current values of all metrics."""
        return {
            **self.model.last_values(),
            **self.prior_scores,
            "iterations": self.model.iteration,
            "seconds": time.perf_counter() - self.config.start_time,  # of the whole run
            "names_per_second": self.progress.names_per_second,  # of the training loop alone
        }

    def report_result(
        self, log_probs: Tensor, targets: Tensor, split: str, prior_scores: Metrics
    ) -> Metrics:
        """Report the result of a run that was not interrupted, and return its metrics.

        This draws the confusion matrix, logs the result and prints it.

        Args:
            log_probs: log-probabilities of the names in the confusion matrix [N, C].
            targets: indices of their true categories [N].
            split: the split that these names belong to; a key of `SPLIT_LABELS`.
            prior_scores: scores of the test names under each prior.
        """
        # Stored first, so that `__exit__` writes them to metrics.json even if a signal arrives
        # while the rest of this method runs.
        self.prior_scores = prior_scores
        # All processes return the metrics, but only the one of rank 0 writes and prints.
        if not self.trainer.is_global_zero:
            return self.metrics
        prior = "as trained"
        if self.model.calibration:
            # The picture shows the predictions that `src.predict` makes by default.
            prior = DEFAULT_PRIOR
            log_probs = self.model.calibration.log_probabilities(log_probs, DEFAULT_PRIOR)
        figure = figures.draw_clustered_confusion_matrix(
            targets=targets.numpy(),
            predictions=log_probs.argmax(dim=1).numpy(),
            categories=self.model.network.categories,
            names_description=f"{SPLIT_LABELS[split]} set",
            prior=prior,
        )
        confusion_matrix = figures.render_png(figure)
        write_bytes_atomically(self.folder / "confusion_matrix.png", confusion_matrix)
        # Here, so that the duration in the summary includes the time for the picture.
        metrics = self.metrics
        summary = format_result_summary(
            metrics=metrics,
            metric_names=self.metric_names,
            training_seconds=self.progress.seconds,
            folder=self.folder,
            loggers=self.trainer.loggers,
        )
        for logger in self.trainer.loggers:
            if isinstance(logger, RunTensorBoardLogger):
                logger.log_result_and_hparams(
                    iteration=self.model.iteration,
                    result_table=summary,
                    settings=self.logged_settings,
                    overridden_keys=self.config.overridden_keys,
                    metric_tags=self._list_val_and_test_tags(),
                )
                logger.log_figure("confusion_matrix", confusion_matrix, self.model.iteration)
        log.info(summary)
        return metrics

    def _list_val_and_test_tags(self) -> list[str]:
        """Return the tags of all metrics of validation and test."""
        tags = []
        for stage in ("val", "test"):
            tags += [f"{stage}/{name}" for name in self.metric_names]
        return tags

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        """Write the result and the loss curve, close the loggers and report errors.

        Raises:
            UserError: for an error that the user can fix.
            KeyboardInterrupt: if a signal ended the run.
            SystemExit: if this is not the process of rank 0, and the run was interrupted or failed
                with a UserError.
        """
        status = self._status_after(error)
        # This comes before any file is written, because Lightning could kill this process while it
        # writes them; see `kill_ddp_processes`.
        if status == Status.INTERRUPTED:
            kill_ddp_processes(self.trainer)
        if not self.trainer.is_global_zero:
            if status == Status.INTERRUPTED or isinstance(error, UserError):
                # The process of rank 0 reports the error, and needs a while to write its files. If
                # this process had any other exit status, Lightning would kill the one of rank 0 at
                # once.
                raise SystemExit(0) from error
            return
        self._write_loss_figure(status, error)
        close_loggers(self.trainer.loggers)
        # A run that failed has no result. If it is part of a sweep, the caller writes the reason to
        # metrics.json.
        if status != Status.FAILED:
            write_result(self.folder, RunResult(status, self.metrics, reason=""))
        if status in (Status.STOPPED, Status.INTERRUPTED):
            log.info(self._format_resume_message(status))
        if status == Status.INTERRUPTED:
            # Lightning has turned the KeyboardInterrupt into a SystemExit.
            raise KeyboardInterrupt from None
        self._raise_user_error_if_fixable(error)

    def _status_after(self, error: BaseException | None) -> Status:
        """Return the status of a run that has ended.

        Args:
            error: the exception that ended the run, or None.
        """
        if error is None:
            # A stopping callback or `max_time` can end a run early.
            is_finished = self.model.iteration >= self.model.run_length.iterations
            return Status.FINISHED if is_finished else Status.STOPPED
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return Status.INTERRUPTED
        if isinstance(error, DivergenceError):
            return Status.DIVERGED
        return Status.FAILED

    def _format_resume_message(self, status: Status) -> str:
        """Return how the run ended and, if it has a checkpoint, the command that resumes it."""
        message = f"{status.value.capitalize()} at iteration {self.model.iteration:,}"
        # A run of several seeds is resumed as a whole.
        if not self.config.is_seed_run and (self.folder / LAST_CHECKPOINT).exists():
            override = format_folder_override("resume", relative_to_current_folder(self.folder))
            message += f"\nResume       python -m src.train {override}"
        return message

    def _raise_user_error_if_fixable(self, error: BaseException | None) -> None:
        """Raise a UserError in place of an error of Lightning or torch that the user can fix.

        Raises:
            UserError: see above. All other errors are left to be raised by the `with` statement.
        """
        # UserErrors and OSErrors are reported as they are.
        if error is None or isinstance(error, UserError | OSError):
            return
        # A resumed run that fails before its first step most likely has an unsuitable checkpoint.
        if self.is_resumed and not self.progress.has_started:
            reason = first_line_of_message(error)
            raise UserError(f"{self.folder}: the run cannot be resumed: {reason}") from error
        # For example, a GPU has too little memory, or two arguments of the Trainer conflict.
        if isinstance(error, RuntimeError | MisconfigurationException):
            raise UserError(f"training failed: {first_line_of_message(error)}") from error

    def _write_loss_figure(self, status: Status, error: BaseException | None) -> None:
        """Draw the loss curves and write the picture, if there is a point to draw."""
        curves = {}
        for tag, label in self._label_loss_curves().items():
            curve = self.model.curve(tag)
            if curve:
                curves[label] = curve
        if not curves:
            return
        settings = [f"{key}={value}" for key, value in self.displayed_settings.items()]
        figure = figures.draw_loss_curves(
            curves=curves,
            n_categories=len(self.model.network.categories),
            title=" ".join(settings),
            subtitle=self._format_outcome(status, error),
            is_finished=status == Status.FINISHED,
        )
        png = figures.render_png(figure)
        write_bytes_atomically(self.folder / "loss.png", png)
        for logger in self.trainer.loggers:
            if isinstance(logger, RunTensorBoardLogger):
                logger.log_figure("loss", png, self.model.iteration)

    def _label_loss_curves(self) -> dict[str, str]:
        """Return the labels of the loss curves by tag; they say how the two curves differ."""
        training = "training"
        validation = "validation"
        if self.model.network.ngrams is not None:
            training += " (network alone)"
            validation += " (with n-grams)"
        elif self.config.sampling == "balanced":
            training += " (balanced categories)"
            validation += " (natural frequencies)"
        return {"train/loss": training, "val/loss": validation}

    def _format_outcome(self, status: Status, error: BaseException | None) -> str:
        """Return the subtitle of the loss figure.

        The first line says how the run ended, unless it is finished, and the next one contains the
        score, if there is one.
        """
        iterations = self.model.run_length.iterations
        if status == Status.FINISHED:
            outcome = ""
        elif status == Status.DIVERGED:
            # The message of a DivergenceError contains the iteration.
            outcome = f"{status.value}, {error}"
        else:
            outcome = f"{status.value} at iteration {self.model.iteration:,} of {iterations:,}"
        score = self.model.last_values().get(SCORE)
        if score is not None:
            n_categories = len(self.model.network.categories)
            outcome += f"\nvalidation balanced accuracy {score:.3f} "
            outcome += f"(chance level {1 / n_categories:.3f})"
        # For a finished run, the line before the score is empty and is removed.
        return outcome.strip()


def kill_ddp_processes(trainer: Trainer) -> None:
    """Kill the processes that Lightning has started for DDP, and wait for them.

    After a KeyboardInterrupt, Lightning would kill these processes as well. But its monitor thread
    would then also kill this process within five seconds, perhaps before the files of the run are
    written. The monitor thread ends if the list of processes is empty.
    """
    child_processes: list[Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
    for child in child_processes:
        child.kill()
        child.wait()
    child_processes.clear()
