"""Builds the loggers and callbacks of a run that the configuration describes."""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent
from typing import Any, cast

import matplotlib.image
import yaml
from hydra.errors import HydraException
from hydra.utils import instantiate
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams

from src.errors import UserError
from src.models.registry import SCORE
from src.run.messages import first_line_of_message

FIRST_METRICS = (SCORE, "val/loss", "train/loss", "test/balanced_accuracy", "test/accuracy")
"""The metrics that TensorBoard's HParams tab shows first."""
N_HPARAMS = 4
"""Number of settings in TensorBoard's HParams tab, unless the command line sets more. With four
settings, the score is among the five columns that the tab shows. TensorBoard shows all settings as
the text `settings`."""
# TensorBoard sorts tags alphabetically. With these prefixes, the curves (`train/` and `val/`) come
# first, then the figures, and then the metrics of the test, which are single points.
FIGURE_TAG_PREFIX = "visualization/"
"""Prefix of the tags of figures."""
TEST_TAG_PREFIX = "z_test/"
"""Prefix of the tags of test metrics, in place of `test/`."""
LogSettings = dict[str, Any]
"""The settings of a run that its loggers show, by key."""
LOG_FILES = ("events.out.tfevents.*", "metrics.csv")
"""Patterns of the files that loggers write to the folder of a run."""


def delete_log_files(folder: Path) -> None:
    """Delete the log files of an earlier part of a run.

    A resumed run logs its whole history again.
    """
    for pattern in LOG_FILES:
        for path in folder.glob(pattern):
            path.unlink()


def make_loggers_and_log_settings(
    logger_configs: dict[str, Any], folder: Path, settings: LogSettings
) -> list[Logger]:
    """Build the loggers of a run, and log its settings with each of them.

    Args:
        logger_configs: for each logger, its class as `_target_`, and the arguments of the class.
        folder: the folder of the run.
        settings: the settings to log.

    Raises:
        UserError: if a logger cannot be built.
    """
    loggers = []
    for name, logger_config in logger_configs.items():
        with raise_user_error_if_instantiation_fails(f"logger.{name}"):
            logger = make_logger(logger_config, folder)
            logger.log_hyperparams(settings)
            loggers.append(logger)
    return loggers


def make_callbacks(callback_configs: dict[str, Any]) -> list[Callback]:
    """Build the callbacks of the configuration.

    Args:
        callback_configs: for each callback, its class as `_target_`, and its arguments.

    Raises:
        UserError: if a callback cannot be built.
    """
    callbacks = []
    for name, callback_config in callback_configs.items():
        with raise_user_error_if_instantiation_fails(f"callbacks.{name}"):
            callbacks.append(instantiate(callback_config))
    return callbacks


@contextmanager
def raise_user_error_if_instantiation_fails(key: str) -> Iterator[None]:
    """Turn an error of a class that is instantiated in a `with` block into a UserError.

    Args:
        key: the key of the configuration that the message names.
    """
    try:
        yield
    except (HydraException, ImportError, TypeError, ValueError, AttributeError) as error:
        # Hydra's exception only says which class could not be instantiated.
        cause = error.__cause__ or error
        raise UserError(f"{key}: {first_line_of_message(cause)}") from None


def make_logger(logger_config: dict[str, Any], folder: Path) -> Logger:
    """Build a logger.

    Args:
        logger_config: its class as `_target_`, and the arguments of the class. A `save_dir` of null
            is replaced by the folder.
        folder: the folder of the run.
    """
    arguments = dict(logger_config)
    if "save_dir" in arguments and arguments["save_dir"] is None:
        arguments["save_dir"] = folder
    logger: Any = instantiate(arguments)
    # Some loggers check their arguments only when their experiment is created.
    _ = logger.experiment
    return cast(Logger, logger)


def close_loggers(loggers: Iterable[Logger]) -> None:
    """Close the loggers of a run, because another run of the process must not log to them."""
    # The other loggers have nothing to close: Lightning finalizes them.
    for logger in loggers:
        if isinstance(logger, RunTensorBoardLogger):
            logger.experiment.close()
        elif isinstance(logger, WandbLogger):
            logger.experiment.finish()


