"""The names of a folder or a table, read, folded and checked.

In memory a corpus is a dictionary from category, in sorted order, to the folded names of its lines,
in file order.
"""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from src.data.letters import LONGEST, fold, printable
from src.data.tables import Row, Source, read_rows
from src.errors import UserError

Corpus = dict[str, list[str]]
Bad = dict[str, list[str]]
"""What is wrong with lines → where they are, and how they begin."""

SHOWN = 5
"""Of the lines that are no names, at most."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What no list of names has in a line: the file is something else, a table perhaps."""

log = logging.getLogger(__name__)


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


@lru_cache(maxsize=4)  # the runs of a sweep read the same files
def _read(source: Source, kind: str, _stamps: Any) -> Names:
    counted = source.count_column
    found: Any = defaultdict(Counter if counted else list)
    bad: Bad = defaultdict(list)
    for row, name in good_rows(source, kind, bad):
        if counted:
            found[row.side, row.label][name] += row.times
        else:
            found[row.side, row.label].append(name)
    for why, lines in bad.items():
        first = f"{source.path}: {len(lines):,} lines {why}"
        raise UserError("\n  ".join([first, *lines[:SHOWN]]))
    counts = {c: of for (side, c), of in found.items() if counted and side in ("", "train")}
    return Names(in_order(found), counts)


def read_names(source: Source, kind: str = "ascii", fewest: int = 2) -> Names:
    """Read the names of a source, folded to letters of a kind.

    Blank lines, a byte-order mark and the kind of line ends do not matter.

    Raises:
        UserError: if it cannot be read, holds fewer than `fewest` categories, or lines that are no
            names.
        OSError: if a file cannot be opened.
    """
    stats = [(file, file.stat()) for file in source.files]
    names = _read(source, kind, tuple((file, s.st_size, s.st_mtime_ns) for file, s in stats))
    categories, *_ = names.sides.values()
    if len(categories) < fewest:
        raise UserError(f"{source}: holds one category only, {', '.join(categories)}; needs two")
    return names


def good_rows(
    source: Source, kind: str, bad: Bad, say: Callable[[str], None] = log.info
) -> Iterator[tuple[Row, str]]:
    """Yield each row that is a name, and that name, folded; see `read_rows`.

    Args:
        source: where they are.
        kind: of letters.
        bad: is given the places of all other rows, under what is wrong with them.
        say: is told what was guessed.
    """
    no_label = "have no category, or one with a control character"
    no_name = f"are no names: at least one letter that letters={kind} reads, at most {LONGEST}, no"
    no_name += " tab or other control character"
    no_name += "; letters=corpus reads any script" if kind == "tutorial" else ""
    for row in read_rows(source, say):
        name = fold(row.name, kind)
        if not (row.label and row.label.isprintable()):
            bad[no_label].append(printable(f"{row.where}: {row.label[:40]!r}"))
        elif not name or len(row.name) > LONGEST or CONTROL.search(row.name.strip()):
            bad[no_name].append(f"{row.where}: {row.name[:40]!r}")
        else:
            yield row, name


def in_order(found: dict[tuple[str, str], Iterable[str]]) -> dict[str, Corpus]:
    """Return the names of each side and category as `Names` has them; at least one side."""
    categories = sorted({label for _, label in found})
    order = sorted({side for side, _ in found}, key=("", "train", "val", "test").index) or [""]
    return {side: {c: [*found.get((side, c), ())] for c in categories} for side in order}
