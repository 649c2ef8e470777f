"""Readers of tables in the formats CSV, TSV, JSON Lines and Parquet."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from src.data.readers.columns import LABEL_WORDS, NAME_WORDS, is_usual_name, matching_columns
from src.data.readers.text import read_plain_or_gzip_lines
from src.errors import UserError

DELIMITERS = ",;\t|"
SEPARATOR_LINE = re.compile(r'(?i)"?sep=([^"\r\n])"?\s*')
"""The optional first line of an Excel file, which names the delimiter: `sep=;`."""
BYTE_ORDER_MARK = "\ufeff"
"""The first character of UTF-8 files of some programs, by which Excel recognizes the encoding."""
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

    Args:
        path: the file; its name says which format it has.
        columns: names or numbers that the user has set; used to guess the delimiter.
    """
    file = str(path)
    suffix = file.lower().removesuffix(".gz").rpartition(".")[2]
    if suffix == "parquet":
        return keyed_records(parquet_objects(file)), ""
    if suffix == "jsonl":
        return keyed_records(json_objects(read_plain_or_gzip_lines(path), file)), ""
    delimiter = "\t" if suffix == "tsv" else None
    reader = DelimitedReader(read_plain_or_gzip_lines(path), file, delimiter, columns)
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
        # Read now, because the delimiter is guessed from it.
        self._header = next(self._lines, "")
        self._header_number = 1
        self.preamble = ""
        if self._header.startswith(BYTE_ORDER_MARK):
            self.preamble = BYTE_ORDER_MARK
            self._header = self._header.removeprefix(BYTE_ORDER_MARK)
        if separator := SEPARATOR_LINE.fullmatch(self._header):
            delimiter = delimiter or separator[1]
            self.preamble += self._header
            self._header = next(self._lines, "")
            self._header_number = 2
        self.delimiter = delimiter or guess_delimiter(self._header, columns)

    def __iter__(self) -> Iterator[Record]:
        lines = chain([self._header], self._lines)
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        number = self._header_number
        n_columns = 0
        try:
            for cells in reader:
                n_columns = n_columns or len(cells)  # of the header
                if cells and len(cells) != n_columns:
                    raise csv.Error(f"{len(cells)} fields; the header has {n_columns}")
                if cells:
                    yield Record(cells, number)
                # A quoted cell may extend over several lines.
                number = self._header_number + reader.line_num
        except csv.Error as error:
            raise UserError(f"{self._location}:{number}: {error}") from None


def guess_delimiter(header: str, columns: Sequence[str | None]) -> str:
    """Return the most plausible delimiter.

    Delimiters are ranked by the number of requested columns found, then by the number of columns
    with usual names, then by the number of columns.
    """

    def rank(delimiter: str) -> tuple[int, int, int]:
        cells = next(csv.reader([header], delimiter=delimiter), [])
        n_requested = sum(bool(matching_columns(cells, column)) for column in columns)
        n_usual = sum(is_usual_name(cell, NAME_WORDS + LABEL_WORDS) for cell in cells)
        return n_requested, n_usual, len(cells)

    return max(DELIMITERS, key=rank)


def keyed_records(objects: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[Record]:
    """Yield a header with the keys of the first object, then a record per object with its values.

    Args:
        objects: pairs of the number of an object in the file, and the object.
    """
    header: list[str] = []
    # Keys that only later objects have are ignored.
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


def json_objects(lines: Iterable[str], file: str) -> Iterator[tuple[int, dict[str, Any]]]:
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


def parquet_objects(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a Parquet file with their numbers.

    Raises:
        UserError: if pyarrow is not installed.
    """
    try:
        from pyarrow.parquet import ParquetFile  # an optional dependency
    except ImportError:
        raise UserError(f"{file}: Parquet needs an extra: pip install -e '.[tables]'") from None
    with ParquetFile(file) as table:
        batches = table.iter_batches(PARQUET_BATCH_SIZE)
        rows = chain.from_iterable(batch.to_pylist() for batch in batches)
        yield from enumerate(rows, start=1)
