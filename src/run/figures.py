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
MIN_RELIABLE_SUPPORT = 20
"""Rows of a confusion matrix with fewer names are marked as unreliable."""
MIN_SHOWN_SHARE = 0.01
"""Cells of a confusion matrix with a smaller share contain no number."""
MIN_DARK_SHARE = 0.715
"""Cells with a larger share are so dark that their text is white, with a contrast above 4.5."""
MAX_LABEL_LENGTH = 30
"""Longer labels of a confusion matrix may be cut off at the edge of the figure."""
MAX_LOSS_RATIO = 1.5
"""Highest top of the loss axis, as a multiple of the loss at the chance level.

At the chance level, all C categories have the probability 1 / C, so the loss is ln C.
"""
MAX_POINTS_WITH_MARKERS = 40
"""The points of longer curves have no markers."""
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
    """Draw the loss over the iterations, and the loss at the chance level.

    Args:
        curves: the curves by label; at least one, and none of them empty.
        n_categories: number of categories.
        title: title, which is wrapped.
        subtitle: lines below the title; can be empty.
        is_finished: whether the run has finished; if not, the subtitle is red.
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

    chance_loss = math.log(n_categories)
    all_points = chain.from_iterable(curves.values())
    highest_loss = max(loss for _, loss in all_points)
    # Limit the top, because in a run that diverges, the other points would be indistinguishable
    # from 0.
    needed_top = 1.05 * max(highest_loss, chance_loss)
    top = min(needed_top, MAX_LOSS_RATIO * chance_loss)
    is_cut_off = highest_loss >= top
    for label, curve in curves.items():
        iterations = [iteration for iteration, _ in curve]
        losses = [loss for _, loss in curve]
        # The end of a curve may be above the top, so the legend contains the last loss.
        legend_label = f"{label}, ends at {losses[-1]:.3g}" if is_cut_off else label
        marker = "." if len(curve) <= MAX_POINTS_WITH_MARKERS else ""
        axes.plot(iterations, losses, marker=marker, label=legend_label)
    chance_label = f"chance level (ln {n_categories} = {chance_loss:.2f})"
    axes.axhline(chance_loss, color="black", linestyle=":", label=chance_label)
    axes.set(xlabel="iteration", ylabel="loss", xlim=(0, None), ylim=(0, top))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc=(0, 0.98), ncols=3, frameon=False, fontsize=8, columnspacing=1.2)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_clustered_confusion_matrix(
    targets: Ints, predictions: Ints, categories: list[str], names_description: str, prior: str
) -> Figure:
    """Draw a confusion matrix whose rows are percentages of each true category.

    Categories that are often confused are next to each other. If there are very many categories,
    the ones with the most names are displayed_indices.

    Args:
        targets: index of the true category of each name [N].
        predictions: index of the predicted category of each name [N].
        categories: names of the categories [C].
        names_description: describes the names in the title: `test set`.
        prior: name of the class prior of the predictions.
    """
    support = np.bincount(targets, minlength=len(categories))  # [C]
    most_frequent = np.argsort(-support, kind="stable")[:MAX_CATEGORIES]
    # Sorted, because the ordering below leaves ties as they are.
    unordered = np.sort(most_frequent)  # indices of the categories that are shown [S]
    shares = compute_confusion_shares(targets, predictions, support, unordered)  # [S, S]
    order = order_categories_by_confusion(shares)  # [S]
    displayed_indices = unordered[order]
    shares = shares[np.ix_(order, order)]

    labels = []
    labels_with_counts = []
    for index in displayed_indices:
        label = escape_dollar_signs(categories[index])
        labels.append(label)
        star = "*" if support[index] < MIN_RELIABLE_SUPPORT else ""
        labels_with_counts.append(f"{label}{star} ({support[index]:,})")
    layout = compute_matrix_layout(
        n_rows=len(displayed_indices),
        longest_row_label=max(map(len, labels_with_counts)),
        longest_column_label=max(map(len, labels)),
    )
    figure = Figure(figsize=layout.figure_size)
    axes = figure.add_axes(layout.axes_position)
    has_numbers = len(displayed_indices) <= MAX_NUMBERED_CATEGORIES
    # Without numbers, small shares need darker colors to be seen.
    gamma = 1 if has_numbers else 0.4
    color_scale = PowerNorm(gamma, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap="Blues", norm=color_scale)
    if has_numbers:
        _write_percentages(axes, shares)
    else:
        figure.colorbar(image, ax=axes, fraction=0.02, pad=0.01, ticks=(0, 0.01, 0.1, 0.3, 1))
    axes.set_xticks(range(len(displayed_indices)), labels, rotation=90, size=layout.font_size)
    axes.set_yticks(range(len(displayed_indices)), labels_with_counts, size=layout.font_size)
    # Rows of few names are gray.
    for tick, index in zip(axes.get_yticklabels(), displayed_indices, strict=True):
        if support[index] < MIN_RELIABLE_SUPPORT:
            tick.set_color("gray")
    axes.set_xlabel("predicted category", size=layout.font_size)
    axes.set_ylabel(
        f"true category (number of names; * fewer than {MIN_RELIABLE_SUPPORT})",
        size=layout.font_size,
    )
    description = escape_dollar_signs(names_description)
    title = f"Confusion matrix, {description} (n = {len(targets):,}), prior = {prior}, row %"
    axes.set_title(title, size=layout.font_size, x=1, ha="right")
    return figure


class MatrixLayout(NamedTuple):
    """Sizes of a figure with a confusion matrix, such that all labels have room."""

    figure_size: tuple[float, float]
    """Width and height in inches."""
    axes_position: tuple[float, float, float, float]
    """Left, bottom, width and height of the matrix, as fractions of the figure."""
    font_size: float
    """Size of the labels in points."""


def compute_matrix_layout(
    n_rows: int, longest_row_label: int, longest_column_label: int
) -> MatrixLayout:
    """Return the sizes of a figure with a confusion matrix.

    Args:
        n_rows: number of rows of the matrix, which is also that of its columns.
        longest_row_label: number of letters of the longest label of a row.
        longest_column_label: number of letters of the longest label of a column.
    """
    # All sizes except for the font size are in inches. A matrix has 0.33 inches per row, but at
    # least 4 and at most 21 inches in total.
    matrix_size = min(max(0.33 * n_rows + 1, 4), 21)
    # The font has 65 points per inch of the height of a row. An inch has 72 points.
    font_size = min(15, 65 * matrix_size / n_rows)
    # The labels are to the left of the matrix and, rotated, below it. This is the mean width of a
    # letter.
    letter_size = font_size / 110
    left = 0.6 + letter_size * min(MAX_LABEL_LENGTH, longest_row_label)
    bottom = 0.6 + letter_size * min(MAX_LABEL_LENGTH, longest_column_label)
    width = left + matrix_size + 0.3
    height = bottom + matrix_size + 0.5
    axes_position = (
        left / width,
        bottom / height,
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
    # The counts have an additional last row and column for all categories that are not shown. Both
    # are dropped at the end.
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
    """Write percentages into the cells of a confusion matrix. Almost empty cells are left out."""
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
    letter_labels = [escape_dollar_signs(letter) for letter in name]
    category_labels = [escape_dollar_signs(category) for category in categories]
    axes.set_xticks(range(len(name)), letter_labels)
    axes.set_yticks(range(len(categories)), category_labels)
    title = f"{escape_dollar_signs(name)}: prediction after each letter"
    axes.set(xlabel="letters read so far", title=title)
    figure.colorbar(image, label=f"probability (prior = {prior})")
    return figure
