"""`make accuracy`: the accuracy of this project's models, compared with that of other models.

    python -m benchmarks.accuracy [--out TABLE.md]
    python -m benchmarks.accuracy --summary
    python -m benchmarks.accuracy --data-dir FOLDER | --data-file FILE [--out TABLE.md]

Prints Markdown tables of scores on the test names: mean ± standard deviation over the split seeds
0, 1 and 2. Each distinct pair of a name and a category counts once. All models get the same split,
and the names with the spelling of the files. The column `seconds` is the time of training alone for
other models, and that of the whole command for this project.

For the included names, a second table shows the accuracy for test names that are written in other
ways. With --out, the tables are also written to a file. With --summary, only the short table of
README.md is printed.
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
from typing import NamedTuple

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
SCORE_NAMES = ("accuracy", "balanced accuracy", "macro F1", "calibration error")
N_CALIBRATION_BINS = 15
NGRAM_ORDER = 4
"""The value of `ngrams` in `experiment=best`."""
UNCALIBRATED = "as trained"
"""Label of the probabilities of a model without a calibration."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Overrides = tuple[str, ...]

DATA_SOURCE: dict[str, str] = {}
"""The key `data_dir` or `data_file` with its path; empty for the included names."""


class ModelResult(NamedTuple):
    """The predictions of a model for the test names."""

    log_probs: dict[str, Floats]
    """Log-probabilities [N, C] by prior. They are not always normalized."""
    seconds: float


TrainAndPredict = Callable[[int], ModelResult]
"""A function that trains a model for a split seed, and predicts the test names."""


@cache
def load_data(seed: int) -> NamesDataModule:
    """Return the names, split as src.train splits them."""
    return NamesDataModule(
        data_dir=DATA_SOURCE.get("data_dir"),
        data_file=DATA_SOURCE.get("data_file"),
        seed=seed,
        sampling="natural",
        letters="corpus" if DATA_SOURCE else "ascii",
    )


def compute_scores(log_probs: Floats, targets: Integers) -> list[float]:
    """Return the scores of SCORE_NAMES.

    Args:
        log_probs: log-probabilities [N, C].
        targets: indices of the true categories [N].
    """
    probabilities = np.exp(log_probs - log_probs.max(axis=1, keepdims=True))  # [N, C]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predictions = probabilities.argmax(axis=1)  # [N]
    recalls = []
    f1_scores = []
    for category in np.union1d(predictions, targets):
        is_target = targets == category
        is_predicted = predictions == category
        n_correct = (is_target & is_predicted).sum()
        f1_scores.append(2 * n_correct / (is_target.sum() + is_predicted.sum()))
        # A category without test names has no recall.
        if is_target.any():
            recalls.append(n_correct / is_target.sum())
    is_correct = predictions == targets
    confidence = probabilities.max(axis=1)  # [N]
    bins = (confidence * N_CALIBRATION_BINS).astype(int).clip(max=N_CALIBRATION_BINS - 1)
    gaps = []
    for index in range(N_CALIBRATION_BINS):
        gaps.append(abs((confidence - is_correct)[bins == index].sum()))
    return [
        float(is_correct.mean()),
        float(np.mean(recalls)),
        float(np.mean(f1_scores)),
        float(sum(gaps) / len(targets)),
    ]


def original_spellings(names: NamesDataset, seed: int) -> list[str]:
    """Return the first spelling in the files of each name of a dataset."""
    data = load_data(seed)
    spellings = first_spellings(seed)
    text = data.alphabet.decode(names.letters)
    result = []
    start = 0
    for length, category in zip(names.lengths.tolist(), names.targets.tolist(), strict=True):
        normalized_name = text[start : start + length]
        result.append(spellings[normalized_name, data.categories[category]])
        start += length
    return result


@cache
def first_spellings(seed: int) -> dict[tuple[str, str], str]:
    """Return the first spelling in the files of each pair of a normalized name and a category."""
    spellings: dict[tuple[str, str], str] = {}
    alphabet = load_data(seed).alphabet
    symbols = set(alphabet.symbols)
    unknown_symbol = alphabet.symbols[-1]
    for row in read_rows(DataSource(**DATA_SOURCE)):
        normalized_name = ""
        for letter in alphabet.normalize(row.name):
            normalized_name += letter if letter in symbols else unknown_symbol
        spellings.setdefault((normalized_name, row.category), row.name.strip())
    return spellings


def calibrate_and_predict(
    log_probabilities: Callable[[NamesDataset], torch.Tensor], seed: int
) -> ModelResult:
    """Calibrate a model as src.train does, and predict the test names under each prior.

    Args:
        log_probabilities: a function that returns the log-probabilities [N, C] of names, with the
            prior of the corpus.
        seed: of the split.

    Returns:
        The predictions, and the time of the calibration.
    """
    data = load_data(seed)
    start = time.perf_counter()
    calibration = fit_calibration(
        log_probabilities(data.val_dataset),
        data.val_dataset.targets,
        data.corpus_prior,
        data.corpus_prior,
    )
    seconds = time.perf_counter() - start
    log_probs = log_probabilities(data.test_dataset).double()
    results: dict[str, Floats] = {}
    for prior in PRIORS:
        results[prior] = calibration.log_probabilities(log_probs, prior).numpy()
    return ModelResult(results, seconds)


