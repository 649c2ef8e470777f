"""`python -m src.evaluate`: how good a trained model is, and how sure that is."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from src.data.corpus import NamesByCategory, read_corpus
from src.data.readers import DataSource
from src.data.readers.columns import quoted_list
from src.data.split import fingerprint, split_corpus
from src.errors import UserError
from src.files import check_output_files, write_bytes
from src.inference import cli as command
from src.inference.scores import Evaluated, as_text, make_report
from src.inference.trained_model import TrainedModel, load_model
from src.run.run_folder import find_checkpoint

SIDES = {
    "test": "names the run never saw",
    "val": "names held out for validation",
    "train": "names the run trained on",
    "all": "all names, trained on or not",
}
UNKNOWN = {"skip": "left out", "wrong": "counted as guessed wrong"}


def main(arguments: list[str] | None = None) -> None:
    """Evaluate; end with exit status 2 and one line if something is wrong."""
    command.run_command(make_parser(), answer, arguments)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    parser = command.make_parser("src.evaluate", "Evaluate a model, on its run's names or others.")
    add: Any = parser.add_argument
    either = parser.add_mutually_exclusive_group().add_argument
    either("--data-dir", metavar="DIR", help="folder of <Category>.txt files (the run's)")
    either("--data-file", metavar="FILE", help="or table of names and categories")
    for column in ("name", "label", "count", "split"):
        add(f"--{column}-column", metavar="COLUMN", help="of the table: name or number (the run's)")
    add("--split", choices=SIDES, default="test", help="which names (test)")
    add("--among", type=command.listed, metavar="A,B,…", help="ask among these categories only")
    add("--unknown", choices=UNKNOWN, help="leave out or count as wrong other categories (refuse)")
    add("--out", type=Path, metavar="FILE.json", help="write the same as JSON")
    add("--plot", type=Path, metavar="FILE.png", help="draw the confusion matrix")
    return parser


def answer(options: argparse.Namespace) -> None:
    """Print, write and draw what the options ask for."""
    check_output_files(options.out, options.plot, force=options.force)
    model = load_model(find_checkpoint(options.checkpoint), options.prior, options.among)
    source = chosen_source(model, options)
    corpus = chosen_side(model, source, options.split)
    unknown = [category for category in corpus if category not in model.categories]
    about = f"{len(unknown)} of {len(corpus)} categories, {quoted_list(unknown)}"
    if unknown and not options.unknown:
        how = "--unknown skip leaves their names out, --unknown wrong counts them as wrong"
        raise UserError(f"{source.path}: the model never answers {about}; {how}")
    if options.unknown == "skip":
        corpus = {c: names for c, names in corpus.items() if c in model.categories}
    evaluated = evaluate(model, corpus)
    report = make_report(evaluated)
    asked = {"checkpoint": str(model.path), "split": options.split, "prior": model.prior}
    asked |= {"among": options.among, "unknown": options.unknown, "unknown_categories": unknown}
    print(f"model: {model.about}\nnames: {source.path}, {options.split}: {SIDES[options.split]}")
    if unknown:
        print(f"unknown: {about}: {UNKNOWN[options.unknown]}")
    print(f"prior: {model.prior}\n\n{as_text(report)}")
    if options.out:
        write_bytes(options.out, json.dumps(asked | report, indent=2).encode())
    if options.plot:
        from src.run.figures import as_png, confusion_figure  # matplotlib takes its time

        answers = evaluated.targets.numpy(), evaluated.guesses.numpy(), evaluated.categories
        figure = confusion_figure(*answers, SIDES[options.split])
        write_bytes(options.plot, as_png(figure))


def chosen_source(model: TrainedModel, options: argparse.Namespace) -> DataSource:
    """Return where the names are: the run's own source, but for what the options say."""
    given = {key: value for key in DataSource._fields if (value := getattr(options, key))}
    source = model.split.source
    if options.data_dir or options.data_file:
        source = source._replace(data_dir=None, data_file=None)
    return (DataSource() if options.data_dir else source)._replace(**given)


def chosen_side(model: TrainedModel, source: DataSource, side: str) -> NamesByCategory:
    """Return the names of one side of the run's split, proved to be the very same.

    Raises:
        UserError: if they are not.
    """
    split = model.split
    names, path = read_corpus(source, model.alphabet.kind, min_categories=1), source.path
    if side == "all":
        return names.all_names
    if fingerprint(names.all_names) != split.fingerprints["all"]:
        raise UserError(f"{path}: not the corpus of the run, or changed since; use --split all")
    sides = split_corpus(names, split.val_fraction, split.test_fraction, split.seed)
    chosen = dict(zip(("train", "val", "test"), sides, strict=True))[side]
    if fingerprint(chosen) != split.fingerprints[side]:
        raise UserError(f"{model.path}: its run split the corpus in another way; use --split all")
    if not any(chosen.values()):
        raise UserError(f"--split {side}: the run held no names out for that")
    return chosen


def evaluate(model: TrainedModel, corpus: NamesByCategory) -> Evaluated:
    """Ask the model about each distinct (name, category) pair of a corpus.

    A category that it does not know has probability 0.

    Raises:
        UserError: if there is none, or a name that it cannot answer.
    """
    categories = [*dict.fromkeys([*model.categories, *corpus])]
    read = {c: sorted({*map(model.alphabet.normalize, names)}) for c, names in corpus.items()}
    names = [name for pairs in read.values() for name in pairs]
    if not names:
        raise UserError(f"no names of any category that is asked about: {quoted_list(categories)}")
    targets = [categories.index(c) for c, pairs in read.items() for _ in pairs]
    p = F.pad(model.probabilities(names), (0, len(categories) - len(model.categories)))
    if (unanswered := p[:, 0].isnan()).any():
        name = names[int(unanswered.nonzero()[0])]
        raise UserError(f"{name}: {model.reason(name)}")
    return Evaluated(names, torch.tensor(targets), p.double(), categories)


if __name__ == "__main__":
    command.run_program(main)
