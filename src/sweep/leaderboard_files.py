"""Writes a leaderboard as a text table and as CSV files."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from src.files import atomic_open
from src.models.registry import SCORE
from src.sweep.leaderboard import LeaderboardRow, Run, format_mean, shorten_number

TABLE_METRICS = (SCORE, "test/balanced_accuracy", "test/accuracy")
"""Metrics of the text table, as many as fit into 80 columns of a terminal."""


def format_leaderboard(rows: Sequence[LeaderboardRow], keys: Sequence[str]) -> list[str]:
    """Return the lines of the text table.

    Args:
        rows: the leaderboard, the best row first.
        keys: the settings to show.
    """
    # Without validation or test names, the table has fewer columns.
    metrics = []
    for metric in TABLE_METRICS:
        if any(row.values(metric) for row in rows):
            metrics.append(metric)
    titles = [metric.replace("/", " ").removesuffix("_accuracy") for metric in metrics]
    table = [["", *keys, *titles, "seconds", "run"]]
    for rank, row in enumerate(rows, start=1):
        cells = [str(rank) if row.score is not None else ""]
        for key in keys:
            cells.append(shorten_number(row.settings.get(key, "")))
        for metric in metrics:
            cells.append(format_mean(row.values(metric), ".3f"))
        cells.append(format_mean(row.values("seconds"), ".1f"))
        cells.append(format_run_numbers(row))
        table.append(cells)
    return align_columns(table)


def format_run_numbers(row: LeaderboardRow) -> str:
    """Return the numbers of the runs of a row, with those that failed and the first reason."""
    finished = join_numbers(run for run in row.runs if not run.failure)
    failed = join_numbers(run for run in row.runs if run.failure)
    if not failed:
        return finished
    text = f"failed: {failed} ({row.failures[0]})"
    return f"{finished}, {text}" if finished else text


def join_numbers(runs: Iterable[Run]) -> str:
    """Return the numbers of some runs; the runs of `seeds=` have the same number."""
    return " ".join(dict.fromkeys(run.number for run in runs))


def align_columns(table: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table as lines, with aligned columns."""
    widths = [0] * len(table[0])
    for cells in table:
        for column, cell in enumerate(cells):
            widths[column] = max(widths[column], len(cell))
    widths[-1] = 0  # the last column can be long, and nothing follows it
    lines = []
    for cells in table:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return lines


def write_leaderboard_files(folder: Path, rows: Sequence[LeaderboardRow]) -> None:
    """Write leaderboard.csv, with a line for each row, and runs.csv, with a line for each run."""
    leaderboard = []
    runs = []
    for rank, row in enumerate(rows, start=1):
        # A setting takes precedence over a metric of the same name, such as `iterations`.
        metrics = {}
        for name, value in row.statistics.items():
            if name not in row.settings:
                metrics[name] = value
        leaderboard.append(
            {
                "rank": rank if row.score is not None else "",
                **row.settings,
                **metrics,
                "runs": len(row.runs),
                "failed": len(row.failures),
                "reason": "; ".join(dict.fromkeys(row.failures)),
                "folders": " ".join(run.name for run in row.runs),
            }
        )
        for run in row.runs:
            runs.append({"run": run.name, **run.settings, **run.metrics, "failed": run.failure})
    write_csv(folder / "leaderboard.csv", leaderboard)
    write_csv(folder / "runs.csv", runs)


def write_csv(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV file with a column for each key that occurs."""
    columns: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row))
    with atomic_open(file, "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
