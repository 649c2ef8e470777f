"""Evaluate a trained model: `python -m src.evaluate`; `--help` lists the options."""

import signal

if __name__ == "__main__":
    # Until a handler is installed, Ctrl-C ends the program without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.data.corpus import NamesByCategory, read_corpus
from src.data.readers import DataSource
from src.data.readers.columns import quoted_list
from src.errors import UserError
from src.files import check_output_files, write_bytes_atomically
from src.inference import cli
from src.run.run_folder import find_checkpoint

if TYPE_CHECKING:  # torch takes a second to import
    from src.inference.scores import EvaluatedNames
    from src.inference.trained_model import TrainedModel

SPLIT_DESCRIPTIONS = {
    "test": "names the run never saw",
    "val": "names held out for validation",
    "train": "names the run trained on",
    "all": "all names, trained on or not",
}
"""The choices of `--split`."""
UNKNOWN_DESCRIPTIONS = {"skip": "left out", "wrong": "counted as guessed wrong"}
"""The choices of `--unknown`, and what happens to names of categories that the model lacks."""


def main(arguments: list[str] | None = None) -> None:
    """Run the program; `cli.run_cli` says how it ends."""
    cli.run_cli(make_parser(), evaluate, arguments, check=check_options)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    description = "Evaluate a model, on its run's names or others."
    parser = cli.make_model_parser("src.evaluate", description)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data-dir", metavar="DIR", help="folder of <Category>.txt files (the run's)"
    )
    source.add_argument("--data-file", metavar="FILE", help="or table of names and categories")
    for column in ("name", "label", "count", "split"):
        parser.add_argument(
            f"--{column}-column",
            metavar="COLUMN",
            help="of the table: name or number (the run's)",
        )
    parser.add_argument(
        "--split", choices=SPLIT_DESCRIPTIONS, default="test", help="which names (test)"
    )
    parser.add_argument(
        "--among",
        type=cli.parse_categories,
        metavar="A,B,…",
        help="ask among these categories only",
    )
    parser.add_argument(
        "--unknown",
        choices=UNKNOWN_DESCRIPTIONS,
        help="leave out or count as wrong other categories (refuse)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the same as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the confusion matrix")
    return parser


def check_options(options: argparse.Namespace) -> None:
    """Check that the files can be written.

    Raises:
        UserError: if they cannot.
    """
    check_output_files(options.out, options.plot, force=options.force)


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate the model, and print, write and draw the report.

    Raises:
        UserError: if the checkpoint or the names are not usable.
    """
    # Imported late: loading torch takes a second, and a mistyped option should be reported at once.
    from src.inference.scores import build_report, format_report, predict_distinct_pairs
    from src.inference.trained_model import load_model

    # Without --checkpoint, the newest run is evaluated.
    model = load_model(find_checkpoint(options.checkpoint), options.prior, options.among)
    source = select_source(model, options)
    # A copy, because categories may be removed below.
    corpus = dict(read_verified_split(model, source, options.split))
    # With --among, the model does not know the other categories.
    unknown_categories = [category for category in corpus if category not in model.categories]
    unknown_summary = f"{len(unknown_categories)} of {len(corpus)} categories, "
    unknown_summary += quoted_list(unknown_categories)
    if unknown_categories and options.unknown is None:
        remedy = "--unknown skip leaves their names out, --unknown wrong counts them as wrong"
        raise UserError(f"{source.path}: the model never answers {unknown_summary}; {remedy}")
    if options.unknown == "skip":
        for category in unknown_categories:
            del corpus[category]

    # Names of unknown categories that are not left out have a probability of 0, so they are wrong.
    evaluated = predict_distinct_pairs(model, corpus)
    report = build_report(evaluated)
    print(f"model: {model.description}")
    print(f"names: {source.path}, {options.split}: {SPLIT_DESCRIPTIONS[options.split]}")
    if unknown_categories:
        print(f"unknown: {unknown_summary}: {UNKNOWN_DESCRIPTIONS[options.unknown]}")
    print(f"prior: {model.prior_label}\n\n{format_report(report)}")
    if options.out:
        # The settings on which the scores depend, so that the file can be understood by itself.
        settings = {
            "checkpoint": str(model.path),
            "split": options.split,
            "prior": model.prior_label,
            "among": options.among,
            "unknown": options.unknown,
            "unknown_categories": unknown_categories,
        }
        write_bytes_atomically(options.out, json.dumps({**settings, **report}, indent=2).encode())
    if options.plot:
        plot_confusion(evaluated, SPLIT_DESCRIPTIONS[options.split], options.plot)


def select_source(model: "TrainedModel", options: argparse.Namespace) -> DataSource:
    """Return where the names are: the run's own source, changed as the options say."""
    given: dict[str, Any] = {}
    # The options have the names of these fields, such as `--data-dir`.
    for key in DataSource._fields:
        value = getattr(options, key)
        if value:
            given[key] = value
    source = model.split_record.source
    if options.data_file:
        # Another table may have columns of the same names, so the run's columns are kept.
        source = source._replace(data_dir=None, data_file=None)
    elif options.data_dir:
        source = DataSource()  # the columns of a table do not apply to a folder
    return source._replace(**given)


def read_verified_split(model: "TrainedModel", source: DataSource, split: str) -> NamesByCategory:
    """Return the names of one split, and make sure that they are the same as in the run.

    Args:
        model: contains the record of the run's split.
        source: where the names are.
        split: `train`, `val` or `test`; or `all` for all names, which may differ from the run's.

    Raises:
        UserError: if the names differ, or there are none.
    """
    from src.data.split import fingerprint, split_corpus

    record = model.split_record
    # Unlike training, an evaluation can do with a single category.
    corpus = read_corpus(source, model.alphabet.kind, min_categories=1)
    if split == "all":
        return corpus.all_names
    # Scores of test names would be too high if names had moved between the splits.
    if fingerprint(corpus.all_names) != record.fingerprints["all"]:
        raise UserError(
            f"{source.path}: not the corpus of the run, or changed since; use --split all"
        )
    # The same names are split in the same way, unless the program has changed since.
    splits = split_corpus(corpus, record.val_fraction, record.test_fraction, record.seed)
    names: NamesByCategory = getattr(splits, split)  # the fields have the names of the splits
    if fingerprint(names) != record.fingerprints[split]:
        raise UserError(f"{model.path}: its run split the corpus in another way; use --split all")
    if not any(names.values()):
        raise UserError(f"--split {split}: the run held no names out for that")
    return names


def plot_confusion(evaluated: "EvaluatedNames", names_description: str, file: Path) -> None:
    """Draw the confusion matrix to a file."""
    from src.run.figures import (  # matplotlib takes a second to import
        draw_clustered_confusion_matrix,
        render_png,
    )

    figure = draw_clustered_confusion_matrix(
        targets=evaluated.targets.numpy(),
        predictions=evaluated.predictions.numpy(),
        categories=evaluated.categories,
        names_description=names_description,
    )
    write_bytes_atomically(file, render_png(figure))


if __name__ == "__main__":
    cli.run_cli_and_exit(main)
