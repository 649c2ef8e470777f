"""Figures of runs and predictions: loss curves, confusion matrix, probabilities letter by letter.

Shapes: N names, C categories, L letters of a name.
"""

import io
import math
import warnings
from textwrap import wrap
from typing import Any

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
"""Top of the loss axis, as a multiple of the loss of blind guessing."""
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


def escape_math(text: str) -> str:
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
    # Fixed positions, because a layout engine would draw everything twice.
    axes = figure.add_axes((0.09, 0.12, 0.88, 0.68))
    title_lines = wrap(escape_math(title), width=84, max_lines=2, placeholder=" …")
    subtitle_top = 0.98 - 0.035 * len(title_lines)
    subtitle_color = "black" if is_finished else "firebrick"
    figure.text(0.09, 0.985, "\n".join(title_lines), va="top", size=9, weight="bold")
    figure.text(0.09, subtitle_top, escape_math(subtitle), va="top", size=9, color=subtitle_color)

    blind_loss = math.log(n_categories)
    highest_loss = max(loss for curve in curves.values() for _, loss in curve)
    needed_top = 1.05 * max(highest_loss, blind_loss)
    top = min(needed_top, MAX_LOSS_RATIO * blind_loss)
    for label, curve in curves.items():
        iterations = [iteration for iteration, _ in curve]
        losses = [loss for _, loss in curve]
        is_cut_off = highest_loss >= top
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
    order = order_by_confusion(shares)
    shown = shown[order]
    shares = shares[np.ix_(order, order)]

    labels = [escape_math(categories[index]) for index in shown]
    counts = [f"{support[index]:,}" for index in shown]
    labels_with_counts = [f"{label}  {n}" for label, n in zip(labels, counts, strict=True)]
    matrix_size = min(max(0.33 * len(shown) + 1, 4), 21)  # inches
    font_size = min(15, 65 * matrix_size / len(shown))  # points
    longest_label = min(MAX_LABEL_LENGTH, max(map(len, labels_with_counts)))
    label_size = 0.6 + font_size / 110 * longest_label  # inches
    width = label_size + matrix_size + 0.3
    height = label_size + matrix_size + 0.5
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes(
        (label_size / width, label_size / height, matrix_size / width, matrix_size / height)
    )
    has_numbers = len(shown) <= MAX_NUMBERED_CATEGORIES
    # Without numbers, small shares need darker colors to be seen.
    gamma = 1 if has_numbers else 0.4
    color_scale = PowerNorm(gamma, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap="Blues", norm=color_scale)
    if has_numbers:
        _write_percentages(axes, shares)
    else:
        figure.colorbar(image, ax=axes, fraction=0.02, pad=0.01, ticks=(0, 0.01, 0.1, 0.3, 1))
    axes.set_xticks(range(len(shown)), labels, rotation=90, size=font_size)
    axes.set_yticks(range(len(shown)), labels_with_counts, size=font_size)
    axes.set(xlabel="guess", ylabel="true category, names")
    title = f"Guesses on {escape_math(names_description)}, % of each true category"
    axes.set_title(title, size=14, x=1, ha="right")
    return figure


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
    # All categories that are not shown share the last row and the last column.
    position = np.full(len(support), n_shown)
    position[shown] = np.arange(n_shown)
    counts = np.zeros((n_shown + 1, n_shown + 1))
    np.add.at(counts, (position[targets], position[predictions]), 1)
    row_sums = support[shown].clip(min=1)  # of all names, whether their prediction is shown or not
    shares: Floats = counts[:-1, :-1] / row_sums[:, None]
    return shares


def order_by_confusion(shares: Floats) -> Ints:
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
    second = min(1, len(shares) - 1)  # a single category has a single eigenvector
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
    size = (2 + 0.45 * len(name), 1 + 0.3 * len(categories))
    figure = Figure(size, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(probabilities.T, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(name)), list(map(escape_math, name)))
    axes.set_yticks(range(len(categories)), list(map(escape_math, categories)))
    axes.set(xlabel="letters read so far", title=escape_math(name))
    figure.colorbar(image, label=f"probability, prior: {prior}")
    return figure
