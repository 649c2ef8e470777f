"""Long lists of names: how long reading, the audit and training take, and how much memory.

    python -m benchmarks.lists [--rows 1000000] [--categories 100] [--train]

Makes a table of names in so many categories from pieces of the shipped names, and prints a Markdown
table with the targets. `--train` adds the start of a training on all of it, with one thousandth of
a pass: what is fitted before the network takes some minutes.
"""

import argparse
import gc
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.measure import run_module
from src.data.corpus import read_names
from src.data.tables import Source
from src.run.audit import audit

AUDITED = 50_000


def make(rows: int, n_categories: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield distinct names, each with a category; the first categories have the most."""
    rng = random.Random(seed)
    shipped = read_names(Source(), "tutorial").corpus
    names = sorted({name for lines in shipped.values() for name in lines if len(name) > 3})
    rng.shuffle(names)
    pools = [names[i::n_categories] for i in range(n_categories)]
    seen: set[str] = set()
    while len(seen) < rows:
        category = min(int(rng.paretovariate(0.7)), n_categories) - 1
        head = rng.choice(pools[category])
        tail = rng.choice(names if rng.random() < 0.3 else pools[category])
        name = head[: rng.randint(2, len(head) - 1)] + tail[rng.randint(1, len(tail) - 1) :].lower()
        if rng.random() < 0.5:
            name += rng.choice(names)[rng.randint(1, 3) :].lower()
        if name not in seen:
            seen.add(name)
            yield name, f"category {category:03}"


def write(file: Path, rows: int, n_categories: int) -> Path:
    """Write such a table; return its path."""
    with file.open("w", encoding="utf-8") as out:
        out.write("name;label\n")
        out.writelines(f"{name};{label}\n" for name, label in make(rows, n_categories))
    return file


def row(*cells: str) -> None:
    """Print a line of a Markdown table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the table; or read a file, for the sake of its time and memory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lists")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--categories", type=int, default=100)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read_names(Source(data_file=options.read))
        return
    with tempfile.TemporaryDirectory() as folder:
        whole = write(Path(folder, "whole.csv"), options.rows, options.categories)
        some = write(Path(folder, "some.csv"), AUDITED, options.categories)
        row("what", "seconds", "peak memory", "target")
        print("|---|---|---|---|")
        seconds, peak = run_module("benchmarks.lists", "--read", str(whole))
        wanted = "10 s, 1,024 MiB"
        row(f"read {options.rows:,} rows", f"{seconds:.1f}", f"{peak:,.0f} MiB", wanted)
        gc.disable()  # as the command does
        torch.set_num_threads(1)
        start = time.process_time()
        audit("ascii", 0.1, 0.1, 0, data_file=str(some))
        gc.enable()
        row(f"audit of {AUDITED:,} rows", f"{time.process_time() - start:.2f}", "", "1 s of work")
        if options.train:
            run = Path(folder, "run")
            told = f"data_file={whole}", "passes=0.001", "val_every=1000", f"hydra.run.dir={run}"
            seconds, peak = run_module("src.train", "experiment=names", *told)
            size = (run / "checkpoints/last.ckpt").stat().st_size / 2**20
            wanted = "8,192 MiB; checkpoint 100 MiB"
            what = f"start of `experiment=names`, checkpoint of {size:.0f} MiB"
            row(what, f"{seconds:.0f}", f"{peak:,.0f} MiB", wanted)


if __name__ == "__main__":
    main()
