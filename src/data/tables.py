"""Names with their categories, row by row, from the files that people have.

A folder holds text files, one name a line; a table has a column of names and one of categories.
"""

import csv
import gzip
import json
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from src.errors import UserError

log = logging.getLogger(__name__)

NAMES = Path(__file__).parents[2] / "data/names"
"""The corpus as shipped."""
READ = re.compile(r"(?i)\.((csv|tsv|jsonl)(\.gz)?|parquet)$")
NAME_WORDS = "name names surname surnames lastname familyname fullname nachname nom".split()
LABEL_WORDS = "label category class language lang country nationality origin gender sex".split()
"""What columns are called, whatever the case, as `last_name` and `Last Name`, too."""
SIDES = dict.fromkeys(("train", "training"), "train") | {"test": "test"}
SIDES |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")
"""What the sides of a split are called."""
SAMPLE = 1000
"""Rows that are looked at to tell a column of categories, and a header."""
LONGEST_LINE = 10**6
Cut = tuple[list[str], int, str, str]
"""A row: its cells, the number of its first line, its text, what is between the cells."""


class Source(NamedTuple):
    """Where names come from, plain values; without folder and file: the names shipped."""

    data_dir: str | None = None
    data_file: str | None = None
    name_column: str | None = None
    label_column: str | None = None
    count_column: str | None = None
    split_column: str | None = None

    @property
    def path(self) -> Path:
        """The folder or the file."""
        return Path(self.data_file or self.data_dir or NAMES)

    @property
    def files(self) -> list[Path]:
        """What is read."""
        self.check()
        return [self.path] if self.data_file else [file for _, _, file in text_files(self)]

    def __str__(self) -> str:
        return f"{'data_file' if self.data_file else 'data_dir'}={self.path}"

    def check(self) -> None:
        """Refuse what cannot be read, by its name alone.

        Raises:
            UserError: if there are two sources, or the file is of a kind that is not read.
        """
        if self.data_dir and self.data_file:
            raise UserError(f"{self} data_dir={self.data_dir}: give one of them")
        if self.data_file and not READ.search(self.data_file):
            what = "save it as CSV; .tsv .jsonl (each also with .gz) and .parquet are read, too"
            raise UserError(f"{self}: is not read; {what}")
        if any(self[2:]) and not self.data_file:
            raise UserError(f"{self}: has no columns; data_file= has")


class Row(NamedTuple):
    """A name and its category."""

    name: str
    """As it stands in the file."""
    label: str
    """The category, in NFC, without blanks around it."""
    times: int
    """Lines that it counts for."""
    side: str
    """`train`, `val` or `test`, where the split is given; else nothing."""
    where: str
    """The file and the number of the line; of a Parquet file: of the row."""


def read_rows(source: Source, say: Callable[[str], None] = log.info) -> Iterator[Row]:
    """Yield the names of a folder or a file as they are read; blank lines are skipped.

    Args:
        source: where they are.
        say: is told, before the first row, what was guessed.

    Raises:
        UserError: naming the line, if they cannot be read.
        OSError: if a file cannot be opened.
    """
    try:
        yield from _of_file(source, say) if source.data_file else _of_folder(source, say)
    except Exception as error:  # whatever the content provokes
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.filename):
            raise
        raise UserError(f"{source}: {error}; is it damaged, or still being written?") from None


def text_files(source: Source) -> list[tuple[str, str, Path]]:
    """Return the text files of a folder: side, category, file.

    A category is a `.txt` file or a folder of such. Where there is a folder `train`, and no other
    folder but `val` and `test`, the split is given by them, and files beside them are passed over.
    """
    folder = source.path
    texts = sorted(file for at in ("", "*/", "*/*/") for file in folder.glob(f"{at}*.[tT][xX][tT]"))
    found = [("", file.relative_to(folder).parts, file) for file in texts]
    # A hidden file is no category: archives made on a Mac bring along `._Arabic.txt`.
    found = [each for each in found if "." not in {name[0] for name in each[1]}]
    tops = {names[0].casefold() for _, names, _ in found if names[1:]}
    if "train" in map(SIDES.get, tops) and tops <= SIDES.keys():
        found = [(SIDES[n[0].casefold()], n[1:], file) for _, n, file in found if n[1:]]
    if not found:
        raise UserError(f"{source}: is no folder with <Category>.txt files")
    return [(side, label_of(n[0] if n[1:] else file.stem), file) for side, n, file in found]


def label_of(text: str) -> str:
    """Return a category as it is compared."""
    return unicodedata.normalize("NFC", text).strip()


