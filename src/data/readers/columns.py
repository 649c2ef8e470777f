"""Finds the name, category, count and split columns of a table."""

import re
from collections.abc import Collection, Sequence

from src.data.readers.source import DataSource
from src.errors import UserError

NAME_WORDS = "name names surname surnames lastname familyname fullname nachname nom".split()
LABEL_WORDS = "label category class language lang country nationality origin gender sex".split()
"""Usual names of columns, in lower case; `last_name` and `Last Name` count as `lastname`."""


def choose_columns(
    source: DataSource, header: list[str], sample: list[list[str]]
) -> dict[str, int]:
    """Return the indices of the columns to read, by the keys of the configuration.

    Names and categories are in the columns that the user has set, or else in those with usual
    names. If there are only two columns, finding one determines the other.

    Args:
        source: the table, with the columns that the user has set.
        header: the first row.
        sample: the cells of some of the other rows.

    Raises:
        UserError: if a column is not there, or it is not clear which one to read.
    """
    chosen: dict[str, int] = {}
    for key, column in source.columns.items():
        if column:
            chosen[key] = find_column(column, header, str(source), key)
    for key, words in (("name_column", NAME_WORDS), ("label_column", LABEL_WORDS)):
        candidates = []
        for index, cell in enumerate(header):
            if is_usual_name(cell, words) and index not in chosen.values():
                candidates.append(index)
        if key not in chosen and len(candidates) == 1:
            chosen[key] = candidates[0]
    if len(header) == 2:
        complete_or_guess_pair(chosen, [header, *sample])
    name, label = chosen.get("name_column"), chosen.get("label_column")
    if name is None or label is None or name == label:
        hint = f"set name_column= and label_column= to two of: {quoted_list(header)}"
        raise UserError(f"{source}: {hint}")
    return chosen


def complete_or_guess_pair(chosen: dict[str, int], rows: list[list[str]]) -> None:
    """Complete the chosen columns of a table that has only two.

    If neither column is known to hold names or categories, the one that repeats more holds the
    categories.
    """
    if "name_column" not in chosen and "label_column" not in chosen:
        n_first = len({cells[0] for cells in rows})
        n_second = len({cells[1] for cells in rows})
        if n_first < n_second:
            chosen["label_column"] = 0
        elif n_second < n_first:
            chosen["label_column"] = 1
    if "label_column" in chosen:
        chosen.setdefault("name_column", 1 - chosen["label_column"])
    elif "name_column" in chosen:
        chosen["label_column"] = 1 - chosen["name_column"]


def find_column(column: str | None, header: list[str], where: str, key: str) -> int:
    """Return the index of a column. If `column` is None, the table must have a single column.

    Raises:
        UserError: if not exactly one column matches; the message says what `key` may be.
    """
    found = matching_columns(header, column)
    if len(found) != 1:
        asked = "" if column is None else f" {column!r}"
        counted = f"has {len(found) or 'no'} column{'s' if len(found) > 1 else ''}{asked}"
        choices = f"{key} must be the name or number of one of: {quoted_list(header)}"
        raise UserError(f"{where}: {counted}; {choices}")
    return found[0]


def matching_columns(header: list[str], column: str | None) -> list[int]:
    """Return the indices of the columns whose name equals `column`.

    If there are none, names are compared without case and surrounding blanks, and then with the
    number of the column, from 1. None matches all columns.
    """
    if column is None:
        return list(range(len(header)))
    same, similar, numbered = [], [], []
    wanted = column.strip().casefold()
    for index, name in enumerate(header):
        if name == column:
            same.append(index)
        if name.strip().casefold() == wanted:
            similar.append(index)
        if str(index + 1) == column:
            numbered.append(index)
    return same or similar or numbered


def is_usual_name(cell: str, words: Collection[str]) -> bool:
    """Return whether a cell is one of these words, ignoring case, blanks and underscores."""
    return re.sub(r"[\s_]", "", cell.casefold()) in words


def quoted_list(items: Sequence[str]) -> str:
    """Return the quoted items as text, truncated to 500 characters."""
    return ", ".join(repr(item) for item in items)[:500] or "none"
