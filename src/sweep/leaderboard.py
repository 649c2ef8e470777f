"""Ranks the runs of a sweep by their validation scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from src.models.registry import SCORE
from src.run.run_folder import Metrics


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    name: str
    """Path of its folder, relative to the folder of the sweep."""
    settings: dict[str, str]
    """The overrides of its command line by key, as they were typed."""
    metrics: Metrics
    """Its metrics; empty if it failed."""
    failure: str
    """The reason if it failed; otherwise empty."""

    @property
    def number(self) -> str:
        """The number of the run in the sweep, with which the name of its folder starts."""
        return self.name.partition("-")[0]


@dataclass(frozen=True)
class LeaderboardRow:
    """All runs with the same settings; only their seeds differ."""

    settings: dict[str, str]
    runs: list[Run]

    @property
    def failures(self) -> list[str]:
        """The reasons why runs failed."""
        return [run.failure for run in self.runs if run.failure]

    def values(self, metric: str) -> list[float]:
        """Return the values of a metric, for all runs that have it."""
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]

    @property
    def statistics(self) -> Metrics:
        """The mean of each metric, and the standard deviation of each score as `<score>_std`."""
        means = {}
        deviations = {}
        for metric in self._metric_names():
            values = self.values(metric)
            means[metric] = mean(values)
            is_score = "/" in metric  # unlike `seconds` and `iterations`
            if is_score and len(values) > 1:
                deviations[f"{metric}_std"] = stdev(values)
        return {**means, **deviations}

    def _metric_names(self) -> list[str]:
        """Return the names of all metrics, in the order in which they first occur."""
        # A dictionary, because sets have no order.
        names: dict[str, None] = {}
        for run in self.runs:
            names.update(dict.fromkeys(run.metrics))
        return list(names)

    @property
    def score(self) -> float | None:
        """The mean validation score, or None if no run has one."""
        scores = self.values(SCORE)
        return mean(scores) if scores else None

    @property
    def seeds(self) -> list[str]:
        """The seeds that the sweep gave to the runs, in ascending order."""
        if "seed" in self.settings:  # because all runs of the sweep have the same seed
            return []
        seeds = [run.settings["seed"] for run in self.runs if run.settings.get("seed")]
        return sorted(dict.fromkeys(seeds), key=as_number)


def find_swept_keys(runs: Sequence[Run]) -> list[str]:
    """Return the keys whose values differ between the runs, in the order of the command line."""
    keys: dict[str, None] = {}
    for run in runs:
        keys.update(dict.fromkeys(run.settings))
    swept_keys = []
    for key in keys:
        values = {run.settings.get(key) for run in runs}
        if len(values) > 1:
            swept_keys.append(key)
    return swept_keys


def rank_runs(runs: Sequence[Run]) -> list[LeaderboardRow]:
    """Group runs that differ in their seeds only, and return the groups, the best one first.

    Groups are ranked by their mean validation score. Those with a failed run come after those
    without, and those without a score are last. Test scores play no role.
    """
    # If all runs have the same seed, it is one of the settings.
    ignored_keys = {"seed"} & set(find_swept_keys(runs))
    rows: dict[str, LeaderboardRow] = {}
    for run in runs:
        settings = {}
        for key, value in run.settings.items():
            if key not in ignored_keys:
                settings[key] = value
        # As keys, the settings are converted to text, because dictionaries are not hashable.
        row = rows.setdefault(str(settings), LeaderboardRow(settings, []))
        row.runs.append(run)

    def sort_key(row: LeaderboardRow) -> tuple[bool, bool, float]:
        return row.score is None, bool(row.failures), -(row.score or 0)

    return sorted(rows.values(), key=sort_key)


def as_number(text: str) -> float:
    """Return the number that a text represents, or infinity if it is not a number.

    As a sort key, this puts other texts after the numbers, in their original order.
    """
    try:
        return float(text)
    except ValueError:
        return math.inf


def shorten_number(text: str) -> str:
    """Return a decimal number with three significant digits, and any other text unchanged."""
    is_decimal = "." in text and as_number(text) < math.inf
    return f"{as_number(text):.3g}" if is_decimal else text


def format_mean(values: Sequence[float], number_format: str) -> str:
    """Return the mean and the standard deviation of some values: `0.412 ± 0.006`.

    Without values, the text is empty. A single value has no standard deviation.
    """
    if not values:
        return ""
    text = f"{mean(values):{number_format}}"
    if len(values) > 1:
        text += f" ± {stdev(values):{number_format}}"
    return text
