"""The leaderboard: runs gathered, ranked by validation, as a table and as CSV."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from src.run.files import SCORE, written_whole

SHOWN = {
    SCORE: "val balanced",
    "test/balanced_accuracy": "test balanced",
    "test/accuracy": "test accuracy",
    "test/macro_f1": "test macro F1",
    "test/top3_accuracy": "test top-3",
}
"""Metrics of the printed table, and their titles."""


@dataclass(frozen=True)
class Run:
    """What the folder of an ended run says."""

    name: str
    """Its folder, seen from the sweep's."""
    settings: dict[str, str]
    """The overrides of its command line: key → value, as they were typed."""
    metrics: dict[str, float]
    """Empty if it failed."""
    failed: str
    """The reason; empty if it did not."""

    @property
    def number(self) -> str:
        """What its folder's name begins with."""
        return self.name.partition("-")[0]


@dataclass(frozen=True)
class Row:
    """Runs whose settings are equal but for the seed."""

    settings: dict[str, str]
    runs: list[Run]

    @property
    def failures(self) -> list[str]:
        """The reasons of the failed runs."""
        return [run.failed for run in self.runs if run.failed]

    def values(self, metric: str) -> list[float]:
        """Return the metric of each run that has it."""
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]

    @property
    def score(self) -> float | None:
        """The mean validation score, if there is one."""
        return mean(scores) if (scores := self.values(SCORE)) else None


def swept_keys(runs: Sequence[Run]) -> list[str]:
    """Return the keys whose values differ among the runs, in the order of the command line."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]


def ranked(runs: Sequence[Run]) -> list[Row]:
    """Gather runs that differ in the seed alone; best validation score first.

    Settings of which a run failed come after those that never fail, and those without a score
    last. The test has no say.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = defaultdict(list)
    repeated = {"seed"} & set(swept_keys(runs))
    for run in runs:
        groups[tuple(each for each in run.settings.items() if each[0] not in repeated)].append(run)
    rows = [Row(dict(settings), members) for settings, members in groups.items()]
    return sorted(rows, key=lambda row: (row.score is None, bool(row.failures), -(row.score or 0)))


def table(rows: Sequence[Row], keys: Sequence[str]) -> list[str]:
    """Return the lines of the printed leaderboard."""
    metrics = [metric for metric in SHOWN if any(row.values(metric) for row in rows)]
    lines = [["", *keys, *(SHOWN[metric] for metric in metrics), "seconds", "run"]]
    for rank, row in enumerate(rows, start=1):
        settings = [_short(row.settings.get(key, "")) for key in keys]
        failed = " ".join(run.number for run in row.runs if run.failed)
        reason = f"failed: {failed} ({row.failures[0]})" if failed else ""
        finished = " ".join(run.number for run in row.runs if not run.failed)
        scores = [_spread(row.values(metric), ".3f") for metric in metrics]
        scores.append(_spread(row.values("seconds"), ".1f"))
        said = ", ".join(filter(None, (finished, reason)))
        number = "" if row.score is None else str(rank)
        lines.append([number, *settings, *(scores if finished else []), said])
    # The last cell of a line may be of any length.
    columns = zip_longest(*(line[:-1] for line in lines), fillvalue="")
    widths = [max(map(len, column)) for column in columns]
    return ["  ".join(map(str.ljust, line, [*widths, 0])).rstrip() for line in lines]


def _short(value: str) -> str:
    try:
        return f"{float(value):.4g}" if "." in value else value
    except ValueError:
        return value


def _spread(values: Sequence[float], digits: str) -> str:
    spread = f" ± {stdev(values):{digits}}" if len(values) > 1 else ""
    return f"{mean(values):{digits}}{spread}" if values else ""


def write_csvs(folder: Path, rows: Sequence[Row]) -> None:
    """Write leaderboard.csv, a line a row, and runs.csv, a line a run."""
    runs = [run for row in rows for run in row.runs]
    settings = list(dict.fromkeys(key for run in runs for key in run.settings))
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    metrics = [name for name in metrics if name not in settings]  # `iterations` is both
    lines: list[dict[str, Any]] = []
    for rank, row in enumerate(rows, start=1):
        line: dict[str, Any] = {"rank": "" if row.score is None else rank}
        line |= {key: row.settings.get(key, "") for key in settings}
        for name in metrics:
            values = row.values(name)
            line[name] = mean(values) if values else ""
            line[f"{name}_std"] = stdev(values) if len(values) > 1 else ""
        line |= {"runs": len(row.runs), "failed": len(row.failures)}
        line["reason"] = "; ".join(dict.fromkeys(row.failures))
        line["folders"] = " ".join(run.name for run in row.runs)
        lines.append(line)
    _write_csv(folder / "leaderboard.csv", lines)
    told = [{"run": r.name, **r.settings, **r.metrics, "failed": r.failed} for r in runs]
    order = ["run", *settings, *metrics, "failed"]
    _write_csv(folder / "runs.csv", [{key: run.get(key, "") for key in order} for run in told])


def _write_csv(file: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write lines of equal keys; columns without any value are left out."""
    columns = [key for key in lines[0] if any(line[key] != "" for line in lines)]
    with written_whole(file, "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
