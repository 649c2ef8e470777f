import io

import numpy as np
from PIL import Image

from src.run.pictures import as_png, belief_figure, confusion_figure, loss_figure


def test_confusion_shows_shares_of_each_true_category() -> None:
    targets, guesses = np.array([0, 0, 0, 0, 2, 2]), np.array([0, 0, 0, 1, 1, 1])
    axes = confusion_figure(targets, guesses, ["A", "B", "C"], "title").axes[0]
    (image,) = axes.images
    assert np.asarray(image.get_array()).tolist() == [[0.75, 0.25, 0], [0, 0, 0], [0, 1, 0]]
    assert image.get_clim() == (0, 1)
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    assert numbers == {(0, 0): "75", (1, 0): "25", (1, 2): "100"}  # the guess, from left to right
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in ticks] == ["A", "B", "C"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("guess", "true category")
    assert axes.get_title() == "title"


def test_any_category_name_can_be_drawn() -> None:
    names = ["x$\\frac$", "日本語", "two words"]  # TeX, letters the font lacks
    each = np.arange(3)
    for figure in (
        confusion_figure(each, each, names, "$"),
        belief_figure("ab", np.random.default_rng(0).random((2, 3)), names),
    ):
        pixels = np.asarray(Image.open(io.BytesIO(as_png(figure))).convert("RGB"))
        assert pixels.std() > 1  # something is drawn


def test_of_many_categories_those_with_the_most_names_are_a_picture() -> None:
    targets = np.concatenate([np.arange(500), np.arange(100, 500)])
    guesses = targets.copy()
    guesses[450] = 3  # a category without a place of its own
    figure = confusion_figure(targets, guesses, [str(i) for i in range(500)], "many")
    shares = np.asarray(figure.axes[0].images[0].get_array())
    assert shares.shape == (400, 400)
    assert shares.diagonal().tolist() == [1.0] * 350 + [0.5] + [1.0] * 49
    assert not figure.axes[0].texts
    width, height = Image.open(io.BytesIO(as_png(figure))).size
    assert 2000 < max(width, height) < 3000


def test_the_loss_curve_is_the_losses() -> None:
    line = loss_figure([(10, 2.0), (20, 1.5)]).axes[0].lines[0]
    assert line.get_xdata().tolist() == [10, 20]  # type: ignore[union-attr] # arrays
    assert line.get_ydata().tolist() == [2.0, 1.5]  # type: ignore[union-attr] # arrays