def _of_folder(source: Source, say: Callable[[str], None]) -> Iterator[Row]:
    files = text_files(source)
    if files[0][0]:
        say(f"{source}: the split is as its folders are")
    for side, label, file in files:
        names = {n: line.rstrip("\r\n") for n, line in enumerate(_lines(file), 1) if line.strip()}
        if not names:
            raise UserError(f"{file}: holds no names; delete the file or add one name a line")
        # As the tutorial, which strips the whole text: blanks at other lines' ends stay.
        names[min(names)] = names[min(names)].lstrip()
        names[max(names)] = names[max(names)].rstrip()
        for number, name in names.items():
            yield Row(name, label, 1, side, f"{file}:{number}")


def _lines(file: Path) -> Iterator[str]:
    open_it: Any = gzip.open if file.suffix.lower() == ".gz" else open
    how = {"encoding": "UTF-8", "errors": "surrogateescape", "newline": ""}
    with open_it(file, "rt", **how) as text:
        for number, line in enumerate(text_lines(text, str(file))):
            yield line if number else line.removeprefix("\ufeff")


def text_lines(
    lines: Any, where: str, mend: str = "save the file as UTF-8", most: int = LONGEST_LINE
) -> Iterator[str]:
    """Yield the lines of a text, opened with `surrogateescape`, to the letter.

    Raises:
        UserError: naming the line and how to mend it, if it is not of the encoding; or if it has
            `most` letters or more.
    """
    number = 0
    try:
        for number, line in enumerate(iter(lambda: lines.readline(most), ""), start=1):
            if len(line) == most:
                raise UserError(f"{where}:{number}: a line of {most:,} letters or more")
            check_decoded(line, f"{where}:{number}", lines.encoding, mend)
            yield line
    except UnicodeError:  # of an encoding whose errors cannot be put off
        raise UserError(f"{where}: not {lines.encoding} after line {number}; {mend}") from None


def check_decoded(line: str, where: str, encoding: str, mend: str) -> None:
    """Refuse a line with bytes that are no text, as `surrogateescape` leaves them."""
    if not line.isascii() and re.search("[\udc80-\udcff]", line):
        raise UserError(f"{where}: not {encoding}; {mend}")


def cut_rows(
    lines: Iterable[str], where: str, delimiter: str | None, columns: Iterable[str | None]
) -> Iterator[Cut]:
    """Yield the rows of a text; the cells of a blank line are none.

    Args:
        lines: of the text, as `text_lines` yields them.
        where: the file's name.
        delimiter: between cells; None: what finds most of the columns in the first row, then most
            columns that are called as such are, then most columns.
        columns: by name or number.

    Raises:
        UserError: naming the line, if a row is none, or has not as many cells as the first.
    """
    begin, text, width = 1, [], 0

    def kept() -> Iterator[str]:
        for line in lines:
            text.append(line)
            yield line

    following = kept()
    first = next(following, "").removeprefix("\ufeff")
    if sep := re.fullmatch(r'(?i)"?sep=([^"\r\n])"?\s*', first):  # Excel's word
        delimiter = delimiter or sep[1]
        first = next(following, "")

    def found(delimiter: str) -> tuple[int, ...]:
        cells = next(csv.reader([first], delimiter=delimiter), [])
        called = sum(is_called(cell, NAME_WORDS + LABEL_WORDS) for cell in cells)
        return sum(bool(places(cells, column)) for column in columns), called, len(cells)

    delimiter = delimiter or max(",;\t|", key=found)
    try:
        for cells in csv.reader(chain([first], following), delimiter=delimiter, strict=True):
            width = width or len(cells)
            if cells and len(cells) != width:
                raise csv.Error(f"{len(cells)} fields; the header has {width}")
            yield cells, begin, "".join(text), delimiter
            begin += len(text)
            text.clear()
    except csv.Error as error:
        raise UserError(f"{where}:{begin}: {error}") from None


def places(header: list[str], column: str | None) -> list[int]:
    """Return where a header has a column, by name, by a name like it, or by number from 1.

    Without a column that is everywhere.
    """
    every = range(len(header))
    same = [i for i in every if column in (None, header[i])]
    alike = [i for i in every if header[i].strip().casefold() == str(column).strip().casefold()]
    return same or alike or [i for i in every if str(i + 1) == column]


def place_of(column: str | None, header: list[str], where: str, key: str) -> int:
    """Return where the header has a column.

    Raises:
        UserError: if it has none such or several, saying what `key` may be.
    """
    if len(at := places(header, column)) != 1:
        asked = "" if column is None else f" {column!r}"
        found = f"has {len(at) or 'no'} column{'s' * (len(at) > 1)}{asked}"
        raise UserError(f"{where}: {found}; {key} is a name or number of: {shown(header)}")
    return at[0]


