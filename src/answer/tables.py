"""Predicting a column of a CSV file, however long it is."""

import csv
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from tqdm import tqdm

from src.answer.model import TrainedModel, portions
from src.errors import UserError
from src.run.files import without_mark, written_whole


def answer_csv(
    model: TrainedModel, source: Path, out: Path, column: str, top_k: int, encoding: str
) -> None:
    """Copy `source` to `out`, row by row, with columns added for the answers to its `column`.

    Holds a few thousand rows at a time, whatever the size of the file.

    Raises:
        UserError: naming file and line, if that cannot be done; `out` is then left as it was.
    """
    added = [f"{what}_{i + 1}" for i in range(top_k) for what in ("category", "probability")]
    added.append("reason")
    with (
        source.open("rb") as file,
        TextIOWrapper(file, without_mark(encoding), newline="") as rows_in,
        written_whole(out, "w", encoding=encoding, newline="") as rows_out,
        tqdm(total=source.stat().st_size, unit="B", unit_scale=True, disable=None) as bar,
    ):
        rows = checked_rows(rows_in, source, column)
        header = next(rows)
        if taken := set(header) & set(added):
            raise UserError(f"{source}: already has the column {min(taken)}")
        at = header.index(column)
        writer = csv.writer(rows_out)
        writer.writerow(header + added)
        for chunk in portions(rows, lambda row: len(row[at])):
            probabilities = model.probabilities([row[at] for row in chunk])
            for row, answer in zip(chunk, model.best(probabilities, top_k), strict=True):
                row += [cell for c, p in answer for cell in (c, f"{p:.6f}")] or [""] * 2 * top_k
                row.append("" if answer else model.reason(row[at]))
            writer.writerows(chunk)
            if file.seekable():  # a pipe has no position
                bar.update(file.tell() - bar.n)


def checked_rows(rows_in: TextIOWrapper, source: Path, column: str) -> Iterator[list[str]]:
    """Yield the header, which must have the column, and the rows, each as long as the header.

    Raises:
        UserError: naming the line, if that cannot be done.
    """
    reader = csv.reader(rows_in, strict=True)
    try:
        header = next(reader, [])
        if (count := header.count(column)) != 1:
            found = f"has {count} columns" if count else "no column"
            columns = ", ".join(map(repr, header)) or "none"
            raise UserError(f"{source}: {found} {column!r}; it has: {columns}")
        yield header
        for row in reader:
            if row and len(row) != len(header):
                raise csv.Error(f"{len(row)} fields; the header has {len(header)}")
            yield row or [""] * len(header)  # an empty line is a row of empty fields
    except UnicodeError:
        wrong = f"not {rows_in.encoding.removesuffix('-sig')} after line {reader.line_num}"
        raise UserError(f"{source}: {wrong}; name its --encoding") from None
    except csv.Error as error:
        raise UserError(f"{source}:{reader.line_num}: {error}") from None
