"""Reader of a table with a column of names and one of categories."""

from collections.abc import Callable, Iterator
from itertools import chain, islice

from src.data.readers.columns import choose_columns
from src.data.readers.records import Record, read_records
from src.data.readers.source import SPLIT_NAMES, DataSource, Row, normalize_label
from src.errors import UserError

MAX_SAMPLE_ROWS = 1000
"""Maximum number of rows from which the columns are guessed, and whether there is a header."""


def read_table_rows(source: DataSource, report: Callable[[str], None]) -> Iterator[Row]:
    """Yield the names of a table; see `read_rows`."""
    requested = [column for column in source.columns.values() if column]
    records, delimiter = read_records(source.path, requested)
    # An empty file has an empty header, in which no column is found.
    header = next(records, Record([], 0))
    sample = list(islice(records, MAX_SAMPLE_ROWS))
    columns = choose_columns(source, header.cells, [record.cells for record in sample])

    findings = []
    if delimiter:  # tables in other formats always have a header
        findings.append(f"delimiter {delimiter!r}")
        # A first row whose category occurs again is not a header.
        label_index = columns["label_column"]
        labels = {record.cells[label_index] for record in sample}
        if header.cells[label_index] in labels:
            findings.append("no header")
            sample.insert(0, header)
    for key in source.columns:
        if key in columns:
            index = columns[key]
            findings.append(f"{key}={index + 1} ({header.cells[index]!r})")
    findings.append(f"{len(header.cells)} columns")
    report(f"{source}: {', '.join(findings)}")

    # The rows of the sample have been read already; the others follow one by one.
    file = str(source.path)  # a new Path for each row would take most of the time
    for record in chain(sample, records):
        row = parse_row(record.cells, columns, f"{file}:{record.number}")
        if row.count:  # a row with a count of 0 stands for no line
            yield row


def parse_row(cells: list[str], columns: dict[str, int], location: str) -> Row:
    """Build a row from the cells of a record.

    Args:
        cells: the cells of the record.
        columns: the index of each column, by key.
        location: the file and the line, for error messages.

    Raises:
        UserError: if its count or its split is invalid.
    """
    count = 1
    split = ""
    if "count_column" in columns:
        digits = cells[columns["count_column"]].strip()
        # The length is checked first, because converting thousands of digits is slow.
        if not (digits.isdecimal() and len(digits) < 10):
            raise UserError(
                f"{location}: count_column: {digits[:40]!r} is not a whole number below 10^9"
            )
        count = int(digits)
    if "split_column" in columns:
        # A row without a split would be used in none, so that is an error, too.
        word = cells[columns["split_column"]]
        split = SPLIT_NAMES.get(word.strip().casefold(), "")
        if not split:
            choices = ", ".join(SPLIT_NAMES)
            raise UserError(f"{location}: split_column: {word[:40]!r} is none of {choices}")
    return Row(
        name=cells[columns["name_column"]],
        category=normalize_label(cells[columns["label_column"]]),
        count=count,
        split=split,
        location=location,
    )
