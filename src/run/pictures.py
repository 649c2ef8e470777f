"""The pictures of a run: loss curve, confusion matrix, belief letter by letter."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

matplotlib.rcParams["text.parse_math"] = False  # a category's name may hold a $

MOST_LABELS = 60  # categories, up to which a confusion matrix has room for numbers
MOST_CATEGORIES = 400  # that it shows


def as_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file; a letter that the font lacks is drawn as a box."""
    file = io.BytesIO()
    quickly = {"compress_level": 1}  # a fifth larger, three times as fast
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="png", dpi=120, pil_kwargs=quickly)
    return file.getvalue()


def loss_figure(curve: list[tuple[int, float]]) -> Figure:
    """Draw the training loss: (iteration, mean loss of the names up to it)."""
    figure = Figure(figsize=(7, 4))
    axes = figure.add_axes((0.09, 0.13, 0.87, 0.83))  # a layout engine would draw it all twice
    axes.plot(*zip(*curve, strict=True), marker="." if len(curve) < 20 else "")
    axes.set(xlabel="iteration", ylabel="training loss", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def confusion_figure(
    targets: NDArray[np.int64], guesses: NDArray[np.int64], categories: list[str], title: str
) -> Figure:
    """Draw a confusion matrix, true category × guess, as per cent of each true category.

    Of many hundreds of categories, those with the most names.

    Args:
        targets: the true category of each name [N].
        guesses: the guessed one [N].
        categories: their names, C.
        title: above it.
    """
    support = np.bincount(targets, minlength=len(categories))
    shown = np.sort(np.argsort(-support, kind="stable")[:MOST_CATEGORIES])
    place = np.full(len(categories), len(shown))  # all others share the last row and column
    place[shown] = np.arange(len(shown))
    counts = np.zeros((len(shown) + 1, len(shown) + 1))
    np.add.at(counts, (place[targets], place[guesses]), 1)
    shares = counts[:-1, :-1] / support[shown, None].clip(min=1)
    side = 0.33 * min(len(shown), MOST_LABELS) + 1  # inches, and 1.8 for what is written around it
    whole = side + 1.8
    figure = Figure(figsize=(whole, whole))
    axes = figure.add_axes((1.4 / whole, 1.3 / whole, side / whole, side / whole))
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for row, column in np.argwhere(shares >= 0.01) if len(shown) <= MOST_LABELS else ():
        share = shares[row, column]
        ink = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{100 * share:.0f}", color=ink, size=8, ha="center", va="center")
    labeled = range(0, len(shown), 1 + (len(shown) - 1) // MOST_LABELS)
    labels = [categories[shown[i]] for i in labeled]
    axes.set_xticks(labeled, labels, rotation=90)
    axes.set_yticks(labeled, labels)
    axes.set(xlabel="guess", ylabel="true category", title=title)
    return figure


def belief_figure(
    letters: Sequence[str], probabilities: NDArray[Any], categories: list[str]
) -> Figure:
    """Draw how the probabilities [L, C] move while the letters of a name are read."""
    size = 2 + 0.45 * len(letters), 1 + 0.3 * len(categories)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(probabilities.T, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(letters)), letters)
    axes.set_yticks(range(len(categories)), categories)
    axes.set(xlabel="letters read so far", title="".join(letters))
    figure.colorbar(image, label="probability")
    return figure
