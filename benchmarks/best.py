"""`make bench`: the model that answers best, trained and asked.

    python -m benchmarks.best

Prints what `experiment=best` takes, and its parts, and how fast its model answers a CSV file;
beside that, how fast this machine does the tutorial's loop.
"""

import csv
import json
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import tutorial_loop
from benchmarks.measure import measured
from benchmarks.predict import corpus_names
from src.data.datamodule import NamesDataModule
from src.data.normalize import MAX_NAME_LENGTH
from src.data.readers.source import INCLUDED_CORPUS
from src.ngrams.ensemble import NgramEnsemble

ROWS, LONG_ROWS, PLAIN = 200_000, 20_000, 5000


def row(what: str, value: str, target: str = "") -> None:
    """Print one row of the table."""
    print(f"{what:<52}{value:>10}  {f'(target: {target})' if target else ''}".rstrip(), flush=True)


def fit_seconds() -> float:
    """Return how long the n-grams take to be fitted."""
    torch.set_num_threads(1)  # as the command does
    data = NamesDataModule(sampling="natural")
    ngrams = NgramEnsemble(data.alphabet.symbols, len(data.categories), 4)
    once = data.distinct_names
    start = time.perf_counter()
    ngrams.fit(once, data.corpus_prior, 0)
    return time.perf_counter() - start


def answered(folder: Path, names: list[str]) -> tuple[float, float]:
    """Return the wall time and the peak memory of answering a CSV file of names."""
    source, out = folder / "in.csv", folder / "out.csv"
    with source.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["name"], *([name] for name in names)])
    asked = ("--checkpoint", str(folder / "run"), "--csv", str(source), "--out", str(out))
    usage = measured("-m", "src.predict", *asked, "--force")
    return usage.wall, usage.peak


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told = ("experiment=best", f"hydra.run.dir={folder}/run")
        usage = measured("-m", "src.train", *told)
        metrics = json.loads((folder / "run/metrics.json").read_text())
        trained = metrics["iterations"] * 128 / metrics["names_per_second"]
        plain = tutorial_loop.train(INCLUDED_CORPUS, PLAIN, tutorial_loop.HIDDEN)[
            "names_per_second"
        ]
        row("for comparison: the tutorial's plain loop, names/s", f"{plain:,.0f}")
        row("experiment=best, whole command, s", f"{usage.wall:.1f}", "at most 30")
        row("  of these the network's training", f"{trained:.1f}")
        row("  the n-grams' fitting", f"{fit_seconds():.1f}")
        row("  processor seconds of all", f"{usage.processor:.1f}")

        one, _ = answered(folder, ["Satoshi"])
        seconds, peak = answered(folder, corpus_names(ROWS))
        row(f"its answers to {ROWS:,} names, CSV to CSV, names/s", f"{ROWS / seconds:,.0f}")
        speed = f"{ROWS / (seconds - one):,.0f}"
        row("  without what one name takes", speed, "at least 20,000")
        row("  peak memory, MiB", f"{peak:,.0f}", "at most 1,024")
        long = ["".join(corpus_names(50))[:MAX_NAME_LENGTH]] * LONG_ROWS
        _, peak = answered(folder, long)
        row(
            f"{LONG_ROWS:,} names of {MAX_NAME_LENGTH} letters: peak memory, MiB",
            f"{peak:,.0f}",
            "1,024",
        )


if __name__ == "__main__":
    main()
