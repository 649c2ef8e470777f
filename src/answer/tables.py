"""Predicting a column of a CSV file, however long it is and whatever separates its cells."""

import csv
import re
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from src.answer.model import TrainedModel, portions
from src.errors import UserError
from src.run.files import written_whole

STREAM = Path("-")
"""Standard input, or standard output."""


def answer_csv(model: TrainedModel, options: Namespace) -> None:
    """Copy a file, row by row, with columns added for the answers to one of its columns.

    What a row says stays as it is written, quotes and line end too, and so do blank lines. Holds a
    few thousand rows at a time, whatever the size of the file.

    Args:
        model: to ask.
        options: predict's `csv`, `out`, `column`, `delimiter`, `encoding` and `top_k`.

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
    with (
        ExitStack() as later,
        sys.stdin.buffer if piped else source.open("rb") as file,
        TextIOWrapper(file, options.encoding, "surrogateescape", newline="") as lines,
        nullcontext(sys.stdout) if printed else written_whole(options.out, "w", **how) as rows_out,
        tqdm(total=size, unit="B", unit_scale=True, disable=printed or None) as bar,
    ):
        # The process's. Any cell, but not all that follows a quote which is never closed.
        later.callback(csv.field_size_limit, csv.field_size_limit(10**8))
        rows = checked_rows(lines, where, options.column, options.delimiter, added)
        header, delimiter = next(rows)
        cells: Any = csv.writer(Namespace(write=str), delimiter=delimiter, lineterminator="")

        def longer(row: str, more: list[str]) -> str:
            """Return a row's text with cells added before its line end; a blank line as it is."""
            text = row.rstrip("\r\n")
            return f"{text}{delimiter}{cells.writerow(more)}{row[len(text) :]}" if text else row

        rows_out.write(longer(header, added))
        for chunk in portions(rows, lambda row: len(row[0])):
            answers = model.best(model.probabilities([name for _, name in chunk]), options.top_k)
            for (row, name), answer in zip(chunk, answers, strict=True):
                more = [cell for c, p in answer for cell in (shown[c], f"{p:.6f}")]
                more += [""] if answer else [""] * 2 * options.top_k + [model.reason(name)]
                rows_out.write(longer(row, more))
            bar.update((file.tell() if file.seekable() else 0) - bar.n)  # a pipe has no position


def checked_rows(
    lines: TextIOWrapper, where: str, column: str | None, delimiter: str | None, added: list[str]
) -> Iterator[tuple[str, str]]:
    """Yield the header's text and its delimiter, then each row's text and its cell in the column.

    A text is what was read since the one before, to the letter.

    Raises:
        UserError: naming the line, if the header has no such column or has one of those `added`,
            or a row is no row of this table.
    """
    number, text = 0, []

    def kept() -> Iterator[str]:
        nonlocal number
        for number, line in enumerate(lines, start=1):
            check_decoded(line, where, number, lines.encoding)
            text.append(line)
            yield line

    try:
        following = kept()
        first = next(following, "").removeprefix("\ufeff")
        if sep := re.fullmatch(r'(?i)"?sep=([^"\r\n])"?\s*', first):  # Excel's word
            delimiter = delimiter or sep[1]
            first = next(following, "")
        # Likely it is what finds the column, then what finds the most fields.
        cut = {d: next(csv.reader([first], delimiter=d), []) for d in ",;\t|"}
        delimiter = delimiter or max(cut, key=lambda d: (bool(places(cut[d], column)), len(cut[d])))
        reader = csv.reader(chain([first], following), delimiter=delimiter, strict=True)
        header = next(reader, [])
        if len(at := places(header, column)) != 1:
            asked = "" if column is None else f" {column!r}"
            columns = ", ".join(map(repr, header))[:500] or "none"
            found = f"has {len(at) or 'no'} column{'s' * (len(at) > 1)}{asked}"
            raise UserError(f"{where}: {found}; --column is a name or number of: {columns}")
        if taken := set(header) & set(added):
            raise UserError(f"{where}: already has the column {min(taken)}")
        yield "".join(text), delimiter
        text.clear()
        for row in reader:
            if row and len(row) != len(header):
                raise csv.Error(f"{len(row)} fields; the header has {len(header)}")
            yield "".join(text), row[at[0]] if row else ""
            text.clear()
    except UnicodeError:  # of an encoding whose errors cannot be put off
        wrong = f"not {lines.encoding} after line {number}"
        raise UserError(f"{where}: {wrong}; name its --encoding") from None
    except csv.Error as error:  # in the row that begins there
        raise UserError(f"{where}:{number - len(text) + 1}: {error}") from None


def check_decoded(line: str, where: str, number: int, encoding: str) -> None:
    """Refuse a line with bytes that are no text, as `surrogateescape` leaves them."""
    if not line.isascii() and re.search("[\udc80-\udcff]", line):
        raise UserError(f"{where}:{number}: not {encoding}; name its --encoding")


def places(header: list[str], column: str | None) -> list[int]:
    """Return where a header has a column, by name, by a name like it, or by number from 1.

    Without a column that is everywhere.
    """
    every = range(len(header))
    same = [i for i in every if column in (None, header[i])]
    alike = [i for i in every if header[i].strip().casefold() == str(column).strip().casefold()]
    return same or alike or [i for i in every if str(i + 1) == column]
