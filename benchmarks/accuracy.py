"""`make accuracy`: how good this project's models and their peers are on names never trained on.

    python -m benchmarks.accuracy [--out TABLE.md]
    python -m benchmarks.accuracy --data-dir FOLDER | --data-file FILE [--out TABLE.md]

Prints Markdown tables: mean ± standard deviation over the split seeds 0, 1 and 2, each distinct
pair of name and category counted once. Every model gets the same split, and the names as they stand
in the files. `seconds` are of training alone for the peers, of the whole command for this project.
A second table, of the shipped names, has the accuracy on the test names written in other ways.
Writes the tables to a file, too.
"""

import argparse
import statistics
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
from src.data.datamodule import NamesDataModule
from src.data.dataset import NamesDataset
from src.data.readers import DataSource, read_rows
from src.inference.trained_model import TrainedModel, load_model
from src.models.calibration import fit_calibration
from src.models.registry import PRIORS, PriorName
from src.ngrams.ensemble import MIXTURE_WEIGHTS, NgramEnsemble
from src.run.run_folder import find_checkpoint

SEEDS = (0, 1, 2)
Floats = NDArray[np.float64]
COLUMNS = ("accuracy", "balanced accuracy", "macro F1", "calibration error")
Answers = dict[str, Floats]
"""Log-probabilities of the test names [N, C], not always normalised, by the decision's prior."""
BINS = 15
ORDER = 4
"""Letters of context in the n-grams of `experiment=best`."""


LIST: dict[str, str] = {}
"""Where the names are, `data_dir` or `data_file`; nothing: the names shipped."""


def list_words() -> tuple[str, ...]:
    """Return what `src.train` is told of the names."""
    return tuple(f"{key}={path}" for key, path in LIST.items())


@cache
def split(seed: int) -> NamesDataModule:
    """Return the names, split as src.train splits them."""
    letters = "corpus" if LIST else "ascii"
    return NamesDataModule(**LIST, seed=seed, sampling="natural", letters=letters)  # type: ignore[arg-type] # strings


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


def texts(names: NamesDataset, seed: int) -> list[str]:
    """Return the names of a side, each as it first stands in the files, before it is read."""
    data, first = split(seed), first_spellings(seed)
    read, ends = data.alphabet.decode(names.letters), names.lengths.cumsum(0).tolist()
    begins = [end - length for end, length in zip(ends, names.lengths.tolist(), strict=True)]
    labels = [data.categories[category] for category in names.targets]
    return [first[read[b:e], c] for b, e, c in zip(begins, ends, labels, strict=True)]


@cache
def first_spellings(seed: int) -> dict[tuple[str, str], str]:
    """Return how each pair of a name, as it is read, and a category stands in the files."""
    first: dict[tuple[str, str], str] = {}
    letters = split(seed).alphabet
    known = set(letters.symbols)
    for row in read_rows(DataSource(**LIST)):
        read = "".join(
            c if c in known else letters.symbols[-1] for c in letters.normalize(row.name)
        )
        first.setdefault((read, row.category), row.name.strip())
    return first


def decided(
    log_probabilities: Callable[[NamesDataset], torch.Tensor], seed: int
) -> tuple[Answers, float]:
    """Return the answers of what was trained on natural shares, decided as src.train does."""
    data = split(seed)
    shares = data.corpus_prior
    start = time.perf_counter()
    decision = fit_calibration(
        log_probabilities(data.val_dataset), data.val_dataset.targets, shares, shares
    )
    seconds = time.perf_counter() - start
    logp = log_probabilities(data.test_dataset).double()
    return {prior: decision.log_probabilities(logp, prior).numpy() for prior in PRIORS}, seconds


def logistic_regression(seed: int) -> tuple[Answers, float]:
    """Ask character 1–5-gram tf-idf + logistic regression, converged."""
    data = split(seed)
    train = texts(data.distinct_pairs, seed)
    start = time.perf_counter()
    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True, min_df=2)
    model = LogisticRegression(C=10, max_iter=2000)
    model.fit(grams.fit_transform(train), data.distinct_pairs.targets.numpy())
    seconds = time.perf_counter() - start

    def log_probabilities(names: NamesDataset) -> torch.Tensor:
        return torch.tensor(model.predict_log_proba(grams.transform(texts(names, seed))))

    answers, more = decided(log_probabilities, seed)
    return answers, seconds + more


