"""Measures time and memory for long lists of names, and a training on a million names.

    python -m benchmarks.lists [--rows 100000 1000000 10000000] [--train 1000000] [--ddp 1000000]

Generates tables of names in a hundred categories from parts of the included names, and prints
Markdown tables with the results and their targets. Times of growing lists are processor times,
because the wall time depends on what else the machine does. The time for a list of a thousand names
is subtracted before they are divided by the number of names.

`--rows` without numbers skips the growing lists. `--train` adds one pass of `experiment=names`,
which takes a quarter of an hour or more. `--ddp` adds a part of a pass with the n-gram models,
without them, and without them in two processes.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.measure import Usage, measure_python, run_module
from src.audit.audit import audit
from src.audit.corpus import AuditSettings
from src.data.corpus import read_corpus
from src.data.datamodule import NamesDataModule
from src.data.readers import DataSource
from src.run.environment import freeze_objects_and_enable_gc_once

N_CATEGORIES = 100
N_AUDITED_NAMES = 50_000
N_RUNS = 3
"""Number of runs of short commands, of which the fastest counts."""
N_START_UP_NAMES = 1000
"""Number of names in a list that takes no longer than starting and ending a program."""
PART_OF_A_PASS = ["passes=0.02"]
WITHOUT_NGRAMS = ["ngrams=0", *PART_OF_A_PASS]
TWO_PROCESSES = [
    *WITHOUT_NGRAMS,
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
]

MAX_GROWTH = 1.3
"""Target for the time per name, relative to the shortest list."""
MAX_PEAK_MIB = 8192
"""Target for the peak memory."""
MAX_PREDICT_GROWTH = 1.1
"""Target for the peak memory of predict, relative to the shortest list."""


class Command(NamedTuple):
    """A command that is run on lists of different lengths."""

    title: str
    arguments: list[str]
    """Arguments of `python -m`; `{}` is replaced by the path of the list."""
    max_lists: int | None = None
    """The number of lists to run it on, from the shortest; None for all."""
    has_constant_memory: bool = False
    """Whether the memory should not grow with the list."""


def generate_names(n_names: int, n_categories: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield distinct names with their categories, most of them in the first categories."""
    rng = random.Random(seed)
    included = read_corpus(DataSource(), "tutorial").all_names
    included_names = set().union(*included.values())
    names = sorted(name for name in included_names if len(name) > 3)
    rng.shuffle(names)
    # A category has its own names, whose parts make its names different from those of others.
    pools = [names[index::n_categories] for index in range(n_categories)]
    seen: set[str] = set()
    while len(seen) < n_names:
        category = min(int(rng.paretovariate(0.7)), n_categories) - 1
        first = rng.choice(pools[category])
        second = rng.choice(names if rng.random() < 0.3 else pools[category])
        head = first[: rng.randint(2, len(first) - 1)]
        tail = second[rng.randint(1, len(second) - 1) :]
        name = head + tail.lower()
        if rng.random() < 0.5:
            third = rng.choice(names)
            name += third[rng.randint(1, 3) :].lower()
        if name not in seen:
            seen.add(name)
            yield name, f"category {category:03}"


def write_table(file: Path, n_names: int) -> Path:
    """Write a table of generated names, and return its path."""
    with file.open("w", encoding="utf-8") as out:
        out.write("name;label\n")
        for name, category in generate_names(n_names, N_CATEGORIES):
            out.write(f"{name};{category}\n")
    return file


def print_row(*cells: str) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def measure_audit(table: Path) -> None:
    """Print the processor time of the audit of a table."""
    torch.set_num_threads(1)  # as the command does
    start = time.process_time()
    audit(AuditSettings(DataSource(data_file=str(table))))
    seconds = time.process_time() - start
    print(f"audit of {N_AUDITED_NAMES:,} rows: {seconds:.2f} s of work (target: 1)\n", flush=True)


def measure_fastest(command: Command, table: Path, n_runs: int) -> Usage:
    """Return the lowest processor time and the lowest peak memory of several runs."""
    arguments = [argument.format(table) for argument in command.arguments]
    runs = []
    for _ in range(n_runs):
        shutil.rmtree(f"{table}.run", ignore_errors=True)
        runs.append(measure_python("-m", *arguments))
    return Usage(
        wall_seconds=min(usage.wall_seconds for usage in runs),
        processor_seconds=min(usage.processor_seconds for usage in runs),
        peak_mib=min(usage.peak_mib for usage in runs),
    )


