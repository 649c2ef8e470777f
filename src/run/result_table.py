"""The text at the end of a run: a table of its metrics, its duration and what to do next."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from src.files import relative_to_current_folder
from src.models.registry import METRIC_LABELS, PRIORS
from src.run.run_folder import OUTPUTS, Metrics

LABEL_WIDTH = 19
COLUMN_WIDTH = 10
MISSING_VALUE = "–"
MAX_SHOWN_VALUE = 9999.0
"""Larger values, which only a run that diverges has, are shown in scientific notation."""


def format_result_summary(
    metrics: Metrics,
    metric_names: Sequence[str],
    training_seconds: float,
    folder: Path,
    loggers: Sequence[Logger],
) -> str:
    """Return the metrics as a table, followed by the duration and by the next commands.

    Args:
        metrics: the metrics of the run by tag.
        metric_names: the metrics to show, without the prefix of their stage.
        training_seconds: the duration of the training loop alone.
        folder: the folder of the run.
        loggers: the loggers of the run.
    """
    lines = format_metric_table(metrics, metric_names)
    lines.append("")
    speed = f"{metrics['names_per_second']:,.0f} names/s"
    duration = f"training {training_seconds:.1f} s, {speed}"
    lines.append(f"Done in {metrics['seconds']:.1f} s ({duration})")
    folder = relative_to_current_folder(folder)
    lines.append(f"Run          {folder}")
    is_in_outputs = folder.parts[0] == str(OUTPUTS)
    if any(isinstance(logger, TensorBoardLogger) for logger in loggers):
        # TensorBoard can show all runs in the default folder together.
        log_folder = OUTPUTS if is_in_outputs else folder
        lines.append(f"TensorBoard  tensorboard --logdir {shlex.quote(str(log_folder))}")
    # `src.predict` looks for runs in the default folder.
    checkpoint_option = "" if is_in_outputs else f"--checkpoint {shlex.quote(str(folder))} "
    lines.append(f"Predict      python -m src.predict {checkpoint_option}NAME")
    return "\n".join(lines)


def format_metric_table(metrics: Metrics, metric_names: Sequence[str]) -> list[str]:
    """Return the lines of a table with a row for each metric.

    The columns are the validation names, the test names, and the test names under each prior.

    Args:
        metrics: the metrics of the run by tag, such as `val/loss` or `test/uniform/accuracy`.
        metric_names: the metrics to show, without the prefix of their stage.
    """
    columns = {"val": "val", "test": "test"}  # by the prefix of the tags
    for prior in PRIORS:
        columns[f"test/{prior}"] = prior
    header = " " * LABEL_WIDTH
    for title in columns.values():
        header += f"{title:>{COLUMN_WIDTH}}"
    # The title above the last columns is right-aligned with them.
    title_above = "test, calibrated, by prior".rjust(len(header))
    lines = [title_above, header]
    for name in metric_names:
        label = METRIC_LABELS.get(name, name.replace("_", " "))
        line = label.ljust(LABEL_WIDTH)
        for prefix in columns:
            line += format_value(metrics.get(f"{prefix}/{name}"))
        lines.append(line)
    return lines


def format_value(value: float | None) -> str:
    """Return a value with three decimals, or a dash if there is none."""
    if value is None:
        text = MISSING_VALUE
    elif abs(value) > MAX_SHOWN_VALUE:
        text = f"{value:.2e}"
    else:
        text = f"{value:.3f}"
    return f"{text:>{COLUMN_WIDTH}}"