class RunTensorBoardLogger(TensorBoardLogger):
    """A TensorBoard logger that writes one file per run.

    Lightning's logger closes its file after `fit` and opens another one for `test`.

    The metrics of the test have other tags than in other loggers; see `TEST_TAG_PREFIX`.
    """

    def save(self) -> None:
        """Flush the file."""
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Flush the file, and leave it open for `test`."""
        self.experiment.flush()

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log metrics as scalars."""
        scalars = {to_tensorboard_tag(tag): value for tag, value in metrics.items()}
        super().log_metrics(scalars, step)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Log the settings as text."""
        # Markdown shows text that is indented by four spaces verbatim.
        text = indent(yaml.safe_dump(params, sort_keys=False), "    ")
        self.experiment.add_text("settings", text)

    def log_figure(self, name: str, png: bytes, iteration: int) -> None:
        """Log a picture in PNG format."""
        pixels = matplotlib.image.imread(io.BytesIO(png))  # [height, width, 4]
        tag = FIGURE_TAG_PREFIX + name
        self.experiment.add_image(tag, pixels, iteration, dataformats="HWC")

    def log_result_and_hparams(
        self,
        *,
        iteration: int,
        result_table: str,
        settings: LogSettings,
        overridden_keys: Sequence[str],
        metric_tags: Iterable[str],
    ) -> None:
        """Log the result of a run that has ended, and its row in the HParams tab.

        Args:
            iteration: the last iteration.
            result_table: the metrics as text.
            settings: all settings of the run.
            overridden_keys: keys of the settings that the command line sets.
            metric_tags: tags of the metrics of validation and test.
        """
        self.experiment.add_text("result", indent(result_table, "    "), iteration)
        self._log_hparams(settings, overridden_keys, metric_tags)

    def _log_hparams(
        self, settings: LogSettings, overridden_keys: Sequence[str], metric_tags: Iterable[str]
    ) -> None:
        """Log the row of the HParams tab."""
        # `dict.fromkeys` removes duplicates.
        keys = list(dict.fromkeys(["lr", "hidden", *overridden_keys, "seed", "iterations"]))
        # The settings at the beginning of the list are always kept: lr, hidden and what was set.
        n_required = len(set(overridden_keys).union(["lr", "hidden"]))
        n_hparams = max(N_HPARAMS, n_required)
        values = {key: convert_to_hparam(settings[key]) for key in keys[:n_hparams]}
        # TensorBoard takes the columns from the summary of one arbitrary run. Therefore, the
        # summary of every run lists the same metrics in the same order. TensorBoard ignores the
        # values in this list, which are 0, and reads the metrics from the scalars.
        tags = [to_tensorboard_tag(tag) for tag in (*FIRST_METRICS, *metric_tags)]
        summaries = hparams(values, dict.fromkeys(tags, 0.0))  # type: ignore[no-untyped-call]
        experiment_summary, session_start, session_end = summaries
        plugin_data = experiment_summary.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin_data.content)
        # The columns show `z_test/accuracy` as `test/accuracy`, for example.
        for metric_info in content.experiment.metric_infos:
            metric_info.display_name = metric_info.name.tag.replace(TEST_TAG_PREFIX, "test/")
        # The message is stored as bytes, so a changed copy has to be written back.
        plugin_data.content = content.SerializeToString()
        for summary in (experiment_summary, session_start, session_end):
            self.experiment.file_writer.add_summary(summary)


def to_tensorboard_tag(tag: str) -> str:
    """Return the tag of a metric in TensorBoard; see `TEST_TAG_PREFIX`."""
    return re.sub("^test/", TEST_TAG_PREFIX, tag)


def convert_to_hparam(value: Any) -> Any:
    """Convert integers and booleans to text, so that the HParams tab shows them as typed."""
    # TensorBoard would show the integer 128 as 128.00.
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    return value
