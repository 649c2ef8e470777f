"""The picture of a sweep: the score against each key that was swept."""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from src.run.files import SCORE
from src.sweep.leaderboard import Row

TITLE = "validation balanced accuracy"


def sweep_figure(keys: Sequence[str], rows: Sequence[Row]) -> Figure:
    """Draw the score against each swept key; a heat map if two keys were swept over a grid."""
    columns = [[row.settings.get(key, "") for row in rows] for key in keys or [""]]
    labels = [sorted(dict.fromkeys(column), key=_number) for column in columns]
    if len(keys) == 2 and len(rows) == len(labels[0]) * len(labels[1]) > 1:
        return _heat_map(keys, labels, rows)
    figure = Figure(figsize=(1 + 4.5 * len(columns), 4), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    panels[0].set_ylabel(TITLE)
    for axes, key, column, known in zip(panels, keys or ["seed"], columns, labels, strict=True):
        _panel(axes, known, list(zip(column, rows, strict=True)))
        axes.set_xlabel(key if keys else "")
    return figure


def _panel(axes: Axes, labels: list[str], rows: list[tuple[str, Row]]) -> None:
    """Draw the scores of one key's values, and their means."""
    numbers = [_number(label) for label in labels]
    numeric = len(labels) > 1 and numbers[-1] < math.inf
    places = dict(zip(labels, numbers if numeric else range(len(labels)), strict=True))
    if numeric and numbers[0] > 0 and numbers[-1] >= 8 * numbers[0]:
        axes.set_xscale("log")
    if not numeric or len(labels) <= 12:
        axes.set_xticks(list(places.values()), labels)
        axes.xaxis.set_minor_locator(NullLocator())
    scores: dict[float, list[float]] = defaultdict(list)
    for label, row in rows:
        scores[places[label]] += row.values(SCORE)
        if row.failures:
            # x is data; y goes from 0, the bottom, to 1
            bottom: Any = {"color": "tab:red", "transform": axes.get_xaxis_transform()}
            axes.plot(places[label], 0.03, "x", **bottom)
            axes.text(places[label], 0.06, "failed", ha="center", **bottom)
    for place, values in scores.items():
        axes.plot([place] * len(values), values, "o", color="tab:blue", alpha=0.4)
    if len(scores) < len(rows) or max(map(len, scores.values())) > 1:
        means = [(place, mean(scores[place])) for place in sorted(scores) if scores[place]]
        axes.plot(*zip(*means, strict=True), color="tab:blue", marker="_", markersize=14)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _number(text: str) -> float:
    """Return what orders a value: itself, if it is a number; others keep their order, after."""
    try:
        return float(text)
    except ValueError:
        return math.inf


def _heat_map(keys: Sequence[str], labels: list[list[str]], rows: Sequence[Row]) -> Figure:
    lines, columns = labels
    figure = Figure(figsize=(3 + 1.1 * len(columns), 1.6 + 0.7 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    places = [(lines.index(r.settings[keys[0]]), columns.index(r.settings[keys[1]])) for r in rows]
    means = [[math.nan] * len(columns) for _ in lines]
    for (y, x), row in zip(places, rows, strict=True):
        means[y][x] = math.nan if row.score is None else row.score
    finite = [value for line in means for value in line if value == value]
    image = axes.imshow(means, cmap="Blues", aspect="auto", origin="lower")
    for (y, x), row in zip(places, rows, strict=True):
        scores = row.values(SCORE)
        said = [f"{mean(scores):.3f}"] if scores else []
        said += [f"± {stdev(scores):.3f}"] if len(scores) > 1 else []
        said += ["failed"] if row.failures else []
        dark = scores and means[y][x] > (min(finite) + max(finite)) / 2
        ink = "white" if dark else "black"
        axes.text(x, y, "\n".join(said), ha="center", va="center", color=ink)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(lines)), lines)
    axes.set(xlabel=keys[1], ylabel=keys[0])
    figure.colorbar(image, label=TITLE)
    return figure
