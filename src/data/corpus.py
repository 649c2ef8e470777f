"""The names of a folder or a table, read, folded and checked.

In memory a corpus is a dictionary from category, in sorted order, to the folded names of its lines,
in file order.
"""

import logging
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from src.data.letters import LONGEST, fold
from src.data.tables import Source, read_rows, stamp
from src.errors import UserError

log = logging.getLogger(__name__)

Corpus = dict[str, list[str]]

SHOWN = 5
"""Of the lines that are no names, at most."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What no list of names has in a line: the file is something else, a table perhaps."""


class Names(NamedTuple):
    """What a source holds, folded."""

    corpus: Corpus
    """All its names."""
    counts: dict[str, Counter[str]]
    """Of each category, how many lines each name to train on counts for; empty if not said."""
    sides: dict[str, Corpus]
    """The names of `train`, `val` and `test`, where the split is given; else empty."""


def read_corpus(source: Source | Path, kind: str = "ascii") -> Corpus:
    """Return all names of a source; a path is a folder's. See `read_names`."""
    return read_names(Source(str(source)) if isinstance(source, Path) else source, kind).corpus


def read_names(source: Source, kind: str = "ascii") -> Names:
    """Read the names of a source, folded to letters of a kind.

    Blank lines, a byte-order mark and the kind of line ends do not matter.

    Raises:
        UserError: if it cannot be read, holds fewer than two categories, or lines that are no
            names.
        OSError: if a file cannot be opened.
    """
    names, said = _read(source, kind, stamp(source))
    for line in said:
        log.info(line)
    return names


@lru_cache(maxsize=1)  # the runs of a sweep read the same files
def _read(source: Source, kind: str, _stamp: tuple[Any, ...]) -> tuple[Names, list[str]]:
    said: list[str] = []
    corpus: Corpus = {}
    counts: dict[str, Counter[str]] = {}
    sides: dict[str, Corpus] = {}
    no_labels, no_names = [], []
    for row in read_rows(source, said.append):
        name, line = fold(row.name, kind), row.name.strip()
        if not (row.label and row.label.isprintable()):
            no_labels.append(f"{row.where}: {row.label[:40]!r}")
        elif not name or len(row.name) > LONGEST or _CONTROL.search(line):
            no_names.append(f"{row.where}: {row.name[:40]!r}")
        else:
            corpus.setdefault(row.label, []).append(name)
            if row.side:
                sides.setdefault(row.side, {}).setdefault(row.label, []).append(name)
            if source.count_column and row.side in ("", "train"):
                counts.setdefault(row.label, Counter())[name] += row.times
    what = f"are no names: at least one letter that letters={kind} reads, at most {LONGEST}, no"
    what += " tab or other control character"
    what += "; letters=corpus reads any script" if kind == "tutorial" else ""
    no_category = "have no category, or one with a control character"
    for bad, why in (no_labels, no_category), (no_names, what):
        if bad:
            first = f"{source.path}: {len(bad):,} lines {why}"
            raise UserError("\n  ".join([first, *bad[:SHOWN]]))
    if len(corpus) < 2:
        raise UserError(f"{source}: holds one category only, {', '.join(corpus)}; needs two")
    order = sorted(corpus)
    by_side = {side: {c: names.get(c, []) for c in order} for side, names in sides.items()}
    return Names({c: corpus[c] for c in order}, counts, by_side), said
