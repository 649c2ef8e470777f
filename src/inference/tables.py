"""Classifies a column of a CSV file of any length."""

import csv
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, TextIO

from tqdm import tqdm

from src.data.batch import size_limited_batches
from src.data.readers.columns import find_column
from src.data.readers.records import DelimitedReader, Record
from src.data.readers.text import check_lines
from src.errors import UserError
from src.files import atomic_open
from src.inference.standard_input import (
    ENCODING_REMEDY,
    MAX_LETTERS_AT_ONCE,
    MAX_LINE_LENGTH,
    MAX_NAMES_AT_ONCE,
)
from src.inference.trained_model import Answer, TrainedModel

STANDARD_STREAM = Path("-")
"""Stands for standard input or standard output."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""First characters of cells that a spreadsheet evaluates as formulas."""


def classify_csv_column(
    model: TrainedModel,
    source: Path,
    target: Path,
    column: str | None,
    delimiter: str | None,
    encoding: str,
    top_k: int,
    threshold: float,
) -> None:
    """Copy a CSV file, and add columns with the answers for one of its columns.

    The cells of the file are not changed, but they may be quoted differently. Blank lines are left
    out. A limited number of rows is in memory at once, whatever the size of the file.

    Args:
        model: classifies the names.
        source: the file to read; `-` for standard input.
        target: the file to write; `-` for standard output.
        column: name or number of the column with the names; None if there is only one column.
        delimiter: what separates cells; if None, it is guessed from the header.
        encoding: encoding of both files.
        top_k: number of categories for each name.
        threshold: a name whose highest probability is below this value has no predictions.

    Raises:
        UserError: if the file cannot be read; the message gives the file and the line. The target
            is then unchanged.
        OSError: if a file cannot be opened.
    """
    location = "standard input" if source == STANDARD_STREAM else str(source)
    with (
        allow_large_csv_cells(),
        open_source(source, encoding) as text,
        open_target(target, encoding) as out,
        open_progress_bar(source, target) as progress_bar,
    ):
        # The reader is lazy, so that errors in later rows are raised in the loop below.
        lines = check_lines(text, location, ENCODING_REMEDY, MAX_LINE_LENGTH)
        reader = DelimitedReader(lines, location, delimiter, [column])
        records = iter(reader)
        first_record = next(records, None)
        if first_record is None:
            raise UserError(f"{location}: the file is empty")
        header = first_record.cells
        name_index = find_column(column, header, location, "--column")
        added_columns = list_answer_and_reason_columns(top_k)
        # A file that has been classified before would get two columns of the same name.
        duplicates = set(header) & set(added_columns)
        if duplicates:
            raise UserError(
                f"{location}: already has a column {min(duplicates)!r}; rename or remove it"
            )

        # A spreadsheet that needs a byte-order mark or a line `sep=;` needs it in the copy, too.
        out.write(reader.preamble)
        writer = csv.writer(out, delimiter=reader.delimiter)
        writer.writerow(header + added_columns)
        for batch in size_limited_batches(
            records,
            length_of=count_characters,
            max_items=MAX_NAMES_AT_ONCE,
            max_letters=MAX_LETTERS_AT_ONCE,
        ):
            names = [record.cells[name_index] for record in batch]
            answers = model.top_k_or_reason(
                names, model.predict_probabilities(names), top_k, threshold
            )
            for record, answer in zip(batch, answers, strict=True):
                writer.writerow(record.cells + format_answer_cells(answer, top_k))
            if text.buffer.seekable():  # a pipe has no position
                position = text.buffer.tell()
                progress_bar.update(position - progress_bar.n)  # `update` adds to `n`


@contextmanager
def allow_large_csv_cells() -> Iterator[None]:
    """Let the csv module read cells of any reasonable length in a `with` block."""
    previous_limit = csv.field_size_limit(MAX_LINE_LENGTH)
    try:
        yield
    finally:
        csv.field_size_limit(previous_limit)


def open_source(source: Path, encoding: str) -> AbstractContextManager[TextIO]:
    """Return a context manager with the text to read. Its line ends are not translated."""
    # Bytes that cannot be decoded become surrogates, by which `check_lines` finds their lines.
    if source == STANDARD_STREAM:
        sys.stdin.reconfigure(encoding=encoding, errors="surrogateescape", newline="")  # type: ignore[union-attr] # not in TextIO
        return nullcontext(sys.stdin)
    return source.open(encoding=encoding, errors="surrogateescape", newline="")


def open_target(target: Path, encoding: str) -> AbstractContextManager[IO[str]]:
    """Return a context manager with the file to write. Line ends are not translated."""
    if target == STANDARD_STREAM:
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace", newline="")  # type: ignore[union-attr] # not in TextIO
        return nullcontext(sys.stdout)
    return atomic_open(target, "w", encoding=encoding, newline="")


def open_progress_bar(source: Path, target: Path) -> "tqdm[Any]":
    """Return a progress bar in bytes.

    It is shown if stderr is a terminal and stdout is not used for the results.
    """
    size = None  # unknown
    if source != STANDARD_STREAM:
        size = source.stat().st_size
    # For tqdm, None means to show the bar if stderr is a terminal.
    is_disabled = True if target == STANDARD_STREAM else None
    return tqdm(total=size, unit="B", unit_scale=True, disable=is_disabled)


def count_characters(record: Record) -> int:
    """Return the number of characters in all cells of a row, of which only one cell is a name."""
    return sum(len(cell) for cell in record.cells)


def list_answer_and_reason_columns(top_k: int) -> list[str]:
    """Return the names of the columns with the answers."""
    columns = []
    for rank in range(1, top_k + 1):
        columns += [f"category_{rank}", f"probability_{rank}"]
    columns.append("reason")
    return columns


def format_answer_cells(answer: Answer, top_k: int) -> list[str]:
    """Return the cells with an answer, in the order of `list_answer_and_reason_columns`."""
    cells = []
    for category, probability in answer.predictions:
        cells += [escape_formula(category), f"{probability:.6f}"]
    if not answer.predictions:
        cells = [""] * (2 * top_k)  # a category and a probability for each rank
    cells.append(answer.reason)
    return cells


def escape_formula(category: str) -> str:
    """Return a category as a cell that spreadsheets show as text."""
    # The checkpoint may be untrusted, and a formula can start programs.
    if category.startswith(FORMULA_STARTS):
        return f"'{category}"
    return category
