"""Reader of a table with a column of names and a column of categories."""

from collections.abc import Callable, Iterator
from itertools import chain, islice

from src.data.readers.columns import choose_columns
from src.data.readers.records import read_records
from src.data.readers.source import SPLIT_NAMES, DataSource, Row, normalize_label
from src.errors import UserError

MAX_SAMPLE_ROWS = 1000
"""Maximum number of rows that are used to guess the columns and whether there is a header."""


def read_table_rows(source: DataSource, report: Callable[[str], None]) -> Iterator[Row]:
    """Yield the names of a table; see `read_rows`."""
    requested = [column for column in source.columns.values() if column]
    records, delimiter = read_records(source.path, requested)
    header = next(records, None)
    if header is None:
        raise UserError(f"{source}: the file is empty")
    sample = list(islice(records, MAX_SAMPLE_ROWS))
    sample_cells = [record.cells for record in sample]
    column_indices = choose_columns(source, header.cells, sample_cells)

    findings = []
    if delimiter:  # tables in other formats always have a header
        findings.append(f"delimiter {delimiter!r}")
        # A first row whose category occurs again is not a header.
        label_index = column_indices["label_column"]
        labels = {record.cells[label_index] for record in sample}
        if header.cells[label_index] in labels:
            findings.append("no header")
            sample.insert(0, header)
    for key in source.columns:
        if key in column_indices:
            index = column_indices[key]
            findings.append(f"{key}={index + 1} ({header.cells[index]!r})")
    findings.append(f"{len(header.cells)} columns")
    report(f"{source}: {', '.join(findings)}")

    # The rows of the sample have been read already; the others follow one by one.
    # Computed once, because `source.path` builds a Path at each access. For each row, that would
    # take most of the time for reading a table.
    file = str(source.path)
    for record in chain(sample, records):
        row = parse_row(record.cells, column_indices, f"{file}:{record.number}")
        if row.count:  # a row with a count of 0 stands for no line
            yield row


def parse_row(cells: list[str], column_indices: dict[str, int], location: str) -> Row:
    """Build a row from the cells of a record.

    Args:
        cells: the cells of the record.
        column_indices: the index of each column in the cells, by key.
        location: the file and the line, for error messages.

    Raises:
        UserError: if its count or its split is invalid.
    """
    count = 1
    split = ""
    if "count_column" in column_indices:
        digits = cells[column_indices["count_column"]].strip()
        # The length is checked first, because converting thousands of digits is slow.
        if not (digits.isdecimal() and len(digits) < 10):
            raise UserError(
                f"{location}: count_column: {digits[:40]!r} must be a whole number below 10^9"
            )
        count = int(digits)
    if "split_column" in column_indices:
        # A row without a valid split is an error, because it would not be used at all.
        word = cells[column_indices["split_column"]]
        split = SPLIT_NAMES.get(word.strip().casefold(), "")
        if not split:
            choices = ", ".join(SPLIT_NAMES)
            raise UserError(f"{location}: split_column: {word[:40]!r} must be one of {choices}")
    return Row(
        name=cells[column_indices["name_column"]],
        category=normalize_label(cells[column_indices["label_column"]]),
        count=count,
        split=split,
        location=location,
    )
