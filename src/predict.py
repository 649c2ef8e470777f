"""`python -m src.predict`: ask a trained model about names.

Names come from the command line, from a CSV file, from a pipe (one a line) or from a prompt.
"""

import argparse
import codecs
import json
import sys
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from src.command import run_command
from src.errors import UserError
from src.files import without_mark, written_whole
from src.predict_csv import answer_csv
from src.trained import AT_ONCE, NO_LETTERS, Answer, TrainedModel, find_checkpoint, load_model

LONGEST_PLOT = 60  # letters
WIDEST = 40  # columns for a name in a table


def main(arguments: list[str] | None = None) -> None:
    """Answer; end with exit status 2 and one line if something is wrong."""
    run_command(make_parser(), answer, arguments)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    parser = argparse.ArgumentParser(
        prog="python -m src.predict",
        description="Say which language surnames come from. Without NAME: one a line from a pipe, "
        "or a prompt on a terminal.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="a .ckpt or a run's folder (newest run)"
    )
    parser.add_argument(
        "--top-k", type=positive, default=3, metavar="K", help="categories shown of each name (3)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON Lines, for programs")
    parser.add_argument("--explain", action="store_true", help="show the belief letter by letter")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="with --explain: draw it, for one NAME"
    )
    table = parser.add_argument_group("files")
    table.add_argument("--csv", type=Path, metavar="IN.csv", help="answer a column of a CSV file")
    table.add_argument("--column", help="the column that holds the names")
    table.add_argument("--out", type=Path, metavar="OUT.csv", help="the file to write")
    table.add_argument("--encoding", default="utf-8", help="of IN.csv, OUT.csv and pipes (utf-8)")
    table.add_argument("--force", action="store_true", help="replace files that exist")
    return parser


def positive(text: str) -> int:
    """Return the positive whole number in `text`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is loaded."""
    if options.csv and (options.column is None or options.out is None):
        raise UserError("--csv needs --column and --out")
    if not options.csv and (options.column is not None or options.out is not None):
        raise UserError("--column and --out go with --csv")
    if options.csv and (options.names or options.json or options.explain):
        raise UserError("--csv goes with neither names nor --json nor --explain")
    if options.plot and not (options.explain and len(options.names) == 1):
        raise UserError("--plot goes with --explain and one NAME")
    try:
        codecs.lookup(options.encoding)
    except LookupError:
        raise UserError(f"--encoding {options.encoding}: no such encoding") from None
    for file in (options.out, options.plot):
        if file and file.exists() and not options.force:
            raise UserError(f"{file}: exists; --force replaces it")


def answer(options: argparse.Namespace) -> None:
    """Answer where the options say."""
    check(options)
    model = load_model(find_checkpoint(options.checkpoint))
    print(f"model: {model.path}", file=sys.stderr)
    options.top_k = min(options.top_k, len(model.categories))
    if options.csv:
        answer_csv(model, options.csv, options.out, options.column, options.top_k, options.encoding)
    elif options.names:
        show(model, options.names, options)
        if options.plot:
            plot(model, options.names[0], options.plot)
    elif sys.stdin.isatty():
        prompt(model, options)
    else:
        lines = piped_lines(options.encoding)
        while names := list(islice(lines, AT_ONCE)):
            show(model, names, options)


def prompt(model: TrainedModel, options: argparse.Namespace) -> None:
    """Answer a person, name by name, until `quit` or the end of the input."""
    while True:
        try:
            name = input("Input: ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        except UnicodeDecodeError as error:
            print(f"not {error.encoding}; try again")
            continue
        if name == "quit":
            return
        if name:
            show(model, [name], options)


def piped_lines(encoding: str) -> Iterator[str]:
    """Yield the lines of standard input."""
    sys.stdin.reconfigure(encoding=without_mark(encoding))  # type: ignore[union-attr] # a text file, always
    try:
        for line in sys.stdin:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError:
        raise UserError(f"standard input: not {encoding}; name its --encoding") from None


def show(model: TrainedModel, names: list[str], options: argparse.Namespace) -> None:
    """Print the answers to some names."""
    if options.explain:
        for name in names:
            folded, beliefs = model.beliefs(name)
            prefixes = [folded[:end] for end in range(1, len(folded) + 1)]
            answers = model.best(beliefs, options.top_k)
            if options.json:
                steps = zip(prefixes, answers, strict=True)
                print_json(name, prefixes=[{"prefix": p, **as_json(answer)} for p, answer in steps])
            else:
                print(printable(name) if folded else f"{printable(name)}  {NO_LETTERS}")
                print_table([f"  {prefix}" for prefix in prefixes], answers)
        return
    answers = model.best(model.probabilities(names), options.top_k)
    if options.json:
        for name, answer in zip(names, answers, strict=True):
            print_json(name, **as_json(answer))
    else:
        print_table([printable(name) for name in names], answers)


def as_json(answer: Answer) -> dict[str, Any]:
    """Return an answer as an object of plain values."""
    if not answer:
        return {"predictions": [], "reason": NO_LETTERS}
    return {"predictions": [{"category": c, "probability": p} for c, p in answer]}


def print_json(name: str, **values: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps({"name": name, **values}, ensure_ascii=False))


def print_table(labels: list[str], answers: list[Answer]) -> None:
    """Print a line for each label, in columns."""
    widths = [columns_of(label) for label in labels]
    for label, width, answer in zip(labels, widths, answers, strict=True):
        cells = "".join(f"  {category:<12} {probability:.3f}" for category, probability in answer)
        print(label + " " * (min(max(widths), WIDEST) - width) + (cells or f"  {NO_LETTERS}"))


def columns_of(text: str) -> int:
    """Return how many columns of a terminal `text` takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def printable(name: str) -> str:
    """Return a name without what would steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


def plot(model: TrainedModel, name: str, file: Path) -> None:
    """Draw how the belief about one name moves, letter by letter."""
    folded, beliefs = model.beliefs(name)
    if not 1 <= len(folded) <= LONGEST_PLOT:
        raise UserError(f"--plot: {len(folded)} letters; 1 to {LONGEST_PLOT} can be drawn")
    from src.pictures import as_png, belief_figure  # matplotlib takes its time

    with written_whole(file, "wb") as out:
        out.write(as_png(belief_figure(folded, beliefs, model.categories)))


if __name__ == "__main__":
    main()
