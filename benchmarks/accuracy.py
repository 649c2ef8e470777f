"""`make accuracy`: how good this project's models and their peers are on names never trained on.

    python -m benchmarks.accuracy [TABLE.md]

Prints a Markdown table: mean ± standard deviation over the split seeds 0, 1 and 2, each distinct
pair of name and category counted once. Every model gets the same split. `seconds` are of training
alone for the peers, of the whole command for this project. Writes the table to a file, too.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks import pytorch_tutorial
from benchmarks.measure import run_module
from src.data.alphabet import decode
from src.data.datamodule import NamesDataModule, NamesDataset

SEEDS = (0, 1, 2)
Floats = NDArray[np.float64]
Scores = tuple[float, float, float]
"""Accuracy, balanced accuracy, macro F1."""
Rows = dict[str, Scores]
"""By the prior of the decision."""


def split(seed: int) -> NamesDataModule:
    """Return the corpus, split as src.train splits it."""
    return NamesDataModule("data/names", 0.1, 0.1, seed, 1, 1, 1)


def scores(guesses: NDArray[np.int64], targets: NDArray[np.int64]) -> Scores:
    """Return accuracy, balanced accuracy and macro F1 of guesses [N] at targets [N]."""
    recalls, f1s = [], []
    for category in np.union1d(guesses, targets):
        hits = ((guesses == category) & (targets == category)).sum()
        true, guessed = (targets == category).sum(), (guesses == category).sum()
        f1s.append(2 * hits / (true + guessed))
        if true:
            recalls.append(hits / true)
    return float((guesses == targets).mean()), float(np.mean(recalls)), float(np.mean(f1s))


def texts(names: NamesDataset) -> list[str]:
    """Return the names of a side as text."""
    letters, ends = bytes(names.letters.tolist()), names.lengths.cumsum(0).tolist()
    lengths = names.lengths.tolist()
    return [decode(letters[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


def logistic_regression(seed: int) -> tuple[Rows, float]:
    """Score character 1–5-gram tf-idf + logistic regression, under three priors."""
    data = split(seed)
    start = time.perf_counter()
    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True, min_df=2)
    features = grams.fit_transform(texts(data.distinct))
    targets = data.distinct.categories.numpy()
    model = LogisticRegression(C=10, max_iter=300).fit(features, targets)
    seconds = time.perf_counter() - start
    logp = model.predict_log_proba(grams.transform(texts(data.test)))
    log_shares = np.log(np.array(data.corpus_shares()))
    rows = {
        prior: scores((logp - away * log_shares).argmax(1), data.test.categories.numpy())
        for prior, away in (("corpus", 0.0), ("uniform", 1.0), ("half-way", 0.5))
    }
    return rows, seconds


def plain_tutorial(seed: int) -> tuple[Rows, float]:
    """Score PyTorch's present tutorial as it stands."""
    data = split(seed)
    start = time.perf_counter()
    network = pytorch_tutorial.train(data, seed)
    seconds = time.perf_counter() - start
    logp = pytorch_tutorial.log_probabilities(network, data)
    return {"as trained": scores(logp.argmax(1), data.test.categories.numpy())}, seconds


def ours(*words: str, priors: tuple[str, ...]) -> Callable[[int], tuple[Rows, float]]:
    """Return what scores a run of src.train, under the priors; the empty one: as trained."""

    def run(seed: int) -> tuple[Rows, float]:
        with tempfile.TemporaryDirectory() as folder:
            seconds, _ = run_module(
                "src.train", *words, f"seed={seed}", f"hydra.run.dir={folder}/run"
            )
            metrics = json.loads(Path(folder, "run/metrics.json").read_text())
        rows = {}
        for prior in priors:
            under = f"{prior}/" if prior else ""
            names = [
                f"test/{under}{name}" for name in ("accuracy", "balanced_accuracy", "macro_f1")
            ]
            accuracy, balanced, f1 = (metrics[name] for name in names)
            rows[prior or "as trained"] = (accuracy, balanced, f1)
        return rows, seconds

    return run


ALL = ("corpus", "uniform", "tempered")
MODELS: dict[str, Callable[[int], tuple[Rows, float]]] = {
    "the tutorial's cell (`src.train`)": ours(priors=("",)),
    "PyTorch's present tutorial, plain loop": plain_tutorial,
    "`experiment=pytorch_tutorial_2024`": ours("experiment=pytorch_tutorial_2024", priors=("",)),
    "1–5-gram tf-idf + logistic regression": logistic_regression,
    "`experiment=best ngrams=0`": ours("experiment=best", "ngrams=0", priors=ALL),
    "`experiment=best`": ours("experiment=best", priors=ALL),
}


def cell(values: list[float]) -> str:
    """Return mean ± standard deviation."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def main() -> None:
    """Print the table, row by row; write it where the command line says."""
    lines = [
        "| model | prior of the decision | accuracy | balanced accuracy | macro F1 | seconds |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for name, measure in MODELS.items():
        results = [measure(seed) for seed in SEEDS]
        seconds = statistics.mean(spent for _, spent in results)
        for number, prior in enumerate(results[0][0]):
            columns = zip(*(rows[prior] for rows, _ in results), strict=True)
            shown = " | ".join(cell(list(values)) for values in columns)
            first = number == 0
            line = f"| {name if first else ''} | {prior} | {shown} | {seconds:.0f} |"
            lines.append(line if first else f"{line[: line.rindex(' | ')]} | |")
            print(lines[-1], flush=True)
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
