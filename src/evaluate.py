"""`python -m src.evaluate`: how good a trained model is, and how sure that is."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from src.answer import command
from src.answer.model import TrainedModel, find_checkpoint, load_model
from src.answer.scores import Evaluated, as_text, make_report
from src.data.corpus import NAMES, Corpus, read_corpus
from src.data.split import fingerprint, split_corpus
from src.errors import UserError
from src.run.files import refuse_targets, write_bytes

SIDES = {
    "test": "names the run never saw",
    "val": "names held out for validation",
    "train": "names the run trained on",
    "all": "all names, trained on or not",
}


def main(arguments: list[str] | None = None) -> None:
    """Evaluate; end with exit status 2 and one line if something is wrong."""
    command.run_command(make_parser(), answer, arguments)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    parser = command.make_parser("src.evaluate", "Evaluate a model, on its run's names or others.")
    add: Any = parser.add_argument
    add("--data-dir", type=Path, metavar="DIR", help="folder of <Category>.txt files (the run's)")
    add("--split", choices=SIDES, default="test", help="which names (test)")
    add("--out", type=Path, metavar="FILE.json", help="write the same as JSON")
    add("--plot", type=Path, metavar="FILE.png", help="draw the confusion matrix")
    near = "with --plot: put categories beside each other that are confused"
    add("--neighbours", action="store_true", help=near)
    return parser


def answer(options: argparse.Namespace) -> None:
    """Print, write and draw what the options ask for."""
    refuse_targets(options.out, options.plot, force=options.force)
    model = load_model(find_checkpoint(options.checkpoint), options.prior)
    folder = options.data_dir or Path(model.split["data_dir"] or NAMES)
    evaluated = evaluate(model, chosen_side(model, folder, options.split))
    report = make_report(evaluated)
    asked = {"checkpoint": str(model.path), "split": options.split}
    if model.decision:
        asked["prior"] = model.prior
    print(f"model: {model.path}\nnames: {folder}, {options.split}: {SIDES[options.split]}")
    print(f"prior: {asked.get('prior', 'as trained')}\n\n{as_text(report)}")
    if options.out:
        write_bytes(options.out, json.dumps(asked | report, indent=2).encode())
    if options.plot:
        from src.run.pictures import as_png, confusion_figure  # matplotlib takes its time

        title = f"Guesses on {SIDES[options.split]}, % of each true category"
        answers = evaluated.targets, evaluated.guesses, evaluated.categories
        figure = confusion_figure(*answers, title, neighbours=options.neighbours)
        write_bytes(options.plot, as_png(figure))


def chosen_side(model: TrainedModel, folder: Path, side: str) -> Corpus:
    """Return the names of one side of the run's split, proved to be the very same.

    Raises:
        UserError: if they are not, or the model does not know a category.
    """
    split = model.split
    corpus = read_corpus(folder)
    if unknown := sorted(set(corpus) - set(model.categories)):
        raise UserError(f"{folder}: the model knows no category {', '.join(unknown)}")
    if side == "all":
        return corpus
    if fingerprint(corpus) != split["all"]:
        raise UserError(f"{folder}: not the corpus of the run, or changed since; use --split all")
    sides = split_corpus(corpus, split["val_fraction"], split["test_fraction"], split["seed"])
    names = dict(zip(("train", "val", "test"), sides, strict=True))[side]
    if fingerprint(names) != split[side]:
        raise UserError(f"{model.path}: its run split the corpus in another way; use --split all")
    if not any(names.values()):
        raise UserError(f"--split {side}: the run held no names out for that")
    return names


def evaluate(model: TrainedModel, corpus: Corpus) -> Evaluated:
    """Ask the model about each distinct (name, category) pair of a corpus."""
    pairs = [(name, c) for c, names in corpus.items() for name in sorted(set(names))]
    names = [name for name, _ in pairs]
    targets = np.array([model.categories.index(category) for _, category in pairs])
    probabilities = model.probabilities(names)
    if (unanswered := probabilities[:, 0].isnan()).any():
        name = names[int(unanswered.nonzero()[0])]
        raise UserError(f"{name}: {model.reason(name)}")
    return Evaluated(names, targets, probabilities.double().numpy(), model.categories)


if __name__ == "__main__":
    command.run_program(main)