def measure_growing_lists(folder: Path, sizes: list[int]) -> None:
    """Print time and memory of reading, starting to train and predicting for growing lists."""
    run = folder / "run"
    out = folder / "out.csv"
    one_step = ["iterations=1", "log_every=1", "val_every=1", "logger=[]"]
    predict_options = [f"--checkpoint={run}", "--column=name", "--force", f"--out={out}"]
    commands = [
        Command("read and split", ["benchmarks.lists", "--read", "{}"]),
        Command(
            "`src.train`, a step",
            ["src.train", "data_file={}", *one_step, "hydra.run.dir={}.run"],
        ),
        Command(
            "`src.predict --csv`",
            ["src.predict", "--csv={}", *predict_options],
            max_lists=2,
            has_constant_memory=True,
        ),
    ]
    print_row(
        "what",
        "rows",
        "seconds of work",
        "µs a name",
        "relative to the first",
        "peak memory",
        "target",
    )
    print("|---|---|---|---|---|---|---|")
    start_up_table = write_table(folder / "small.csv", N_START_UP_NAMES)
    tables = {size: write_table(folder / f"{size}.csv", size) for size in sizes}
    # This run trains the model of `src.predict`, and compiles the kernel before times are measured.
    data_file = f"data_file={tables[sizes[0]]}"
    measure_python("-m", "src.train", data_file, *one_step, f"hydra.run.dir={run}")
    for command in commands:
        start_up = measure_fastest(command, start_up_table, N_RUNS)
        command_sizes = sizes[: command.max_lists]
        measure_command(command, {size: tables[size] for size in command_sizes}, start_up)


def measure_command(command: Command, tables: dict[int, Path], start_up: Usage) -> None:
    """Print a row for each table that a command is run on.

    Args:
        command: the command.
        tables: the tables by their number of names, the shortest first.
        start_up: what the command takes for hardly any names.
    """
    first_time = 0.0
    first_peak = 0.0
    for n_names, table in tables.items():
        is_first = first_peak == 0
        # The long lists take minutes, in which other processes matter less.
        usage = measure_fastest(command, table, n_runs=N_RUNS if is_first else 1)
        time_per_name = (usage.processor_seconds - start_up.processor_seconds) / n_names * 1e6  # µs
        if is_first:
            first_time = time_per_name
            first_peak = usage.peak_mib
        target = f"at most {MAX_GROWTH}×, {MAX_PEAK_MIB:,} MiB"
        if command.has_constant_memory:
            target = f"at most {MAX_PREDICT_GROWTH * first_peak:,.0f} MiB"
        print_row(
            command.title,
            f"{n_names:,}",
            f"{usage.processor_seconds:.1f}",
            f"{time_per_name:.1f}",
            f"{time_per_name / first_time:.2f}×",
            f"{usage.peak_mib:,.0f} MiB",
            target,
        )


def measure_training(folder: Path, table: Path, overrides: list[str]) -> None:
    """Train with `experiment=names` on a table, and print a row with time, memory and size."""
    run = folder / "trained"
    seconds, peak = run_module(
        "src.train",
        "experiment=names",
        "val_every=1000000",
        "logger=[]",
        f"hydra.run.dir={run}",
        f"data_file={table}",
        *overrides,
    )
    metrics = json.loads((run / "metrics.json").read_text())
    checkpoint_size = (run / "checkpoints/last.ckpt").stat().st_size / 2**20
    print_row(
        f"`{' '.join(overrides)}`",
        f"{seconds:,.0f}",
        f"{metrics['names_per_second']:,.0f}",
        f"{peak:,.0f} MiB",
        f"{checkpoint_size:.0f} MiB",
    )
    shutil.rmtree(run)


def main() -> None:
    """Print the tables. With `--read`, read a file instead, so that this can be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lists")
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--train", type=int, metavar="ROWS", help="a pass")
    parser.add_argument("--ddp", type=int, metavar="ROWS", help="a part of one, by two processes")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        freeze_objects_and_enable_gc_once()  # as the programs do
        NamesDataModule(data_file=options.read)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.rows:
            measure_audit(write_table(folder / "audited.csv", N_AUDITED_NAMES))
            measure_growing_lists(folder, options.rows)
        if options.train or options.ddp:
            print()
            print_row("`experiment=names`", "seconds", "names/s", "peak memory", "checkpoint")
            print("|---|---|---|---|---|")
        if options.train:
            table = write_table(folder / "names.csv", options.train)
            measure_training(folder, table, ["passes=1"])
        if options.ddp:
            table = write_table(folder / "names.csv", options.ddp)
            for overrides in (PART_OF_A_PASS, WITHOUT_NGRAMS, TWO_PROCESSES):
                measure_training(folder, table, overrides)


if __name__ == "__main__":
    main()
