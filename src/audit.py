"""`python -m src.audit`: what is wrong with a list of names, before anything is trained on it."""

import json
from argparse import ArgumentParser, Namespace
from datetime import timedelta
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from src.answer import command
from src.config import CONFIGS, CORPUS, Config, from_hydra, message
from src.data.audit import audit, finding_line
from src.data.letters import printable
from src.errors import UserError
from src.run.files import refuse_targets, write_bytes

COLUMNS = ["lines", "distinct", "train", "val", "test", "changed"]
RATES = {"compiled": (1.6e10, 0), "autograd": (6e9, 7e-4)}
"""Weights times letters that one core trains on in a second, and seconds that a step takes besides:
measured in 2026, with 128 to 512 hidden."""
GATES = {"tutorial": 1, "rnn": 1, "gru": 3, "lstm": 4}
BYTES, EACH, COUNT = 6e8, 500, 8
"""What PyTorch and Lightning take, a pair of name and category, and a count of n-grams."""


def main(arguments: list[str] | None = None) -> None:
    """Audit; end with exit status 2 and one line if something is wrong with the command."""
    command.run_command(make_parser(), answer, arguments)


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
    refuse_targets(options.out, force=options.force)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = from_hydra(compose("train", options.keys), options.keys)
    except HydraException as error:
        raise UserError(message(error)) from None
    report = audit(**config.pick(CORPUS))
    print(f"{as_text(report)}\n\n{expected(config, report)}")
    if options.out:
        write_bytes(options.out, json.dumps(report, indent=2).encode())


def as_text(report: dict[str, Any]) -> str:
    """Return the report for a person."""
    text = "{lines:,} lines, {names:,} names in {pairs:,} pairs with a category, {symbols} symbols"
    lines = [*map(printable, report["guessed"]), text.format_map(report), ""]
    for each in report["findings"]:
        lines += [finding_line(each), *(f"{'':<12}{example}" for example in each["examples"])]
    lines += [] if report["findings"] else ["nothing is wrong with them"]
    lines.append(f"\n{'':<20}" + "".join(f"{column:>10}" for column in COLUMNS))
    for row in report["categories"]:
        cells = "".join(f"{row[column]:>10,}" for column in COLUMNS[:-1])
        lines.append(f"{printable(row['category']):<20}{cells}{row['changed']:>10.1%}")
    return "\n".join(lines)


def expected(config: Config, report: dict[str, Any]) -> str:
    """Return about how often a training sees a name, and what time and memory it takes."""
    sizes = [row["train"] for row in report["categories"]] or [1]
    drawn, symbols = config.iterations * config.batch_size, report["symbols"]
    text = f"{config.iterations:,} iterations see each of {sum(sizes):,} training names about "
    text += f"{drawn / sum(sizes):,.1f} times"
    if config.sampling == "balanced":
        least, most = (drawn / len(sizes) / size for size in (max(sizes), min(sizes)))
        text += f": {least:,.1f} in the largest category, {most:,.1f} in the smallest"
    weights = config.hidden * (config.hidden + (config.embedding or symbols)) * GATES[config.cell]
    weights *= config.layers * (1 + config.bidirectional)
    rate, step = RATES[config.backend]
    letters = drawn * report["letters"] / max(1, report["names"])
    time = timedelta(seconds=round(letters * weights / rate + config.iterations * step))
    grams = sum(min(symbols**k, report["letters"]) for k in range(1, config.ngrams + 2))
    grams = grams if config.ngrams else 0
    size = BYTES + EACH * report["pairs"] + COUNT * grams * len(sizes)
    return f"{text}\nabout {time} of one core, {size / 1e9:.1f} GB of memory"


if __name__ == "__main__":
    command.run_program(main)
