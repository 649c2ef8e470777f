"""Some names are held out: which, depends on nothing but the names and the seed."""

import logging
from hashlib import sha256

from src.data.corpus import Corpus, Names
from src.data.letters import same_name
from src.errors import UserError

log = logging.getLogger(__name__)


def fingerprint(corpus: Corpus) -> str:
    """Return the SHA-256 of all categories and lines: equal only for the same corpus."""
    lines = (line for category, names in corpus.items() for line in (f"# {category}", *names))
    return sha256("\n".join(lines).encode()).hexdigest()


def split_names(
    names: Names, val_fraction: float, test_fraction: float, seed: int
) -> tuple[Corpus, Corpus, Corpus]:
    """Split as given; a side that is not given is held out of the others: see `split_corpus`.

    Raises:
        UserError: if a category has no names to train on, or too few to hold any out.
    """
    given = names.sides
    lines = given.get("") or given.get("train", {})
    if lacking := [category for category in names.corpus if not lines.get(category)]:
        raise UserError(f"{lacking[0]}: none of its names is to train on")
    of_val, of_test = 0 if "val" in given else val_fraction, 0 if "test" in given else test_fraction
    train, val, test = split_corpus(lines, of_val, of_test, seed)
    held_out = given.get("val", val), given.get("test", test)
    val, test = ({c: sorted({*side[c]}) for c in side} for side in held_out)
    if "" not in given:
        keys = [{same_name(n) for c in side for n in side[c]} for side in (train, val, test)]
        if several := sum(map(len, keys)) - len(set().union(*keys)):
            log.info(f"{several:,} names are on two of the sides given: scores flatter by that")
    return train, val, test


def split_corpus(
    corpus: Corpus, val_fraction: float, test_fraction: float, seed: int
) -> tuple[Corpus, Corpus, Corpus]:
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
    key_of = {name: same_name(name) for names in corpus.values() for name in names}
    first: dict[str, str] = {}
    for name in sorted(key_of):
        first.setdefault(key_of[name], name)
    distinct = {category: {key_of[name] for name in names} for category, names in corpus.items()}
    val: set[str] = set()
    test: set[str] = set()
    seen: set[str] = set()
    for category in sorted(corpus, key=lambda category: (len(distinct[category]), category)):
        names = sorted(distinct[category] - seen, key=lambda key: _rank(first[key], seed))
        seen.update(names)
        n_test = _share(test_fraction, len(names), at_most=len(names) - 1)
        n_val = _share(val_fraction, len(names), at_most=len(names) - 1 - n_test)
        test.update(names[:n_test])
        val.update(names[n_test : n_test + n_val])

    for key, fraction, side in ("val", val_fraction, val), ("test", test_fraction, test):
        if fraction and not side:
            key = f"{key}_fraction"
            raise UserError(f"{key}={fraction}: too few names to hold any out; use {key}=0")
    held_out = val | test
    train = {c: [n for n in names if key_of[n] not in held_out] for c, names in corpus.items()}
    if empty := [category for category, names in train.items() if not names]:
        why = "every name is held out, as a name of other categories too"
        raise UserError(f"{empty[0]}: {why}; lower val_fraction and test_fraction")

    def spellings(side: set[str]) -> Corpus:
        return {c: sorted({n for n in names if key_of[n] in side}) for c, names in corpus.items()}

    return train, spellings(val), spellings(test)


def _rank(name: str, seed: int) -> bytes:
    return sha256(f"{seed} {name}".encode()).digest()


def _share(fraction: float, count: int, at_most: int) -> int:
    share = round(fraction * count)
    if fraction and count >= 3:
        share = max(share, 1)
    return max(0, min(share, at_most))
