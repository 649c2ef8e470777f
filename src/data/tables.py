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
from contextlib import nullcontext
from functools import lru_cache, partial
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from src.errors import UserError

log = logging.getLogger(__name__)

NAMES = Path(__file__).parents[2] / "data/names"
"""The corpus as shipped."""
READ = re.compile(r"(?i)(\.csv|\.tsv|\.jsonl)(\.gz)?|\.parquet")
WORDS = {
    "name_column": "name names surname surnames last_name lastname family_name full_name nachname "
    "nom first_name firstname given_name forename vorname word".split(),
    "label_column": "label labels category categories class language lang country nationality "
    "origin gender sex".split(),
}
"""What such columns are called, whatever the case."""
SIDES = dict.fromkeys(("train", "training"), "train") | {"test": "test"}
SIDES |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")
"""What the sides of a split are called."""
SAMPLE = 1000
"""Rows that are looked at to tell a column of categories, and a header."""
LONGEST_LINE = 10**6
UTF_8 = "not UTF-8; save the file as UTF-8"


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

    def __str__(self) -> str:
        return f"{'data_file' if self.data_file else 'data_dir'}={self.path}"

    def check(self) -> None:
        """Refuse what cannot be read, by its name alone.

        Raises:
            UserError: if there are two sources, or the file is of a kind that is not read.
        """
        if self.data_dir and self.data_file:
            raise UserError(f"{self}: and data_dir={self.data_dir}; give one of them")
        suffixes = "".join(self.path.suffixes[-2:] if self.path.suffix == ".gz" else [])
        if self.data_file and not READ.fullmatch(suffixes or self.path.suffix):
            sheet = self.path.suffix.lower() in (".xlsx", ".xls", ".ods")
            how = "save it as CSV" if sheet else ".csv .tsv .jsonl, .gz or not, and .parquet are"
            raise UserError(f"{self}: is not read; {how}")


class Row(NamedTuple):
    """A name and its category."""

    name: str
    """As it stands in the file."""
    label: str
    """The category, in NFC, without blanks around it."""
    times: int = 1
    """Lines that it counts for."""
    side: str = ""
    """`train`, `val` or `test`, where the split is given."""
    file: str = ""
    number: int = 0
    """Of its line, from 1; of a Parquet file: of the row."""

    @property
    def where(self) -> str:
        """File and line."""
        return f"{self.file}:{self.number}"


def read_rows(source: Source, say: Callable[[str], None] = log.info) -> Iterator[Row]:
    """Yield the names of a folder or a file as they are read; blank lines are skipped.

    Args:
        source: where they are.
        say: is told, before the first row, what was guessed.

    Raises:
        UserError: naming the line, if they cannot be read.
        OSError: if a file cannot be opened.
    """
    source.check()
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
    if not folder.is_dir():
        raise UserError(f"{source}: no such folder")
    every = sorted(file for depth in ("*", "*/*", "*/*/*") for file in folder.glob(depth))
    texts = [file for file in every if file.suffix.lower() == ".txt" and not file.is_dir()]
    found = {file: file.relative_to(folder).parts for file in texts}
    # A hidden file is no category: archives made on a Mac bring along `._Arabic.txt`.
    found = {file: parts for file, parts in found.items() if "." not in {p[0] for p in parts}}
    tops = {parts[0].casefold() for parts in found.values() if len(parts) > 1}
    given = "train" in map(SIDES.get, tops) and tops <= SIDES.keys()
    files = []
    for file, parts in found.items():
        side = SIDES[parts[0].casefold()] if given and len(parts) > 1 else ""
        label = label_of(parts[bool(side)] if len(parts) > 1 + bool(side) else file.stem)
        if not (label and label.isprintable()):
            raise UserError(f"{source}: {file.name!r} is no name that can be shown")
        files += [(side, label, file)] if side or not given else []
    if not files:
        raise UserError(f"{source}: holds no <Category>.txt files")
    return files


def stamp(source: Source) -> tuple[Any, ...]:
    """Return the files of a source with what changes when they do."""
    files = [source.path] if source.data_file else [file for *_, file in text_files(source)]
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@lru_cache(maxsize=10_000)
def label_of(text: str) -> str:
    """Return a category as it is compared."""
    return unicodedata.normalize("NFC", text).strip()


