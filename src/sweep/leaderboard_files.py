"""Writes a leaderboard as a text table and as CSV files."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.files import atomic_open
from src.models.registry import SCORE
from src.sweep.leaderboard import (
    EndedRun,
    LeaderboardRow,
    format_mean_and_deviation,
    round_if_decimal,
)

TABLE_METRICS = (SCORE, "test/balanced_accuracy", "test/accuracy")
"""Metrics of the text table, as many as fit into 80 columns of a terminal."""

CsvRow = dict[str, Any]
"""The cells of a row of a CSV file, by column."""


def format_leaderboard_table(rows: Sequence[LeaderboardRow], keys: Sequence[str]) -> list[str]:
    """Return the lines of the text table.

    Args:
        rows: the leaderboard, the best row first.
        keys: the settings to show.
    """
    # Metrics that no run has are left out, such as those of the test if there are no test names.
    metrics = []
    titles = []
    for metric in TABLE_METRICS:
        if any(row.metric_values(metric) for row in rows):
            metrics.append(metric)
            titles.append(format_metric_title(metric))
    header = ["", *keys, *titles, "seconds", "run"]  # the rank has no title
    table = [header]
    for rank, row in enumerate(rows, start=1):
        cells = [format_rank(rank, row)]
        for key in keys:
            # A run that does not set the key has an empty cell.
            cells.append(round_if_decimal(row.settings.get(key, "")))
        for metric in metrics:
            cells.append(format_mean_and_deviation(row.metric_values(metric), ".3f"))
        cells.append(format_mean_and_deviation(row.metric_values("seconds"), ".1f"))
        cells.append(format_run_numbers_and_failure(row))
        table.append(cells)
    return align_columns(table)


def format_metric_title(metric: str) -> str:
    """Return the title of a metric's column: `val balanced` for `val/balanced_accuracy`."""
    # Titles are short, so that the table fits into the terminal.
    return metric.replace("/", " ").removesuffix("_accuracy")


def format_rank(rank: int, row: LeaderboardRow) -> str:
    """Return the rank of a row as text. A row without a score has no rank."""
    return "" if row.score is None else str(rank)


def format_run_numbers_and_failure(row: LeaderboardRow) -> str:
    """Return the numbers of the runs of a row: `2 5, failed: 3 (reason)`.

    Failed runs are listed separately, with the reason of the first one.
    """
    successful_runs = []
    failed_runs = []
    for run in row.runs:
        if run.failure:
            failed_runs.append(run)
        else:
            successful_runs.append(run)
    texts = []
    if successful_runs:
        texts.append(join_run_numbers(successful_runs))
    if failed_runs:
        texts.append(f"failed: {join_run_numbers(failed_runs)} ({row.failures[0]})")
    return ", ".join(texts)


def join_run_numbers(runs: Sequence[EndedRun]) -> str:
    """Return the distinct numbers of some runs, separated by spaces."""
    # With `seeds=`, several runs have the same number, which is shown once.
    distinct_numbers = dict.fromkeys(run.id for run in runs)
    return " ".join(distinct_numbers)


def align_columns(table: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table as lines, with aligned columns."""
    widths = [0] * len(table[0])
    for cells in table:
        for column, cell in enumerate(cells):
            widths[column] = max(widths[column], len(cell))
    widths[-1] = 0  # the last column can be long, and nothing follows it
    lines = []
    for cells in table:
        line = ""
        for cell, width in zip(cells, widths, strict=True):
            line += f"{cell:<{width}}  "
        # If the last cell is empty, the line would end with spaces.
        lines.append(line.rstrip())
    return lines


def write_leaderboard_and_runs_csv(sweep_folder: Path, rows: Sequence[LeaderboardRow]) -> None:
    """Write leaderboard.csv, with a line for each row, and runs.csv, with a line for each run."""
    leaderboard = []
    runs = []
    for rank, row in enumerate(rows, start=1):
        leaderboard.append(make_leaderboard_csv_row(rank, row))
        for run in row.runs:
            # A metric replaces a setting of the same name, such as `iterations`, because it says
            # what the run has done.
            runs.append({"run": run.name, **run.settings, **run.metrics, "failed": run.failure})
    write_csv(sweep_folder / "leaderboard.csv", leaderboard)
    write_csv(sweep_folder / "runs.csv", runs)


def make_leaderboard_csv_row(rank: int, row: LeaderboardRow) -> CsvRow:
    """Return the cells of a row of leaderboard.csv."""
    cells: CsvRow = {"rank": format_rank(rank, row)}
    cells.update(row.settings)
    for name, value in row.means_and_deviations.items():
        # Unlike in runs.csv, a setting takes precedence over a metric of the same name, because the
        # settings identify the row.
        if name not in row.settings:
            cells[name] = value
    cells["runs"] = len(row.runs)
    cells["failed"] = len(row.failures)
    # Several runs can fail for the same reason, which is written once.
    cells["reason"] = "; ".join(dict.fromkeys(row.failures))
    cells["folders"] = " ".join(run.name for run in row.runs)
    return cells


def write_csv(file: Path, rows: Sequence[CsvRow]) -> None:
    """Write a CSV file with a column for each key that occurs in a row."""
    # The keys of a dictionary keep their order, which a set would not.
    columns: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row))
    # `newline=""`, because the csv module writes the line ends itself.
    with atomic_open(file, "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
