"""`python -m src.predict`: ask a trained model about names.

Names come from the command line, from a CSV file, from a pipe (one a line) or from a prompt.
"""

import argparse
import codecs
import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from src.data.normalize import replace_unprintable
from src.data.readers.columns import NAME_WORDS, is_usual_name
from src.data.readers.text import check_decoded
from src.errors import UserError
from src.files import check_output_files, write_bytes
from src.inference import cli as command
from src.inference.tables import answer_csv
from src.inference.trained_model import Answer, TrainedModel, load_model
from src.run.run_folder import find_checkpoint

WIDEST = 40  # columns for a name in a table
MEND = "name its --encoding"


def main(arguments: list[str] | None = None) -> None:
    """Answer; end with exit status 2 and one line if something is wrong."""
    command.run_command(make_parser(), answer, arguments)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    about = "Say which language surnames come from; without NAME, those of a pipe or a prompt."
    parser = command.make_parser("src.predict", about)
    add: Any = parser.add_argument
    add("names", nargs="*", metavar="NAME")
    add("--top-k", type=int, default=3, metavar="K", help="categories shown of each name (3)")
    add("--among", type=command.listed, metavar="A,B,…", help="answer among these categories only")
    either = parser.add_mutually_exclusive_group().add_argument
    either("--threshold", type=float, default=0.0, metavar="P", help="unknown below probability P")
    either("--precision", type=float, metavar="P", help="threshold of this precision in validation")
    add("--json", action="store_true", help="print JSON Lines, for programs")
    add("--explain", action="store_true", help="show the belief letter by letter")
    add("--plot", type=Path, metavar="FILE.png", help="with --explain: draw it, for one NAME")
    add = parser.add_argument_group("files").add_argument
    add("--csv", type=Path, metavar="IN.csv", help="answer a column of a CSV file; -: of a pipe")
    add("--column", help="that holds the names: as in the header, or its number from 1 (the only)")
    about = "between cells; tab: a tab (comma, semicolon, tab or |, whichever the header has)"
    add("--delimiter", type=lambda text: {"tab": "\t", "\\t": "\t"}.get(text, text), help=about)
    add("--out", type=Path, metavar="OUT.csv", help="the file to write; -: the standard output")
    add("--encoding", default="utf-8", help="of IN.csv, OUT.csv and pipes (utf-8)")
    return parser


