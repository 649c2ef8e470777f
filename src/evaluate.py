"""Evaluate a trained model: `python -m src.evaluate`; `--help` lists the options."""

import signal

if __name__ == "__main__":
    # While the modules below are imported, Ctrl-C ends the program without a traceback. Later,
    # `cli.signals_raise_exceptions` installs a handler.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.data.corpus import NamesByCategory, read_corpus
from src.data.readers import DataSource
from src.data.readers.columns import quoted_list
from src.errors import UserError
from src.files import check_output_files, relative_to_current_folder, write_bytes_atomically
from src.inference import cli

if TYPE_CHECKING:  # torch takes a second to import
    from src.inference.scores import EvaluatedNames
    from src.inference.trained_model import TrainedModel

SPLIT_DESCRIPTIONS = {
    "test": "test set",
    "val": "validation set",
    "train": "training set",
    "all": "all names",
}
"""The choices of `--split`."""
COLUMNS = {
    "name": "the names",
    "label": "the categories",
    "count": "the counts",
    "split": "the splits",
}
"""The columns of a table that can be set by an option, and their contents."""
UNKNOWN_DESCRIPTIONS = {"skip": "left out", "wrong": "counted as wrong predictions"}
"""The choices of `--unknown`, and what happens to names of categories that the model lacks."""


def main(arguments: list[str] | None = None) -> None:
    """Run the program; see `cli.run_cli` for the exit status."""
    cli.run_cli(make_parser(), evaluate, arguments, check=check_output_can_be_written)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    description = "Evaluate a trained model on the names of its run, or on other names."
    parser = cli.make_model_parser("src.evaluate", description)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder with a file <Category>.txt for each category (default: the names of the run)",
    )
    source.add_argument(
        "--data-file",
        metavar="FILE",
        help="table of names and categories, instead of --data-dir",
    )
    for column, contents in COLUMNS.items():
        parser.add_argument(
            f"--{column}-column",
            metavar="COLUMN",
            help=f"name or number of the column with {contents} (default: as in the run)",
        )
    parser.add_argument(
        "--split",
        choices=SPLIT_DESCRIPTIONS,
        default="test",
        help="the names to evaluate (default: test)",
    )
    parser.add_argument(
        "--among",
        type=cli.parse_categories,
        metavar="A,B,…",
        help="restrict the predictions to these categories; all others are unknown, see --unknown",
    )
    parser.add_argument(
        "--unknown",
        choices=UNKNOWN_DESCRIPTIONS,
        help="what to do with names of categories that the model does not know: leave them out, or "
        "count them as wrong (default: they are an error)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the report as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the confusion matrix")
    return parser


def check_output_can_be_written(options: argparse.Namespace) -> None:
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
    model = load_model(options.checkpoint, options.prior, options.among)
    source = select_source(model, options)
    # A copy, because categories may be removed below.
    names = dict(read_verified_split(model, source, options.split))
    # With --among, the categories that are not in the list count as unknown, too.
    unknown_categories = [category for category in names if category not in model.categories]
    unknown_summary = summarize_categories(unknown_categories, n_all=len(names))
    if unknown_categories and options.unknown is None:
        remedy = "use --unknown skip to leave them out, or --unknown wrong to count them as wrong"
        raise UserError(f"{source.path}: the model does not know {unknown_summary}; {remedy}")
    if options.unknown == "skip":
        for category in unknown_categories:
            del names[category]

    # The model gives unknown categories a probability of 0, so their names count as wrong
    # predictions unless they have been left out.
    evaluated = predict_distinct_pairs(model, names)
    report = build_report(evaluated)
    path = relative_to_current_folder(Path(source.path))
    print(f"Model: {model.title}")
    print(f"Names: {path}, {SPLIT_DESCRIPTIONS[options.split]}")
    if unknown_categories:
        print(f"Unknown: {unknown_summary}, {UNKNOWN_DESCRIPTIONS[options.unknown]}")
    print(f"Class prior: {model.prior_label}\n\n{format_report(report)}")
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
        plot_confusion(
            evaluated,
            names_description=SPLIT_DESCRIPTIONS[options.split],
            prior=model.prior_label,
            file=options.plot,
        )


def summarize_categories(categories: list[str], n_all: int) -> str:
    """Return the number and the names of some of `n_all` categories, for messages."""
    return f"{len(categories)} of {n_all} categories ({quoted_list(categories)})"


def select_source(model: "TrainedModel", options: argparse.Namespace) -> DataSource:
    """Return the source of the names: that of the run, with the given options replaced."""
    given: dict[str, Any] = {}
    # The option `--data-dir` sets the field `data_dir`, and so on.
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
    from src.data.split import fingerprint, split_corpus  # imports NumPy, which is slow

    record = model.split_record
    # Unlike training, an evaluation needs only one category.
    corpus = read_corpus(source, model.alphabet.kind, allow_single_category=True)
    if split == "all":
        return corpus.all_names
    # Scores of test names would be too high if names had moved between the splits.
    if fingerprint(corpus.all_names) != record.fingerprints["all"]:
        raise UserError(
            f"{source.path}: not the names of the run, or they have "
            "changed since training; use --split all"
        )
    # The same names are split in the same way, unless the program has changed since.
    splits = split_corpus(corpus, record.val_fraction, record.test_fraction, record.seed)
    names: NamesByCategory = getattr(splits, split)  # the fields have the names of the splits
    if fingerprint(names) != record.fingerprints[split]:
        raise UserError(f"{model.path}: the split differs from that of the run; use --split all")
    if not any(names.values()):
        description = SPLIT_DESCRIPTIONS[split]
        raise UserError(f"--split {split}: the run has no {description}; use --split all")
    return names


def plot_confusion(
    evaluated: "EvaluatedNames", names_description: str, prior: str, file: Path
) -> None:
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
        prior=prior,
    )
    write_bytes_atomically(file, render_png(figure))


if __name__ == "__main__":
    cli.run_cli_and_exit(main)
