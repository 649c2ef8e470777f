"""`make accuracy`: how good this project's models and their peers are on names never trained on.

    python -m benchmarks.accuracy [TABLE.md]

Prints Markdown tables: mean ± standard deviation over the split seeds 0, 1 and 2, each distinct
pair of name and category counted once. Every model gets the same split. `seconds` are of training
alone for the peers, of the whole command for this project. A second table has the accuracy on the
test names written in other ways. Writes both to a file, too.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks import pytorch_tutorial
from benchmarks.measure import run_module
from src.answer.model import TrainedModel, find_checkpoint, load_model
from src.data.datamodule import NamesDataModule, NamesDataset
from src.data.letters import ALPHABET, ASCII
from src.models.decision import PRIORS, fit_decision
from src.models.ngrams import LetterNgrams

SEEDS = (0, 1, 2)
Floats = NDArray[np.float64]
COLUMNS = ("accuracy", "balanced accuracy", "macro F1", "calibration error")
Answers = dict[str, Floats]
"""Log-probabilities of the test names [N, C], not always normalised, by the decision's prior."""
BINS = 15
ORDER = 4
"""Letters of context in the n-grams of `experiment=best`."""


def split(seed: int) -> NamesDataModule:
    """Return the corpus, split as src.train splits it."""
    return NamesDataModule(seed=seed, sampling="natural")


