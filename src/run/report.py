"""What a run leaves behind: its pictures and numbers in the folder and the loggers, a table."""

import io
import logging
import shlex
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra.errors import HydraException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from src.config import FLAT, HYPERPARAMETERS, SETTINGS, Config, typed
from src.errors import UserError
from src.models.classifier import DivergenceError, NameClassifier
from src.models.decision import PRIORS
from src.run import files
from src.run.callbacks import Progress
from src.run.files import Metrics
from src.run.pictures import as_png, confusion_figure, loss_figure

log = logging.getLogger(__name__)

SCORES = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "top3_accuracy")


@dataclass
class Report:
    """Entered around a training, it says how that ended: in metrics.json, as pictures, in a line.

    Of several processes of a run, the leading one reports.
    """

    config: Config
    folder: Path
    model: NameClassifier
    trainer: Any
    progress: Progress
    resumes: bool
    """Whether it begins with a checkpoint."""
    beyond: Metrics = field(default_factory=dict)
    """Scores that are points of no curve."""
    start: float = field(default_factory=time.perf_counter)

    def __enter__(self) -> "Report":
        """Note the settings; make the loggers."""
        if not self.trainer.is_global_zero:
            logging.disable(logging.WARNING)
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        files.remove_parts(self.folder)
        (self.folder / files.FILE).unlink(missing_ok=True)  # of a run before it went on
        settings = yaml.safe_dump(self.config.pick(FLAT), sort_keys=False)
        files.write_bytes(self.folder / SETTINGS, settings.encode())
        if not self.trainer.fast_dev_run:
            self.trainer.loggers = make_loggers(self.config, self.folder)
        return self

    @property
    def metrics(self) -> Metrics:
        """The numbers so far."""
        return {
            **self.model.final_scores(),
            **self.beyond,
            "iterations": self.model.iteration,
            "seconds": time.perf_counter() - self.start,
            "names_per_second": self.progress.names_per_second,
        }

    def finish(self, logp: Tensor, targets: Tensor, categories: list[str], side: str) -> Metrics:
        """Report a run that came to its end, in order; return its numbers.

        Args:
            logp: log-probabilities of the names to picture [N, C].
            targets: their true categories [N].
            categories: C of them.
            side: of the split.
        """
        metrics = self.metrics
        if not self.trainer.is_global_zero:
            return metrics
        answers = np.asarray(targets), np.asarray(logp.argmax(dim=1)), categories
        title = f"Guesses on the {side} names, % of each true category"
        picture = as_png(confusion_figure(*answers, title))
        files.write_bytes(self.folder / "confusion_matrix.png", picture)
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoard):
                logger.log_end(self.config.pick(HYPERPARAMETERS), metrics, picture)
        done = self.model.iteration >= self.config.iterations
        files.write_metrics(self.folder, files.FINISHED if done else files.STOPPED, metrics)
        log.info(summary(metrics, self.folder, self.trainer.loggers))
        if not done:
            self._say("Stopped")
        return metrics

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        """Draw the curve; note why the run ended, and say so as a line where a user can mend it.

        Raises:
            UserError: instead of what Lightning and torch raise.
            KeyboardInterrupt: instead of what Lightning makes of it.
        """
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        if not self.trainer.is_global_zero:  # the leading process says it
            if interrupted or isinstance(error, UserError):
                raise SystemExit(1) from error
            return
        if curve := self.model.curve("train/loss"):
            files.write_bytes(self.folder / "loss.png", as_png(loss_figure(curve)))
        if isinstance(error, DivergenceError):
            files.write_metrics(self.folder, files.DIVERGED, self.metrics)
        if interrupted:
            files.write_metrics(self.folder, files.INTERRUPTED, self.metrics)
            self._say("Interrupted")
        close(self.trainer.loggers)
        if interrupted:
            raise KeyboardInterrupt from None
        if isinstance(error, UserError | OSError) or not isinstance(error, Exception):
            return
        if self.resumes and not self.progress.started:
            raise UserError(f"{self.folder}: cannot be taken up: {first_line(error)}") from error
        if isinstance(error, RuntimeError | MisconfigurationException):
            raise UserError(f"the training has failed: {first_line(error)}") from error

    def _say(self, ended: str) -> None:
        text = f"{ended} at iteration {self.model.iteration:,}."
        if (self.folder / "checkpoints/last.ckpt").exists():
            text += f" To go on:\npython -m src.train {typed('resume', self.folder)}"
        log.info(text)


