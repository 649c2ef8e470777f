"""The names of a folder or a table, read, folded and checked.

In memory a corpus is a dictionary from category, in sorted order, to the folded names of its lines,
in file order.
"""

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from src.data.letters import LONGEST, fold
from src.data.tables import Source, read_rows
from src.errors import UserError

Corpus = dict[str, list[str]]

SHOWN = 5
"""Of the lines that are no names, at most."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What no list of names has in a line: the file is something else, a table perhaps."""


class Names(NamedTuple):
    """What a source holds, folded."""

    sides: dict[str, Corpus]
    """The names of `train`, `val` and `test`, where the split is given; else all, as ``."""
    counts: dict[str, Counter[str]]
    """Of each category, the lines that each name to train on counts for; empty if not said. Then a
    side has a name once."""

    @property
    def corpus(self) -> Corpus:
        """All names."""
        first, *more = self.sides.values()
        return {c: sum((side[c] for side in more), first[c]) for c in first}


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
    found: Any = defaultdict(Counter if source.count_column else list)
    no_labels, no_names = [], []
    for row in read_rows(source):
        name = fold(row.name, kind)
        if not (row.label and row.label.isprintable()):
            no_labels.append(f"{row.where}: {row.label[:40]!r}")
        elif not name or len(row.name) > LONGEST or CONTROL.search(row.name.strip()):
            no_names.append(f"{row.where}: {row.name[:40]!r}")
        elif source.count_column:
            found[row.side, row.label][name] += row.times
        else:
            found[row.side, row.label].append(name)
    what = f"are no names: at least one letter that letters={kind} reads, at most {LONGEST}, no"
    what += " tab or other control character"
    what += "; letters=corpus reads any script" if kind == "tutorial" else ""
    no_category = "have no category, or one with a control character"
    for bad, why in (no_labels, no_category), (no_names, what):
        if bad:
            first = f"{source.path}: {len(bad):,} lines {why}"
            raise UserError("\n  ".join([first, *bad[:SHOWN]]))
    categories = sorted({label for _, label in found})
    if len(categories) < 2:
        raise UserError(f"{source}: holds one category only, {', '.join(categories)}; needs two")
    order = sorted({side for side, _ in found}, key=("", "train", "val", "test").index)
    sides = {side: {c: [*found.get((side, c), ())] for c in categories} for side in order}
    counts = {c: found.get((order[0], c), Counter()) for c in categories}
    return Names(sides, counts if source.count_column else {})