def check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is loaded."""
    table = [options.csv, options.out, options.column, options.delimiter]
    others = options.names or options.json or options.explain
    if table != [None] * 4 and (others or None in table[:2]):
        raise UserError("--csv and --out go together, without names, --json or --explain")
    if not re.fullmatch(r'[^"\r\n]', options.delimiter or ","):
        raise UserError(f"--delimiter: {options.delimiter!r} is not one character, or tab")
    if options.plot and not (options.explain and len(options.names) == 1):
        raise UserError("--plot goes with --explain and one NAME")
    for key in ("threshold", "precision"):
        if (given := getattr(options, key)) and not 0 < given < 1:
            raise UserError(f"--{key} {given:g}: is not between 0 and 1")
    if options.top_k < 1:
        raise UserError(f"--top-k: '{options.top_k}' is no whole number above 0")
    try:
        "".encode(options.encoding)
    except LookupError as error:
        raise UserError(f"--encoding: {error}") from None
    check_output_files(options.out, options.plot, force=options.force)


def answer(options: argparse.Namespace) -> None:
    """Answer where the options say."""
    check(options)
    options.told = False
    model = load_model(find_checkpoint(options.checkpoint), options.prior, options.among)
    print(f"model: {model.about}", file=sys.stderr)
    if options.precision:
        options.threshold, precision, coverage = model.threshold(options.precision)
        about = f"answered {coverage:.1%} of the validation names, {precision:.1%} of them right"
        print(f"threshold: {options.threshold:.6g}, {about}", file=sys.stderr)
    options.top_k = min(options.top_k, len(model.categories))
    if options.json:  # is UTF-8; a lone surrogate is written \udcff, which is JSON
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr] # a file
    if options.csv:
        answer_csv(model, options)
        return
    following = typed_names() if sys.stdin.isatty() else piped_lines(options.encoding)
    for names in [options.names] if options.names else following:
        show(model, names, options)
        sys.stdout.flush()
    if options.plot:
        plot(model, options.names[0], options.plot)


def typed_names() -> Iterator[list[str]]:
    """Yield what a person types, name by name, until `quit` or the end of the input."""
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr] # a file
    with suppress(ImportError):
        import readline  # from now on input() edits lines; Windows has a way of its own

        readline.parse_and_bind(r'"\e[": skip-csi-sequence')  # keys that it does not know
    print("quit or Ctrl-D ends it", file=sys.stderr)
    try:
        while (name := input("Input: ").strip()) != "quit":
            if name:
                yield [name]
    except (EOFError, KeyboardInterrupt):
        print()


def piped_lines(encoding: str) -> Iterator[list[str]]:
    """Yield the lines of standard input, as many as have come, as soon as they come."""
    codec = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    decoder = codecs.getincrementaldecoder(codec)("surrogateescape")
    number, begun, content = 0, "", b"?"  # a line whose end has not come yet
    try:
        while content:
            content = sys.stdin.buffer.read1(1 << 16)  # type: ignore[union-attr] # buffered
            *lines, begun = (begun + decoder.decode(content, final=not content)).split("\n")
            lines += [begun] if begun and not content else []
            for line in lines:
                number += 1
                check_decoded(line, f"standard input:{number}", encoding, MEND)
                if number == 1 and is_usual_name(line, NAME_WORDS):
                    print(f"{line.strip()!r} looks like a header; it is answered", file=sys.stderr)
            yield [line.removesuffix("\r") for line in lines]
    except UnicodeError:
        raise UserError(f"standard input: not {encoding}; {MEND}") from None


def show(model: TrainedModel, names: list[str], options: argparse.Namespace) -> None:
    """Print the answers to some names."""
    one_case = (n for n in names if n.lower() != n.upper() and n in (n.lower(), n.upper()))
    if model.alphabet.kind == "tutorial" and not options.told and (name := next(one_case, "")):
        about = "is in one case, and letters=tutorial reads it so; most names it knows are in two"
        print(f"{replace_unprintable(name)} {about}", file=sys.stderr)
        options.told = True
    how = options.top_k, options.threshold
    if options.explain:
        for name in names:
            prefixes, beliefs = model.beliefs(name)
            answers = model.answered(prefixes, beliefs, *how)
            if options.json:
                steps = [as_json("prefix", *s) for s in zip(prefixes, answers, strict=True)]
                print(json.dumps({"name": name, "prefixes": steps}, ensure_ascii=False))
            else:
                print(
                    replace_unprintable(name)
                    if prefixes
                    else f"{replace_unprintable(name)}  {model.reason(name)}"
                )
                print_table([f"  {prefix}" for prefix in prefixes], answers)
        return
    answers = model.answered(names, model.probabilities(names), *how)
    if options.json:
        for name, answer in zip(names, answers, strict=True):
            print(json.dumps(as_json("name", name, answer), ensure_ascii=False))
    else:
        print_table(names, answers)


def as_json(key: str, name: str, answer: tuple[Answer, str]) -> dict[str, Any]:
    """Return an answer, or the reason for none, as plain values, the name under `key`."""
    found, reason = answer
    said = [{"category": c, "probability": p} for c, p in found]
    return {key: name, "predictions": said} | ({"reason": reason} if reason else {})


def print_table(names: list[str], answers: list[tuple[Answer, str]]) -> None:
    """Print a line for each name, in columns."""
    labels = list(map(replace_unprintable, names))
    width = min(max(map(columns_of, labels), default=0), WIDEST)
    for label, (answer, reason) in zip(labels, answers, strict=True):
        cells = "".join(f"  {category:<12} {probability:.3f}" for category, probability in answer)
        print(label + " " * (width - columns_of(label)) + (cells or f"  {reason}"))


def columns_of(text: str) -> int:
    """Return how many columns of a terminal `text` takes."""
    letters = [c for c in text if not unicodedata.combining(c)]
    return len(letters) + sum(unicodedata.east_asian_width(c) in "WF" for c in letters)


def plot(model: TrainedModel, name: str, file: Path) -> None:
    """Draw how the belief about one name moves, letter by letter."""
    prefixes, beliefs = model.beliefs(name)
    if not prefixes:
        raise UserError(f"--plot: {replace_unprintable(name)}: {model.reason(name)}")
    from src.run.figures import as_png, letter_probabilities_figure  # matplotlib takes its time

    figure = letter_probabilities_figure(
        prefixes[-1], beliefs.numpy(), model.categories, model.prior
    )
    write_bytes(file, as_png(figure))


if __name__ == "__main__":
    command.run_program(main)
