"""How many wrong labels the audit finds: 2 % of the labels are moved, at random, and looked for.

    python -m benchmarks.planted [--data-dir FOLDER | --data-file FILE]

Prints a line of a Markdown table, of three seeds together: the share of the moved labels among as
many least believed ones, among twice as many, and among all below 1 %; and the share of those.
"""

import argparse
import csv
import random
import tempfile
from pathlib import Path

from src.audit.audit import audit
from src.data.corpus import read_corpus
from src.data.readers import DataSource

SHARE, SEEDS = 0.02, (0, 1, 2)


def moved(source: DataSource, file: Path, seed: int) -> set[tuple[str, str]]:
    """Write the pairs of a source with some labels moved; return those that are wrong."""
    corpus = read_corpus(source, "corpus").all_names
    pairs = [(name, label) for label, lines in corpus.items() for name in sorted(set(lines))]
    rng = random.Random(seed)
    chosen = set(rng.sample(range(len(pairs)), round(SHARE * len(pairs))))
    known, wrong = {(name.casefold(), label) for name, label in pairs}, set()
    with file.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(("name", "label"))
        for number, (name, label) in enumerate(pairs):
            if number in chosen:
                label = rng.choice(
                    [each for each in corpus if (name.casefold(), each) not in known] or [label]
                )
                wrong.add((name.casefold(), label))
            rows.writerow((name, label))
    return wrong - known


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planted")
    for option in ("--data-dir", "--data-file"):
        parser.add_argument(option)
    source = DataSource(**vars(parser.parse_args()))
    sums = [0, 0, 0, 0, 0, 0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "names.csv")
        for seed in SEEDS:
            wrong = moved(source, file, seed)
            report = audit("corpus", 0.1, 0.1, 0, data_file=str(file))
            least = [(each["name"].casefold(), each["category"]) for each in report["doubted"]]
            first = (least[: len(wrong)], least[: 2 * len(wrong)], least)
            hits = [len(wrong.intersection(part)) for part in first]
            sums = [
                a + b
                for a, b in zip(sums, [len(wrong), *hits, len(least), report["pairs"]], strict=True)
            ]
    n, *hits, doubted, all_pairs = sums
    cells = [
        f"{round(n / len(SEEDS)):,}",
        *(f"{hit / n:.0%}" for hit in hits),
        f"{doubted / all_pairs:.0%}",
    ]
    print(f"| {source.path.name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
