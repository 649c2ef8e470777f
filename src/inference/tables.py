"""Predicting a column of a CSV file, however long it is and whatever separates its cells."""

import csv
import sys
from argparse import Namespace
from contextlib import nullcontext
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from tqdm import tqdm

from src.data.batch import size_limited_batches
from src.data.readers.columns import find_column
from src.data.readers.records import DelimitedReader, Record
from src.data.readers.text import check_lines
from src.errors import UserError
from src.files import atomic_open
from src.inference.trained_model import AT_ONCE, LETTERS_AT_ONCE, TrainedModel

STREAM = Path("-")
"""Standard input, or standard output."""
LONGEST_CELL = 10**8
"""Letters of a cell, or of a line: more than any has, but not all after a quote never closed."""


def answer_csv(model: TrainedModel, options: Namespace) -> None:
    """Copy a file, row by row, with columns added for the answers to one of its columns.

    What a row says stays as it is written, quotes and line end too, and so do blank lines. Holds a
    few thousand rows at a time, whatever the size of the file.

    Args:
        model: to ask.
        options: predict's `csv`, `out`, `column`, `delimiter`, `encoding`, `top_k` and `threshold`.

    Raises:
        UserError: naming file and line, if that cannot be done; `out` is then left as it was.
    """
    source, piped, printed = options.csv, options.csv == STREAM, options.out == STREAM
    added = [f"{key}_{i + 1}" for i in range(options.top_k) for key in ("category", "probability")]
    added.append("reason")
    # What a spreadsheet would run as a formula is written as text.
    shown = {c: f"'{c}" if c.startswith(tuple("=+-@\t\r")) else c for c in model.categories}
    where, size = ("standard input", None) if piped else (str(source), source.stat().st_size)
    how: Any = {"encoding": options.encoding, "newline": ""}
    if printed:
        sys.stdout.reconfigure(**how, errors="backslashreplace")  # type: ignore[union-attr] # a file
    csv.field_size_limit(LONGEST_CELL)
    with (
        sys.stdin.buffer if piped else source.open("rb") as file,
        TextIOWrapper(file, options.encoding, "surrogateescape", newline="") as lines,
        nullcontext(sys.stdout) if printed else atomic_open(options.out, "w", **how) as rows_out,
        tqdm(total=size, unit="B", unit_scale=True, disable=printed or None) as bar,
    ):
        lines_in = check_lines(lines, where, "name its --encoding", LONGEST_CELL)
        reader = DelimitedReader(lines_in, where, options.delimiter, [options.column])
        records, delimiter = iter(reader), reader.delimiter
        header = next(records, Record([], 0))
        place = find_column(options.column, header.cells, where, "--column")
        if taken := set(header.cells) & set(added):
            raise UserError(f"{where}: already has the column {min(taken)}")
        cells: Any = csv.writer(Namespace(write=str), delimiter=delimiter, lineterminator="")

        def longer(row: str, more: list[str]) -> str:
            """Return a row's text with cells added before its line end; a blank line as it is."""
            text = row.rstrip("\r\n")
            return f"{text}{delimiter}{cells.writerow(more)}{row[len(text) :]}" if text else row

        rows_out.write(longer(header.text, added))
        for chunk in size_limited_batches(
            records, lambda record: len(record.text), AT_ONCE, LETTERS_AT_ONCE
        ):
            names = [record.cells[place] if record.cells else "" for record in chunk]
            asked = options.top_k, options.threshold
            answers = model.answered(names, model.probabilities(names), *asked)
            for record, (answer, reason) in zip(chunk, answers, strict=True):
                more = [cell for c, p in answer for cell in (shown[c], f"{p:.6f}")]
                more += [""] * (2 * options.top_k - len(more)) + [reason]
                rows_out.write(longer(record.text, more))
            bar.update((file.tell() if file.seekable() else 0) - bar.n)  # a pipe has no position
