"""`make bench`: training and prediction with the most accurate model, `experiment=best`.

    python -m benchmarks.best

Prints the time of the training and of its parts, and the speed and the memory of predictions for a
CSV file. For comparison, prints the speed of the tutorial's plain loop on this machine.
"""

import csv
import json
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import tutorial_loop
from benchmarks.measure import Usage, measure_python
from benchmarks.predict import corpus_names
from src.data.datamodule import NamesDataModule
from src.data.normalize import MAX_NAME_LENGTH
from src.data.readers.source import INCLUDED_CORPUS
from src.ngrams.ensemble import NgramEnsemble

N_NAMES = 200_000
N_LONG_NAMES = 20_000
N_TUTORIAL_NAMES = 5000
BATCH_SIZE = 128
"""The batch size of `experiment=best`."""
NGRAM_ORDER = 4
"""The value of `ngrams` in `experiment=best`."""


def print_row(label: str, value: str, target: str = "") -> None:
    """Print one row of the table."""
    description = f"(target: {target})" if target else ""
    print(f"{label:<52}{value:>10}  {description}".rstrip(), flush=True)


def measure_ngram_fit() -> float:
    """Return how many seconds the n-gram models take to be fitted."""
    torch.set_num_threads(1)  # as src.train does
    data = NamesDataModule(sampling="natural")
    ngrams = NgramEnsemble(data.alphabet.symbols, len(data.categories), NGRAM_ORDER)
    names = data.distinct_names  # created before the time is measured
    start = time.perf_counter()
    ngrams.fit(names, data.corpus_prior, seed=0)
    return time.perf_counter() - start


def measure_predictions(folder: Path, names: list[str]) -> Usage:
    """Return what predictions for a CSV file of names take.

    Args:
        folder: contains the run; the CSV files are written to it.
        names: the names.
    """
    source = folder / "in.csv"
    with source.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name"])
        for name in names:
            writer.writerow([name])
    options = ["--checkpoint", f"{folder}/run", "--csv", str(source), "--out", f"{folder}/out.csv"]
    return measure_python("-m", "src.predict", *options, "--force")


def print_training(folder: Path) -> None:
    """Train, and print the time of the training and of its parts."""
    usage = measure_python("-m", "src.train", "experiment=best", f"hydra.run.dir={folder}/run")
    metrics = json.loads((folder / "run/metrics.json").read_text())
    network_seconds = metrics["iterations"] * BATCH_SIZE / metrics["names_per_second"]
    plain = tutorial_loop.train(INCLUDED_CORPUS, N_TUTORIAL_NAMES, tutorial_loop.HIDDEN)
    plain_speed = plain["names_per_second"]
    print_row("for comparison: the tutorial's plain loop, names/s", f"{plain_speed:,.0f}")
    print_row("experiment=best, whole command, s", f"{usage.wall_seconds:.1f}", "at most 30")
    print_row("  of this, training the network", f"{network_seconds:.1f}")
    print_row("  fitting the n-gram models", f"{measure_ngram_fit():.1f}")
    print_row("  whole command, processor s", f"{usage.processor_seconds:.1f}")


def print_predictions(folder: Path) -> None:
    """Print the speed and the memory of predictions."""
    one_name_usage = measure_predictions(folder, ["Satoshi"])
    usage = measure_predictions(folder, corpus_names(N_NAMES))
    speed = N_NAMES / usage.wall_seconds
    print_row(f"prediction, {N_NAMES:,} names, CSV to CSV, names/s", f"{speed:,.0f}")
    speed_after_start = N_NAMES / (usage.wall_seconds - one_name_usage.wall_seconds)
    label = "  without the time for a single name"
    print_row(label, f"{speed_after_start:,.0f}", "at least 20,000")
    print_row("  peak memory, MiB", f"{usage.peak_mib:,.0f}", "at most 1,024")
    long_name = "".join(corpus_names(50))[:MAX_NAME_LENGTH]
    usage = measure_predictions(folder, [long_name] * N_LONG_NAMES)
    label = f"{N_LONG_NAMES:,} names of {MAX_NAME_LENGTH} letters: peak memory, MiB"
    print_row(label, f"{usage.peak_mib:,.0f}", "1,024")


def main() -> None:
    """Train the model, predict with it, and print what both take."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print_training(folder)
        print_predictions(folder)


if __name__ == "__main__":
    main()
