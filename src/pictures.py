"""The pictures: loss curve, confusion matrix, belief letter by letter."""

import io
import math
import warnings
from collections.abc import Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, NamedTuple, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:  # a sweep's end has no other need of torch, which takes seconds to load
    from torch import Tensor

matplotlib.rcParams["text.parse_math"] = False  # a category's name may hold a $

FONT = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
QUICKLY = {"compress_level": 1}  # a fifth larger, three times as fast
MOST_CELLS = 60  # categories, up to which a confusion matrix has room for numbers


def as_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file; a letter that the font lacks is drawn as a box."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="png", dpi=120, pil_kwargs=QUICKLY)
    return file.getvalue()


def axes_of(
    size: tuple[float, float], left: float, bottom: float, right: float, top: float
) -> Axes:
    """Return the axes of a new figure, with these margins; all in inches.

    matplotlib's layout engines find the margins by themselves, but draw everything once more.
    """
    width, height = size
    box = (left, bottom, width - left - right, height - bottom - top)
    return Figure(figsize=size).add_axes(
        (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
    )


def loss_figure(curve: list[tuple[int, float]]) -> Figure:
    """Draw the training loss: (iteration, mean loss of the names up to it)."""
    axes = axes_of((7, 4), left=0.6, bottom=0.5, right=0.3, top=0.15)
    axes.plot(*zip(*curve, strict=True), marker="." if len(curve) < 20 else "")
    axes.set(xlabel="iteration (names trained on)", ylabel="training loss", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return cast("Figure", axes.figure)


def confusion_png(matrix: "Tensor", categories: list[str], title: str) -> bytes:
    """Draw a confusion matrix [C, C], true category × guess, as per cent of each true category.

    Returns a PNG file. Every run of a sweep makes one, and matplotlib takes eight times as long.
    """
    shares = (matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    count = len(categories)
    small, large = (ImageFont.truetype(FONT, size) for size in (12, 17))
    cell = max(40 * min(count, MOST_CELLS) // count, 240 // count, 1)
    labeled = range(0, count, 1 + (count - 1) // MOST_CELLS)
    label = 12 + int(max(large.getlength(categories[i]) for i in labeled))
    left, top, side = 35 + label, 50, cell * count
    width = max(left + side, int(large.getlength(title))) + 20
    image = Image.new("RGB", (width, top + side + label + 35), "white")
    draw = ImageDraw.Draw(image)
    draw.text((width / 2, top / 2), title, "black", large, anchor="mm")
    colors = matplotlib.colormaps["Blues"](shares, bytes=True)[:, :, :3]
    grid = Image.fromarray(colors).resize((side, side), Image.Resampling.NEAREST)
    image.paste(grid, (left, top))
    for row, column in np.argwhere(shares >= 0.005) if count <= MOST_CELLS else ():
        share = shares[row, column]
        center = (left + cell * (column + 0.5), top + cell * (row + 0.5))
        ink = "white" if share > 0.5 else "black"
        draw.text(center, f"{100 * share:.0f}", ink, small, anchor="mm")

    def upright(text: str) -> Image.Image:
        strip = Image.new("RGB", (label, 24), "white")
        ImageDraw.Draw(strip).text((label - 8, 12), text, "black", large, anchor="rm")
        return strip.rotate(90, expand=True)

    for i in labeled:
        middle = int(cell * (i + 0.5))
        draw.text((left - 8, top + middle), categories[i], "black", large, anchor="rm")
        image.paste(upright(categories[i]), (left + middle - 12, top + side))
    draw.text((left + side / 2, top + side + label + 15), "guess", "black", large, anchor="mm")
    axis = Image.new("RGB", (150, 24), "white")
    ImageDraw.Draw(axis).text((75, 12), "true category", "black", large, anchor="mm")
    image.paste(axis.rotate(90, expand=True), (5, max(0, top + side // 2 - 75)))
    file = io.BytesIO()
    image.save(file, format="png", **QUICKLY)
    return file.getvalue()


def belief_figure(letters: Sequence[str], probabilities: "Tensor", categories: list[str]) -> Figure:
    """Draw how the probabilities [L, C] move while the letters of a name are read."""
    figure = Figure(
        figsize=(2 + 0.45 * len(letters), 1 + 0.3 * len(categories)), layout="constrained"
    )
    axes = figure.add_subplot()
    image = axes.imshow(probabilities.T.tolist(), vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(letters)), letters)
    axes.set_yticks(range(len(categories)), categories)
    axes.set(xlabel="letters read so far", title="".join(letters))
    figure.colorbar(image, label="probability")
    return figure


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
