"""Measures how soon a run with `init_from` is as good as a run from scratch.

    python -m benchmarks.init_from [--seeds 0 1 2]

Trains three models with the same settings: one for every other category of the included names; one
for all categories, which starts from the first; and one for all categories from scratch. The first
keeps the split of all names, so that it is not trained on validation names of the others.

The score is the balanced accuracy, averaged over five consecutive validations, because that of a
single validation varies by 0.02. Prints a Markdown table with the score at the end of the run from
scratch, and the numbers of iterations after which this run and the one with `init_from` reach it.
"""

import argparse
import logging
import tempfile
from pathlib import Path
from typing import NamedTuple

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

EXPERIMENTS = {
    "`src.train`": ["val_every=1000"],
    "`experiment=pytorch_tutorial_2024`": [
        "experiment=pytorch_tutorial_2024",
        "log_every=50",
        "val_every=50",
    ],
}
"""Overrides by label."""
N_VALIDATIONS = 5
"""Number of consecutive validations that a score is the mean of."""


class ScorePoint(NamedTuple):
    """The score of a run at one of its validations."""

    iteration: int
    score: float


def write_half(folder: Path, seed: int) -> None:
    """Write every other category of the included names, with the split of all categories."""
    corpus = read_corpus(DataSource(), "ascii")
    split = split_corpus(corpus, val_fraction=0.1, test_fraction=0.1, seed=seed)
    for split_name, names in zip(("train", "val", "test"), split, strict=True):
        (folder / split_name).mkdir(parents=True)
        for category in list(names)[::2]:
            lines = "".join(f"{name}\n" for name in names[category])
            (folder / split_name / f"{category}.txt").write_text(lines, encoding="utf-8")


def train_and_score(folder: Path, *overrides: str) -> list[ScorePoint]:
    """Train, and return the score at each validation from the fifth on."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        config = build_config(compose("train", [*overrides, "logger=[]"]), overrides)
    train(config, folder)
    history = read_checkpoint(folder / "checkpoints/last.ckpt")["history"]
    iterations = []
    values = []
    for iteration, logged_values in history:
        if SCORE in logged_values:
            iterations.append(iteration)
            values.append(logged_values[SCORE])
    points = []
    for end in range(N_VALIDATIONS, len(values) + 1):
        mean = sum(values[end - N_VALIDATIONS : end]) / N_VALIDATIONS
        points.append(ScorePoint(iterations[end - 1], mean))
    return points


def first_iteration_with(score: float, points: list[ScorePoint]) -> str:
    """Return the first iteration at which a score is reached, or "never"."""
    for point in points:
        if point.score >= score:
            return f"{point.iteration:,}"
    return "never"


def measure_experiment(label: str, settings: list[str], seed: int) -> str:
    """Train the three models, and return a row of the table.

    Args:
        label: label of the row.
        settings: overrides of all three runs.
        seed: their seed.
    """
    overrides = [*settings, f"seed={seed}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_half(folder / "names", seed)
        train_and_score(folder / "half", *overrides, f"data_dir={folder / 'names'}")
        started = train_and_score(folder / "started", *overrides, f"init_from={folder / 'half'}")
        scratch = train_and_score(folder / "scratch", *overrides)
    last_iteration, score = scratch[-1]
    cells = [
        label,
        str(seed),
        f"{score:.3f}",
        first_iteration_with(score, scratch),
        first_iteration_with(score, started),
        f"{last_iteration // 2:,}",  # the target
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.init_from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    logging.disable()
    torch.set_num_threads(1)
    print("| recipe | `seed` | score | from scratch | with `init_from` | target |")
    print("|---|---|---|---|---|---|")
    for label, settings in EXPERIMENTS.items():
        for seed in options.seeds:
            print(measure_experiment(label, settings, seed), flush=True)


if __name__ == "__main__":
    main()
