"""`python -m src.export`: a trained model as one web page that shows how it thinks."""

import argparse
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.answer import command
from src.answer.model import TrainedModel, find_checkpoint, load_model
from src.data.letters import LONGEST, fold
from src.errors import UserError
from src.models.decision import PRIORS
from src.models.networks import TutorialNetwork
from src.run.files import refuse_targets, write_bytes

PAGE = Path(__file__).parent / "answer" / "see.html"
SPELLED = range(0x3100)
"""The characters that the page can spell: up to Japanese kana, as thousands of Han follow."""


def main(arguments: list[str] | None = None) -> None:
    """Export; end with exit status 2 and one line if something is wrong."""
    command.run_command(make_parser(), answer, arguments)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    parser = command.make_parser("src.export", "Write a model as a web page that needs no server.")
    add: Any = parser.add_argument
    add("run", nargs="?", type=Path, metavar="RUN", help="the same as --checkpoint")
    add("--html", type=Path, metavar="FILE.html", required=True, help="the page to write")
    return parser


def answer(options: argparse.Namespace) -> None:
    """Write what the options ask for."""
    refuse_targets(options.html, force=options.force)
    model = load_model(find_checkpoint(options.run or options.checkpoint), options.prior)
    values = json.dumps(page_values(model), ensure_ascii=False).replace("<", "\\u003c")
    page = PAGE.read_text(encoding="utf-8").replace("{model}", values)
    write_bytes(options.html, page.encode())
    print(f"{options.html}: {model.about}")


def page_values(model: TrainedModel) -> dict[str, Any]:
    """Return what the page holds of a model, as plain values.

    Raises:
        UserError: if it is no lone hand-written cell.
    """
    network, decision = model.network, model.decision
    if not isinstance(network.recurrent, TutorialNetwork) or network.ngrams:
        raise UserError(f"{model.path}: --html shows cell=tutorial without n-grams, and no other")
    rnn = network.recurrent.rnn
    scores = torch.zeros(len(model.categories)) if (s := network.log_shares) is None else s  # [C]
    offsets = {model.prior: scores.tolist()}  # what a prior adds to every name's scores
    if decision:
        offsets = {p: decision.log_probabilities(scores[None], p)[0].tolist() for p in PRIORS}
    spelled: dict[str, str] = {}
    for letter in map(chr, SPELLED):
        symbols = fold(f"q{letter}q", model.letters.kind)[1:-1]  # no mark composes with a q
        if symbols not in ("", letter):
            spelled[symbols] = spelled.get(symbols, "") + letter
    return {
        "about": model.about.removeprefix(f"{model.path}, "),
        "categories": model.categories,
        "letters": model.letters._asdict(),
        "longest": LONGEST,
        "spelled": spelled,
        "weights": {name: as_base64(weight) for name, weight in rnn.named_parameters()},
        "prior": model.prior,
        "priors": offsets,
        "sharpness": 1 / decision.temperature if decision else 1,
    }


def as_base64(weight: Tensor) -> str:
    """Return a tensor's numbers, row by row, as little-endian float32 in base64."""
    return b64encode(weight.detach().numpy().astype("<f4").tobytes()).decode()


if __name__ == "__main__":
    command.run_program(main)
