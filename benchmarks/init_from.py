"""How soon a run with `init_from` is as good as one from scratch.

    python -m benchmarks.init_from [--seeds 0 1 2]

Trains on every other category of the shipped names; on all of them, starting from that model; and
on all of them from scratch, all three with the same settings. The half has the split of the whole,
so no name that the others are validated on was trained on before.

The score is the balanced accuracy of five validations in a row, their mean, as a single one moves
by 0.02. Prints a Markdown table: the score at the end of the run from scratch, and after how many
iterations each of the two first has it.
"""

import argparse
import logging
import tempfile
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from src.config import CONFIG_FOLDER
from src.data.corpus import read_corpus
from src.data.readers import DataSource
from src.data.split import split_corpus
from src.models.checkpoint import read_checkpoint
from src.models.registry import SCORE
from src.run.compose import build_config
from src.train import train

RECIPES = {
    "`src.train`": ["val_every=1000"],
    "`experiment=pytorch_tutorial_2024`": [
        "experiment=pytorch_tutorial_2024",
        "log_every=50",
        "val_every=50",
    ],
}
MEAN = 5
"""Validations of a score."""


def write_half(folder: Path, seed: int) -> None:
    """Write every other category of the shipped names, with the split of all of them."""
    split = split_corpus(read_corpus(DataSource(), "ascii"), 0.1, 0.1, seed)
    for side, corpus in zip(("train", "val", "test"), split, strict=True):
        (folder / side).mkdir(parents=True)
        for category in list(corpus)[::2]:
            lines = "".join(f"{name}\n" for name in corpus[category])
            (folder / side / f"{category}.txt").write_text(lines, encoding="utf-8")


def scores(folder: Path, *words: str) -> dict[int, float]:
    """Train; return the validation scores, means of five, by the iteration of the last of them."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        train(build_config(compose("train", [*words, "logger=[]"]), words), folder)
    history = read_checkpoint(folder / "checkpoints/last.ckpt")["history"]
    points = [(iteration, values[SCORE]) for iteration, values in history if SCORE in values]
    return {
        points[i][0]: sum(score for _, score in points[i + 1 - MEAN : i + 1]) / MEAN
        for i in range(MEAN - 1, len(points))
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.init_from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    logging.disable()
    torch.set_num_threads(1)
    print("| recipe | `seed` | score | from scratch | with `init_from` | target |")
    print("|---|---|---|---|---|---|")
    for recipe, settings in RECIPES.items():
        for seed in seeds:
            with tempfile.TemporaryDirectory() as name:
                folder, words = Path(name), [*settings, f"seed={seed}"]
                write_half(folder / "names", seed)
                scores(folder / "half", *words, f"data_dir={folder / 'names'}")
                started = scores(folder / "started", *words, f"init_from={folder / 'half'}")
                scratch = scores(folder / "scratch", *words)
            whole, score = list(scratch.items())[-1]
            reached = [
                next((f"{i:,}" for i, value in of.items() if value >= score), "never")
                for of in (scratch, started)
            ]
            cells = [recipe, str(seed), f"{score:.3f}", *reached, f"{whole // 2:,}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
