"""The picture of a sweep: the score against each key that was swept."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator


class Point(NamedTuple):
    """Settings of a sweep and the scores of the runs that had them."""

    settings: list[str]
    """The value of each swept key."""
    scores: list[float]
    """Empty if none finished."""
    failed: bool
    """Whether a run failed."""


def sweep_figure(keys: Sequence[str], points: Sequence[Point], score: str) -> Figure:
    """Draw the score against each swept key; a heat map if two keys were swept over a grid."""
    columns = [[point.settings[i] for point in points] for i in range(len(keys))]
    labels = [sorted(dict.fromkeys(column), key=_number) for column in columns]
    if len(keys) == 2 and len(points) == len(labels[0]) * len(labels[1]) > 1:
        return _heat_map(keys, labels, points, score)
    figure = Figure(figsize=(1 + 4.5 * max(len(keys), 1), 4), layout="constrained")
    panels = figure.subplots(1, max(len(keys), 1), sharey=True, squeeze=False)[0]
    panels[0].set_ylabel(score)
    for axes, key, column, known in zip(panels, keys, columns, labels, strict=False):
        _panel(axes, known, list(zip(column, points, strict=True)))
        axes.set_xlabel(key)
    if not keys:  # the seed alone
        _panel(panels[0], [""], [("", point) for point in points])
    return figure


def _panel(axes: Axes, labels: list[str], points: list[tuple[str, Point]]) -> None:
    """Draw the scores of one key's values, and their means."""
    numbers = [_number(label) for label in labels]
    numeric = len(labels) > 1 and numbers[-1] < math.inf
    places = dict(zip(labels, numbers if numeric else range(len(labels)), strict=True))
    if numeric and numbers[0] > 0 and numbers[-1] >= 8 * numbers[0]:
        axes.set_xscale("log")
    if not numeric or len(labels) <= 12:
        axes.set_xticks(list(places.values()), labels)
        axes.xaxis.set_minor_locator(NullLocator())
    scores: dict[float, list[float]] = {}
    for label, point in points:
        scores.setdefault(places[label], []).extend(point.scores)
        if point.failed:
            at_bottom = axes.get_xaxis_transform()  # x in data, y from 0, the bottom, to 1
            axes.plot(places[label], 0.03, "x", color="tab:red", transform=at_bottom)
            axes.text(
                places[label], 0.06, "failed", color="tab:red", ha="center", transform=at_bottom
            )
    for place, values in scores.items():
        axes.plot([place] * len(values), values, "o", color="tab:blue", alpha=0.4)
    if len(scores) < len(points) or max(map(len, scores.values())) > 1:
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


def _heat_map(
    keys: Sequence[str], labels: Sequence[Sequence[str]], points: Sequence[Point], score: str
) -> Figure:
    rows, columns = labels
    cells = {(point.settings[0], point.settings[1]): point for point in points}
    figure = Figure(figsize=(3 + 1.1 * len(columns), 1.6 + 0.7 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    means = [[mean(cells[row, column].scores or [math.nan]) for column in columns] for row in rows]
    finite = [value for line in means for value in line if value == value]
    image = axes.imshow(means, cmap="Blues", aspect="auto", origin="lower")
    for (row, column), point in cells.items():
        value = means[rows.index(row)][columns.index(column)]
        text = f"{value:.3f}" if point.scores else ""
        text += f"\n± {stdev(point.scores):.3f}" if len(point.scores) > 1 else ""
        text += "\nfailed" if point.failed else ""
        dark = point.scores and value > (min(finite) + max(finite)) / 2
        axes.text(
            columns.index(column),
            rows.index(row),
            text.strip(),
            ha="center",
            va="center",
            color="white" if dark else "black",
        )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=keys[1], ylabel=keys[0])
    figure.colorbar(image, label=score)
    return figure
