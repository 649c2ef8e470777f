"""The table of metrics that is printed at the end of a run."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from src.models.registry import PRIORS
from src.run.run_folder import OUTPUTS, Metrics

PRIOR_FOOTNOTE = """* the same names under another prior, which says how common each category is:
  uniform, all equally; corpus, as in the corpus; tempered, in between"""

Columns = dict[str, Metrics]
"""For each column of the table, its values by the name of the metric."""


def format_result_summary(
    metrics: Metrics, metric_names: Sequence[str], folder: Path, loggers: Sequence[Logger]
) -> str:
    """Return the metrics as a table, followed by the speed, the run's folder and TensorBoard.

    Args:
        metrics: the metrics of the run by tag.
        metric_names: the metrics to show, without the prefix of their stage.
        folder: the folder of the run.
        loggers: the loggers of the run.
    """
    lines = format_metric_table(select_columns(metrics, metric_names), metric_names)
    iterations = f"{metrics['iterations']:,} iterations"
    speed = f"{metrics['names_per_second']:,.0f} names/s"
    lines.append("")
    lines.append(f"{iterations} at {speed}, {metrics['seconds']:.1f} s after imports")
    # A path relative to the current folder is shorter.
    if Path.cwd() in folder.parents:
        folder = folder.relative_to(Path.cwd())
    lines.append(f"Run          {folder}")
    if any(isinstance(logger, TensorBoardLogger) for logger in loggers):
        # Runs in the default folder are shown together.
        is_in_outputs = folder.parts[0] == str(OUTPUTS)
        log_folder = OUTPUTS if is_in_outputs else folder
        lines.append(f"TensorBoard  tensorboard --logdir {shlex.quote(str(log_folder))}")
    return "\n".join(lines)


def select_columns(metrics: Metrics, metric_names: Sequence[str]) -> Columns:
    """Return the columns of the table: validation, test, and test under each other prior.

    Args:
        metrics: the metrics of the run by tag, such as `test/uniform/accuracy`.
        metric_names: the metrics to select, without the prefix of their stage.
    """
    columns: Columns = {}
    for stage, title in (("val", "validation"), ("test", "test")):
        column = select_metrics(metrics, prefix=stage, metric_names=metric_names)
        if column:
            columns[title] = column
    for prior in PRIORS:
        column = select_metrics(metrics, prefix=f"test/{prior}", metric_names=metric_names)
        # The column `test` has the scores under the training prior. If another prior gives the same
        # scores, they are not repeated.
        is_repeated = is_part_of(column, columns.get("test", {}))
        if column and not is_repeated:
            columns[f"{prior}*"] = column
    return columns


def select_metrics(metrics: Metrics, prefix: str, metric_names: Sequence[str]) -> Metrics:
    """Return the metrics whose tags have a prefix, by their names without the prefix."""
    # If no names were held out, there are no such metrics.
    selected = {}
    for name in metric_names:
        tag = f"{prefix}/{name}"
        if tag in metrics:
            selected[name] = metrics[tag]
    return selected


def is_part_of(column: Metrics, other_column: Metrics) -> bool:
    """Return whether another column has all metrics of a column, with the same values."""
    return all(other_column.get(name) == value for name, value in column.items())


def format_metric_table(columns: Columns, metric_names: Sequence[str]) -> list[str]:
    """Return the lines of the table: a row for each metric and a column for each set of names."""
    if not columns:
        return []
    header = " " * 20
    for title in columns:
        header += f"{title:>12}"
    lines = [header]
    for name in metric_names:
        line = f"{name.replace('_', ' '):<20}"
        for column in columns.values():
            # The columns of other priors, which are the last ones, lack some of the metrics.
            if name in column:
                line += f"{column[name]:>12.4f}"
        lines.append(line)
    # The star of a column refers to the footnote.
    if any(title.endswith("*") for title in columns):
        lines.append(PRIOR_FOOTNOTE)
    return lines
