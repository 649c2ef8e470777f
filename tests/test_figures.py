import io
import math
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from src.run.figures import (
    draw_clustered_confusion_matrix,
    draw_letter_probabilities,
    draw_loss_curves,
    order_categories_by_confusion,
    render_png,
)


def test_confusion_matrix_shows_shares_of_each_true_category() -> None:
    targets = np.array([0, 0, 0, 0, 2, 2])
    predictions = np.array([0, 0, 0, 1, 1, 1])
    categories = ["A", "B", "C"]
    figure = draw_clustered_confusion_matrix(
        targets, predictions, categories, "the names", prior="uniform"
    )
    axes = figure.axes[0]
    (image,) = axes.images
    # Similar categories are next to each other, so their order is not that of the indices.
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert sorted(labels) == ["A", "B", "C"]
    # The rows and columns are sorted back for the comparison.
    order = [labels.index(label) for label in "ABC"]
    shares = np.asarray(image.get_array())[np.ix_(order, order)]
    assert shares.tolist() == [[0.75, 0.25, 0], [0, 0, 0], [0, 1, 0]]
    assert image.get_clim() == (0, 1)
    # Shares are written as percentages, and zeros are not written.
    numbers = {}
    for text in axes.texts:
        x, y = text.get_position()
        column = int(x)
        row = int(y)
        numbers[labels[row] + labels[column]] = text.get_text()
    assert numbers == {"AA": "75", "AB": "25", "CB": "100"}
    assert axes.get_xlabel() == "predicted category"
    assert axes.get_ylabel() == "true category (number of names; * fewer than 20)"
    title = "Confusion matrix, the names (n = 6), prior = uniform, row %"
    assert axes.get_title() == title


def test_rows_of_a_confusion_matrix_show_the_support() -> None:
    targets = np.array([0] * 1200 + [1, 2])
    figure = draw_clustered_confusion_matrix(
        targets, targets, ["A", "B", "C"], "the names", prior="uniform"
    )
    labels = figure.axes[0].get_yticklabels()
    # Rows of few names have a star and gray labels.
    colors = {label.get_text(): label.get_color() for label in labels}
    assert colors == {"A (1,200)": "black", "B* (1)": "gray", "C* (1)": "gray"}


def luminance(color: Any) -> float:
    """Return the relative luminance, as WCAG 2 defines it."""
    linear_channels = []
    for channel in color[:3]:
        if channel <= 0.03928:
            linear_channels.append(channel / 12.92)
        else:
            linear_channels.append(((channel + 0.055) / 1.055) ** 2.4)
    red, green, blue = linear_channels
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)


def test_numbers_have_enough_contrast() -> None:
    # The shares in the 60 rows are multiples of 1/60, so the cells have many colors.
    targets = np.repeat(np.arange(60), 60)
    rows = []
    for row in range(60):
        rows.append([row] * row + [0] * (60 - row))
    predictions = np.concatenate(rows)
    categories = list(map(str, range(60)))
    figure = draw_clustered_confusion_matrix(
        targets, predictions, categories, "names", prior="corpus"
    )
    axes = figure.axes[0]
    shares = np.asarray(axes.images[0].get_array())
    for text in axes.texts:
        x, y = text.get_position()
        cell_luminance = luminance(axes.images[0].to_rgba(shares[int(y), int(x)]))
        text_luminance = luminance(to_rgb(text.get_color()))
        darker, lighter = sorted((cell_luminance, text_luminance))
        # WCAG 2 requires this contrast for text of normal size.
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5
    assert {text.get_color() for text in axes.texts} == {"black", "white"}


def test_confused_categories_are_neighbors() -> None:
    shares = np.full((6, 6), 0.01)
    # There are two families of categories, 0, 3 and 5, and 1, 2 and 4.
    for first, second in ((0, 3), (3, 5), (1, 4), (4, 2)):
        shares[first, second] = 0.4
        shares[second, first] = 0.4
    order = order_categories_by_confusion(shares).tolist()
    families = {frozenset(order[:3]), frozenset(order[3:])}
    assert families == {frozenset({0, 3, 5}), frozenset({1, 2, 4})}
    targets = np.array([0, 1, 2, 3, 3])
    predictions = np.array([3, 1, 2, 0, 3])
    figure = draw_clustered_confusion_matrix(
        targets, predictions, list("ABCD"), "names", prior="uniform"
    )
    axes = figure.axes[0]
    names = [label.get_text()[0] for label in axes.get_yticklabels()]
    row = names.index("A")
    column = names.index("D")
    # A and D are confused, so they are drawn next to each other.
    assert abs(row - column) == 1
    assert np.asarray(axes.images[0].get_array())[row, column] == 1


def test_any_category_name_can_be_drawn() -> None:
    # Matplotlib reads text between dollar signs as TeX, and its font lacks these characters.
    names = ["x$\\frac$", "日本語", "two words"]
    indices = np.arange(3)
    probabilities = np.random.default_rng(0).random((2, 3))
    figures = [
        draw_clustered_confusion_matrix(indices, indices, names, "$", prior="uniform"),
        draw_letter_probabilities("ab", probabilities, names, prior="corpus"),
    ]
    for figure in figures:
        image = Image.open(io.BytesIO(render_png(figure))).convert("RGB")
        assert np.asarray(image).std() > 1  # An empty picture would have no variation.


def test_confusion_matrix_of_many_categories() -> None:
    targets = np.concatenate([np.arange(500), np.arange(100, 500)])
    predictions = targets.copy()
    # Category 3 is not among the 400 with the most names, which are drawn.
    predictions[450] = 3
    categories = [str(index) for index in range(500)]
    figure = draw_clustered_confusion_matrix(
        targets, predictions, categories, "many", prior="uniform"
    )
    shares = np.asarray(figure.axes[0].images[0].get_array())
    assert shares.shape == (400, 400)
    assert sorted(shares.diagonal().tolist()) == [0.5] + [1.0] * 399
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert shares.diagonal()[labels.index("450")] == 0.5
    # The cells are too small for numbers.
    assert not figure.axes[0].texts
    width, height = Image.open(io.BytesIO(render_png(figure))).size
    assert 2000 < max(width, height) < 3000


LOSS = [(10, 2.0), (20, 1.5)]


@pytest.mark.parametrize("val", [[], [(20, 1.75)]])
def test_loss_curve_contains_the_losses(val: list[tuple[int, float]]) -> None:
    curves = {"training": LOSS}
    if val:
        curves["validation"] = val
    figure = draw_loss_curves(curves, 18, "lr=0.1", "finished", is_finished=True)
    lines = list(figure.axes[0].lines)
    chance_level = lines.pop()
    points = [np.asarray(line.get_data()).T.tolist() for line in lines]
    assert points == [np.array(curve).tolist() for curve in curves.values()]
    assert np.asarray(chance_level.get_ydata()).tolist() == [math.log(18)] * 2
    assert [text.get_text() for text in figure.texts] == ["lr=0.1", "finished"]
    legend: Any = figure.axes[0].get_legend()
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == list(curves) + ["chance level (ln 18 = 2.89)"]


def test_exploding_loss_is_cut_off() -> None:
    curves = {"training": LOSS + [(30, 3e7)]}
    axes = draw_loss_curves(curves, 18, "lr=9", "diverged", is_finished=False).axes[0]
    # The axis ends at 1.5 times the loss of guessing.
    assert axes.get_ylim() == pytest.approx((0, 1.5 * math.log(18)))
    legend: Any = axes.get_legend()
    assert legend.get_texts()[0].get_text() == "training, ends at 3e+07"
