"""The picture of a leaderboard: the score for each value of the swept keys."""

import math
from collections.abc import Sequence
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.models.registry import SCORE
from src.run.figures import escape_dollar_signs
from src.sweep.leaderboard import (
    LeaderboardRow,
    format_mean_and_deviation,
    number_or_infinity,
    round_if_decimal,
)

SCORE_TITLE = "validation balanced accuracy"
MAX_LABEL_LENGTH = 18
"""Number of letters of a value that a label of an axis shows."""
MAX_LABELS = 20
"""Number of values up to which each value on the axis of a panel has a label."""
MAX_HORIZONTAL_LETTERS = 36
"""Total length of the labels of a panel above which they are vertical."""
MAX_HORIZONTAL_LABEL_LENGTH = 9
"""Length of a label above which the labels of a heat map's columns are vertical."""


def draw_heat_map_or_panels(keys: Sequence[str], rows: Sequence[LeaderboardRow]) -> Figure:
    """Draw the scores of a sweep.

    If two keys were swept over a grid, this is a heat map. Otherwise, there is a panel for each
    key.

    Args:
        keys: the swept keys, without the seed.
        rows: the leaderboard.
    """
    if is_complete_grid(keys, rows):
        return draw_heat_map(keys[0], keys[1], rows)
    if not keys:
        # Only the seed was swept. A single panel shows all runs.
        keys = [""]
    return draw_panels(keys, rows)


def is_complete_grid(keys: Sequence[str], rows: Sequence[LeaderboardRow]) -> bool:
    """Return whether two keys were swept, with a row for each combination of their values."""
    if len(keys) != 2:
        return False
    grid_size = len(get_sorted_values(keys[0], rows)) * len(get_sorted_values(keys[1], rows))
    # No two rows have the same values, so no combination is missing if the numbers are equal.
    return grid_size == len(rows)


def get_sorted_values(key: str, rows: Sequence[LeaderboardRow]) -> list[str]:
    """Return the distinct values of a key, in ascending order if they are numbers."""
    values = dict.fromkeys(row.settings.get(key, "") for row in rows)
    return sorted(values, key=number_or_infinity)


def format_labels(values: Sequence[str]) -> list[str]:
    """Return the labels of an axis for some values."""
    labels = []
    for value in values:
        # The end of a path says more than its beginning.
        label = round_if_decimal(value)[-MAX_LABEL_LENGTH:]
        labels.append(escape_dollar_signs(label))
    return labels


def format_seed_counts(rows: Sequence[LeaderboardRow]) -> str:
    """Return a text with the number of runs for each setting: `seeds of each setting: 1 to 3`."""
    counts = [len(row.runs) for row in rows]
    lowest = min(counts)
    highest = max(counts)
    numbers = str(lowest) if lowest == highest else f"{lowest} to {highest}"
    return f"seeds of each setting: {numbers}"


def draw_panels(keys: Sequence[str], rows: Sequence[LeaderboardRow]) -> Figure:
    """Draw the scores with a panel for each key."""
    figure = Figure(figsize=(1 + 4.5 * len(keys), 4.3), layout="constrained")
    title = format_seed_counts(rows)
    if any(row.failures for row in rows):
        title += "; × failed"
    figure.suptitle(title, size=10)
    # Without `squeeze=False`, a single panel would not be in an array.
    panels = figure.subplots(nrows=1, ncols=len(keys), sharey=True, squeeze=False)[0]
    panels[0].set_ylabel(SCORE_TITLE)
    for axes, key in zip(panels, keys, strict=True):
        draw_panel(axes, key, rows)
    return figure


def draw_panel(axes: Axes, key: str, rows: Sequence[LeaderboardRow]) -> None:
    """Draw the scores for each value of a key, and their means."""
    values = get_sorted_values(key, rows)
    scores_by_position: list[list[float]] = [[] for _ in values]
    for row in rows:
        position = values.index(row.settings.get(key, ""))
        # If all runs of the row have failed, there are no scores to draw.
        scores = row.metric_values(SCORE)
        scores_by_position[position] += scores
        axes.plot([position] * len(scores), scores, "o", color="tab:blue", alpha=0.4)
        if row.failures:
            # With this transform, y is relative to the height of the panel.
            transform = axes.get_xaxis_transform()
            axes.plot(position, 0.04, "x", color="tab:red", transform=transform)
    draw_means_if_several_scores(axes, scores_by_position)
    # With many values, only every second or third one has a label.
    label_interval = 1 + len(values) // MAX_LABELS
    labels = format_labels(values)[::label_interval]
    n_letters = sum(map(len, labels))
    rotation = 90 if n_letters > MAX_HORIZONTAL_LETTERS else 0
    axes.set_xticks(range(0, len(values), label_interval), labels, rotation=rotation)
    axes.set_xlabel(key)
    axes.margins(y=0.12)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_means_if_several_scores(axes: Axes, scores_by_position: Sequence[Sequence[float]]) -> None:
    """Draw the mean score at each position, unless no position has several scores."""
    if all(len(scores) < 2 for scores in scores_by_position):
        return
    means = []
    for scores in scores_by_position:
        means.append(mean(scores) if scores else math.nan)  # NaN is not drawn
    axes.plot(means, color="tab:blue", marker="_", markersize=14)


def draw_heat_map(y_key: str, x_key: str, rows: Sequence[LeaderboardRow]) -> Figure:
    """Draw the scores of a grid of two keys as a heat map."""
    y_values = get_sorted_values(y_key, rows)
    x_values = get_sorted_values(x_key, rows)
    size = (3 + 1.1 * len(x_values), 2 + 0.7 * len(y_values))  # inches
    figure = Figure(size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(format_seed_counts(rows), size=10)
    scores = [[math.nan] * len(x_values) for _ in y_values]  # NaN is not drawn
    for row in rows:
        y = y_values.index(row.settings.get(y_key, ""))
        x = x_values.index(row.settings.get(x_key, ""))
        if row.score is not None:
            scores[y][x] = row.score
        axes.text(x, y, format_score_and_failures(row), ha="center", va="center")
    # Pale colors, on which black text is legible.
    image = axes.imshow(scores, cmap="Blues", alpha=0.6, aspect="auto", origin="lower")
    x_labels = format_labels(x_values)
    longest_label = max(map(len, x_labels))
    rotation = 90 if longest_label > MAX_HORIZONTAL_LABEL_LENGTH else 0
    axes.set_xticks(range(len(x_values)), x_labels, rotation=rotation)
    axes.set_yticks(range(len(y_values)), format_labels(y_values))
    axes.set(xlabel=x_key, ylabel=y_key)
    figure.colorbar(image, label=SCORE_TITLE)
    return figure


def format_score_and_failures(row: LeaderboardRow) -> str:
    """Return the text in a cell of the heat map: the mean score, its deviation and failures."""
    score = format_mean_and_deviation(row.metric_values(SCORE), ".3f")
    # The deviation goes on a second line, where there is more room.
    lines = [score.replace(" ", "\n", 1)]
    if row.failures:
        lines.append(f"{len(row.failures)} of {len(row.runs)} failed")
    # Without a score, the first line is empty and is removed.
    return "\n".join(lines).strip()
