"""Reads the names of a folder or a table, normalizes them and checks them."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from src.data.normalize import (
    MAX_NAME_LENGTH,
    AlphabetKind,
    normalize_name,
    replace_unprintable,
)
from src.data.readers import DataSource, Row, list_files, read_rows
from src.errors import UserError

NamesByCategory = dict[str, list[str]]
"""The normalized names of each category. The categories are sorted; the names are in the order of
their lines."""

RejectedLines = dict[str, list[str]]
"""For each reason to reject lines, their locations and first characters. A reason is a phrase that
follows the number of lines in a message, as in `3 lines without a category …`."""

NO_SPLIT = ""
"""Key of `Corpus.splits` under which a source without splits has all its names."""
SPLIT_ORDER = (NO_SPLIT, "train", "val", "test")
MAX_REJECTED_SHOWN = 5
"""Number of rejected lines that a message shows."""
MAX_QUOTED = 40
"""Number of characters of a name or category that a message quotes."""
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Matches a control character. A line with one is not a name; it may be a row of a table."""

log = logging.getLogger(__name__)


class Corpus(NamedTuple):
    """All names of a source."""

    splits: dict[str, NamesByCategory]
    """The names of `train`, `val` and `test` if the source is split; else all names in NO_SPLIT.
    All splits have the same categories."""
    line_counts: dict[str, Counter[str]]
    """For each category, the number of lines that each name in `train` or NO_SPLIT stands for,
    including names that are held out later. Empty if the source has no counts. If the source has
    counts, each name occurs once in a split."""

    @property
    def all_names(self) -> NamesByCategory:
        """The names of all splits."""
        all_names: NamesByCategory = {}
        for names in self.splits.values():
            for category, category_names in names.items():
                if category in all_names:
                    all_names[category] = all_names[category] + category_names
                else:
                    # Not copied, because a source without splits may be large.
                    all_names[category] = category_names
        return all_names


def read_corpus(
    source: DataSource, kind: AlphabetKind = "ascii", allow_single_category: bool = False
) -> Corpus:
    """Read and normalize the names of a source.

    Blank lines, a byte-order mark and the kind of line ends make no difference.

    Args:
        source: the folder or table to read.
        kind: the kind of alphabet that names are normalized for.
        allow_single_category: whether the source may have only one category.

    Raises:
        UserError: if the source cannot be read, has no names or too few categories, or contains
            lines that are not names.
        OSError: if a file cannot be opened.
    """
    # The files' sizes and times are part of the cache key, so that a changed file is read again.
    stamps = []  # (path, size, time of the last change)
    for file in list_files(source):
        stat = file.stat()
        stamps.append((file, stat.st_size, stat.st_mtime_ns))
    corpus = _read_files(source, kind, tuple(stamps))
    categories = list(corpus.all_names)
    # A folder without names has been refused already.
    if not categories:
        raise UserError(f"{source}: the file contains no names")
    if len(categories) == 1 and not allow_single_category:
        raise UserError(
            f"{source}: there is only one category ({categories[0]}); at least two are required"
        )
    return corpus


@lru_cache(maxsize=4)  # all runs of a sweep read the same files
def _read_files(
    source: DataSource,
    kind: AlphabetKind,
    stamps: tuple[tuple[Path, int, int], ...],  # noqa: ARG001 # part of the key of the cache
) -> Corpus:
    """Read a source.

    `stamps`, the files with their sizes and times, is only part of the cache key.
    """
    has_counts = source.count_column is not None
    # For each pair of a split and a category: the names in the order of their lines, or, if the
    # source has counts, the number of lines of each name. Only one of the two is filled.
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    rejected: RejectedLines = defaultdict(list)
    for row, name in valid_rows(source, kind, rejected):
        if has_counts:
            # Several spellings can be normalized to the same name, whose counts are added up.
            counts[row.split, row.category][name] += row.count
        else:
            names[row.split, row.category].append(name)
    # Report the first reason, with the number of lines to which it applies.
    if rejected:
        reason, locations = next(iter(rejected.items()))
        lines = "line" if len(locations) == 1 else "lines"
        message = f"{source.path}: {len(locations):,} {lines} {reason}"
        for location in locations[:MAX_REJECTED_SHOWN]:
            message += f"\n  {location}"
        raise UserError(message)
    if not has_counts:
        return Corpus(group_by_split(names), line_counts={})
    line_counts = {}
    for (split, category), category_counts in counts.items():
        # Held-out names are scored once, whatever their counts.
        if split in (NO_SPLIT, "train"):
            line_counts[category] = category_counts
    return Corpus(group_by_split(counts), line_counts)


def valid_rows(
    source: DataSource,
    kind: AlphabetKind,
    rejected: RejectedLines,
    report: Callable[[str], None] = log.info,
) -> Iterator[tuple[Row, str]]:
    """Yield each valid row of a source with its normalized name, and collect the invalid rows.

    Args:
        source: the folder or table to read.
        kind: the kind of alphabet that names are normalized for.
        rejected: the rejected rows are appended to it, keyed by reason; a `defaultdict(list)`.
        report: receives a message about the delimiter, header and columns that were guessed.
    """
    # These phrases follow a number of lines in messages; see `RejectedLines`.
    reason_for_category = "without a category, or with a control character in it"
    reason_for_name = (
        f"without a valid name: a name must have at least one letter of the alphabet "
        f"(letters={kind}), at most {MAX_NAME_LENGTH} characters, and no tab or other control "
        "character"
    )
    if kind == "tutorial":
        reason_for_name += "; letters=corpus supports all writing systems"
    for row in read_rows(source, report):
        name = normalize_name(row.name, kind)
        # Tabs around a name are harmless. Within a name, they suggest that the file is a table.
        has_control_character = CONTROL_CHARACTER.search(row.name.strip()) is not None
        is_valid_length = len(row.name) <= MAX_NAME_LENGTH
        is_valid_name = name != "" and is_valid_length and not has_control_character
        is_valid_category = row.category != "" and row.category.isprintable()
        if not is_valid_category:
            # In a folder, the location also contains the category, which may be unprintable.
            quoted = f"{row.location}: {row.category[:MAX_QUOTED]!r}"
            rejected[reason_for_category].append(replace_unprintable(quoted))
        elif not is_valid_name:
            rejected[reason_for_name].append(f"{row.location}: {row.name[:MAX_QUOTED]!r}")
        else:
            yield row, name


def group_by_split(names: Mapping[tuple[str, str], Iterable[str]]) -> dict[str, NamesByCategory]:
    """Return the names by split and category, with all categories in each split.

    Args:
        names: the names of each pair of a split and a category.

    Returns:
        The `splits` of a `Corpus`; without any names, NO_SPLIT is the only one.
    """
    categories = sorted({category for _, category in names})
    splits = sorted({split for split, _ in names}, key=SPLIT_ORDER.index)
    if not splits:
        splits = [NO_SPLIT]
    grouped: dict[str, NamesByCategory] = {}
    for split in splits:
        # A category without names in a split has an empty list there.
        grouped[split] = {}
        for category in categories:
            grouped[split][category] = list(names.get((split, category), ()))
    return grouped


def sorted_unique_names(names: NamesByCategory) -> NamesByCategory:
    """Return each name once per category, sorted."""
    return {category: sorted(set(lines)) for category, lines in names.items()}
