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


def format_result(
    metrics: Metrics, metric_names: Sequence[str], folder: Path, loggers: Sequence[Logger]
) -> str:
    """Return the metrics as a table, followed by the speed, the run's folder and TensorBoard.

    Args:
        metrics: the metrics of the run by tag.
        metric_names: the metrics to show, without the prefix of their stage.
        folder: the folder of the run.
        loggers: the loggers of the run.
    """
    lines = format_table(get_columns(metrics, metric_names), metric_names)
    speed = "{iterations:,} iterations at {names_per_second:,.0f} names/s, {seconds:.1f} s"
    lines.append("")
    lines.append(f"{speed.format(**metrics)} after imports")
    if Path.cwd() in folder.parents:
        folder = folder.relative_to(Path.cwd())
    lines.append(f"Run          {folder}")
    if any(isinstance(logger, TensorBoardLogger) for logger in loggers):
        # Runs in the default folder are shown together.
        log_folder = OUTPUTS if folder.parts[0] == str(OUTPUTS) else folder
        lines.append(f"TensorBoard  tensorboard --logdir {shlex.quote(str(log_folder))}")
    return "\n".join(lines)


def get_columns(metrics: Metrics, metric_names: Sequence[str]) -> Columns:
    """Return the columns of the table: validation, test, and test under each other prior."""
    titles = {"val": "validation", "test": "test"}
    for prior in PRIORS:
        titles[f"test/{prior}"] = f"{prior}*"
    columns: Columns = {}
    for prefix, title in titles.items():
        column = {}
        for name in metric_names:
            if f"{prefix}/{name}" in metrics:
                column[name] = metrics[f"{prefix}/{name}"]
        # The column of the test has the scores under the training prior, which are not repeated.
        is_repeated = title.endswith("*") and column.items() <= columns.get("test", {}).items()
        if column and not is_repeated:
            columns[title] = column
    return columns


def format_table(columns: Columns, metric_names: Sequence[str]) -> list[str]:
    """Return the lines of the table: a row for each metric and a column for each set of names."""
    if not columns:
        return []
    lines = [" " * 20 + "".join(f"{title:>12}" for title in columns)]
    for name in metric_names:
        cells = [f"{column[name]:>12.4f}" for column in columns.values() if name in column]
        lines.append(f"{name.replace('_', ' '):<20}{''.join(cells)}")
    if any(title.endswith("*") for title in columns):
        lines.append(PRIOR_FOOTNOTE)
    return lines
