"""Finds the name, category, count and split columns of a table.

The label of a name is its category: the setting `label_column` selects the column of categories.
"""

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
    """Return the index of each column to read, as a dictionary with keys such as `name_column`.

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
    for key, usual_names in (("name_column", NAME_WORDS), ("label_column", LABEL_WORDS)):
        if key in chosen:
            continue
        candidates = []
        for index, cell in enumerate(header):
            is_free = index not in chosen.values()  # a column cannot have two meanings
            if is_free and is_usual_name(cell, usual_names):
                candidates.append(index)
        # With several candidates, the choice would be ambiguous.
        if len(candidates) == 1:
            chosen[key] = candidates[0]
    if len(header) == 2:
        if "name_column" not in chosen and "label_column" not in chosen:
            # The table may have no header. The first row is then data, so it is counted too.
            choose_column_with_fewer_values_as_label(chosen, [header, *sample])
        choose_other_column_of_pair(chosen)
    # Names and categories are necessary; counts and splits are read only if the user sets them.
    name_index = chosen.get("name_column")
    label_index = chosen.get("label_column")
    if name_index is None or label_index is None or name_index == label_index:
        hint = f"set name_column= and label_column= to two of: {quoted_list(header)}"
        raise UserError(f"{source}: the columns of names and categories are not clear; {hint}")
    return chosen


def choose_column_with_fewer_values_as_label(chosen: dict[str, int], rows: list[list[str]]) -> None:
    """Choose the label column of a table with two columns: the one with fewer different values.

    If both have the same number of different values, nothing is chosen.

    Args:
        chosen: the indices of the chosen columns by key; changed in place.
        rows: the cells of some rows.
    """
    n_first_values = len({cells[0] for cells in rows})
    n_second_values = len({cells[1] for cells in rows})
    if n_first_values < n_second_values:
        chosen["label_column"] = 0
    elif n_second_values < n_first_values:
        chosen["label_column"] = 1


def choose_other_column_of_pair(chosen: dict[str, int]) -> None:
    """If one of a table's two columns has been chosen, choose the other one as well.

    Args:
        chosen: the indices of the chosen columns by key; changed in place.
    """
    other_index = {0: 1, 1: 0}
    if "label_column" in chosen and "name_column" not in chosen:
        chosen["name_column"] = other_index[chosen["label_column"]]
    elif "name_column" in chosen and "label_column" not in chosen:
        chosen["label_column"] = other_index[chosen["name_column"]]


def find_column(column: str | None, header: list[str], location: str, key: str) -> int:
    """Return the index of a column.

    Args:
        column: name or number of the column. If None, the table must have a single column;
            `python -m src.predict` passes None if the option `--column` is not set.
        header: the names of all columns.
        location: the table, for error messages.
        key: the setting with the name or number, for error messages.

    Raises:
        UserError: if not exactly one column matches; the message lists the valid values of `key`.
    """
    indices = find_matching_columns(header, column)
    if len(indices) == 1:
        return indices[0]
    problem = "has no column"
    if indices:
        problem = f"has {len(indices)} columns"
    if column is not None:
        problem += f" {column!r}"
    choices = f"{key} must be the name or number of one of: {quoted_list(header)}"
    raise UserError(f"{location}: {problem}; {choices}")


def find_matching_columns(header: list[str], column: str | None) -> list[int]:
    """Return the indices of the columns that a user can mean by a name or a number.

    The first of these rules that matches any column applies:

    1. The name of the column is equal to the text.
    2. The name differs from the text only in case and surrounding spaces.
    3. The text is the number of the column. Columns are numbered from 1.

    Args:
        header: the names of all columns.
        column: the name or the number; None matches all columns.
    """
    if column is None:
        return list(range(len(header)))
    # Each list has the indices of the columns that match in one of the three ways.
    equal_names = []
    similar_names = []
    equal_numbers = []
    folded_column = column.strip().casefold()
    for index, name in enumerate(header):
        if name == column:
            equal_names.append(index)
        if name.strip().casefold() == folded_column:
            similar_names.append(index)
        if str(index + 1) == column:
            equal_numbers.append(index)
    # A column can be called `2`, so names come before numbers.
    return equal_names or similar_names or equal_numbers


def is_usual_name(cell: str, usual_names: Collection[str]) -> bool:
    """Return whether a cell is one of these names, ignoring case, spaces and underscores."""
    name = re.sub(r"[\s_]", "", cell.casefold())
    return name in usual_names


def quoted_list(items: Sequence[str]) -> str:
    """Return the quoted items as text, truncated to 500 characters, or `none` without items."""
    text = ", ".join(repr(item) for item in items)
    # `repr` also escapes control characters, which could otherwise control the terminal.
    return text[:500] or "none"
