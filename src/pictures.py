"""The pictures of a run: loss curve, confusion matrix, belief letter by letter."""

import io
import warnings
from collections.abc import Sequence
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

matplotlib.rcParams["text.parse_math"] = False  # a category's name may hold a $

FONT = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
QUICKLY = {"compress_level": 1}  # a fifth larger, three times as fast
MOST_CELLS = 60  # categories, up to which a confusion matrix has room for numbers


def as_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file; a letter that the font lacks is drawn as a box."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="png", dpi=120, pil_kwargs=QUICKLY)
    return file.getvalue()


def axes_of(
    size: tuple[float, float], left: float, bottom: float, right: float, top: float
) -> Axes:
    """Return the axes of a new figure, with these margins; all in inches.

    matplotlib's layout engines find the margins by themselves, but draw everything once more.
    """
    width, height = size
    box = (left, bottom, width - left - right, height - bottom - top)
    return Figure(figsize=size).add_axes(
        (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
    )


def loss_figure(curve: list[tuple[int, float]]) -> Figure:
    """Draw the training loss: (iteration, mean loss of the names up to it)."""
    axes = axes_of((7, 4), left=0.6, bottom=0.5, right=0.3, top=0.15)
    axes.plot(*zip(*curve, strict=True), marker="." if len(curve) < 20 else "")
    axes.set(xlabel="iteration", ylabel="training loss", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return cast("Figure", axes.figure)


def confusion_png(matrix: NDArray[np.int64], categories: list[str], title: str) -> bytes:
    """Draw a confusion matrix [C, C], true category × guess, as per cent of each true category.

    Returns a PNG file. Every run of a sweep makes one, and matplotlib takes eight times as long.
    """
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    count = len(categories)
    small, large = (ImageFont.truetype(FONT, size) for size in (12, 17))
    cell = max(40 * min(count, MOST_CELLS) // count, 240 // count, 1)
    labeled = range(0, count, 1 + (count - 1) // MOST_CELLS)
    label = 12 + int(max(large.getlength(categories[i]) for i in labeled))
    left, top, side = 35 + label, 50, cell * count
    width = max(left + side, int(large.getlength(title))) + 20
    image = Image.new("RGB", (width, top + side + label + 35), "white")
    draw = ImageDraw.Draw(image)
    draw.text((width / 2, top / 2), title, "black", large, anchor="mm")
    colors = matplotlib.colormaps["Blues"](shares, bytes=True)[:, :, :3]
    grid = Image.fromarray(colors).resize((side, side), Image.Resampling.NEAREST)
    image.paste(grid, (left, top))
    for row, column in np.argwhere(shares >= 0.005) if count <= MOST_CELLS else ():
        share = shares[row, column]
        center = (left + cell * (column + 0.5), top + cell * (row + 0.5))
        ink = "white" if share > 0.5 else "black"
        draw.text(center, f"{100 * share:.0f}", ink, small, anchor="mm")

    def upright(text: str) -> Image.Image:
        strip = Image.new("RGB", (label, 24), "white")
        ImageDraw.Draw(strip).text((label - 8, 12), text, "black", large, anchor="rm")
        return strip.rotate(90, expand=True)

    for i in labeled:
        middle = int(cell * (i + 0.5))
        draw.text((left - 8, top + middle), categories[i], "black", large, anchor="rm")
        image.paste(upright(categories[i]), (left + middle - 12, top + side))
    draw.text((left + side / 2, top + side + label + 15), "guess", "black", large, anchor="mm")
    axis = Image.new("RGB", (150, 24), "white")
    ImageDraw.Draw(axis).text((75, 12), "true category", "black", large, anchor="mm")
    image.paste(axis.rotate(90, expand=True), (5, max(0, top + side // 2 - 75)))
    file = io.BytesIO()
    image.save(file, format="png", **QUICKLY)
    return file.getvalue()


def belief_figure(
    letters: Sequence[str], probabilities: NDArray[Any], categories: list[str]
) -> Figure:
    """Draw how the probabilities [L, C] move while the letters of a name are read."""
    figure = Figure(
        figsize=(2 + 0.45 * len(letters), 1 + 0.3 * len(categories)), layout="constrained"
    )
    axes = figure.add_subplot()
    image = axes.imshow(probabilities.T, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(letters)), letters)
    axes.set_yticks(range(len(categories)), categories)
    axes.set(xlabel="letters read so far", title="".join(letters))
    figure.colorbar(image, label="probability")
    return figure