def logistic_regression(seed: int) -> ModelResult:
    """Train a logistic regression on the tf-idf of 1- to 5-grams of letters, to convergence."""
    data = load_data(seed)
    train_names = original_spellings(data.distinct_spellings, seed)
    start = time.perf_counter()
    vectorizer = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True, min_df=2
    )
    model = LogisticRegression(C=10, max_iter=2000)
    model.fit(vectorizer.fit_transform(train_names), data.distinct_spellings.targets.numpy())
    seconds = time.perf_counter() - start

    def log_probabilities(names: NamesDataset) -> torch.Tensor:
        features = vectorizer.transform(original_spellings(names, seed))
        return torch.tensor(model.predict_log_proba(features))

    result = calibrate_and_predict(log_probabilities, seed)
    return ModelResult(result.log_probs, seconds + result.seconds)


def letter_ngrams(seed: int) -> ModelResult:
    """Fit only the n-gram models of `experiment=best` and `experiment=names`, as src.train does."""
    data = load_data(seed)
    start = time.perf_counter()
    ngrams = NgramEnsemble(data.alphabet.symbols, len(data.categories), NGRAM_ORDER).eval()
    ngrams.fit(data.distinct_names, data.corpus_prior, seed)
    seconds = time.perf_counter() - start
    log_prior = torch.tensor(data.corpus_prior).log()
    # The ensemble weights its models for a mixture with a network, which is not part of this one.
    weight_sum = MIXTURE_WEIGHTS.ngrams + MIXTURE_WEIGHTS.tfidf

    @torch.inference_mode()
    def log_probabilities(names: NamesDataset) -> torch.Tensor:
        scores = torch.cat([ngrams(batch.letters, batch.lengths) for batch in names.loader()])
        return (scores / weight_sum + log_prior).log_softmax(dim=1)

    result = calibrate_and_predict(log_probabilities, seed)
    return ModelResult(result.log_probs, seconds + result.seconds)


def plain_tutorial(seed: int) -> ModelResult:
    """Train PyTorch's current tutorial."""
    data = load_data(seed)
    start = time.perf_counter()
    network = pytorch_tutorial.train(data, seed)
    seconds = time.perf_counter() - start
    return ModelResult({UNCALIBRATED: pytorch_tutorial.log_probabilities(network, data)}, seconds)


@cache
def train_model(overrides: Overrides, seed: int) -> tuple[TrainedModel, float]:
    """Run src.train, and return its model and the seconds it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "run")
        seconds, _ = run_module("src.train", *overrides, f"seed={seed}", f"hydra.run.dir={folder}")
        return load_model(find_checkpoint(folder)), seconds


def project_model(*overrides: str, priors: tuple[PriorName, ...] = ()) -> TrainAndPredict:
    """Return a function that runs src.train and predicts the test names.

    Args:
        overrides: the overrides of src.train.
        priors: the priors of the predictions; by default, there is no calibration.
    """

    def train_and_predict(seed: int) -> ModelResult:
        names = original_spellings(load_data(seed).test_dataset, seed)
        source_overrides = [f"{key}={path}" for key, path in DATA_SOURCE.items()]
        model, seconds = train_model((*overrides, *source_overrides), seed)
        models: dict[str, TrainedModel] = {}
        for prior in priors:
            models[prior] = replace(model, prior=prior)
        if not models:
            models[UNCALIBRATED] = replace(model, calibration=None)
        log_probs = {}
        for label, variant in models.items():
            log_probs[label] = variant.predict_probabilities(names).double().log().numpy()
        return ModelResult(log_probs, seconds)

    return train_and_predict


NETWORK_OF_NAMES = ("ngrams=0", "hidden=128", "lr=0.005", "passes=24")
"""Overrides of `experiment=best` for the network alone, with the size and the number of passes of
`experiment=names`."""
MODELS_FOR_OTHER_NAMES: dict[str, TrainAndPredict] = {
    "1–5-gram tf-idf + logistic regression": logistic_regression,
    "n-grams alone": letter_ngrams,
    "`experiment=names`": project_model("experiment=names", priors=PRIORS),
}
"""The models for names other than the included ones."""
MODELS: dict[str, TrainAndPredict] = {
    "the tutorial's cell (`src.train`)": project_model(),
    "PyTorch's current tutorial, plain loop": plain_tutorial,
    "`experiment=pytorch_tutorial_2024`": project_model("experiment=pytorch_tutorial_2024"),
    "1–5-gram tf-idf + logistic regression": logistic_regression,
    "n-grams alone": letter_ngrams,
    "`experiment=best ngrams=0`": project_model("experiment=best", "ngrams=0", priors=PRIORS),
    f"`experiment=best {' '.join(NETWORK_OF_NAMES)}`": project_model(
        "experiment=best", *NETWORK_OF_NAMES, priors=PRIORS
    ),
    "`experiment=best`": project_model("experiment=best", priors=PRIORS),
}
"""The models for the included names."""


WRITINGS: dict[str, Callable[[str], str]] = {
    "as in the file": str,
    "in upper case": str.upper,
    "in lower case": str.lower,
    "with a trailing comma": "{},".format,
    "with a trailing period": "{}.".format,
    "with a trailing space": "{} ".format,
    "in straight quotes": '"{}"'.format,
    "in curly quotes": "“{}”".format,
    "in single quotes": "'{}'".format,
    "with hyphens instead of spaces": lambda name: name.replace(" ", "-"),
}
"""Functions from a name to the same name, written in another way."""


def accuracy_for_writing(overrides: Overrides, write: Callable[[str], str], seed: int) -> float:
    """Return the accuracy of a run of src.train for test names that are written in another way."""
    test_dataset = load_data(seed).test_dataset
    names = [write(name) for name in original_spellings(test_dataset, seed)]
    model, _ = train_model(overrides, seed)
    predictions = model.predict_probabilities(names).argmax(dim=1)  # [N]
    return float((predictions == test_dataset.targets).float().mean())


def format_mean(values: list[float]) -> str:
    """Return mean ± standard deviation."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def format_row(*cells: str) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def model_table() -> Iterator[str]:
    """Yield the lines of the table of models."""
    titles = ["model", "prior", *SCORE_NAMES, "seconds"]
    yield format_row(*titles)
    yield "|" + "---|" * len(titles)
    models = MODELS_FOR_OTHER_NAMES if DATA_SOURCE else MODELS
    for label, train_and_predict in models.items():
        results = [train_and_predict(seed) for seed in SEEDS]
        seconds = f"{statistics.mean(result.seconds for result in results):.0f}"
        for index, prior in enumerate(results[0].log_probs):
            cells = [label, prior, *format_scores(results, prior), seconds]
            if index > 0:  # only the first row of a model shows its label and its time
                cells[0] = cells[-1] = ""
            yield format_row(*cells)


