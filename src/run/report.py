"""What a run leaves behind: its pictures and numbers in the folder and the loggers, a table."""

import logging
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from matplotlib.image import imread
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from src.config import FLAT, HYPERPARAMETERS, SETTINGS, Config, typed
from src.errors import UserError
from src.models.classifier import DivergenceError, NameClassifier
from src.models.decision import PRIORS
from src.run import files, pictures
from src.run.callbacks import Progress

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
    beyond: files.Metrics = field(default_factory=dict)
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
    def metrics(self) -> files.Metrics:
        """The numbers so far."""
        seconds, speed = time.perf_counter() - self.start, self.progress.names_per_second
        told = {"iterations": self.model.iteration, "seconds": seconds, "names_per_second": speed}
        return {**self.model.final_scores(), **self.beyond, **told}

    def finish(
        self, logp: Tensor, targets: Tensor, categories: list[str], side: str
    ) -> files.Metrics:
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
        title = f"Guesses on the {side} names, % of each true category"
        answers = targets.numpy(), logp.argmax(dim=1).numpy(), categories
        picture = self.folder / "confusion_matrix.png"
        files.write_bytes(picture, pictures.as_png(pictures.confusion_figure(*answers, title)))
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoard):
                logger.log_end(self.config.pick(HYPERPARAMETERS), metrics, picture)
        done = self.model.iteration >= self.model.hparams["iterations"]
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
            picture = pictures.as_png(pictures.loss_figure(curve))
            files.write_bytes(self.folder / "loss.png", picture)
        for logger in self.trainer.loggers:  # the next run of this process is another
            if isinstance(logger, TensorBoard):
                logger.experiment.close()
            elif isinstance(logger, WandbLogger):
                logger.experiment.finish()
        if isinstance(error, DivergenceError):
            files.write_metrics(self.folder, files.DIVERGED, self.metrics)
        if interrupted:
            files.write_metrics(self.folder, files.INTERRUPTED, self.metrics)
            self._say("Interrupted")
            raise KeyboardInterrupt from None
        if error is None or isinstance(error, UserError | OSError):
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

    def save(self, status: str = "") -> None:
        """Flush; the settings are in config.yaml."""
        self.experiment.flush()

    finalize = save

    def log_end(self, settings: dict[str, Any], metrics: files.Metrics, picture: Path) -> None:
        """Show the confusion matrix, and make the run's row of the HParams tab."""
        at = int(metrics["iterations"])
        self.experiment.add_image("confusion_matrix", imread(picture), at, dataformats="HWC")
        # The row's metrics are points already logged; log_hyperparams would log them once more.
        scalars = {name: value for name, value in metrics.items() if name.count("/") == 1}
        for each in hparams(settings, scalars):  # type: ignore[no-untyped-call] # untyped
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
            made[-1].log_hyperparams(config.pick(HYPERPARAMETERS))
        except (HydraException, ImportError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"logger.{name}: {first_line(error.__cause__ or error)}") from None
    return made


def first_line(error: BaseException) -> str:
    """Return what an error says, in short."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def summary(metrics: files.Metrics, folder: Path, loggers: list[Logger]) -> str:
    """Return the metrics as a table, the speed, where the files are and how to look at them."""
    columns = {"validation": "val", "test": "test"} | {f"{p}*": f"test/{p}" for p in PRIORS}
    stages = {title: each for title, each in columns.items() if f"{each}/accuracy" in metrics}
    lines = []
    if stages:
        lines.append(" " * 20 + "".join(f"{title:>12}" for title in stages))
        for name in SCORES:
            tags = [f"{stage}/{name}" for stage in stages.values()]
            cells = [f"{metrics[tag]:>12.4f}" for tag in tags if tag in metrics]
            lines.append(f"{name.replace('_', ' '):<20}{''.join(cells)}")
    if any(title.endswith("*") for title in stages):
        lines.append("* the test names under each --prior of predict and evaluate")
    said = "{iterations:,} iterations at {names_per_second:,.0f} names/s, {seconds:.1f} s"
    lines += ["", f"{said.format(**metrics)} after imports", f"Run          {folder}"]
    if any(isinstance(logger, TensorBoardLogger) for logger in loggers):
        among = Path("outputs").resolve() in folder.resolve().parents  # then all runs together
        shown = "outputs" if among else str(folder)
        lines.append(f"TensorBoard  tensorboard --logdir {shlex.quote(shown)}")
    return "\n".join(lines)
