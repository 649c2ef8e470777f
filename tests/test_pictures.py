from pathlib import Path

import matplotlib.image
import numpy as np
import torch

from src.pictures import as_png, belief_figure, confusion_figure, loss_figure


def test_confusion_shows_shares_of_each_true_category(tmp_path: Path) -> None:
    counts = torch.tensor([[3, 1], [0, 0]])
    figure = confusion_figure(counts, ["A", "B"], "title")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["75", "25"]
    assert np.asarray(axes.images[0].get_array()).tolist() == [[0.75, 0.25], [0, 0]]
    (tmp_path / "c.png").write_bytes(as_png(figure))
    assert matplotlib.image.imread(tmp_path / "c.png").std() > 0.01


def test_any_category_name_can_be_drawn() -> None:
    names = ["x$\\frac$", "日本語", "two words"]  # TeX, letters the font lacks
    assert as_png(confusion_figure(torch.eye(3), names, "$")).startswith(b"\x89PNG")
    assert as_png(belief_figure("ab", torch.rand(2, 3), names)).startswith(b"\x89PNG")


def test_many_categories_stay_a_picture() -> None:
    figure = confusion_figure(torch.eye(2000), [str(i) for i in range(2000)], "many")
    assert max(figure.get_size_inches()) < 30
    assert len(figure.axes[0].get_xticks()) <= 60


def test_the_loss_curve_is_the_losses() -> None:
    line = loss_figure([(10, 2.0), (20, 1.5)]).axes[0].lines[0]
    assert line.get_xdata().tolist() == [10, 20]  # type: ignore[union-attr] # arrays
    assert line.get_ydata().tolist() == [2.0, 1.5]  # type: ignore[union-attr] # arrays
