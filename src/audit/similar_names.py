"""Finds names that differ in a single letter."""

from collections import defaultdict
from collections.abc import Iterable


def find_names_one_letter_apart(names: Iterable[str], candidates: Iterable[str]) -> dict[str, str]:
    """Map each name that is one letter apart from a candidate to that candidate.

    A letter may be replaced, inserted or removed. Equal names are not one letter apart. If there
    are several such candidates, the name is mapped to the last one.
    """
    # Comparing all pairs would take too long. Two names are one letter apart if and only if they
    # are different and share a pattern.
    names_by_pattern = defaultdict(list)
    for name in names:
        for pattern in make_gap_patterns(name):
            names_by_pattern[pattern].append(name)
    # Without names, computing the patterns of all candidates would be a waste of time.
    if not names_by_pattern:
        return {}
    similar_candidates = {}
    for candidate in candidates:
        for pattern in make_gap_patterns(candidate):
            for name in names_by_pattern.get(pattern, ()):
                if name != candidate:
                    similar_candidates[name] = candidate
    return similar_candidates


def make_gap_patterns(name: str) -> list[str]:
    """Return all patterns that a name has with a gap, `*`, for one letter.

    The gap replaces a letter or is inserted anywhere: `lee` has the patterns `*ee`, `l*e`,
    `le*`, `*lee`, `l*ee`, `le*e` and `lee*`.
    """
    patterns = []
    for start in range(len(name) + 1):
        before = name[:start]
        patterns.append(f"{before}*{name[start:]}")
        if start < len(name):
            patterns.append(f"{before}*{name[start + 1 :]}")
    return patterns
