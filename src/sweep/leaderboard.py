"""The leaderboard: runs gathered, ranked by validation, as a table and as CSV."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from src.files import atomic_open
from src.models.registry import SCORE

SHOWN = (SCORE, "test/balanced_accuracy", "test/accuracy")
"""Metrics of the printed table; those that 80 columns have room for."""


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
    def means(self) -> dict[str, float]:
        """The mean of each metric; the standard deviation of each score of several runs."""
        names = dict.fromkeys(name for run in self.runs for name in run.metrics)
        several = [name for name in names if "/" in name and len(self.values(name)) > 1]
        deviations = {f"{name}_std": stdev(self.values(name)) for name in several}
        return {name: mean(self.values(name)) for name in names} | deviations

    @property
    def score(self) -> float | None:
        """The mean validation score, if there is one."""
        return self.means.get(SCORE)


def swept_keys(runs: Sequence[Run]) -> list[str]:
    """Return the keys whose values differ among the runs, in the order of the command line."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]


def ranked(runs: Sequence[Run]) -> list[Row]:
    """Gather runs that differ in the seed alone; best validation score first.

    Settings of which a run failed come after those that never fail, and those without a score
    last. The test has no say.
    """
    repeated = {"seed"} & set(swept_keys(runs))
    gathered: dict[str, Row] = {}
    for run in runs:
        settings = {key: value for key, value in run.settings.items() if key not in repeated}
        gathered.setdefault(str(settings), Row(settings, [])).runs.append(run)
    rows = gathered.values()
    return sorted(rows, key=lambda row: (row.score is None, bool(row.failures), -(row.score or 0)))


def repetitions(row: Row) -> list[str]:
    """Return the seeds that a sweep gave to the row's runs."""
    seeds = dict.fromkeys(run.settings.get("seed", "") for run in row.runs)
    return [] if "seed" in row.settings else sorted(filter(None, seeds), key=number)


def table(rows: Sequence[Row], keys: Sequence[str]) -> list[str]:
    """Return the lines of the printed leaderboard."""
    metrics = [metric for metric in SHOWN if any(row.values(metric) for row in rows)]
    titles = (metric.replace("/", " ").removesuffix("_accuracy") for metric in metrics)
    lines = [["", *keys, *titles, "seconds", "run"]]
    for rank, row in enumerate(rows, start=1):
        line = ["" if row.score is None else str(rank)]
        line += [short(row.settings.get(key, "")) for key in keys]
        line += [spread(row.values(metric), ".3f") for metric in metrics]
        line.append(spread(row.values("seconds"), ".1f"))
        done = _numbers(run for run in row.runs if not run.failed)
        failed = _numbers(run for run in row.runs if run.failed)
        said = [done, f"failed: {failed} ({row.failures[0]})" if failed else ""]
        lines.append([*line, ", ".join(filter(None, said))])
    *widths, _ = (max(map(len, column)) for column in zip(*lines, strict=True))
    return ["  ".join(map(str.ljust, line, [*widths, 0])).rstrip() for line in lines]


def _numbers(runs: Iterable[Run]) -> str:
    return " ".join(dict.fromkeys(run.number for run in runs))  # once, whatever its seeds


def number(text: str) -> float:
    """Return what orders a value: itself, if it is a number; others keep their order, after."""
    try:
        return float(text)
    except ValueError:
        return math.inf


def short(value: str) -> str:
    """Return a value with three digits that count, if it is a number with a point."""
    return f"{number(value):.3g}" if "." in value and number(value) < math.inf else value


def spread(values: Sequence[float], digits: str) -> str:
    """Return the mean, and the standard deviation of several values; nothing if there are none."""
    deviation = f" ± {stdev(values):{digits}}" if len(values) > 1 else ""
    return f"{mean(values):{digits}}{deviation}" if values else ""


def write_csvs(folder: Path, rows: Sequence[Row]) -> None:
    """Write leaderboard.csv, a line a row, and runs.csv, a line a run."""
    lines = []
    for rank, row in enumerate(rows, start=1):
        line: dict[str, Any] = {"rank": "" if row.score is None else rank, **row.settings}
        line |= row.means | row.settings  # `iterations` may be a setting, too
        line |= {"runs": len(row.runs), "failed": len(row.failures)}
        line["reason"] = "; ".join(dict.fromkeys(row.failures))
        line["folders"] = " ".join(run.name for run in row.runs)
        lines.append(line)
    told = [run for row in rows for run in row.runs]
    runs = [{"run": r.name, **r.settings, **r.metrics, "failed": r.failed} for r in told]
    for name, content in {"leaderboard.csv": lines, "runs.csv": runs}.items():
        columns = dict.fromkeys(column for line in content for column in line)
        with atomic_open(folder / name, "w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, list(columns), lineterminator="\n")
            writer.writeheader()
            writer.writerows(content)