SUMMARY: dict[str, tuple[str, str]] = {
    "The tutorial's cell, one name per step (`python -m src.train`)": (
        "the tutorial's cell (`src.train`)",
        UNCALIBRATED,
    ),
    "The current version of PyTorch's tutorial (`nn.RNN`), its own loop": (
        "PyTorch's current tutorial, plain loop",
        UNCALIBRATED,
    ),
    "GRU and n-gram ensemble (`experiment=best`)": ("`experiment=best`", "tempered"),
}
"""For each row of the short table, the key in MODELS and the prior of the scores."""


def summary_table() -> Iterator[str]:
    """Yield the lines of the table in README.md: means over the split seeds."""
    titles = ["Model", "Accuracy", "Balanced accuracy", "Training time"]
    yield format_row(*titles)
    yield "|---" + "|---:" * (len(titles) - 1) + "|"
    for label, (model, prior) in SUMMARY.items():
        results = [MODELS[model](seed) for seed in SEEDS]
        scores = []
        for seed, result in zip(SEEDS, results, strict=True):
            targets = load_data(seed).test_dataset.targets.numpy()
            scores.append(compute_scores(result.log_probs[prior], targets))
        accuracy, balanced_accuracy, *_ = np.mean(scores, axis=0)
        seconds = statistics.mean(result.seconds for result in results)
        yield format_row(label, f"{accuracy:.3f}", f"{balanced_accuracy:.3f}", f"{seconds:.0f} s")


def format_scores(results: list[ModelResult], prior: str) -> list[str]:
    """Return the mean of each score over the split seeds.

    Args:
        results: the predictions of a model for each split seed.
        prior: key in `ModelResult.log_probs`.
    """
    scores = []
    for seed, result in zip(SEEDS, results, strict=True):
        targets = load_data(seed).test_dataset.targets.numpy()
        scores.append(compute_scores(result.log_probs[prior], targets))
    return [format_mean(list(values)) for values in zip(*scores, strict=True)]


def writing_table() -> Iterator[str]:
    """Yield the lines of the table of writings: accuracy under the default prior."""
    models: dict[str, Overrides] = {"default": (), "`experiment=best`": ("experiment=best",)}
    yield format_row("spelling of the test names", *models)
    yield "|" + "---|" * (1 + len(models))
    for label, write in WRITINGS.items():
        cells = []
        for overrides in models.values():
            accuracies = [accuracy_for_writing(overrides, write, seed) for seed in SEEDS]
            cells.append(format_mean(accuracies))
        yield format_row(label, *cells)


def main() -> None:
    """Print the tables line by line, and write them to the file of the option --out."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    parser.add_argument("--data-dir")
    parser.add_argument("--data-file")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--out")
    options = parser.parse_args()
    if options.data_dir:
        DATA_SOURCE["data_dir"] = str(Path(options.data_dir).absolute())
    if options.data_file:
        DATA_SOURCE["data_file"] = str(Path(options.data_file).absolute())
    if options.summary:
        table = summary_table()
    elif DATA_SOURCE:
        table = model_table()
    else:
        table = chain(model_table(), [""], writing_table())
    lines = []
    for line in table:
        print(line, flush=True)
        lines.append(line)
    if options.out:
        Path(options.out).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
