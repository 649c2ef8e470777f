"""Some names are held out: which, depends on nothing but the names and the seed."""

from collections import defaultdict
from hashlib import sha256
from itertools import compress, count

import numpy as np

from src.data.corpus import Corpus, Names
from src.data.letters import same_name
from src.errors import UserError

Split = tuple[Corpus, Corpus, Corpus]
"""What to train on, to validate and to test."""


def fingerprint(corpus: Corpus) -> str:
    """Return the SHA-256 of all categories and lines: equal only for the same corpus."""
    lines = (line for category, names in corpus.items() for line in (f"# {category}", *names))
    return sha256("\n".join(lines).encode()).hexdigest()


def split_names(names: Names, val_fraction: float, test_fraction: float, seed: int) -> Split:
    """Split as given; a side that is not given is held out of the others: see `split_corpus`.

    Raises:
        UserError: if a category has no names to train on, or too few to hold any out.
    """
    given = names.sides
    lines = given.get("") or given.get("train") or {category: [] for category in names.corpus}
    of_val, of_test = 0 if "val" in given else val_fraction, 0 if "test" in given else test_fraction
    train, val, test = split_corpus(lines, of_val, of_test, seed)
    held_out = given.get("val", val), given.get("test", test)
    val, test = ({c: sorted({*side[c]}) for c in side} for side in held_out)
    return train, val, test


def split_corpus(corpus: Corpus, val_fraction: float, test_fraction: float, seed: int) -> Split:
    """Hold out distinct names: → the training lines, the validation names, the test names.

    A held-out name takes every line that has it along, whatever the category and however it is
    cased, spaced or punctuated (`same_name`), so no name is on two sides. The held-out sides hold
    each pair of a spelling and a category once.

    Stratified: the fractions are of each category's distinct names; a name of several categories
    counts in the rarest of them. A category keeps at least one name of its own for training, and
    gives at least one to each held-out side if it has three. Which names: those whose first
    spelling has, together with the seed, the lowest SHA-256, so the choice depends on nothing but
    seed and names.

    Raises:
        UserError: if the corpus is too small for these fractions.
    """
    number = defaultdict[str, int](count().__next__)  # of each name
    of = {c: np.array([number[same_name(n)] for n in names], int) for c, names in corpus.items()}
    first = [""] * len(number)  # spelling of each, in sorted order
    del number  # of ten million names half a gigabyte
    for category, names in corpus.items():
        for i, name in zip(of[category].tolist(), names, strict=True):
            first[i] = min(name, first[i] or name)
    digests = (sha256(f"{seed} {name}".encode()).digest() for name in first)
    rank = np.fromiter(digests, "S32", len(first))
    side = np.full(len(first), -1, np.int8)  # of each: 0, 1 or 2 of a Split
    distinct = ((category, np.unique(numbers)) for category, numbers in of.items())
    for _, own in sorted(distinct, key=lambda each: (len(each[1]), each[0])):
        own = own[side[own] < 0]
        own = own[rank[own].argsort()]
        n_test = _share(test_fraction, len(own), at_most=len(own) - 1)
        n_val = _share(val_fraction, len(own), at_most=len(own) - 1 - n_test)
        side[own] = [2] * n_test + [1] * n_val + [0] * (len(own) - n_test - n_val)

    def lines(i: int) -> Corpus:
        return {c: [*compress(names, (side[of[c]] == i).tolist())] for c, names in corpus.items()}

    train, val, test = map(lines, range(3))
    for category in (c for c, names in train.items() if not names):
        why = "no name is left to train on; add some, or lower val_fraction and test_fraction"
        raise UserError(f"{category}: {why}")
    fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    for i, (key, fraction) in enumerate(fractions.items(), start=1):
        if fraction and not (side == i).any():
            raise UserError(f"{key}={fraction}: too few names to hold any out; use {key}=0")
    val, test = ({c: sorted({*names}) for c, names in held_out.items()} for held_out in (val, test))
    return train, val, test


def _share(fraction: float, count: int, at_most: int) -> int:
    at_least = 1 if fraction and count >= 3 else 0
    return max(0, min(max(round(fraction * count), at_least), at_most))
