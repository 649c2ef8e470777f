"""Figures of runs and predictions: loss curves, confusion matrix, probabilities letter by letter.

Shapes: N names, C categories, L letters of a name.
"""

import io
import math
import warnings
from itertools import chain
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

MAX_CATEGORIES = 400
"""Maximum number of categories that a confusion matrix shows."""
MAX_NUMBERED_CATEGORIES = 60
"""Maximum number of categories for which the cells of a confusion matrix contain numbers."""
MIN_SHOWN_SHARE = 0.01
"""Share below which a cell of a confusion matrix contains no number."""
MIN_DARK_SHARE = 0.715
"""Share above which a cell is so dark that white text has a contrast above 4.5."""
MAX_LABEL_LENGTH = 30
"""Number of letters of a category for which a confusion matrix has room."""
MAX_LOSS_RATIO = 1.5
"""Highest top of the loss axis, as a multiple of the loss of blind guessing.

A blind guess gives all C categories the probability 1 / C, so its loss is ln C.
"""
MAX_POINTS_WITH_MARKERS = 40
"""Number of points of a curve up to which each point has a marker."""
DPI = 120
"""Resolution of the pictures: a fifth higher than the default of matplotlib."""

Curves = dict[str, list[tuple[int, float]]]
"""For each label, the points of a curve as pairs of an iteration and a loss."""
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def render_png(figure: Figure) -> bytes:
    """Return a figure as a picture in PNG format."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # The lowest compression level is three times as fast as the default.
        figure.savefig(file, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    return file.getvalue()


def escape_dollar_signs(text: str) -> str:
    """Return a text that matplotlib draws as it is, even if it contains dollar signs."""
    return text.replace("$", r"\$")


def draw_loss_curves(
    curves: Curves, n_categories: int, title: str, subtitle: str, is_finished: bool
) -> Figure:
    """Draw the loss over the iterations, and the loss of blind guessing.

    Args:
        curves: the curves by label; at least one, and none of them empty.
        n_categories: number of categories.
        title: title, which is wrapped.
        subtitle: lines below the title.
        is_finished: whether the run ended as it should; if not, the subtitle is red.
    """
    figure = Figure(figsize=(7, 4.4))
    # Fixed positions, as fractions of the figure, because a layout engine would draw everything
    # twice.
    axes = figure.add_axes((0.09, 0.12, 0.88, 0.68))
    title_lines = wrap(escape_dollar_signs(title), width=84, max_lines=2, placeholder=" …")
    line_height = 0.035
    subtitle_top = 0.98 - line_height * len(title_lines)
    subtitle_color = "black" if is_finished else "firebrick"
    figure.text(0.09, 0.985, "\n".join(title_lines), va="top", size=9, weight="bold")
    figure.text(
        0.09, subtitle_top, escape_dollar_signs(subtitle), va="top", size=9, color=subtitle_color
    )

    blind_loss = math.log(n_categories)
    all_points = chain.from_iterable(curves.values())
    highest_loss = max(loss for _, loss in all_points)
    # If a run diverges, the top is limited: the other points would be indistinguishable from 0.
    needed_top = 1.05 * max(highest_loss, blind_loss)
    top = min(needed_top, MAX_LOSS_RATIO * blind_loss)
    is_cut_off = highest_loss >= top
    for label, curve in curves.items():
        iterations = [iteration for iteration, _ in curve]
        losses = [loss for _, loss in curve]
        # The end of a curve may be above the top, so the legend names it.
        legend_label = f"{label}, ends at {losses[-1]:.3g}" if is_cut_off else label
        marker = "." if len(curve) < MAX_POINTS_WITH_MARKERS else ""
        axes.plot(iterations, losses, marker=marker, label=legend_label)
    blind_label = f"blind guessing, ln {n_categories}"
    axes.axhline(blind_loss, color="black", linestyle=":", label=blind_label)
    axes.set(xlabel="iteration", ylabel="loss", ylim=(0, top))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc=(-0.02, 0.98), ncols=3, frameon=False, fontsize=9, columnspacing=1.2)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_clustered_confusion_matrix(
    targets: Ints, predictions: Ints, categories: list[str], names_description: str
) -> Figure:
    """Draw a confusion matrix in percent of each true category.

    Categories that are often confused are next to each other. If there are very many categories,
    the ones with the most names are shown.

    Args:
        targets: index of the true category of each name [N].
        predictions: index of the predicted category of each name [N].
        categories: names of the categories [C].
        names_description: describes the names in the title.
    """
    support = np.bincount(targets, minlength=len(categories))  # [C]
    most_frequent = np.argsort(-support, kind="stable")[:MAX_CATEGORIES]
    shown = np.sort(most_frequent)  # indices of the categories that are shown [S]
    shares = compute_confusion_shares(targets, predictions, support, shown)  # [S, S]
    order = order_categories_by_confusion(shares)  # [S]
    shown = shown[order]
    shares = shares[np.ix_(order, order)]

    labels = []
    labels_with_counts = []
    for index in shown:
        label = escape_dollar_signs(categories[index])
        labels.append(label)
        labels_with_counts.append(f"{label}  {support[index]:,}")
    longest_label = max(map(len, labels_with_counts))
    layout = compute_matrix_layout(len(shown), longest_label)
    figure = Figure(figsize=layout.figure_size)
    axes = figure.add_axes(layout.axes_position)
    has_numbers = len(shown) <= MAX_NUMBERED_CATEGORIES
    # Without numbers, small shares need darker colors to be seen.
    gamma = 1 if has_numbers else 0.4
    color_scale = PowerNorm(gamma, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap="Blues", norm=color_scale)
    if has_numbers:
        _write_percentages(axes, shares)
    else:
        figure.colorbar(image, ax=axes, fraction=0.02, pad=0.01, ticks=(0, 0.01, 0.1, 0.3, 1))
    axes.set_xticks(range(len(shown)), labels, rotation=90, size=layout.font_size)
    axes.set_yticks(range(len(shown)), labels_with_counts, size=layout.font_size)
    axes.set(xlabel="guess", ylabel="true category, names")
    title = f"Guesses on {escape_dollar_signs(names_description)}, % of each true category"
    axes.set_title(title, size=14, x=1, ha="right")
    return figure


class MatrixLayout(NamedTuple):
    """Sizes of a figure with a confusion matrix, such that all labels have room."""

    figure_size: tuple[float, float]
    """Width and height in inches."""
    axes_position: tuple[float, float, float, float]
    """Left, bottom, width and height of the matrix, as fractions of the figure."""
    font_size: float
    """Size of the labels in points."""


def compute_matrix_layout(n_rows: int, longest_label: int) -> MatrixLayout:
    """Return the sizes of a figure with a confusion matrix.

    Args:
        n_rows: number of rows of the matrix, which is also that of its columns.
        longest_label: number of letters of the longest label.
    """
    # All sizes but that of the font are in inches. A matrix grows with its rows, up to a limit at
    # which the rows become smaller.
    matrix_size = min(max(0.33 * n_rows + 1, 4), 21)
    font_size = min(15, 65 * matrix_size / n_rows)
    # The labels are to the left of the matrix and, rotated, below it.
    label_size = 0.6 + font_size / 110 * min(MAX_LABEL_LENGTH, longest_label)
    width = label_size + matrix_size + 0.3
    height = label_size + matrix_size + 0.5
    axes_position = (
        label_size / width,
        label_size / height,
        matrix_size / width,
        matrix_size / height,
    )
    return MatrixLayout((width, height), axes_position, font_size)


def compute_confusion_shares(
    targets: Ints, predictions: Ints, support: Ints, shown: Ints
) -> Floats:
    """Return the share of each predicted category among the names of each true category.

    Args:
        targets: index of the true category of each name [N].
        predictions: index of the predicted category of each name [N].
        support: number of names of each category [C].
        shown: indices of the categories to include [S].

    Returns:
        The shares [S, S]; row: true category, column: prediction.
    """
    n_shown = len(shown)
    # All categories that are not shown share the last row and the last column, which are dropped
    # at the end.
    position = np.full(len(support), n_shown)
    position[shown] = np.arange(n_shown)
    counts = np.zeros((n_shown + 1, n_shown + 1))
    np.add.at(counts, (position[targets], position[predictions]), 1)
    # A row is divided by all names of its category, even those whose prediction is not shown. A
    # category without names is not divided by 0.
    row_sums = support[shown].clip(min=1)
    shares: Floats = counts[:-1, :-1] / row_sums[:, None]
    return shares


def order_categories_by_confusion(shares: Floats) -> Ints:
    """Return an order of categories in which those that are often confused are neighbors.

    This is spectral ordering: the categories are sorted by their entries in the second eigenvector
    of the Laplacian matrix of the graph whose edges are weighted by the confusions.

    Args:
        shares: a confusion matrix [S, S].

    Returns:
        The indices of the categories in this order [S].
    """
    weights = shares + shares.T + 1e-3  # the constant connects all categories
    laplacian = np.diag(weights.sum(axis=1)) - weights
    _, eigenvectors = np.linalg.eigh(laplacian)
    second = min(1, len(shares) - 1)  # the first one, if there is a single category
    return np.argsort(eigenvectors[:, second], kind="stable")


def _write_percentages(axes: Axes, shares: Floats) -> None:
    """Write the percentage into each cell of a confusion matrix that is not almost empty."""
    for row, column in np.argwhere(shares >= MIN_SHOWN_SHARE):
        share = shares[row, column]
        color = "white" if share > MIN_DARK_SHARE else "black"
        text = f"{100 * share:.0f}"
        axes.text(column, row, text, color=color, size=12, ha="center", va="center")


def draw_letter_probabilities(
    name: str, probabilities: NDArray[Any], categories: list[str], prior: str
) -> Figure:
    """Draw how the probabilities change while a name is read letter by letter.

    Args:
        name: the name [L].
        probabilities: probabilities after each letter [L, C].
        categories: names of the categories [C].
        prior: name of the prior.
    """
    size = (2 + 0.45 * len(name), 1 + 0.3 * len(categories))  # inches
    figure = Figure(size, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(probabilities.T, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(name)), list(map(escape_dollar_signs, name)))
    axes.set_yticks(range(len(categories)), list(map(escape_dollar_signs, categories)))
    axes.set(xlabel="letters read so far", title=escape_dollar_signs(name))
    figure.colorbar(image, label=f"probability, prior: {prior}")
    return figure
