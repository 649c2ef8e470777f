"""Classify names with a trained model: `python -m src.predict`; `--help` lists the options.

The names come from the command line, from a CSV file, from a pipe, one per line, or from a prompt.
"""

import signal

if __name__ == "__main__":
    # While the modules below are imported, Ctrl-C ends the program without a traceback. Later,
    # `cli.signals_raise_exceptions` installs a handler.
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

if TYPE_CHECKING:  # torch takes a second to import
    from src.inference.trained_model import TrainedModel

DELIMITER_NAMES = {"tab": "\t", "\\t": "\t"}
"""Alternative spellings of delimiters that are difficult to type."""


def main(arguments: list[str] | None = None) -> None:
    """Run the program; see `cli.run_cli` for the exit status."""
    cli.run_cli(make_parser(), predict, arguments, check=check_options)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.make_model_parser("src.predict", "Predict which language surnames come from.")
    parser.epilog = (
        "Options have the form --option VALUE; only src.train and src.audit use key=value. Before "
        "you use predictions about real people, read docs/limitations.md."
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="names to classify (default: the lines of standard input, or a prompt)",
    )
    parser.add_argument(
        "--top-k",
        type=int,
        default=3,
        metavar="K",
        help="number of predictions for each name (default: 3)",
    )
    parser.add_argument(
        "--among",
        type=cli.parse_categories,
        metavar="A,B,…",
        help="restrict the predictions to these categories",
    )
    add_threshold_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON Lines")
    parser.add_argument(
        "--explain", action="store_true", help="show the prediction after each letter"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="with --explain and a single NAME: also draw the predictions",
    )
    add_file_options(parser)
    return parser


def add_threshold_options(parser: argparse.ArgumentParser) -> None:
    """Add the two options that set a threshold, which exclude each other, to a parser."""
    threshold_group = parser.add_mutually_exclusive_group()
    threshold_group.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        metavar="P",
        help="answer `unknown` if the highest probability is below P (default: 0)",
    )
    threshold_group.add_argument(
        "--precision",
        type=float,
        metavar="P",
        help="choose the threshold that reached this precision on the validation names",
    )


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about files of names to a parser."""
    files = parser.add_argument_group("files")
    files.add_argument(
        "--csv",
        type=Path,
        metavar="IN.csv",
        help="classify a column of a CSV file, and write it to --out; - for standard input",
    )
    files.add_argument(
        "--column",
        help="column with the names: its name in the header, or its number (default: the only "
        "column)",
    )
    files.add_argument(
        "--delimiter",
        type=lambda text: DELIMITER_NAMES.get(text, text),
        help="delimiter of the file, or `tab` (default: detected "
        "among comma, semicolon, tab and |)",
    )
    files.add_argument(
        "--out", type=Path, metavar="OUT.csv", help="file to write; - for standard output"
    )
    files.add_argument(
        "--encoding", default="utf-8", help="encoding of all input and output (default: utf-8)"
    )


def check_options(options: argparse.Namespace) -> None:
    """Check the options and their combination, and that the files can be written.

    Raises:
        UserError: if an option is invalid, or a file cannot be written.
    """
    if any(not name.strip() for name in options.names):
        raise UserError("a NAME is empty")
    check_file_options(options)
    if options.delimiter is not None and not re.fullmatch(r'[^"\r\n]', options.delimiter):
        raise UserError(f"--delimiter: {options.delimiter!r} must be a single character, or tab")
    # A picture shows the prefixes of a single name.
    if options.plot and not (options.explain and len(options.names) == 1):
        raise UserError("--plot requires --explain and exactly one NAME")
    for key in ("threshold", "precision"):
        value = getattr(options, key)
        if not value:  # 0 or None, which mean that the option has no effect
            continue
        if not 0 < value < 1:  # the comparison is also false for NaN
            raise UserError(f"--{key} {value:g}: must be between 0 and 1")
    if options.top_k < 1:
        raise UserError(f"--top-k {options.top_k}: must be at least 1")
    # An unknown encoding should be reported before anything is read.
    try:
        "".encode(options.encoding)  # also fails for codecs that are not text encodings
    except LookupError as error:
        raise UserError(f"--encoding: {error}") from None
    check_output_files(options.out, options.plot, force=options.force)


def check_file_options(options: argparse.Namespace) -> None:
    """Check the combination of the options about files.

    Raises:
        UserError: if an option is missing, or cannot be combined with the others.
    """
    file_options = [options.csv, options.out, options.column, options.delimiter]
    if all(option is None for option in file_options):
        return
    if options.csv is None or options.out is None:
        raise UserError(
            "--csv and --out must be given together; --column and --delimiter require them"
        )
    # These read names from elsewhere, or print answers in another format.
    if options.names or options.json or options.explain:
        raise UserError("--csv cannot be combined with names, --json or --explain")


def predict(options: argparse.Namespace) -> None:
    """Classify the names, and print or write the answers.

    Raises:
        UserError: if the checkpoint or a file is not usable.
    """
    # Imported late: loading torch takes a second, and a mistyped option should be reported at once.
    from src.inference.tables import classify_csv_column
    from src.inference.trained_model import load_model

    model = load_model(options.checkpoint, options.prior, options.among)
    print(f"Model: {model.title}", file=sys.stderr)
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

    if options.json:
        # JSON is UTF-8. Bytes that could not be decoded are written as JSON escapes.
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
        should_show_prefixes=options.explain,
    )
    for names in batches:
        printer.classify_and_print(names)
        sys.stdout.flush()  # another program may be waiting for these answers
    if options.plot:
        plot_letter_probabilities(model, options.names[0], options.plot)


def choose_and_report_threshold(model: "TrainedModel", options: argparse.Namespace) -> float:
    """Return the threshold. With `--precision`, look it up in the checkpoint and print it.

    Raises:
        UserError: if no threshold reached the precision.
    """
    # The two options exclude each other, and --threshold has a default.
    if not options.precision:
        return float(options.threshold)
    point = model.find_threshold(options.precision)
    summary = f"coverage {point.coverage:.1%} and precision {point.precision:.1%}"
    message = f"Threshold: {point.threshold:.6g} ({summary} on the validation names)"
    print(message, file=sys.stderr)
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