def scores(logp: Floats, targets: NDArray[np.int64]) -> list[float]:
    """Return what COLUMNS says of log-probabilities [N, C] for targets [N]."""
    p = np.exp(logp - logp.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    guesses, sure = p.argmax(axis=1), p.max(axis=1)
    recalls, f1s = [], []
    for category in np.union1d(guesses, targets):
        hits = ((guesses == category) & (targets == category)).sum()
        true, guessed = (targets == category).sum(), (guesses == category).sum()
        f1s.append(2 * hits / (true + guessed))
        if true:
            recalls.append(hits / true)
    right = guesses == targets
    bins = (sure * BINS).astype(int).clip(max=BINS - 1)
    gaps = [abs((sure - right)[bins == each].sum()) for each in range(BINS)]
    return [float(right.mean()), np.mean(recalls), np.mean(f1s), sum(gaps) / len(targets)]


def texts(names: NamesDataset) -> list[str]:
    """Return the names of a side as text."""
    text, ends = ASCII.unpack(names.letters), names.lengths.cumsum(0).tolist()
    lengths = names.lengths.tolist()
    return [text[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def logistic_regression(seed: int) -> tuple[Answers, float]:
    """Ask character 1–5-gram tf-idf + logistic regression, under three priors."""
    data = split(seed)
    start = time.perf_counter()
    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True, min_df=2)
    features = grams.fit_transform(texts(data.distinct))
    targets = data.distinct.categories.numpy()
    model = LogisticRegression(C=10, max_iter=300).fit(features, targets)
    seconds = time.perf_counter() - start
    logp = model.predict_log_proba(grams.transform(texts(data.test)))
    log_shares = np.log(np.array(data.corpus_shares()))
    away = {"corpus": 0.0, "uniform": 1.0, "half-way": 0.5}
    return {prior: logp - share * log_shares for prior, share in away.items()}, seconds


def letter_ngrams(seed: int) -> tuple[Answers, float]:
    """Ask the letter n-grams of `experiment=best` alone, fitted and decided as src.train does."""
    data = split(seed)
    start = time.perf_counter()
    ngrams = LetterNgrams(ALPHABET, len(data.categories), ORDER).eval()
    ngrams.fit(data.once, data.corpus_shares(), seed)
    log_shares = torch.tensor(data.shares()).log()

    @torch.inference_mode()
    def log_probabilities(names: NamesDataset) -> torch.Tensor:
        scores = torch.cat([ngrams(batch.letters, batch.lengths) for batch in names.loader()])
        return (scores + log_shares).log_softmax(dim=1)

    priors = data.shares(), data.corpus_shares()
    decision = fit_decision(log_probabilities(data.val), data.val.categories, *priors)
    seconds = time.perf_counter() - start
    logp = log_probabilities(data.test).double()
    return {prior: decision.log_probabilities(logp, prior).numpy() for prior in PRIORS}, seconds


def plain_tutorial(seed: int) -> tuple[Answers, float]:
    """Ask PyTorch's present tutorial as it stands."""
    data = split(seed)
    start = time.perf_counter()
    network = pytorch_tutorial.train(data, seed)
    seconds = time.perf_counter() - start
    return {"as trained": pytorch_tutorial.log_probabilities(network, data)}, seconds


@cache
def trained(words: tuple[str, ...], seed: int) -> tuple[TrainedModel, float]:
    """Run src.train; return its model and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        seconds, _ = run_module("src.train", *words, f"seed={seed}", f"hydra.run.dir={run}")
        return load_model(find_checkpoint(run)), seconds


def ours(*words: str, priors: tuple[str, ...] = ()) -> Callable[[int], tuple[Answers, float]]:
    """Return what asks a run of src.train, under the priors; by default as it was trained."""

    def run(seed: int) -> tuple[Answers, float]:
        names = texts(split(seed).test)
        model, seconds = trained(words, seed)
        models = {prior: replace(model, prior=prior) for prior in priors}
        models = models or {"as trained": replace(model, decision=None)}
        answers = {
            prior: each.probabilities(names).double().log().numpy()
            for prior, each in models.items()
        }
        return answers, seconds

    return run


MODELS: dict[str, Callable[[int], tuple[Answers, float]]] = {
    "the tutorial's cell (`src.train`)": ours(),
    "PyTorch's present tutorial, plain loop": plain_tutorial,
    "`experiment=pytorch_tutorial_2024`": ours("experiment=pytorch_tutorial_2024"),
    "1–5-gram tf-idf + logistic regression": logistic_regression,
    "n-grams alone": letter_ngrams,
    "`experiment=best ngrams=0`": ours("experiment=best", "ngrams=0", priors=PRIORS),
    "`experiment=best`": ours("experiment=best", priors=PRIORS),
}


WRITINGS: dict[str, Callable[[str], str]] = {
    "as it stands": str,
    "in capitals": str.upper,
    "in lower case": str.lower,
    "with a comma behind": "{},".format,
    "with a dot behind": "{}.".format,
    "with a blank behind": "{} ".format,
    "in straight quotes": '"{}"'.format,
    "in curly quotes": "“{}”".format,
    "in single quotes": "'{}'".format,
    "with hyphens for blanks": lambda name: name.replace(" ", "-"),
}


def accuracy_of(words: tuple[str, ...], write: Callable[[str], str], seed: int) -> float:
    """Return the share of test names that a run of src.train knows when they are written so."""
    test = split(seed).test
    probabilities = trained(words, seed)[0].probabilities(list(map(write, texts(test))))
    return float((probabilities.argmax(dim=1) == test.categories).float().mean())


def cell(values: list[float]) -> str:
    """Return mean ± standard deviation."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def row(*cells: str) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def by_model() -> Iterator[str]:
    """Yield the lines of the table of models."""
    titles = ["model", "prior of the decision", *COLUMNS, "seconds"]
    yield from (row(*titles), "|" + "---|" * len(titles))
    for name, measure in MODELS.items():
        results = [measure(seed) for seed in SEEDS]
        seconds = statistics.mean(spent for _, spent in results)
        for number, prior in enumerate(results[0][0]):
            rows = [
                scores(answers[prior], split(seed).test.categories.numpy())
                for seed, (answers, _) in zip(SEEDS, results, strict=True)
            ]
            cells = [cell(list(column)) for column in zip(*rows, strict=True)]
            ends = (name, f"{seconds:.0f}") if number == 0 else ("", "")
            yield row(ends[0], prior, *cells, ends[1])


def by_writing() -> Iterator[str]:
    """Yield the lines of the table of ways to write a name: accuracy, under the default prior."""
    models: dict[str, tuple[str, ...]] = {"default": (), "`experiment=best`": ("experiment=best",)}
    yield from (row("the test names, each", *models), "|" + "---|" * (1 + len(models)))
    for name, write in WRITINGS.items():
        rights = [[accuracy_of(words, write, s) for s in SEEDS] for words in models.values()]
        yield row(name, *map(cell, rights))


def main() -> None:
    """Print the tables, row by row; write them where the command line says."""
    torch.set_num_threads(1)
    lines = []
    for line in chain(by_model(), [""], by_writing()):
        print(line, flush=True)
        lines.append(line)
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
