"""`python -m src.evaluate`: how good a trained model is, and how sure that is."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from src.command import add_model_options, run_command, run_program
from src.data.corpus import Corpus, fingerprint, read_corpus, split_corpus
from src.errors import UserError
from src.files import refuse_targets, written_whole
from src.scoring import Evaluated, as_text, make_report
from src.trained import AT_ONCE, TrainedModel, find_checkpoint, load_model

SIDES = {
    "test": "names the run never saw",
    "val": "names held out for validation",
    "train": "names the run trained on",
    "all": "all names, trained on or not",
}


def main(arguments: list[str] | None = None) -> None:
    """Evaluate; end with exit status 2 and one line if something is wrong."""
    run_command(make_parser(), answer, arguments)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    parser = argparse.ArgumentParser(
        prog="python -m src.evaluate",
        description="Evaluate a trained model on the names of its own split, or on other names.",
    )
    add_model_options(parser)
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="folder of <Category>.txt files (the run's)"
    )
    parser.add_argument("--split", choices=SIDES, default="test", help="which names (test)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the same as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the confusion matrix")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    return parser


def answer(options: argparse.Namespace) -> None:
    """Print, write and draw what the options ask for."""
    refuse_targets(options.out, options.plot, force=options.force)
    model = load_model(find_checkpoint(options.checkpoint), options.prior)
    folder = options.data_dir or Path(model.split["data_dir"])
    evaluated = evaluate(model, chosen_side(model, folder, options.split))
    report = make_report(evaluated)
    print(f"model: {model.path}\nnames: {folder}, {options.split}: {SIDES[options.split]}")
    asked = {"checkpoint": str(model.path), "split": options.split}
    if model.decision:
        print(f"prior: {model.prior}")
        asked["prior"] = model.prior
    print(f"\n{as_text(report)}")
    if options.out:
        with written_whole(options.out, "w", encoding="utf-8") as out:
            json.dump({**asked, **report}, out, indent=2)
    if options.plot:
        draw(evaluated, options.split, options.plot)


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
        raise UserError(
            f"{folder}: not the corpus of the run, or changed since: which of its names the run "
            f"trained on cannot be told; use --split all"
        )
    sides = split_corpus(corpus, split["val_fraction"], split["test_fraction"], split["seed"])
    names = dict(zip(("train", "val", "test"), sides, strict=True))[side]
    if fingerprint(names) != split[side]:
        raise UserError(f"{model.path}: its run split the corpus in another way; use --split all")
    if not any(names.values()):
        raise UserError(f"--split {side}: the run held no names out for that")
    return names


def evaluate(model: TrainedModel, corpus: Corpus) -> Evaluated:
    """Ask the model about each distinct (name, category) pair of a corpus."""
    pairs = [
        (n, model.categories.index(c)) for c, names in corpus.items() for n in sorted(set(names))
    ]
    names, targets = [name for name, _ in pairs], np.array([target for _, target in pairs])
    blocks = [model.probabilities(names[i : i + AT_ONCE]) for i in range(0, len(names), AT_ONCE)]
    probabilities = torch.cat(blocks)
    if (unanswered := probabilities[:, 0].isnan()).any():
        name = names[int(unanswered.nonzero()[0])]
        raise UserError(f"{name}: {model.reason(name)}")
    return Evaluated(names, targets, probabilities.double().numpy(), model.categories)


def draw(evaluated: Evaluated, side: str, file: Path) -> None:
    """Draw the confusion matrix."""
    from src.pictures import confusion_png  # matplotlib takes its time

    c = len(evaluated.categories)
    counts = np.bincount(evaluated.targets * c + evaluated.guesses, minlength=c * c)
    title = f"Guesses on {SIDES[side]}, % of each true category"
    with written_whole(file, "wb") as out:
        out.write(confusion_png(counts.reshape(c, c), evaluated.categories, title))


if __name__ == "__main__":
    run_program(main)
