"""Draw how a network reads a name: benchmarks/pictures/flow.svg, the picture in the README.

    python -m benchmarks.flow [CHECKPOINT] [NAME]

CHECKPOINT is a run with `cell=tutorial`, or its folder; the newest run by default.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from src.data.alphabet import name_to_tensor
from src.inference.trained_model import TrainedModel, load_model
from src.models.rnn import RNN

DEFAULT_NAME = "Kovalenko"
PICTURE = Path(__file__).parent / "pictures/flow.svg"
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328 } .faint { fill: #656d76; font-size: 11px }
  .letter { font-size: 26px; font-weight: 600 } .card { fill: #fff; stroke: #d0d7de }
  .none { fill: #8c959f; fill-opacity: .13 } .box { fill: none; stroke: #8c959f }
  .line { stroke: #656d76; fill: none; marker-end: url(#tip) } .tip { fill: #656d76 }
  .on, .plus { fill: #0969da } .minus { fill: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .faint, .tip { fill: #8d96a0 } .line { stroke: #8d96a0 }
    .card { fill: #0d1117; stroke: #30363d } .on, .plus { fill: #58a6ff } .minus { fill: #f0883e }
  }
"""
FIRST_X = 110
"""Left edge of the column for the first letter."""
COLUMN_STEP = 76
"""Distance between the left edges of two columns."""
COLUMN_WIDTH = 54
LETTERS_Y = 44
ONE_HOT_Y = 58
HIDDEN_Y = 216
PROBABILITIES_Y = 322
"""Vertical positions of the letters, one-hot rows, hidden states and probabilities."""
BAR_STEP = 14
"""Distance between the bars of two probabilities."""
N_STRENGTHS = 6
"""Number of opacities that show how large a number of the hidden state is."""
MIN_SHOWN_PROBABILITY = 0.01


def draw(model: TrainedModel, name: str) -> str:
    """Return the picture as SVG."""
    rnn = model.network.get_submodule("recurrent.rnn")
    assert isinstance(rnn, RNN)
    hidden = rnn.init_hidden()  # [1, H]
    normalized = model.alphabet.normalize(name)
    # The same probabilities as those of `python -m src.predict --explain`.
    _, all_probabilities = model.prefix_probabilities(name)  # [L, C]
    elements = []
    with torch.no_grad():
        for step, one_hot in enumerate(name_to_tensor(normalized, model.alphabet)):
            _, hidden = rnn(one_hot, hidden)  # [1, H]
            probabilities: list[float] = all_probabilities[step].tolist()
            x = FIRST_X + COLUMN_STEP * step
            elements += draw_input(normalized[step], letter_index=int(one_hot.argmax()), x=x)
            elements += draw_hidden_state(hidden[0], x, is_last=step + 1 == len(normalized))
            elements += draw_probabilities(probabilities, x)
    right = FIRST_X + COLUMN_STEP * len(normalized) - 12
    elements += draw_categories(model.categories, probabilities, x=right)
    elements += draw_row_descriptions()
    height = PROBABILITIES_Y + BAR_STEP * len(model.categories) + 10
    return wrap_in_svg(elements, width=right + 106, height=height, name=normalized)


def draw_input(letter: str, letter_index: int, x: int) -> list[str]:
    """Return a letter and its one-hot row, with an arrow to the hidden state."""
    center = x + 27
    return [
        text(center, LETTERS_Y, letter, "letter", "middle"),
        rectangle(x + 20, ONE_HOT_Y, 14, 114, "none"),
        rectangle(x + 16, ONE_HOT_Y + 2 * letter_index - 1, 22, 4, "on"),
        arrow(center, ONE_HOT_Y + 118, center, HIDDEN_Y - 8),
    ]


