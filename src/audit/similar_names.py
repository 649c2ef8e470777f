"""Finds names that differ in a single letter."""

from collections import defaultdict
from collections.abc import Iterable


def find_names_one_letter_apart(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Map each name that is one letter apart from another name to that other name.

    A letter may be replaced, inserted or removed. Equal names are not one letter apart. If several
    other names are, the last one is returned.
    """
    # Comparing all pairs would take too long. Two names are one letter apart if and only if they
    # are different and share a pattern.
    names_by_pattern = defaultdict(list)
    for name in names:
        for pattern in gap_patterns(name):
            names_by_pattern[pattern].append(name)
    if not names_by_pattern:
        return {}
    found = {}
    for other in others:
        for pattern in gap_patterns(other):
            for name in names_by_pattern.get(pattern, ()):
                if name != other:
                    found[name] = other
    return found


def gap_patterns(name: str) -> list[str]:
    """Return all patterns that a name has with a gap, `*`, for one letter.

    The gap replaces a letter or is inserted between two: `lee` has the patterns `*ee`, `l*e`,
    `le*`, `*lee`, `l*ee`, `le*e` and `lee*`.
    """
    patterns = []
    for start in range(len(name) + 1):
        before = name[:start]
        patterns.append(f"{before}*{name[start:]}")
        patterns.append(f"{before}*{name[start + 1 :]}")
    return patterns
