import io

import matplotlib
import numpy as np
from PIL import Image

from src.pictures import as_png, belief_figure, confusion_png, loss_figure


def pixels_of(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_confusion_shows_shares_of_each_true_category() -> None:
    counts = np.array([[3, 1], [0, 0]])
    pixels = pixels_of(confusion_png(counts, ["A", "B"], "title"))
    blues = [matplotlib.colormaps["Blues"](share, bytes=True)[:3] for share in (0.75, 0.25, 0)]
    areas = [int((pixels == np.array(blue)).all(axis=2).sum()) for blue in blues]
    cell = 120 * 120
    assert [0.8 * cell < area <= cell for area in areas[:2]] == [True, True]  # less the numbers
    assert areas[2] == 2 * cell
    columns = [(pixels == np.array(blue)).all(axis=2).any(axis=0).argmax() for blue in blues[:2]]
    assert columns[0] + 120 == columns[1]  # the guess runs from left to right


def test_any_category_name_can_be_drawn() -> None:
    names = ["x$\\frac$", "日本語", "two words"]  # TeX, letters the font lacks
    assert confusion_png(np.eye(3, dtype=np.int64), names, "$").startswith(b"\x89PNG")
    assert as_png(belief_figure("ab", np.random.default_rng(0).random((2, 3)), names)).startswith(
        b"\x89PNG"
    )


def test_many_categories_stay_a_picture() -> None:
    pixels = pixels_of(
        confusion_png(np.eye(500, dtype=np.int64), [str(i) for i in range(500)], "many")
    )
    assert 2000 < max(pixels.shape) < 2600


def test_the_loss_curve_is_the_losses() -> None:
    line = loss_figure([(10, 2.0), (20, 1.5)]).axes[0].lines[0]
    assert line.get_xdata().tolist() == [10, 20]  # type: ignore[union-attr] # arrays
    assert line.get_ydata().tolist() == [2.0, 1.5]  # type: ignore[union-attr] # arrays