def _of_folder(source: Source, say: Callable[[str], None]) -> Iterator[Row]:
    files = text_files(source)
    if files[0][0]:
        say(f"{source}: the split is as its folders are")
    for side, label, file in files:
        row = None
        with _opened(file) as lines:
            for number, line in enumerate(text_lines(lines, str(file)), start=1):
                if line.strip():
                    # As the tutorial does, which strips the whole text, and no other line's end.
                    line = line.rstrip("\r\n") if row else line.lstrip().rstrip("\r\n")
                    if row:
                        yield row
                    row = Row(line, label, 1, side, str(file), number)
        if not row:
            raise UserError(f"{file}: holds no names; delete the file or add one name a line")
        yield row._replace(name=row.name.rstrip())


def _opened(file: Path) -> Any:
    open_it: Any = gzip.open if file.suffix.lower() == ".gz" else open
    return open_it(file, "rt", encoding="utf-8", errors="surrogateescape", newline="")


def text_lines(
    lines: TextIOWrapper, where: str, wrong: str = UTF_8, most: int = LONGEST_LINE
) -> Iterator[str]:
    """Yield the lines of a text, opened with `surrogateescape`, to the letter.

    Raises:
        UserError: naming the line, if it is `wrong`, or longer than `most` letters.
    """
    for number, line in enumerate(iter(lambda: lines.readline(most), ""), start=1):
        if len(line) == most:
            raise UserError(f"{where}:{number}: a line of {most:,} letters or more")
        check_decoded(line, f"{where}:{number}", wrong)
        yield line


def check_decoded(line: str, where: str, wrong: str) -> None:
    """Refuse a line with bytes that are no text, as `surrogateescape` leaves them."""
    if not line.isascii() and re.search("[\udc80-\udcff]", line):
        raise UserError(f"{where}: {wrong}")


class Table:
    """The rows of a text, each a list of its cells; of a blank line the list is empty.

    Args:
        lines: of the text, as `text_lines` yields them.
        where: the file's name.
        delimiter: between cells; None: whichever makes the first row the best.
        best: how good it is, so cut.

    Raises:
        UserError: naming the line, if a row is none or has not as many cells as the first.
    """

    def __init__(
        self,
        lines: Iterable[str],
        where: str,
        delimiter: str | None = None,
        best: Callable[[list[str]], Any] = len,
    ) -> None:
        self.text: list[str] = []
        """What was read since the row before, to the letter."""
        self.number = 0
        """Of the line that was read last."""
        self._where = where
        following = self._kept(lines)
        first = next(following, "").removeprefix("\ufeff")
        if sep := re.fullmatch(r'(?i)"?sep=([^"\r\n])"?\s*', first):  # Excel's word
            delimiter = delimiter or sep[1]
            first = next(following, "")
        cut = {d: next(csv.reader([first], delimiter=d), []) for d in ",;\t|"}
        self.delimiter = delimiter or max(cut, key=lambda d: best(cut[d]))
        rest = chain([first], following)
        self._reader = csv.reader(rest, delimiter=self.delimiter, strict=True)

    def _kept(self, lines: Iterable[str]) -> Iterator[str]:
        for self.number, line in enumerate(lines, start=1):
            self.text.append(line)
            yield line

    @property
    def first(self) -> int:
        """The number of the line that the row begins in."""
        return self.number - len(self.text) + 1

    def __iter__(self) -> Iterator[list[str]]:
        width = 0
        try:
            for row in self._reader:
                width = width or len(row)
                if row and len(row) != width:
                    raise csv.Error(f"{len(row)} fields; the header has {width}")
                yield row
                self.text.clear()
        except csv.Error as error:
            raise UserError(f"{self._where}:{self.first}: {error}") from None


def places(header: list[str], column: str | None) -> list[int]:
    """Return where a header has a column, by name, by a name like it, or by number from 1.

    Without a column that is everywhere.
    """
    every = range(len(header))
    same = [i for i in every if column in (None, header[i])]
    alike = [i for i in every if header[i].strip().casefold() == str(column).strip().casefold()]
    return same or alike or [i for i in every if str(i + 1) == column]


def is_called(cell: str, words: Iterable[str]) -> bool:
    """Return whether a cell is one of the words that columns are called."""
    return cell.strip().casefold().replace(" ", "_") in words


