"""The picture of a leaderboard: the score for each value of the swept keys."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

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
"""Longer labels of an axis are cut off at the front."""
MAX_LABELS = 20
"""If the axis of a panel has more values, only some of them have labels."""
MAX_HORIZONTAL_LETTERS = 36
"""If the labels of a panel are longer in total, they are vertical."""
MAX_HORIZONTAL_LABEL_LENGTH = 9
"""If a label of a heat map's column is longer, the labels of all columns are vertical."""


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
        # Only the seed was swept. A single panel shows all runs at one position, because no run has
        # a setting with an empty key.
        keys = [""]
    return draw_panels(keys, rows)


def is_complete_grid(keys: Sequence[str], rows: Sequence[LeaderboardRow]) -> bool:
    """Return whether two keys were swept, with a row for each combination of their values."""
    if len(keys) != 2:
        return False
    grid_size = len(get_sorted_values(keys[0], rows)) * len(get_sorted_values(keys[1], rows))
    # The rows have distinct combinations of values. If there are as many rows as combinations, none
    # is missing.
    return grid_size == len(rows)


def get_sorted_values(key: str, rows: Sequence[LeaderboardRow]) -> list[str]:
    """Return the distinct values of a key, in ascending order if they are numbers."""
    # Texts have the same sort key, so they keep the order of the rows, which a set would lose.
    distinct_values = dict.fromkeys(row.settings.get(key, "") for row in rows)
    return sorted(distinct_values, key=number_or_infinity)


def format_labels(values: Sequence[str]) -> list[str]:
    """Return the labels of an axis for some values."""
    labels = []
    for value in values:
        # The end of a path says more than its beginning.
        label = round_if_decimal(value)[-MAX_LABEL_LENGTH:]
        labels.append(escape_dollar_signs(label))
    return labels


def format_seed_counts(rows: Sequence[LeaderboardRow]) -> str:
    """Return a text with the number of runs for each setting: `1 to 3 seeds per setting`."""
    counts = [len(row.runs) for row in rows]
    lowest = min(counts)
    highest = max(counts)
    numbers = str(lowest) if lowest == highest else f"{lowest} to {highest}"
    noun = "seed" if highest == 1 else "seeds"
    return f"{numbers} {noun} per setting"


def draw_panels(keys: Sequence[str], rows: Sequence[LeaderboardRow]) -> Figure:
    """Draw the scores with a panel for each key."""
    figure = Figure(figsize=(1 + 4.5 * len(keys), 4.3), layout="constrained")
    title = f"Mean ± standard deviation, {format_seed_counts(rows)}"
    if any(row.failures for row in rows):
        title += "; × failed"
    figure.suptitle(title, size=10)
    # Without `squeeze=False`, a single panel would not be in an array.
    panels = figure.subplots(nrows=1, ncols=len(keys), sharey=True, squeeze=False)[0]
    panels[0].set_ylabel(SCORE_TITLE)
    for axes, key in zip(panels, keys, strict=True):
        draw_panel(axes, key, rows)
    # From 0, so that small differences between seeds do not look like large effects. The panels
    # share the axis.
    panels[0].set_ylim(bottom=0)
    return figure


def draw_panel(axes: Axes, key: str, rows: Sequence[LeaderboardRow]) -> None:
    """Draw the scores for each value of a key, and their means."""
    values = get_sorted_values(key, rows)
    scores_by_position: list[list[float]] = [[] for _ in values]
    for row in rows:
        position = values.index(row.settings.get(key, ""))
        scores = row.metric_values(SCORE)  # empty if all runs of the row have failed
        scores_by_position[position] += scores
        axes.plot([position] * len(scores), scores, "o", color="tab:blue", alpha=0.4)
        if row.failures:
            # With this transform, y is relative to the height of the panel.
            transform = axes.get_xaxis_transform()
            axes.plot(position, 0.04, "x", color="tab:red", transform=transform)
    draw_means_if_several_scores(axes, scores_by_position)
    # With many values, only every second or third one has a label.
    label_interval = math.ceil(len(values) / MAX_LABELS)
    labels = format_labels(values)[::label_interval]
    n_letters = sum(map(len, labels))
    rotation = 90 if n_letters > MAX_HORIZONTAL_LETTERS else 0
    axes.set_xticks(range(0, len(values), label_interval), labels, rotation=rotation)
    axes.set_xlabel(key)
    axes.margins(y=0.12)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_means_if_several_scores(axes: Axes, scores_by_position: Sequence[Sequence[float]]) -> None:
    """Draw the mean score and its deviation at each position, if any position has several."""
    if all(len(scores) < 2 for scores in scores_by_position):
        return
    means = []
    deviations = []
    for scores in scores_by_position:
        means.append(mean(scores) if scores else math.nan)  # NaN is not drawn
        deviations.append(stdev(scores) if len(scores) > 1 else 0.0)
    axes.errorbar(range(len(means)), means, yerr=deviations, color="tab:blue", capsize=4)


def draw_heat_map(y_key: str, x_key: str, rows: Sequence[LeaderboardRow]) -> Figure:
    """Draw the scores of a grid of two keys as a heat map."""
    y_values = get_sorted_values(y_key, rows)
    x_values = get_sorted_values(x_key, rows)
    size = (3 + 1.1 * len(x_values), 2 + 0.7 * len(y_values))  # inches
    figure = Figure(size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(f"{SCORE_TITLE.capitalize()} ({format_seed_counts(rows)})", size=10)
    scores = [[math.nan] * len(x_values) for _ in y_values]  # NaN is not drawn
    for row in rows:
        y = y_values.index(row.settings.get(y_key, ""))
        x = x_values.index(row.settings.get(x_key, ""))
        if row.score is not None:
            scores[y][x] = row.score
        # The rows are sorted, so the first one is the best.
        is_best = row is rows[0] and row.score is not None
        weight = "bold" if is_best else "normal"
        text = format_score_and_failures(row)
        axes.text(x, y, text, ha="center", va="center", weight=weight)
        if is_best:
            axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, fill=False, linewidth=2))
    # Pale colors, on which black text is legible. The scale is that of all possible scores, so that
    # small differences between seeds do not look like large effects.
    image = axes.imshow(
        scores, vmin=0, vmax=1, cmap="Blues", alpha=0.6, aspect="auto", origin="lower"
    )
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
    mean_text, _, deviation_text = score.partition(" ")  # `0.412 ± 0.006`
    lines = [mean_text, deviation_text]
    if row.failures:
        lines.append(f"{len(row.failures)} of {len(row.runs)} failed")
    # Without a score or a deviation, the line for it is empty and is left out.
    return "\n".join(line for line in lines if line)
