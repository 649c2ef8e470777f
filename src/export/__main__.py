"""`python -m src.export`: a trained model as a web page that shows how it thinks, or in ONNX."""

import argparse
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

from src.data.normalize import normalize_name
from src.errors import UserError
from src.files import check_output_files, write_bytes
from src.inference import cli
from src.inference.trained_model import TrainedModel, load_model
from src.models.recurrent import TutorialNetwork
from src.run.run_folder import find_checkpoint

PAGE = Path(__file__).with_name("page.html")
SPELLED = range(0x3100)
"""The characters that the page can spell: up to Japanese kana, as thousands of Han follow."""


def main(arguments: list[str] | None = None) -> None:
    """Export; end with exit status 2 and one line if something is wrong."""
    cli.run_cli(make_parser(), answer, arguments)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    about = "Write a model as a web page that needs no server, or as a graph for other programs."
    parser = cli.make_model_parser("src.export", about)
    add: Any = parser.add_argument
    add("run", nargs="?", type=Path, metavar="RUN", help="the same as --checkpoint")
    add("--html", type=Path, metavar="FILE.html", help="the page to write")
    add("--onnx", type=Path, metavar="FILE.onnx", help="the graph to write, in ONNX")
    return parser


def answer(options: argparse.Namespace) -> None:
    """Write what the options ask for."""
    if not (options.html or options.onnx):
        raise UserError("--html FILE.html, --onnx FILE.onnx or both say what to write")
    check_output_files(options.html, options.onnx, force=options.force)
    model = load_model(find_checkpoint(options.run or options.checkpoint), options.prior)
    contents: dict[Path, bytes] = {}
    if options.html:
        contents[options.html] = to_page(model)
    if options.onnx:
        try:
            from src.export.onnx_graph import to_onnx  # an extra
        except ImportError:
            raise UserError("--onnx needs an extra: pip install -e '.[export]'") from None
        contents[options.onnx] = to_onnx(model)
    for file, content in contents.items():
        write_bytes(file, content)
        print(f"{file}: {model.description}")


def to_page(model: TrainedModel) -> bytes:
    """Return the page.

    Raises:
        UserError: if the model is no lone hand-written cell.
    """
    network = model.network
    if not isinstance(network.recurrent, TutorialNetwork) or network.ngrams:
        raise UserError(f"{model.path}: --html shows cell=tutorial without n-grams, and no other")
    spelled: dict[str, str] = {}
    for letter in map(chr, SPELLED):
        symbols = normalize_name(f"q{letter}q", model.alphabet.kind)[
            1:-1
        ]  # no mark composes with a q
        if symbols not in ("", letter):
            spelled[symbols] = spelled.get(symbols, "") + letter
    weights = {  # row by row, as little-endian float32
        name: b64encode(weight.detach().numpy().astype("<f4").tobytes()).decode()
        for name, weight in network.recurrent.rnn.named_parameters()
    }
    more = {"spelled": spelled, "weights": weights, "sharpness": model.score_scale}
    embedded = json.dumps(model.metadata() | more, ensure_ascii=False).replace("<", "\\u003c")
    return PAGE.read_text(encoding="utf-8").replace("{model}", embedded).encode()


if __name__ == "__main__":
    cli.run_cli_and_exit(main)