class TensorBoard(TensorBoardLogger):
    """Lightning's, writing all of a run into one file: Lightning closes it after fit and test."""

    def save(self) -> None:
        """Flush; the settings are in config.yaml."""
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Likewise."""
        self.save()

    def log_end(self, settings: Mapping[str, Any], metrics: Metrics, confusion: bytes) -> None:
        """Show the confusion matrix, and make the run's row of the HParams tab."""
        image = np.asarray(Image.open(io.BytesIO(confusion)).convert("RGB"))
        at = int(metrics["iterations"])
        self.experiment.add_image("confusion_matrix", image, at, dataformats="HWC")
        # The row's metrics are points already logged; log_hyperparams would log them once more.
        scalars = {name: value for name, value in metrics.items() if name.count("/") == 1}
        for each in hparams(dict(settings), scalars):  # type: ignore[no-untyped-call] # untyped
            self.experiment.file_writer.add_summary(each)


def make_loggers(config: Config, folder: Path) -> list[Logger]:
    """Return the loggers that a configuration describes, each told of the run's settings.

    What an earlier part of the run has logged to its folder is deleted: it is to be logged again.

    Raises:
        UserError: if one cannot be made.
    """
    made = []
    for path in (*folder.glob("events.out.tfevents.*"), *folder.glob("metrics.csv")):
        path.unlink()
    for name, description in config.logger.items():
        try:
            folder_too = {"save_dir": folder} if description.get("save_dir", "") is None else {}
            made.append(instantiate(description, **folder_too))
            _ = made[-1].experiment  # some of the arguments are only looked at now
            if not isinstance(made[-1], TensorBoard):  # which is told at the end
                made[-1].log_hyperparams(config.pick(HYPERPARAMETERS))
        except (HydraException, ImportError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"logger.{name}: {first_line(error.__cause__ or error)}") from None
    return made


def close(loggers: Iterable[Logger]) -> None:
    """End what was logged: the next run of this process is another."""
    for logger in loggers:
        if isinstance(logger, TensorBoard):
            logger.experiment.close()
        elif isinstance(logger, WandbLogger):
            logger.experiment.finish()


def first_line(error: BaseException) -> str:
    """Return what an error says, in short."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def summary(metrics: Metrics, folder: Path, loggers: Iterable[Logger]) -> str:
    """Return the metrics as a table, the speed, where the files are and how to look at them."""
    columns = {"validation": "val", "test": "test"}
    columns |= {f"{prior}*": f"test/{prior}" for prior in PRIORS}
    there = [title for title, stage in columns.items() if f"{stage}/accuracy" in metrics]
    lines = [f"{'':20}" + "".join(f"{title:>12}" for title in there)] if there else []
    for name in SCORES if there else ():
        values = [metrics.get(f"{columns[title]}/{name}", "") for title in there]
        cells = "".join(f"{value:>12.4f}" if value != "" else f"{'':12}" for value in values)
        lines.append(f"{name.replace('_', ' '):<20}{cells}".rstrip())
    if any(title.endswith("*") for title in there):
        lines.append("* the test names under each --prior of predict and evaluate")
    said = "{iterations:,} iterations at {names_per_second:,.0f} names/s, {seconds:.1f} s"
    lines += ["", f"{said.format(**metrics)} after imports", f"Run          {folder}"]
    if any(isinstance(logger, TensorBoardLogger) for logger in loggers):
        outputs = Path("outputs")  # all runs together, if this one is among them
        shown = outputs if outputs.resolve() in folder.resolve().parents else folder
        lines.append(f"TensorBoard  tensorboard --logdir {shlex.quote(str(shown))}")
    return "\n".join(lines)
