"""Reads the names of a folder or a table, normalizes them and checks them."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

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
"""For each reason to reject lines, their locations and first characters."""

SPLIT_ORDER = ("", "train", "val", "test")
MAX_REJECTED_SHOWN = 5
MAX_QUOTED = 40
"""Number of characters of a name or category that a message quotes."""
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""A file with control characters within its lines is not a list of names, but perhaps a table."""

log = logging.getLogger(__name__)


class Corpus(NamedTuple):
    """All names of a source."""

    splits: dict[str, NamesByCategory]
    """The names of `train`, `val` and `test` if the source is split; else all of them under ""."""
    line_counts: dict[str, Counter[str]]
    """For each category, the number of lines that each training name stands for. Empty if the
    source has no counts. If it has counts, each name occurs once in a split."""

    @property
    def all_names(self) -> NamesByCategory:
        """The names of all splits."""
        # A source without splits may be large, so its lists are not copied.
        first, *others = self.splits.values()
        all_names = dict(first)
        for names in others:
            for category in names:
                all_names[category] = all_names[category] + names[category]
        return all_names


def read_corpus(
    source: DataSource, kind: AlphabetKind = "ascii", min_categories: int = 2
) -> Corpus:
    """Read and normalize the names of a source.

    Blank lines, a byte-order mark and the kind of line ends make no difference.

    Args:
        source: the folder or table to read.
        kind: the kind of alphabet that names are normalized for.
        min_categories: number of categories that the source must have.

    Raises:
        UserError: if the source cannot be read, has too few categories, or contains lines that are
            not names.
        OSError: if a file cannot be opened.
    """
    # The files' sizes and times are part of the cache key, so that a changed file is read again.
    stamps = []
    for file in list_files(source):
        stat = file.stat()
        stamps.append((file, stat.st_size, stat.st_mtime_ns))
    corpus = _read_files(source, kind, tuple(stamps))
    first_split = next(iter(corpus.splits.values()))
    categories = list(first_split)
    if len(categories) < min_categories:
        raise UserError(f"{source}: has only one category, {', '.join(categories)}; needs two")
    return corpus


@lru_cache(maxsize=4)  # all runs of a sweep read the same files
def _read_files(
    source: DataSource,
    kind: AlphabetKind,
    stamps: tuple[tuple[Path, int, int], ...],  # noqa: ARG001 # part of the key of the cache
) -> Corpus:
    """Read a source; `stamps`, the files with their sizes and times, are only keys of the cache."""
    has_counts = source.count_column is not None
    # Like lists, counters keep the order of the lines.
    names: Any = defaultdict(Counter if has_counts else list)
    rejected: RejectedLines = defaultdict(list)
    for row, name in valid_rows(source, kind, rejected):
        if has_counts:
            names[row.split, row.category][name] += row.count
        else:
            names[row.split, row.category].append(name)
    # Report the first reason, with the number of lines to which it applies.
    if rejected:
        reason, locations = next(iter(rejected.items()))
        summary = f"{source.path}: {len(locations):,} lines {reason}"
        raise UserError("\n  ".join([summary, *locations[:MAX_REJECTED_SHOWN]]))
    line_counts = {}
    if has_counts:
        for (split, category), counts in names.items():
            if split in ("", "train"):  # held-out names are scored once, whatever their counts
                line_counts[category] = counts
    return Corpus(group_by_split(names), line_counts)


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
        rejected: receives the invalid rows; should be a `defaultdict(list)`.
        report: receives a message about the delimiter, header and columns that were guessed.
    """
    no_label = "have no category, or one with a control character"
    no_name = (
        f"are not names: a name has at least one letter that letters={kind} can read, at most "
        f"{MAX_NAME_LENGTH} characters, and no tab or other control character"
    )
    if kind == "tutorial":
        no_name += "; letters=corpus reads any script"
    for row in read_rows(source, report):
        name = normalize_name(row.name, kind)
        # Tabs around a name are harmless. Within a name, they suggest that the file is a table.
        has_control_character = CONTROL_CHARACTER.search(row.name.strip())
        if not (row.category and row.category.isprintable()):
            quoted = f"{row.location}: {row.category[:MAX_QUOTED]!r}"
            rejected[no_label].append(replace_unprintable(quoted))
        elif not name or len(row.name) > MAX_NAME_LENGTH or has_control_character:
            rejected[no_name].append(f"{row.location}: {row.name[:MAX_QUOTED]!r}")
        else:
            yield row, name


def group_by_split(names: dict[tuple[str, str], Iterable[str]]) -> dict[str, NamesByCategory]:
    """Return the names by split and category, with all categories in each split.

    Args:
        names: the names of each pair of a split and a category.

    Returns:
        The `splits` of a `Corpus`; at least one of them, even without names.
    """
    categories = sorted({category for _, category in names})
    splits = sorted({split for split, _ in names}, key=SPLIT_ORDER.index)
    grouped: dict[str, NamesByCategory] = {}
    for split in splits or [""]:
        grouped[split] = {}
        for category in categories:
            grouped[split][category] = list(names.get((split, category), ()))
    return grouped


def unique_names(names: NamesByCategory) -> NamesByCategory:
    """Return each name once per category, sorted."""
    return {category: sorted(set(lines)) for category, lines in names.items()}