def letter_ngrams(seed: int) -> tuple[Answers, float]:
    """Ask the n-grams of `experiment=best` and `names` alone, fitted as src.train does."""
    data = split(seed)
    start = time.perf_counter()
    ngrams = NgramEnsemble(data.alphabet.symbols, len(data.categories), ORDER).eval()
    ngrams.fit(data.distinct_names, data.corpus_prior, seed)
    seconds = time.perf_counter() - start
    log_shares = torch.tensor(data.corpus_prior).log()
    whole = MIXTURE_WEIGHTS.ngrams + MIXTURE_WEIGHTS.tfidf

    @torch.inference_mode()
    def log_probabilities(names: NamesDataset) -> torch.Tensor:
        scores = torch.cat([ngrams(batch.letters, batch.lengths) for batch in names.loader()])
        return (scores / whole + log_shares).log_softmax(dim=1)

    answers, more = decided(log_probabilities, seed)
    return answers, seconds + more


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
        told = *words, f"seed={seed}", f"hydra.run.dir={run}"
        seconds, _ = run_module("src.train", *told)
        return load_model(find_checkpoint(run)), seconds


def ours(*words: str, priors: tuple[PriorName, ...] = ()) -> Callable[[int], tuple[Answers, float]]:
    """Return what asks a run of src.train, under the priors; by default as it was trained."""

    def run(seed: int) -> tuple[Answers, float]:
        names = texts(split(seed).test_dataset, seed)
        model, seconds = trained((*words, *list_words()), seed)
        models: dict[str, TrainedModel] = {prior: replace(model, prior=prior) for prior in priors}
        models = models or {"as trained": replace(model, calibration=None)}
        answers = {
            prior: each.probabilities(names).double().log().numpy()
            for prior, each in models.items()
        }
        return answers, seconds

    return run


LONGER = "ngrams=0", "hidden=128", "lr=0.005", "passes=24"
"""The network alone, as large and as long as in `experiment=names`."""
ELSEWHERE: dict[str, Callable[[int], tuple[Answers, float]]] = {
    "1–5-gram tf-idf + logistic regression": logistic_regression,
    "n-grams alone": letter_ngrams,
    "`experiment=names`": ours("experiment=names", priors=PRIORS),
}
"""What is asked about another list than the one shipped."""
MODELS: dict[str, Callable[[int], tuple[Answers, float]]] = {
    "the tutorial's cell (`src.train`)": ours(),
    "PyTorch's present tutorial, plain loop": plain_tutorial,
    "`experiment=pytorch_tutorial_2024`": ours("experiment=pytorch_tutorial_2024"),
    "1–5-gram tf-idf + logistic regression": logistic_regression,
    "n-grams alone": letter_ngrams,
    "`experiment=best ngrams=0`": ours("experiment=best", "ngrams=0", priors=PRIORS),
    f"`experiment=best {' '.join(LONGER)}`": ours("experiment=best", *LONGER, priors=PRIORS),
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
    test = split(seed).test_dataset
    probabilities = trained(words, seed)[0].probabilities(list(map(write, texts(test, seed))))
    return float((probabilities.argmax(dim=1) == test.targets).float().mean())


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
    for name, measure in (ELSEWHERE if LIST else MODELS).items():
        results = [measure(seed) for seed in SEEDS]
        seconds = statistics.mean(spent for _, spent in results)
        for number, prior in enumerate(results[0][0]):
            rows = [
                scores(answers[prior], split(seed).test_dataset.targets.numpy())
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    for option in ("--data-dir", "--data-file", "--out"):
        parser.add_argument(option)
    options = vars(parser.parse_args())
    out = options.pop("out")
    LIST.update({key: str(Path(path).absolute()) for key, path in options.items() if path})
    lines = []
    for line in by_model() if LIST else chain(by_model(), [""], by_writing()):
        print(line, flush=True)
        lines.append(line)
    if out:
        Path(out).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
