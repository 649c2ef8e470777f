"""`python -m src.audit`: what is wrong with a list of names, before anything is trained on it."""

import gc
import json
from argparse import ArgumentParser, Namespace
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from src.audit.audit import audit, finding_line
from src.config import CONFIG_FOLDER, CORPUS_KEYS, Config
from src.data.normalize import replace_unprintable
from src.errors import UserError
from src.files import check_output_files, write_bytes
from src.inference import cli
from src.models.recurrent import N_GATES
from src.run.compose import build_config
from src.run.messages import error_message

COLUMNS = ["lines", "distinct", "train", "val", "test", "changed"]
RATES = {"compiled": (1.6e10, 0), "autograd": (6e9, 7e-4)}
"""Weights times letters that one core trains on in a second, and seconds that a step takes besides:
measured in 2026, with 128 to 512 hidden."""
BYTES, NETWORK, NGRAMS = 6e8, (0, 1300), (3e-4, 4000)
"""What PyTorch and Lightning take; seconds and bytes that a pair of name and category takes, too,
without n-grams and with them: measured on 300,000 pairs."""


def main(arguments: list[str] | None = None) -> None:
    """Audit; end with exit status 2 and one line if something is wrong with the command."""
    cli.run_cli(make_parser(), answer, arguments)


def make_parser() -> ArgumentParser:
    """Return the command line's description."""
    about = "Say what is wrong with a list of names, or good to know before training on it."
    parser = ArgumentParser(prog="python -m src.audit", description=about)
    about = "data_file=, data_dir=, letters= and all others of src.train; its --help explains them"
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help=about)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write all of it as JSON")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    return parser


def answer(options: Namespace) -> None:
    """Print and write the audit."""
    check_output_files(options.out, force=options.force)
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            config = build_config(compose("train", options.keys), options.keys)
    except HydraException as error:
        raise UserError(error_message(error)) from None
    report = audit(**config.subset(CORPUS_KEYS))
    print(f"{as_text(report)}\n\n{expected(config, report)}")
    if options.out:
        write_bytes(options.out, json.dumps(report, indent=2).encode())


def as_text(report: dict[str, Any]) -> str:
    """Return the report for a person."""
    text = "{lines:,} lines, {names:,} names in {pairs:,} pairs with a category, {symbols} symbols"
    lines = [*map(replace_unprintable, report["guessed"]), text.format_map(report), ""]
    for each in report["findings"]:
        lines += [finding_line(each), *(f"{'':<12}{example}" for example in each["examples"])]
    lines += [] if report["findings"] else ["nothing is wrong with them"]
    lines.append(f"\n{'':<20}" + "".join(f"{column:>10}" for column in COLUMNS))
    for row in report["categories"]:
        cells = "".join(f"{row[column]:>10,}" for column in COLUMNS[:-1])
        lines.append(f"{replace_unprintable(row['category']):<20}{cells}{row['changed']:>10.1%}")
    return "\n".join(lines)


def expected(config: Config, report: dict[str, Any]) -> str:
    """Return about how often a training sees a name, and what time and memory it takes."""
    names = sum(row["train"] for row in report["categories"])
    drawn, steps = config.iterations * config.batch_size, config.iterations
    if config.passes:
        drawn, steps = config.passes * names, ceil(config.passes * ceil(names / config.batch_size))
    size = N_GATES[config.cell] * config.layers * (1 + config.bidirectional)
    size *= config.hidden * (config.hidden + (config.embedding or report["symbols"]))
    rate, step = RATES[config.backend]
    letters = drawn * report["letters"] / max(1, report["names"])
    seconds, each = NGRAMS if config.ngrams else NETWORK
    seconds = letters * size / rate + steps * step + report["pairs"] * seconds
    time, memory = timedelta(seconds=round(seconds)), (BYTES + report["pairs"] * each) / 1e9
    text = f"{steps:,} iterations see each of {names:,} training names about"
    text += f" {drawn / max(1, names):,.1f} times, in about {time} of one core"
    return f"{text} and {memory:.1f} GB of memory"


if __name__ == "__main__":
    gc.disable()  # a list leaves no cycles behind, and looking for them takes a sixth of the time
    cli.run_cli_and_exit(main)
