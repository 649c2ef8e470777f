"""Long lists of names: time and memory as they grow, and what a training on a million takes.

    python -m benchmarks.lists [--rows 100000 1000000 10000000] [--train 1000000] [--ddp 1000000]

Makes tables of names in a hundred categories from pieces of the shipped names, and prints Markdown
tables with the targets. Where they grow, times are of the processor, as a busy machine's clock says
little; what a list of a thousand names takes is taken off before they are divided by the names.
Without numbers, `--rows` leaves that out. `--train` adds a pass of `experiment=names`, a quarter of
an hour or more; `--ddp` a part of a pass, with the n-grams, and without by one process and by two.
"""

import argparse
import gc
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from benchmarks.measure import measured, run_module
from src.audit.audit import audit
from src.audit.corpus import AuditSettings
from src.data.corpus import read_corpus
from src.data.datamodule import NamesDataModule
from src.data.readers import DataSource
from src.run.environment import exclude_existing_objects_from_garbage_collection

CATEGORIES = 100
AUDITED = 50_000
RUNS = 3
"""Of short commands, the quickest of so many."""
SMALL = 1000
"""Names of a list whose time is that of starting and ending."""
PART = ("passes=0.02",)
ALONE = "ngrams=0", *PART
TWO = *ALONE, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"
GROWTH, MOST, OF_PREDICT = 1.3, 8192, 1.1
"""The targets: time per name beside that of the shortest list, MiB, and predict's MiB likewise."""


def make(rows: int, n_categories: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield distinct names, each with a category; the first categories have the most."""
    rng = random.Random(seed)
    shipped = read_corpus(DataSource(), "tutorial").all_names
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


def audited(table: Path) -> None:
    """Print what the audit of a table takes."""
    gc.disable()  # as the command does
    torch.set_num_threads(1)
    begin = time.process_time()
    audit(AuditSettings(DataSource(data_file=str(table))))
    gc.enable()
    work = time.process_time() - begin
    print(f"audit of {AUDITED:,} rows: {work:.2f} s of work (target: 1)\n", flush=True)


def least(times: int, command: Iterable[str], table: Path) -> tuple[float, float]:
    """Return the peak memory and the processor time of a command on a table, the least of some."""
    runs = []
    for _ in range(times):
        shutil.rmtree(f"{table}.run", ignore_errors=True)
        runs.append(measured("-m", *(word.format(table) for word in command)))
    return min(usage.peak for usage in runs), min(usage.processor for usage in runs)


def grown(folder: Path, sizes: list[int]) -> None:
    """Print what reading, starting to train and predicting take for lists of some sizes."""
    run, out = folder / "run", folder / "out.csv"
    one_step = "iterations=1", "log_every=1", "val_every=1", "logger=[]"
    ask = f"--checkpoint={run}", "--column=name", "--force", f"--out={out}"
    commands = {
        "read and split": ("benchmarks.lists", "--read", "{}"),
        "`src.train`, a step": ("src.train", "data_file={}", *one_step, "hydra.run.dir={}.run"),
        "`src.predict --csv`": ("src.predict", "--csv={}", *ask),
    }
    row("what", "rows", "seconds of work", "µs a name", "beside the first", "peak memory", "target")
    print("|---|---|---|---|---|---|---|")
    small = write(folder / "small.csv", SMALL, CATEGORIES)
    lists = [write(folder / f"{rows}.csv", rows, CATEGORIES) for rows in sizes]
    measured(
        "-m", "src.train", f"data_file={lists[0]}", *one_step, f"hydra.run.dir={run}"
    )  # compiles
    for what, command in commands.items():
        first: list[float] = []
        start = least(RUNS, command, small)[1]
        short = what == "`src.predict --csv`"
        for rows, table in list(zip(sizes, lists, strict=True))[: 2 if short else None]:
            peak, work = least(1 if first else RUNS, command, table)
            each = (work - start) / rows * 1e6
            first = first or [each, peak]
            started = f"at most {GROWTH}×, {MOST:,} MiB"
            target = f"at most {OF_PREDICT * first[1]:,.0f} MiB" if short else started
            cells = f"{work:.1f}", f"{each:.1f}", f"{each / first[0]:.2f}×", f"{peak:,.0f} MiB"
            row(what, f"{rows:,}", *cells, target)


def trained(folder: Path, *words: str) -> None:
    """Train on a table as `experiment=names` says; print a line of it."""
    run = folder / "trained"
    told = "experiment=names", "val_every=1000000", "logger=[]", f"hydra.run.dir={run}"
    seconds, peak = run_module("src.train", *told, *words)
    speed = json.loads((run / "metrics.json").read_text())["names_per_second"]
    size = (run / "checkpoints/last.ckpt").stat().st_size / 2**20
    figures = f"{seconds:,.0f}", f"{speed:,.0f}", f"{peak:,.0f} MiB", f"{size:.0f} MiB"
    row(f"`{' '.join(words[1:])}`", *figures)
    shutil.rmtree(run)


def main() -> None:
    """Print the tables; or read a file, for the sake of its time and memory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lists")
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--train", type=int, metavar="ROWS", help="a pass")
    parser.add_argument("--ddp", type=int, metavar="ROWS", help="a part of one, by two processes")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        exclude_existing_objects_from_garbage_collection()  # as the command does
        NamesDataModule(data_file=options.read)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.rows:
            audited(write(folder / "some.csv", AUDITED, CATEGORIES))
            grown(folder, options.rows)
        if options.train or options.ddp:
            print()
            row("`experiment=names`", "seconds", "names/s", "peak memory", "checkpoint")
            print("|---|---|---|---|---|")
        for rows, runs in ((options.train, [("passes=1",)]), (options.ddp, [PART, ALONE, TWO])):
            table = write(folder / "names.csv", rows, CATEGORIES) if rows else None
            for words in runs if rows else []:
                trained(folder, f"data_file={table}", *words)


if __name__ == "__main__":
    main()
