"""Ranks the runs of a sweep by their validation scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from src.models.registry import SCORE
from src.run.run_folder import Metrics


@dataclass(frozen=True)
class EndedRun:
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
    def id(self) -> str:
        """The part of `name` before the first hyphen, which is the run's number in the sweep."""
        return self.name.partition("-")[0]


@dataclass(frozen=True)
class LeaderboardRow:
    """All runs with the same settings; only their seeds differ."""

    settings: dict[str, str]
    """The overrides that the runs have in common, by key."""
    runs: list[EndedRun]

    @property
    def failures(self) -> list[str]:
        """The reasons why runs failed."""
        return [run.failure for run in self.runs if run.failure]

    def metric_values(self, metric: str) -> list[float]:
        """Return the values of a metric, for all runs that have it."""
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]

    @property
    def means_and_deviations(self) -> Metrics:
        """The mean of each metric, and the standard deviation of each score as `<score>_std`."""
        means = {}
        deviations = {}
        for metric in self._list_metric_names():
            values = self.metric_values(metric)
            means[metric] = mean(values)
            is_score = "/" in metric  # unlike `seconds` and `iterations`
            if is_score and len(values) > 1:
                deviations[f"{metric}_std"] = stdev(values)
        # All deviations come after all means, also in the columns of leaderboard.csv.
        return {**means, **deviations}

    def _list_metric_names(self) -> list[str]:
        """Return the names of all metrics, in the order in which they first occur."""
        # The keys of a dictionary keep their order, which a set would not.
        names: dict[str, None] = {}
        for run in self.runs:
            names.update(dict.fromkeys(run.metrics))
        return list(names)

    @property
    def score(self) -> float | None:
        """The mean validation score, or None if no run has one."""
        # Failed runs have no score. They lower the rank of the row, but not its mean.
        scores = self.metric_values(SCORE)
        return mean(scores) if scores else None

    @property
    def seeds(self) -> list[str]:
        """The swept seeds of the runs, in ascending order."""
        # `group_and_rank_runs` keeps the seed in the settings only if all runs of the sweep have
        # the same one. The command gave it to all of them, so it is not swept.
        if "seed" in self.settings:
            return []
        seeds = [run.settings["seed"] for run in self.runs if run.settings.get("seed")]
        unique_seeds = dict.fromkeys(seeds)
        return sorted(unique_seeds, key=number_or_infinity)


def find_swept_keys(runs: Sequence[EndedRun]) -> list[str]:
    """Return the keys whose values differ between the runs, in the order of the command line."""
    # The keys of a dictionary keep their order, which a set would not.
    all_keys: dict[str, None] = {}
    for run in runs:
        all_keys.update(dict.fromkeys(run.settings))
    swept_keys = []
    for key in all_keys:
        # None stands for a run that does not set the key.
        values = {run.settings.get(key) for run in runs}
        if len(values) > 1:
            swept_keys.append(key)
    return swept_keys


def group_and_rank_runs(runs: Sequence[EndedRun]) -> list[LeaderboardRow]:
    """Group runs that differ in their seeds only, and return the groups, the best one first.

    Groups are ranked by their mean validation score. Those with a failed run come after those
    without, and those without a score are last. Test scores play no role.
    """
    # If all runs have the same seed, it is one of the settings.
    has_swept_seed = "seed" in find_swept_keys(runs)
    rows: dict[str, LeaderboardRow] = {}
    for run in runs:
        settings = dict(run.settings)
        if has_swept_seed:
            settings.pop("seed", None)
        # The settings are converted to text, because a dictionary cannot be a key.
        row_key = str(settings)
        if row_key not in rows:
            rows[row_key] = LeaderboardRow(settings, runs=[])
        rows[row_key].runs.append(run)
    return sorted(rows.values(), key=make_sort_key)


def make_sort_key(row: LeaderboardRow) -> tuple[bool, bool, float]:
    """Return the sort key of a row; see `group_and_rank_runs`."""
    # False comes before True, and the negative of the highest score comes first. A row without a
    # score is already last, so its value is arbitrary.
    has_no_score = row.score is None
    has_failures = len(row.failures) > 0
    negative_score = -(row.score or 0)
    return has_no_score, has_failures, negative_score


def number_or_infinity(text: str) -> float:
    """Return the number that a text represents, or infinity if it is not a number.

    As a sort key, this puts other texts after the numbers, in their original order.
    """
    try:
        return float(text)
    except ValueError:
        return math.inf


def round_if_decimal(text: str) -> str:
    """Return a decimal number with three significant digits, and any other text unchanged."""
    number = number_or_infinity(text)
    is_decimal = "." in text and number < math.inf
    # Whole numbers are kept: `iterations=123456` would become 1.23e+05.
    return f"{number:.3g}" if is_decimal else text


def format_mean_and_deviation(values: Sequence[float], number_format: str) -> str:
    """Return the mean and the standard deviation of some values: `0.412 ± 0.006`.

    Without values, the text is empty. A single value has no standard deviation.
    """
    if not values:
        return ""
    text = f"{mean(values):{number_format}}"
    if len(values) > 1:
        text += f" ± {stdev(values):{number_format}}"
    return text
