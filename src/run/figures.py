"""The pictures of a run: loss curve, confusion matrix, belief letter by letter."""

import io
import math
import warnings
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

matplotlib.rcParams["text.parse_math"] = False  # a category's name may hold a $

MOST_LABELS = 60  # categories, up to which a confusion matrix has room for numbers
MOST_CATEGORIES = 400  # that it shows
DARK = 0.715  # share from which on its color wants white letters, for a contrast above 4.5
MOST_BLIND = 1.5  # times the loss of blind guessing: the top of a loss curve
Curves = dict[str, list[tuple[int, float]]]
Ints = NDArray[np.int64]


def as_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file; a letter that the font lacks is drawn as a box."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # a fifth larger than usual, three times as fast
        figure.savefig(file, format="png", dpi=120, pil_kwargs={"compress_level": 1})
    return file.getvalue()


def loss_figure(curves: Curves, n_categories: int, title: str, end: str, well: bool) -> Figure:
    """Draw the loss over iterations, beside that of blind guessing.

    Args:
        curves: (iteration, mean loss) of each curve, under its name.
        n_categories: to guess among.
        title: above it.
        end: how the run ended.
        well: whether that is as it should be.
    """
    figure = Figure(figsize=(7, 4.4))
    axes = figure.add_axes((0.09, 0.12, 0.88, 0.68))  # a layout engine would draw it all twice
    color, lines = "black" if well else "firebrick", wrap(title, 84, max_lines=2, placeholder=" …")
    figure.text(0.09, 0.985, "\n".join(lines), va="top", size=9, weight="bold")
    figure.text(0.09, 0.98 - 0.035 * len(lines), end, va="top", size=9, color=color)
    blind = math.log(n_categories)
    highest = max(loss for curve in curves.values() for _, loss in curve)
    top = min(max(highest, blind) * 1.05, MOST_BLIND * blind)
    for name, curve in curves.items():
        label = name if highest < top else f"{name}, ends at {curve[-1][1]:.3g}"
        axes.plot(*zip(*curve, strict=True), marker="." if len(curve) < 40 else "", label=label)
    axes.axhline(blind, color="black", linestyle=":", label=f"blind guessing, ln {n_categories}")
    axes.set(xlabel="iteration", ylabel="loss", ylim=(0, top))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc=(-0.02, 0.98), ncols=3, frameon=False, fontsize=9, columnspacing=1.2)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def confusion_figure(
    targets: Ints, guesses: Ints, categories: list[str], names: str, neighbours: bool = False
) -> Figure:
    """Draw a confusion matrix, true category × guess, as per cent of each true category.

    Of many hundreds of categories, those with the most names.

    Args:
        targets: the true category of each name [N].
        guesses: the guessed one [N].
        categories: what these are called, C.
        names: what the names are.
        neighbours: whether categories that are confused stand beside each other.
    """
    support = np.bincount(targets, minlength=len(categories))
    shown = np.sort(np.argsort(-support, kind="stable")[:MOST_CATEGORIES])
    place = np.full(len(categories), len(shown))  # all others share the last row and column
    place[shown] = np.arange(len(shown))
    counts = np.zeros((len(shown) + 1, len(shown) + 1))
    np.add.at(counts, (place[targets], place[guesses]), 1)
    shares = counts[:-1, :-1] / support[shown, None].clip(min=1)
    if neighbours:
        order = by_confusion(shares)
        shown, shares = shown[order], shares[np.ix_(order, order)]
    labels = [categories[i] for i in shown]
    counted = [f"{categories[i]}  {support[i]:,}" for i in shown]
    side = min(max(0.33 * len(shown) + 1, 4), 21)  # inches; and what is written around it
    size = min(15, 65 * side / len(shown))  # points
    written = 0.6 + size / 110 * min(30, max(map(len, counted)))
    width, height = written + side + 0.3, written + side + 0.5
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((written / width, written / height, side / width, side / height))
    few = len(shown) <= MOST_LABELS
    # What is rare is to be seen, too, where no numbers say it.
    colors = axes.imshow(shares, cmap="Blues", norm=PowerNorm(1 if few else 0.4, 0, 1))
    for row, column in np.argwhere(shares >= 0.01) if few else ():
        share, ink = shares[row, column], "white" if shares[row, column] > DARK else "black"
        axes.text(column, row, f"{100 * share:.0f}", color=ink, size=12, ha="center", va="center")
    axes.set_xticks(range(len(shown)), labels, rotation=90, size=size)
    axes.set_yticks(range(len(shown)), counted, size=size)
    axes.set(xlabel="guess", ylabel="true category, names")
    axes.set_title(f"Guesses on {names}, % of each true category", size=14, x=1, ha="right")
    if not few:
        figure.colorbar(colors, ax=axes, fraction=0.02, pad=0.01, ticks=(0, 0.01, 0.1, 0.3, 1))
    return figure


def by_confusion(shares: NDArray[np.float64]) -> Ints:
    """Return an order of C categories in which those that are confused [C, C] are neighbours.

    The order of the second eigenvector of the graph of confusions: where strong ties are short.
    """
    ties = shares + shares.T + 1e-3
    _, vectors = np.linalg.eigh(np.diag(ties.sum(axis=1)) - ties)
    return np.argsort(vectors[:, min(1, len(ties) - 1)], kind="stable")


def coverage_figure(curve: NDArray[np.float64], title: str) -> Figure:
    """Draw the precision over the coverage: rows of threshold, precision and coverage [M, 3]."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    thresholds, precision, coverage = curve.T
    beside: Any = {"textcoords": "offset points", "size": 8, "ha": "right", "va": "top"}
    axes.plot(100 * coverage, 100 * precision)
    for at in np.unique(np.searchsorted(coverage, np.arange(1, 11) / 10)):
        point = 100 * coverage[at], 100 * precision[at]
        axes.plot(*point, "k.")
        axes.annotate(f"{thresholds[at]:.3f}", point, (-3, -4), **beside)
    axes.set(xlabel="coverage: names answered, %, with some thresholds", xlim=(0, 102), title=title)
    axes.set(ylabel="precision: of them right, %")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def belief_figure(name: str, beliefs: NDArray[Any], categories: list[str], prior: str) -> Figure:
    """Draw how the probabilities [L, C], under a prior, move while a name's letters are read."""
    figure = Figure((2 + 0.45 * len(name), 1 + 0.3 * len(categories)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(beliefs.T, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(name)), name)
    axes.set_yticks(range(len(categories)), categories)
    axes.set(xlabel="letters read so far", title=name)
    figure.colorbar(image, label=f"probability, prior: {prior}")
    return figure
