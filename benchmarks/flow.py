"""Draw how a run's network reads a name: benchmarks/pictures/flow.svg, the picture of the README.

    python -m benchmarks.flow [CHECKPOINT] [NAME]

CHECKPOINT is a run of the tutorial's cell, or its folder; by default the newest run.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from src.data.alphabet import name_to_tensor
from src.inference.trained_model import TrainedModel, load_model
from src.models.rnn import RNN
from src.run.run_folder import find_checkpoint

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
LEFT, STEP, LETTERS, ROWS, STATE, BELIEF = 110, 76, 44, 58, 216, 322
"""Where columns begin and how far apart they are; how far down letters, rows, … are."""
LEVELS = 6
"""Of how strong a number of the hidden state is shown."""


def draw(model: TrainedModel, name: str) -> str:
    """Return the picture as SVG."""
    rnn = model.network.get_submodule("recurrent.rnn")
    assert isinstance(rnn, RNN)
    parts, hidden = [], rnn.init_hidden()
    read = model.alphabet.normalize(name)
    with torch.no_grad():
        for t, row in enumerate(name_to_tensor(read, model.alphabet)):
            output, hidden = rnn(row, hidden)
            x = LEFT + STEP * t
            parts += [text(x + 27, LETTERS, read[t], "letter", "middle")]
            parts += [rect(x + 20, ROWS, 14, 114, "none")]
            parts += [rect(x + 16, ROWS + 2 * int(row.argmax()) - 1, 22, 4, "on")]
            parts += [arrow(x + 27, ROWS + 118, x + 27, STATE - 8)]
            parts += [f'<rect class="box" x="{x}" y="{STATE - 4}" width="54" height="72" rx="6"/>']
            parts += [*squares(hidden[0], x + 3, STATE)]
            parts += [arrow(x + 27, STATE + 70, x + 27, BELIEF - 8)]
            if t + 1 < len(read):
                parts += [arrow(x + 56, STATE + 32, x + STEP - 4, STATE + 32)]
            probabilities = output[0].exp().tolist()
            for i, p in enumerate(probabilities):
                parts += [rect(x, BELIEF + 14 * i, 54, 12, "none")]
                if p >= 0.01:
                    parts += [rect(x, BELIEF + 14 * i, round(54 * p, 1), 12, "on")]
    right = LEFT + STEP * len(read) - 12
    for i, (category, p) in enumerate(zip(model.categories, probabilities, strict=True)):
        kind = "" if p == max(probabilities) else "faint"
        parts += [text(right, BELIEF + 10 + 14 * i, f"{category} {p:.2f}", kind)]
    said = {
        LETTERS - 8: ["a letter"],
        ROWS + 50: ["its one-hot row,", "57 numbers"],
        STATE + 18: ["the cell, and its", "hidden state,", "128 numbers"],
        BELIEF + 110: ["18 languages,", "how likely after", "each letter"],
    }
    for y, lines in said.items():
        parts += [text(10, y + 14 * i, line, "faint") for i, line in enumerate(lines)]
    width, height = right + 106, BELIEF + 14 * len(model.categories) + 10
    tip = '<marker id="tip" refX="5" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    head += f"<title>How the network reads {read}</title><style>{STYLE}</style><defs>{tip}"
    head += '<path class="tip" d="M0 0 6 3 0 6z"/></marker></defs>'
    card = f'<rect class="card" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>'
    return "\n".join([head, card, *parts, "</svg>\n"])


def squares(hidden: Tensor, x: int, y: int) -> list[str]:
    """Return a hidden state as squares, 8 a row: how strong each number is, and its sign."""
    levels = (hidden / hidden.abs().max() * LEVELS).round().int().tolist()
    paths = []
    for level in sorted({*levels} - {0}):
        places = [i for i, each in enumerate(levels) if each == level]
        corners = [f"M{x + 6 * (i % 8)} {y + 4 * (i // 8)}h6v4h-6z" for i in places]
        kind, strength = "plus" if level > 0 else "minus", abs(level) / LEVELS
        paths += [f'<path class="{kind}" opacity="{strength:.2f}" d="{"".join(corners)}"/>']
    return paths


def rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    """Return a rectangle."""
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}"/>'


def text(x: float, y: float, content: str, kind: str, anchor: str = "start") -> str:
    """Return a line of text."""
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{content}</text>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return an arrow."""
    return f'<path class="line" d="M{x1} {y1}L{x2} {y2}"/>'


def main() -> None:
    """Draw."""
    path, name, *_ = [*sys.argv[1:], *["", "Kovalenko"][len(sys.argv) - 1 :]]
    model = load_model(find_checkpoint(Path(path) if path else None))
    PICTURE.write_text(draw(model, name), encoding="utf-8")


if __name__ == "__main__":
    main()