def shown(header: list[str]) -> str:
    """Return the columns of a header, for a message."""
    return ", ".join(map(repr, header))[:500] or "none"


def is_called(cell: str, words: Iterable[str]) -> bool:
    """Return whether a cell is one of the words that columns are called."""
    return re.sub(r"[\s_]", "", cell.casefold()) in words


def _of_file(source: Source, say: Callable[[str], None]) -> Iterator[Row]:
    file = str(source.path)
    kind = file.lower().removesuffix(".gz").rpartition(".")[2]
    lines = _lines(source.path)
    if kind == "parquet":
        rows = _keyed(_parquet_rows(file), dict, file)
    elif kind == "jsonl":
        rows = _keyed(map(str.strip, lines), json.loads, file)
    else:
        given = [*filter(None, source[2:])]
        cut = cut_rows(lines, file, "\t" if kind == "tsv" else None, given)
        rows = (row for row in cut if row[0])
    first: Cut = next(rows, ([], 0, "", ""))
    header, delimiter, sample = first[0], first[-1], list(islice(rows, SAMPLE))
    name, label, count, split = at = _columns(source, header, [cells for cells, *_ in sample])
    how = f"cells between {delimiter!r}, " if delimiter else ""
    if delimiter and header[label] in {cells[label] for cells, *_ in sample}:
        how += "no header, "
        sample.insert(0, first)
    keys = zip(Source._fields[2:], at, strict=True)
    said = [f"{key}={i + 1} {header[i]!r}" for key, i in keys if i is not None]
    say(f"{source}: {how}{', '.join(said)} of {len(header)}")
    for cells, number, *_ in chain(sample, rows):
        where = f"{file}:{number}"
        times = "1" if count is None else cells[count].strip()
        side = "" if split is None else SIDES.get(cells[split].strip().casefold())
        if not (times.isdecimal() and len(times) < 10):
            raise UserError(f"{where}: count_column: {times[:40]!r} is no whole number below 10^9")
        if side is None:
            found = f"{cells[split][:40]!r} is none of {', '.join(SIDES)}"
            raise UserError(f"{where}: split_column: {found}")
        if int(times):
            yield Row(cells[name], label_of(cells[label]), int(times), side, where)


def _columns(source: Source, header: list[str], sample: list[list[str]]) -> list[Any]:
    """Return the places of name, label, count and split; None of what there is not."""
    keys = zip(Source._fields[2:], source[2:], strict=True)
    at: list[Any] = [place_of(c, header, str(source), key) if c else None for key, c in keys]
    for which, words in enumerate((NAME_WORDS, LABEL_WORDS)):
        found = [i for i, cell in enumerate(header) if is_called(cell, words) and i not in at]
        if at[which] is None and len(found) == 1:
            at[which] = found[0]
    if len(header) == 2 and None in at[:2]:
        kinds = [len({cells[i] for cells in (header, *sample)}) for i in range(2)]
        if at[:2] == [None, None] and kinds[0] != kinds[1]:  # categories repeat
            at[1] = kinds.index(min(kinds))
        if at[:2] != [None, None]:
            at[:2] = [1 - at[1 - i] if at[i] is None else at[i] for i in range(2)]
    if None in at[:2] or at[0] == at[1]:
        raise UserError(f"{source}: say which are name_column= and label_column=: {shown(header)}")
    return at


def _keyed(items: Iterable[Any], read: Callable[[Any], Any], file: str) -> Iterator[Cut]:
    """Yield the keys of the first object, which is its header, and then each object's values."""
    keys: list[str] = []
    for number, item in enumerate(items, start=1):
        if item:
            try:
                values = read(item)
                if not keys:
                    keys = list(values)
                    yield keys, number, "", ""
                yield [*map(_cell, map(values.get, keys))], number, "", ""
            except (ValueError, AttributeError, TypeError, RecursionError):
                raise UserError(f"{file}:{number}: is no JSON object") from None


def _parquet_rows(file: str) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow.parquet import ParquetFile  # an extra
    except ImportError:
        raise UserError(f"{file}: Parquet needs an extra: pip install -e '.[tables]'") from None
    with ParquetFile(file) as table:
        for batch in table.iter_batches(SAMPLE):
            yield from batch.to_pylist()


def _cell(value: Any) -> str:
    """Return a value as a CSV file has it; of what is no text or number: nothing."""
    return value if isinstance(value, str) else str(value) if type(value) in (int, float) else ""