def draw_hidden_state(hidden: Tensor, x: int, is_last: bool) -> list[str]:
    """Return a hidden state [H] in a box, with arrows to the probabilities and the next state."""
    center = x + 27
    box = f'<rect class="box" x="{x}" y="{HIDDEN_Y - 4}" width="54" height="72" rx="6"/>'
    elements = [box, *draw_numbers(hidden, x + 3, HIDDEN_Y)]
    elements.append(arrow(center, HIDDEN_Y + 70, center, PROBABILITIES_Y - 8))
    if not is_last:
        elements.append(arrow(x + 56, HIDDEN_Y + 32, x + COLUMN_STEP - 4, HIDDEN_Y + 32))
    return elements


def draw_numbers(hidden: Tensor, x: int, y: int) -> list[str]:
    """Return a hidden state [H] as squares, 8 in a row, whose colors show sign and magnitude."""
    levels = (hidden / hidden.abs().max() * N_STRENGTHS).round().int().tolist()
    # All squares of the same color are one path, which makes the file much smaller.
    paths = []
    for level in sorted(set(levels) - {0}):
        outline = ""
        for index, index_level in enumerate(levels):
            if index_level == level:
                row, column = divmod(index, 8)
                outline += f"M{x + 6 * column} {y + 4 * row}h6v4h-6z"
        kind = "plus" if level > 0 else "minus"
        opacity = abs(level) / N_STRENGTHS
        paths.append(f'<path class="{kind}" opacity="{opacity:.2f}" d="{outline}"/>')
    return paths


def draw_probabilities(probabilities: list[float], x: int) -> list[str]:
    """Return a bar for each probability."""
    elements = []
    for index, probability in enumerate(probabilities):
        y = PROBABILITIES_Y + BAR_STEP * index
        elements.append(rectangle(x, y, COLUMN_WIDTH, 12, "none"))
        if probability >= MIN_SHOWN_PROBABILITY:
            elements.append(rectangle(x, y, round(COLUMN_WIDTH * probability, 1), 12, "on"))
    return elements


def draw_categories(categories: list[str], probabilities: list[float], x: int) -> list[str]:
    """Return the names of the categories with their final probabilities."""
    elements = []
    for index, category in enumerate(categories):
        probability = probabilities[index]
        kind = "" if probability == max(probabilities) else "faint"
        y = PROBABILITIES_Y + 10 + BAR_STEP * index
        elements.append(text(x, y, f"{category} {probability:.2f}", kind))
    return elements


def draw_row_descriptions() -> list[str]:
    """Return the descriptions of the rows of the picture."""
    descriptions = {
        LETTERS_Y - 8: ["letter"],
        ONE_HOT_Y + 50: ["one-hot vector,", "57 numbers"],
        HIDDEN_Y + 4: [
            "cell with its",
            "hidden state,",
            "128 numbers",
            "(blue: positive,",
            "orange: negative)",
        ],
        PROBABILITIES_Y + 110: ["probabilities of", "18 languages", "after each letter"],
    }
    elements = []
    for y, lines in descriptions.items():
        for index, line in enumerate(lines):
            elements.append(text(10, y + 14 * index, line, "faint"))
    return elements


def wrap_in_svg(elements: list[str], width: int, height: int, name: str) -> str:
    """Return an SVG document with some elements on a card."""
    tip = '<marker id="tip" refX="5" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    head += f"<title>How the network reads {name}</title><style>{STYLE}</style><defs>{tip}"
    head += '<path class="tip" d="M0 0 6 3 0 6z"/></marker></defs>'
    card = f'<rect class="card" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>'
    return "\n".join([head, card, *elements, "</svg>\n"])


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> str:
    """Return a rectangle."""
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}"/>'


def text(x: float, y: float, content: str, kind: str, anchor: str = "start") -> str:
    """Return a line of text."""
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{content}</text>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return an arrow."""
    return f'<path class="line" d="M{x1} {y1}L{x2} {y2}"/>'


def main() -> None:
    """Draw the picture."""
    checkpoint = Path(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1] else None
    name = sys.argv[2] if len(sys.argv) > 2 else DEFAULT_NAME
    model = load_model(checkpoint)
    PICTURE.write_text(draw(model, name), encoding="utf-8")


if __name__ == "__main__":
    main()
