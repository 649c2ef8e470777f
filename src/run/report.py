"""What a run leaves behind: its pictures and numbers in the folder and the loggers, a table."""

import logging
import shlex
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from textwrap import indent
from typing import Any

import yaml
from hydra.errors import HydraException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from src.config import HYPERPARAMETERS, RUN_KEYS, Config
from src.errors import UserError
from src.files import remove_temp_files, write_bytes
from src.models.classifier import DivergenceError, NameClassifier
from src.models.registry import PRIORS, SCORE
from src.run import figures
from src.run.callbacks import Progress
from src.run.messages import first_line, shell_override
from src.run.run_folder import CONFIG_FILE, METRICS_FILE, Metrics, RunResult, Status, write_result

log = logging.getLogger(__name__)

SCORES = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "top3_accuracy")
FIRST = [SCORE, "val/loss", "train/loss", "test/balanced_accuracy", "test/accuracy"]
METRICS = dict.fromkeys([*FIRST, *(f"{stage}/{s}" for stage in ("val", "test") for s in SCORES)])
"""Of TensorBoard's HParams tab; the same for all runs, as it takes one run's word for them."""
COLUMNS = 5  # that it shows of the settings, and of the metrics, before somebody chooses others
CHARTS = {"loss": {"train/loss and val/loss": ["Multiline", ["train/loss", "val/loss"]]}}
"""Of the Custom Scalars tab."""
ABOUT_PRIORS = """* the same names under another prior, which says how common each category is:
  uniform, all equally; corpus, as in the corpus; tempered, in between"""


def begin(config: Config, folder: Path) -> None:
    """Note a run's settings in its folder; what it was before it goes on is no longer so."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_temp_files(folder)
    (folder / METRICS_FILE).unlink(missing_ok=True)
    settings = yaml.safe_dump(config.subset(RUN_KEYS), sort_keys=False)
    write_bytes(folder / CONFIG_FILE, settings.encode())


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
    is_resumed: bool
    """Whether it begins with a checkpoint."""
    start: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.whole: int = self.model.hparams["iterations"]  # the config's say nothing with passes
        self.settings = self.config.subset(HYPERPARAMETERS) | {"iterations": self.whole}
        self.prior_scores: Metrics = {}
        self.told = self.config.displayed_settings | {"iterations": self.whole}

    def __enter__(self) -> "Report":
        """Note the settings; make the loggers."""
        if self.trainer.is_global_zero:
            begin(self.config, self.folder)
            self.trainer.loggers = [] if self.trainer.fast_dev_run else self._make_loggers()
        else:
            logging.disable(logging.WARNING)
        return self

    def _make_loggers(self) -> list[Logger]:
        """Return the loggers that the settings describe, each told of them.

        What an earlier part of the run has logged to its folder is deleted: it is to be logged
        again.
        """
        made = []
        for path in (*self.folder.glob("events.out.tfevents.*"), *self.folder.glob("metrics.csv")):
            path.unlink()
        for name, how in self.config.logger.items():
            try:
                folder_too = {"save_dir": self.folder} if how.get("save_dir", "") is None else {}
                made.append(instantiate(how, **folder_too))
                _ = made[-1].experiment  # some of the arguments are only looked at now
                made[-1].log_hyperparams(self.settings)
            except (HydraException, ImportError, TypeError, ValueError, AttributeError) as error:
                raise UserError(f"logger.{name}: {first_line(error.__cause__ or error)}") from None
        return made

    @property
    def metrics(self) -> Metrics:
        """The numbers so far."""
        seconds, speed = time.perf_counter() - self.start, self.progress.names_per_second
        told = {"iterations": self.model.iteration, "seconds": seconds, "names_per_second": speed}
        return {**self.model.last_values(), **self.prior_scores, **told}

    def finish(
        self,
        log_probs: Tensor,
        targets: Tensor,
        split: str,
        prior_scores: Metrics,
    ) -> Metrics:
        """Report a run that came to its end, in order; return its numbers.

        Args:
            log_probs: log-probabilities of the names in the confusion matrix [N, C].
            targets: indices of their true categories [N].
            split: name of the split that these names are.
            prior_scores: scores of the test names under each prior. They are not part of a curve.
        """
        self.prior_scores = prior_scores  # stored first, so that metrics.json has it in any case
        metrics = self.metrics
        if not self.trainer.is_global_zero:
            return metrics
        answers = targets.numpy(), log_probs.argmax(dim=1).numpy(), self.model.network.categories
        picture = figures.as_png(figures.confusion_figure(*answers, f"the {split} names"))
        write_bytes(self.folder / "confusion_matrix.png", picture)
        result = summary(metrics, self.folder, self.trainer.loggers)
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoard):
                logger.log_end(self, picture, result)
        log.info(result)
        return metrics

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        """Draw the curve; note how the run ended, and say so as a line where a user can mend it.

        Raises:
            UserError: instead of what Lightning and torch raise.
            KeyboardInterrupt: instead of what Lightning makes of it.
        """
        status = Status.FINISHED if self.model.iteration >= self.whole else Status.STOPPED
        if error:
            status = Status.DIVERGED if isinstance(error, DivergenceError) else Status.FAILED
        if interrupted := isinstance(error, KeyboardInterrupt | SystemExit):
            status = Status.INTERRUPTED
        if interrupted:
            end_child_processes(self.trainer)
        if not self.trainer.is_global_zero:  # the leading process says it
            if interrupted or isinstance(error, UserError):
                raise SystemExit(0) from error  # or Lightning kills that one at once
            return
        self._draw_loss(status, error)
        for logger in self.trainer.loggers:  # the next run of this process is another
            if isinstance(logger, TensorBoard):
                logger.experiment.close()
            elif isinstance(logger, WandbLogger):
                logger.experiment.finish()
        if status != Status.FAILED:
            write_result(self.folder, RunResult(status, self.metrics, ""))
        if status in (Status.STOPPED, Status.INTERRUPTED):
            said = f"{status.value.capitalize()} at iteration {self.model.iteration:,}."
            if not self.config.is_seed_run and (self.folder / "checkpoints/last.ckpt").exists():
                said += f" To go on:\npython -m src.train {shell_override('resume', self.folder)}"
            log.info(said)
        if interrupted:
            raise KeyboardInterrupt from None
        if error is None or isinstance(error, UserError | OSError):
            return
        if self.is_resumed and not self.progress.started:
            raise UserError(f"{self.folder}: cannot be taken up: {first_line(error)}") from error
        if isinstance(error, RuntimeError | MisconfigurationException):
            raise UserError(f"the training has failed: {first_line(error)}") from error

    def _draw_loss(self, status: Status, error: BaseException | None) -> None:
        named = {"training": "train/loss", "validation": "val/loss"}
        curves = {name: curve for name, tag in named.items() if (curve := self.model.curve(tag))}
        if not curves:
            return
        when = f" at iteration {self.model.iteration:,} of {self.whole:,}"
        said = status.value + (f", {error}" if status == Status.DIVERGED else when)
        n = len(self.model.network.categories)
        if score := self.model.last_values().get(SCORE):
            said += f"\nvalidation balanced accuracy {score:.3f}; blind guessing {1 / n:.3f}"
        title = " ".join(f"{key}={value}" for key, value in self.told.items())
        figure = figures.loss_figure(curves, n, title, said, well=status == Status.FINISHED)
        write_bytes(self.folder / "loss.png", figures.as_png(figure))


def end_child_processes(trainer: Trainer) -> None:
    """Kill the processes that Lightning has started for DDP, and wait for them.

    Lightning also kills them after a KeyboardInterrupt, but its thread that watches them then kills
    this process up to five seconds later, which may be before the run's files are written. An empty
    list of processes ends that thread.
    """
    child_processes: list[Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
    for child in child_processes:
        child.kill()
        child.wait()
    child_processes.clear()


class TensorBoard(TensorBoardLogger):
    """Lightning's, writing all of a run into one file: Lightning closes it after fit and test."""

    def save(self, status: str = "") -> None:
        """Flush; the settings are in config.yaml."""
        self.experiment.flush()

    finalize = save

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Write the settings as text, and what is to be seen on one chart."""
        text = indent(yaml.safe_dump(params, sort_keys=False), "    ")  # Markdown's way to keep it
        self.experiment.add_text("settings", text)
        self.experiment.add_custom_scalars(CHARTS)

    def log_end(self, report: Report, picture: bytes, result: str) -> None:
        """Show the confusion matrix and the result; make the run's row of the HParams tab."""
        # As it is: add_image would decode it and encode it again.
        width, height = struct.unpack_from(">2I", picture, 16)
        image = Summary.Image(encoded_image_string=picture, width=width, height=height)
        value = Summary.Value(tag="confusion_matrix", image=image)
        self.experiment.file_writer.add_summary(Summary(value=[value]), report.model.iteration)
        self.experiment.add_text("result", indent(result, "    "), report.model.iteration)
        said = report.settings.items()
        known = {key: str(v).lower() if isinstance(v, bool) else v for key, v in said}
        shown = [key for key in report.told if key in known][:COLUMNS]
        about, *row = hparams(known, dict.fromkeys(METRICS, 0.0))  # type: ignore[no-untyped-call]
        plugin = about.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin.content)
        for info in content.experiment.hparam_infos:
            info.differs = info.name in shown
        plugin.content = content.SerializeToString()
        for each in (about, *row):
            self.experiment.file_writer.add_summary(each)


