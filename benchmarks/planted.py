"""Measures how many wrong labels the audit finds.

    python -m benchmarks.planted [--data-dir FOLDER | --data-file FILE] [--seeds SEED ...]

Moves 2 % of the labels to random other categories and audits the names. Prints one row of a
Markdown table with the number of moved labels, the share of them that is found, and the share of
all labels that is doubted; see `Result`. The numbers are totals of all seeds.
"""

import argparse
import csv
import random
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.audit.audit import audit
from src.audit.corpus import AuditSettings
from src.data.corpus import read_corpus
from src.data.readers import DataSource

MOVED_SHARE = 0.02
DEFAULT_SEEDS = (0, 1, 2)

Pairs = set[tuple[str, str]]
"""Pairs of a case-folded name and a category."""


class Result(NamedTuple):
    """How many of the moved labels the audit doubts."""

    n_moved: int
    n_found_in_first: int
    """Moved labels among the first `n_moved` doubted labels."""
    n_found_in_twice_as_many: int
    """Moved labels among the first 2 · `n_moved` doubted labels."""
    n_found: int
    """Moved labels among all doubted labels."""
    n_doubted: int
    n_labels: int


def write_with_moved_labels(source: DataSource, file: Path, seed: int) -> Pairs:
    """Write the distinct names of a source with some wrong labels, and return these labels."""
    names = read_corpus(source, "corpus").all_names
    pairs = []
    for category, lines in names.items():
        for name in sorted(set(lines)):
            pairs.append((name, category))
    correct = {(name.casefold(), category) for name, category in pairs}
    rng = random.Random(seed)
    n_moved = round(MOVED_SHARE * len(pairs))
    moved_indices = set(rng.sample(range(len(pairs)), n_moved))
    moved = set()
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("name", "label"))
        for index, (name, category) in enumerate(pairs):
            label = category
            if index in moved_indices:
                # A spelling of the name may have the other category, too, which is then correct.
                wrong = [other for other in names if (name.casefold(), other) not in correct]
                label = rng.choice(wrong or [category])
                moved.add((name.casefold(), label))
            writer.writerow((name, label))
    # If a name has all categories, its label was not moved.
    return moved - correct


def measure_audit(file: Path, moved: Pairs) -> Result:
    """Audit a table with moved labels, and count how many of them are found."""
    report = audit(AuditSettings(DataSource(data_file=str(file)), letters="corpus"))
    doubted = [(label.name.casefold(), label.category) for label in report.doubted]
    return Result(
        n_moved=len(moved),
        n_found_in_first=len(moved.intersection(doubted[: len(moved)])),
        n_found_in_twice_as_many=len(moved.intersection(doubted[: 2 * len(moved)])),
        n_found=len(moved.intersection(doubted)),
        n_doubted=len(doubted),
        n_labels=report.pairs,
    )


def main() -> None:
    """Print the row of the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planted")
    parser.add_argument("--data-dir")
    parser.add_argument("--data-file")
    parser.add_argument("--seeds", type=int, nargs="+", default=DEFAULT_SEEDS)
    options = parser.parse_args()
    source = DataSource(data_dir=options.data_dir, data_file=options.data_file)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "names.csv")
        for seed in options.seeds:
            moved = write_with_moved_labels(source, file, seed)
            results.append(measure_audit(file, moved))
    totals = np.sum(results, axis=0)
    total = Result(*totals.tolist())
    cells = [
        source.path.name,
        f"{total.n_moved / len(results):,.0f}",
        f"{total.n_found_in_first / total.n_moved:.1%}",
        f"{total.n_found_in_twice_as_many / total.n_moved:.1%}",
        f"{total.n_found / total.n_moved:.1%}",
        f"{total.n_doubted / total.n_labels:.1%}",
    ]
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
