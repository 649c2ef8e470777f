"""Readers of tables in the formats CSV, TSV, JSON Lines and Parquet."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from src.data.readers.columns import (
    LABEL_WORDS,
    NAME_WORDS,
    find_matching_columns,
    is_usual_name,
)
from src.data.readers.text import read_plain_or_gzip_lines
from src.errors import UserError

DELIMITERS = ",;\t|"
SEPARATOR_LINE = re.compile(r'(?i)"?sep=([^"\r\n])"?\s*')
"""The optional first line of a CSV file from Excel, which names the delimiter: `sep=;` or
`"sep=;"`."""
BYTE_ORDER_MARK = "\ufeff"
"""Some programs write this character at the start of UTF-8 files. Excel needs it to detect the
encoding."""
PARQUET_BATCH_SIZE = 1000
"""Number of rows of a Parquet file that are in memory at once."""


@dataclass(slots=True)
class Record:
    """A row of a table; the first one may be its header."""

    cells: list[str]
    number: int
    """The line on which it starts, from 1; in a Parquet file, the row."""


def read_records(path: Path, columns: Sequence[str]) -> tuple[Iterator[Record], str]:
    """Return the non-blank records of a table, starting with the header, and its delimiter.

    The delimiter is empty for JSON Lines and Parquet.

    Args:
        path: the file; its suffix determines the format.
        columns: names or numbers that the user has set; used to guess the delimiter.
    """
    file = str(path)
    uncompressed_name = file.lower().removesuffix(".gz")
    if uncompressed_name.endswith(".parquet"):
        return objects_to_records(read_parquet_objects(file)), ""
    lines = read_plain_or_gzip_lines(path)
    if uncompressed_name.endswith(".jsonl"):
        return objects_to_records(parse_json_objects(lines, file)), ""
    # A `.tsv` file is separated by tabs. For other files, the delimiter is guessed from the header.
    delimiter = "\t" if uncompressed_name.endswith(".tsv") else None
    reader = DelimitedReader(lines, file, delimiter, columns)
    return iter(reader), reader.delimiter


class DelimitedReader:
    """Iterates over the records of a CSV file, without blank lines.

    Args:
        lines: the lines of the file, line ends included.
        location: the file, for error messages.
        delimiter: what separates cells; if None, it is guessed from the first line.
        columns: names or numbers of columns that the file should have.

    Attributes:
        delimiter: what separates cells.
        preamble: what precedes the header: a byte-order mark, a line such as `sep=;`, or both.
    """

    def __init__(
        self,
        lines: Iterable[str],
        location: str,
        delimiter: str | None,
        columns: Sequence[str | None],
    ) -> None:
        self._location = location
        self._lines = iter(lines)
        # The header is read here, because the delimiter is guessed from it.
        self._header = next(self._lines, "")
        self._header_number = 1
        self.preamble = ""
        # `read_plain_or_gzip_lines` has removed the mark; only the lines of `src.predict --csv` may
        # still begin with it.
        if self._header.startswith(BYTE_ORDER_MARK):
            self.preamble = BYTE_ORDER_MARK
            self._header = self._header.removeprefix(BYTE_ORDER_MARK)
        separator_line = SEPARATOR_LINE.fullmatch(self._header)
        if separator_line is not None:
            if delimiter is None:
                delimiter = separator_line[1]
            # The header is the line after it.
            self.preamble += self._header
            self._header = next(self._lines, "")
            self._header_number = 2
        if delimiter is None:
            delimiter = guess_delimiter(self._header, columns)
        self.delimiter = delimiter

    def __iter__(self) -> Iterator[Record]:
        lines = chain([self._header], self._lines)
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        number = self._header_number
        n_columns = 0  # until the header has been read
        try:
            for cells in reader:
                if cells:  # a blank line has no cells, and is left out
                    if n_columns == 0:
                        n_columns = len(cells)
                    if len(cells) != n_columns:
                        raise csv.Error(
                            f"the number of columns is {len(cells)}, but the header has {n_columns}"
                        )
                    yield Record(cells, number)
                # The next record starts after all lines that have been read. A record can span
                # several lines, because quoted cells may contain line ends, so the records cannot
                # be counted instead.
                number = self._header_number + reader.line_num
        except csv.Error as error:
            raise UserError(f"{self._location}:{number}: {error}") from None


def guess_delimiter(header: str, columns: Sequence[str | None]) -> str:
    """Return the most plausible delimiter.

    Delimiters are ranked by the number of requested columns found, then by the number of columns
    with usual names, then by the number of columns.
    """

    def rank(delimiter: str) -> tuple[int, int, int]:
        reader = csv.reader([header], delimiter=delimiter)
        cells = next(reader, [])  # an empty header has no cells
        n_requested = 0
        for column in columns:
            if find_matching_columns(cells, column):
                n_requested += 1
        n_usual = sum(is_usual_name(cell, NAME_WORDS + LABEL_WORDS) for cell in cells)
        return n_requested, n_usual, len(cells)

    return max(DELIMITERS, key=rank)


def objects_to_records(objects: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[Record]:
    """Yield a header with the keys of the first object, then a record per object with its values.

    Args:
        objects: pairs of the number of an object in the file, and the object.
    """
    header: list[str] = []
    # The keys of the first object are the columns. Other keys of later objects are ignored.
    for number, values in objects:
        if not header:
            header = list(values)
            yield Record(header, number)
        yield Record([as_cell(values.get(key)) for key in header], number)


def as_cell(value: Any) -> str:
    """Return a text or a number as a CSV cell. Other values become empty cells."""
    if isinstance(value, str):
        return value
    is_number = type(value) in (int, float)  # bool is a subclass of int, but True is not a number
    return str(value) if is_number else ""


def parse_json_objects(lines: Iterable[str], file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file with their line numbers.

    Raises:
        UserError: if a line is not a JSON object.
    """
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):  # a line can contain very many brackets
            values = None
        if not isinstance(values, dict):
            raise UserError(f"{file}:{number}: not a JSON object")
        yield number, values


def read_parquet_objects(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a Parquet file with their numbers.

    Raises:
        UserError: if pyarrow is not installed.
    """
    try:
        from pyarrow.parquet import ParquetFile  # an optional dependency
    except ImportError:
        raise UserError(
            f"{file}: Parquet requires an extra; run pip install -e '.[tables]'"
        ) from None
    # The rows are read in batches, because a file may not fit into memory.
    with ParquetFile(file) as table:
        batches = table.iter_batches(PARQUET_BATCH_SIZE)
        rows = chain.from_iterable(batch.to_pylist() for batch in batches)
        yield from enumerate(rows, start=1)