def summary(metrics: Metrics, folder: Path, loggers: list[Logger]) -> str:
    """Return the metrics as a table, the speed, where the files are and how to look at them.

    No column of the table repeats another: one prior is as the training was.
    """
    titles = {"val": "validation", "test": "test"} | {f"test/{p}": f"{p}*" for p in PRIORS}
    columns: dict[str, dict[str, float]] = {}
    for stage, title in titles.items():
        column = {s: metrics[f"{stage}/{s}"] for s in SCORES if f"{stage}/{s}" in metrics}
        as_trained = title[-1] == "*" and column.items() <= columns.get("test", {}).items()
        if column and not as_trained:
            columns[title] = column
    lines = [" " * 20 + "".join(f"{title:>12}" for title in columns)] if columns else []
    for name in SCORES if columns else ():
        cells = [f"{column[name]:>12.4f}" for column in columns.values() if name in column]
        lines.append(f"{name.replace('_', ' '):<20}{''.join(cells)}")
    if any(title.endswith("*") for title in columns):
        lines.append(ABOUT_PRIORS)
    said = "{iterations:,} iterations at {names_per_second:,.0f} names/s, {seconds:.1f} s"
    here = Path.cwd()
    place = folder.relative_to(here) if here in folder.parents else folder
    lines += ["", f"{said.format(**metrics)} after imports", f"Run          {place}"]
    if any(isinstance(logger, TensorBoardLogger) for logger in loggers):
        shown = "outputs" if place.parts[0] == "outputs" else str(place)  # all runs together
        lines.append(f"TensorBoard  tensorboard --logdir {shlex.quote(shown)}")
    return "\n".join(lines)
