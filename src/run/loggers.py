"""Builds the loggers and callbacks of a run that the configuration describes."""

import io
from collections.abc import Iterable, Iterator
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
MAX_HPARAM_COLUMNS = 5
"""Number of settings that TensorBoard's HParams tab shows until the user selects others."""
# Category, chart, type of the chart and tags, in the format of `add_custom_scalars`.
LOSS_CHARTS = {"loss": {"train/loss and val/loss": ["Multiline", ["train/loss", "val/loss"]]}}
"""The charts of TensorBoard's Custom Scalars tab."""
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
        logger_config: its class as `_target_`, and the arguments of the class. If `save_dir` is one
            of them and null, it is replaced by the folder.
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
    """

    def save(self) -> None:
        """Flush the file."""
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Flush the file, and leave it open for `test`."""
        self.experiment.flush()

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Log the settings as text, and define the charts of the Custom Scalars tab."""
        # Markdown shows text that is indented by four spaces verbatim.
        text = indent(yaml.safe_dump(params, sort_keys=False), "    ")
        self.experiment.add_text("settings", text)
        self.experiment.add_custom_scalars(LOSS_CHARTS)

    def log_result_and_hparams(
        self,
        *,
        iteration: int,
        confusion_matrix: bytes,
        result_table: str,
        settings: LogSettings,
        displayed_keys: Iterable[str],
        metric_tags: Iterable[str],
    ) -> None:
        """Log the result of a run that has ended, and its row in the HParams tab.

        Args:
            iteration: the last iteration.
            confusion_matrix: a picture in PNG format.
            result_table: the metrics as text.
            settings: all settings of the run.
            displayed_keys: keys of the settings that the HParams tab shows first.
            metric_tags: tags of the metrics that the HParams tab shows.
        """
        pixels = matplotlib.image.imread(io.BytesIO(confusion_matrix))  # [height, width, 4]
        self.experiment.add_image("confusion_matrix", pixels, iteration, dataformats="HWC")
        self.experiment.add_text("result", indent(result_table, "    "), iteration)
        self._log_hparams(settings, displayed_keys, metric_tags)

    def _log_hparams(
        self, settings: LogSettings, displayed_keys: Iterable[str], metric_tags: Iterable[str]
    ) -> None:
        """Log the row of the HParams tab.

        TensorBoard takes the columns of the tab from the summary of one arbitrary run. Therefore
        all runs name the same metrics in the same order.
        """
        values = {}
        for key, value in settings.items():
            # Booleans are shown as they are typed: `true` and `false`.
            values[key] = str(value).lower() if isinstance(value, bool) else value
        displayed = [key for key in displayed_keys if key in values][:MAX_HPARAM_COLUMNS]
        # TensorBoard ignores the value 0 and shows the values that were logged as scalars.
        metrics = dict.fromkeys([*FIRST_METRICS, *metric_tags], 0.0)
        summaries = hparams(values, metrics)  # type: ignore[no-untyped-call]
        experiment_summary, session_start, session_end = summaries
        # TensorBoard first shows the settings whose flag `differs` is set.
        plugin_data = experiment_summary.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin_data.content)
        for hparam_info in content.experiment.hparam_infos:
            hparam_info.differs = hparam_info.name in displayed
        # The message is stored as bytes, so a changed copy has to be written back.
        plugin_data.content = content.SerializeToString()
        for summary in (experiment_summary, session_start, session_end):
            self.experiment.file_writer.add_summary(summary)
