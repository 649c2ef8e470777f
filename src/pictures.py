"""The pictures: loss curve, confusion matrix, belief letter by letter."""

import io
import warnings
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

matplotlib.rcParams["text.parse_math"] = False  # a category's name may hold a $

MOST_CELLS = 60  # categories, up to which a confusion matrix has room for numbers


def as_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file; a letter that the font lacks is drawn as a box."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def loss_figure(curve: list[tuple[int, float]]) -> Figure:
    """Draw the training loss: (iteration, mean loss of the names up to it)."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*curve, strict=True), marker="." if len(curve) < 20 else "")
    axes.set(xlabel="iteration (names trained on)", ylabel="training loss", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def confusion_figure(matrix: Tensor, categories: list[str], title: str) -> Figure:
    """Draw a confusion matrix [C, C], true category × guess, as per cent of each true category."""
    shares = (matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)).tolist()
    size = 1.5 + 0.33 * min(len(categories), MOST_CELLS)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for row, values in enumerate(shares if len(categories) <= MOST_CELLS else []):
        for column, share in enumerate(values):
            if share >= 0.005:
                color = "white" if share > 0.5 else "black"
                text = f"{100 * share:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=7)
    ticks = range(0, len(categories), 1 + (len(categories) - 1) // MOST_CELLS)
    labels = [categories[i] for i in ticks]
    axes.set_xticks(ticks, labels, rotation=90)
    axes.set_yticks(ticks, labels)
    axes.set(xlabel="guess", ylabel="true category", title=title)
    return figure


def belief_figure(letters: Sequence[str], probabilities: Tensor, categories: list[str]) -> Figure:
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
