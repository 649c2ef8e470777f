"""The picture of a sweep: the score against each key that was swept."""

import math
from collections.abc import Sequence
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.models.registry import SCORE
from src.sweep.leaderboard import Row, number, short, spread

TITLE = "validation balanced accuracy"


def sweep_figure(keys: Sequence[str], rows: Sequence[Row]) -> Figure:
    """Draw the score against each swept key; a heat map if two keys were swept over a grid."""
    keys = keys or [""]  # one panel, if only the seed was swept
    if len(keys) == 2 and len(rows) == math.prod(len(_values(key, rows)) for key in keys):
        return _heat_map(keys, rows)
    figure = Figure(figsize=(1 + 4.5 * len(keys), 4.3), layout="constrained")
    some_failed = "; × failed" if any(row.failures for row in rows) else ""
    figure.suptitle(_repetitions(rows) + some_failed, size=10)
    panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    panels[0].set_ylabel(TITLE)
    for axes, key in zip(panels, keys, strict=True):
        _panel(axes, key, rows)
    return figure


def _values(key: str, rows: Sequence[Row]) -> list[str]:
    """Return the distinct values of a key, in the order of an axis."""
    return sorted(dict.fromkeys(row.settings.get(key, "") for row in rows), key=number)


def _repetitions(rows: Sequence[Row]) -> str:
    counts = [len(row.runs) for row in rows]
    return f"seeds of each setting: {' to '.join(map(str, sorted({min(counts), max(counts)})))}"


def _labels(values: Sequence[str]) -> list[str]:
    return [short(value)[-18:] for value in values]


def _panel(axes: Axes, key: str, rows: Sequence[Row]) -> None:
    """Draw the scores of one key's values, side by side, and their means."""
    labels = _values(key, rows)
    scores: list[list[float]] = [[] for _ in labels]
    for row in rows:
        place, values = labels.index(row.settings.get(key, "")), row.values(SCORE)
        scores[place] += values
        axes.plot([place] * len(values), values, "o", color="tab:blue", alpha=0.4)
        if row.failures:
            # x is data; y goes from 0, the bottom, to 1
            axes.plot(place, 0.04, "x", color="tab:red", transform=axes.get_xaxis_transform())
    if max(map(len, scores)) > 1:
        means = [mean(values) if values else math.nan for values in scores]
        axes.plot(means, color="tab:blue", marker="_", markersize=14)
    every = 1 + len(labels) // 20
    ticks = _labels(labels)[::every]
    upright = 90 if sum(map(len, ticks)) > 36 else 0  # letters that 4 inches have room for
    axes.set_xticks(range(0, len(labels), every), ticks, rotation=upright)
    axes.set_xlabel(key)
    axes.margins(y=0.12)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _heat_map(keys: Sequence[str], rows: Sequence[Row]) -> Figure:
    lines, columns = (_values(key, rows) for key in keys)
    figure = Figure((3 + 1.1 * len(columns), 2 + 0.7 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(_repetitions(rows), size=10)
    means = [[math.nan] * len(columns) for _ in lines]
    for row in rows:
        line, column = (row.settings.get(key, "") for key in keys)
        y, x = lines.index(line), columns.index(column)
        means[y][x] = math.nan if row.score is None else row.score
        said = spread(row.values(SCORE), ".3f").replace(" ", "\n", 1)
        if row.failures:
            said += f"\n{len(row.failures)} of {len(row.runs)} failed"
        axes.text(x, y, said.strip(), ha="center", va="center")
    # pale, for black letters
    image = axes.imshow(means, cmap="Blues", alpha=0.6, aspect="auto", origin="lower")
    upright = 90 if max(map(len, _labels(columns))) > 9 else 0
    axes.set_xticks(range(len(columns)), _labels(columns), rotation=upright)
    axes.set_yticks(range(len(lines)), _labels(lines))
    axes.set(xlabel=keys[1], ylabel=keys[0])
    figure.colorbar(image, label=TITLE)
    return figure