def _of_file(source: Source, say: Callable[[str], None]) -> Iterator[Row]:
    path, file = source.path, str(source.path)
    kind = Path(path.stem if path.suffix.lower() == ".gz" else path).suffix.lower()
    with nullcontext() if kind == ".parquet" else _opened(path) as text:
        how = ""
        if text is None:
            rows = _parquet_rows(path)
        elif kind == ".jsonl":
            rows = _json_rows(text_lines(text, file), file)
        else:
            delimiter = "\t" if kind == ".tsv" else None
            table = Table(text_lines(text, file), file, delimiter, partial(_found, source))
            rows = ((table.first, row) for row in table if row)
            how = f"cells between {table.delimiter!r}, "
        first, sample = next(rows, (0, [])), list(islice(rows, SAMPLE))
        header = first[1]
        (name, label, count, split), named = _columns(source, header, sample)
        if how and not named and any(cells[label] == header[label] for _, cells in sample):
            how += "no header, "
            sample.insert(0, first)
        columns = {"name": name, "label": label, "count": count, "split": split}
        said = (f"{key} {i + 1} {header[i]!r}" for key, i in columns.items() if i is not None)
        say(f"{source}: {how}columns: {', '.join(said)} of {len(header)}")
        for number, cells in chain(sample, rows):
            n, side = 1, ""
            if count is not None:
                if not re.fullmatch(r"\s*[0-9]{1,9}\s*", cells[count]):
                    what = f"count_column {cells[count][:40]!r} is no whole number below 10**9"
                    raise UserError(f"{file}:{number}: {what}")
                n = int(cells[count])
            if split is not None:
                side = SIDES.get(cells[split].strip().casefold(), "")
                if not side:
                    what = f"split_column {cells[split][:40]!r} is none of {' '.join(SIDES)}"
                    raise UserError(f"{file}:{number}: {what}")
            if n:
                yield Row(cells[name], label_of(cells[label]), n, side, file, number)


def _found(source: Source, header: list[str]) -> tuple[int, int, int]:
    """Return how many of a source's columns a header has, by name or by guess, and its length."""
    given = sum(bool(places(header, column)) for column in source[2:] if column)
    guessed = sum(any(is_called(cell, words) for cell in header) for words in WORDS.values())
    return given, guessed, len(header)


def _columns(
    source: Source, header: list[str], sample: list[tuple[int, list[str]]]
) -> tuple[list[Any], bool]:
    """Return the places of name, label, count and split, and whether the header names any."""
    at: dict[str, int | None] = {}
    named = False
    columns = ", ".join(map(repr, header))[:500] or "none"
    for key, column in zip(source._fields[2:], source[2:], strict=True):
        found = places(header, column) if column else []
        if column and len(found) != 1:
            what = f"has {len(found) or 'no'} column{'s' * (len(found) > 1)} {column!r}"
            raise UserError(f"{source}: {what}; {key} is a name or number of: {columns}")
        at[key] = found[0] if found else None
        named |= any(header[i].strip().casefold() == str(column).strip().casefold() for i in found)
    for key, words in WORDS.items():
        found = [i for i, cell in enumerate(header) if is_called(cell, words)]
        if at[key] is None and len(found) == 1 and found[0] not in at.values():
            at[key], named = found[0], True
    name, label = WORDS
    if len(header) == 2:
        kinds = [len({cells[i] for _, cells in sample}) for i in range(2)]
        if at[name] is at[label] is None and kinds[0] != kinds[1]:  # labels repeat
            at[label] = kinds.index(min(kinds))
        for one, other in (name, label), (label, name):
            if at[one] is None and (known := at[other]) is not None:
                at[one] = 1 - known
    used = [i for i in at.values() if i is not None]
    if at[name] is None or at[label] is None or len(set(used)) < len(used):
        raise UserError(f"{source}: say which two are {name}= and {label}=, of: {columns}")
    return list(at.values()), named


def _json_rows(lines: Iterable[str], file: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the keys of the first object, and each object's values of these."""
    keys: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line.strip("\ufeff \t\r\n"):
            try:
                row = json.loads(line.removeprefix("\ufeff"))
                if not keys:
                    keys = list(row)
                    yield number, keys
                yield number, [_cell(row.get(key)) for key in keys]
            except (ValueError, AttributeError, TypeError, RecursionError):
                raise UserError(f"{file}:{number}: is no JSON object") from None


def _parquet_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the columns' names, and each row's values."""
    try:
        from pyarrow.parquet import ParquetFile  # an extra
    except ImportError:
        raise UserError(f"{path}: Parquet needs an extra: pip install '.[tables]'") from None
    with ParquetFile(path) as file:
        yield 0, file.schema_arrow.names
        number = 0
        for batch in file.iter_batches(SAMPLE):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                yield number, [*map(_cell, row)]


def _cell(value: Any) -> str:
    """Return a value as a CSV file has it; of what is no text or number: nothing."""
    return value if isinstance(value, str) else str(value) if type(value) in (int, float) else ""
