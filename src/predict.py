"""Classify names with a trained model: `python -m src.predict`; `--help` lists the options.

The names come from the command line, from a CSV file, from a pipe, one per line, or from a prompt.
"""

import signal

if __name__ == "__main__":
    # Until a handler is installed, Ctrl-C ends the program without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from src.data.normalize import replace_unprintable
from src.errors import UserError
from src.files import check_output_files, write_bytes_atomically
from src.inference import cli
from src.inference.answer_printer import AnswerPrinter
from src.inference.standard_input import read_piped_names, read_typed_names_until_quit
from src.run.run_folder import find_checkpoint

if TYPE_CHECKING:  # torch takes a second to import
    from src.inference.trained_model import TrainedModel

DELIMITER_NAMES = {"tab": "\t", "\\t": "\t"}
"""Delimiters that are difficult to type, by what may be typed instead."""


def main(arguments: list[str] | None = None) -> None:
    """Run the program; `cli.run_cli` says how it ends."""
    cli.run_cli(make_parser(), predict, arguments, check=check_options)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    description = (
        "Say which language surnames come from; without NAME, those of a pipe or a prompt."
    )
    parser = cli.make_model_parser("src.predict", description)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument(
        "--top-k", type=int, default=3, metavar="K", help="categories shown of each name (3)"
    )
    parser.add_argument(
        "--among",
        type=cli.parse_categories,
        metavar="A,B,…",
        help="answer among these categories only",
    )
    threshold = parser.add_mutually_exclusive_group()
    threshold.add_argument(
        "--threshold", type=float, default=0.0, metavar="P", help="unknown below probability P"
    )
    threshold.add_argument(
        "--precision",
        type=float,
        metavar="P",
        help="threshold of this precision in validation",
    )
    parser.add_argument("--json", action="store_true", help="print JSON Lines, for programs")
    parser.add_argument("--explain", action="store_true", help="show the belief letter by letter")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="with --explain: draw it, for one NAME"
    )
    add_file_options(parser)
    return parser


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about files of names to a parser."""
    files = parser.add_argument_group("files")
    files.add_argument(
        "--csv",
        type=Path,
        metavar="IN.csv",
        help="answer a column of a CSV file; -: of a pipe",
    )
    files.add_argument(
        "--column", help="that holds the names: as in the header, or its number from 1 (the only)"
    )
    files.add_argument(
        "--delimiter",
        type=lambda text: DELIMITER_NAMES.get(text, text),
        help="between cells; tab: a tab (comma, semicolon, tab or |, whichever the header has)",
    )
    files.add_argument(
        "--out", type=Path, metavar="OUT.csv", help="the file to write; -: the standard output"
    )
    files.add_argument("--encoding", default="utf-8", help="of IN.csv, OUT.csv and pipes (utf-8)")


def check_options(options: argparse.Namespace) -> None:
    """Check the options and their combination, and that the files can be written.

    Raises:
        UserError: if an option is invalid, or a file cannot be written.
    """
    # The options about files make no sense without a file.
    file_options = [options.csv, options.out, options.column, options.delimiter]
    has_file_option = any(option is not None for option in file_options)
    has_both_files = options.csv is not None and options.out is not None
    # These read names from elsewhere, or print answers in another format.
    has_other_mode = options.names or options.json or options.explain
    if has_file_option and (has_other_mode or not has_both_files):
        raise UserError("--csv and --out go together, without names, --json or --explain")
    if options.delimiter is not None and not re.fullmatch(r'[^"\r\n]', options.delimiter):
        raise UserError(f"--delimiter: {options.delimiter!r} is not one character, or tab")
    # A picture shows the prefixes of a single name.
    if options.plot and not (options.explain and len(options.names) == 1):
        raise UserError("--plot goes with --explain and one NAME")
    for key in ("threshold", "precision"):
        value = getattr(options, key)
        if value and not 0 < value < 1:  # true for NaN as well
            raise UserError(f"--{key} {value:g}: is not between 0 and 1")
    if options.top_k < 1:
        raise UserError(f"--top-k: '{options.top_k}' is no whole number above 0")
    # An unknown encoding should be reported before anything is read.
    try:
        "".encode(options.encoding)  # also fails for codecs that are not text encodings
    except LookupError as error:
        raise UserError(f"--encoding: {error}") from None
    check_output_files(options.out, options.plot, force=options.force)


def predict(options: argparse.Namespace) -> None:
    """Classify the names, and print or write the answers.

    Raises:
        UserError: if the checkpoint or a file is not usable.
    """
    # Imported late: loading torch takes a second, and a mistyped option should be reported at once.
    from src.inference.tables import classify_csv_column
    from src.inference.trained_model import load_model

    model = load_model(find_checkpoint(options.checkpoint), options.prior, options.among)
    print(f"model: {model.description}", file=sys.stderr)
    threshold = choose_and_report_threshold(model, options)
    # A model can have fewer categories than are shown by default.
    top_k = min(options.top_k, len(model.categories))
    if options.csv:
        classify_csv_column(
            model=model,
            source=options.csv,
            target=options.out,
            column=options.column,
            delimiter=options.delimiter,
            encoding=options.encoding,
            top_k=top_k,
            threshold=threshold,
        )
        return

    if options.json:  # JSON is UTF-8; a lone surrogate is written as \udcff, which is valid JSON
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr] # a file
    # The names of the command line are one batch; others are answered as they arrive.
    if options.names:
        batches = iter([options.names])
    elif sys.stdin.isatty():
        batches = read_typed_names_until_quit()
    else:
        batches = read_piped_names(options.encoding)
    # The printer keeps track of the warnings that the user has seen, so there is one for all.
    printer = AnswerPrinter(
        model=model,
        top_k=top_k,
        threshold=threshold,
        is_json=options.json,
        is_explained=options.explain,
    )
    for names in batches:
        printer.classify_and_print(names)
        sys.stdout.flush()  # another program may be waiting for these answers
    if options.plot:
        plot_letter_probabilities(model, options.names[0], options.plot)


def choose_and_report_threshold(model: "TrainedModel", options: argparse.Namespace) -> float:
    """Return the threshold that the options ask for, and print the one for `--precision`.

    Raises:
        UserError: if no threshold reached the precision.
    """
    # The two options exclude each other, and --threshold has a default.
    if not options.precision:
        return float(options.threshold)
    point = model.find_threshold(options.precision)
    summary = f"answered {point.coverage:.1%} of the validation names"
    summary += f", {point.precision:.1%} of them right"
    print(f"threshold: {point.threshold:.6g}, {summary}", file=sys.stderr)
    return point.threshold


def plot_letter_probabilities(model: "TrainedModel", name: str, file: Path) -> None:
    """Draw how the probabilities change while a name is read letter by letter.

    Raises:
        UserError: if the name cannot be classified.
    """
    prefixes, probabilities = model.prefix_probabilities(name)
    if not prefixes:
        raise UserError(f"--plot: {replace_unprintable(name)}: {model.explain_rejection(name)}")
    from src.run.figures import draw_letter_probabilities, render_png  # matplotlib takes a second

    figure = draw_letter_probabilities(
        name=prefixes[-1],  # the whole name, as the model reads it
        probabilities=probabilities.numpy(),
        categories=model.categories,
        prior=model.prior_label,
    )
    write_bytes_atomically(file, render_png(figure))


if __name__ == "__main__":
    cli.run_cli_and_exit(main)
