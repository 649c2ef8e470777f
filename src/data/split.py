"""Some names are held out: which, depends on nothing but the names and the seed."""

from hashlib import sha256

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
    lines = given.get("") or given.get("train", {})
    if lacking := [category for category in names.corpus if not lines.get(category)]:
        raise UserError(f"{lacking[0]}: none of its names is to train on")
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
    key_of = {name: same_name(name) for names in corpus.values() for name in names}
    first = {key_of[name]: name for name in sorted(key_of, reverse=True)}  # spelling of each
    rank = {key: sha256(f"{seed} {name}".encode()).digest() for key, name in first.items()}
    distinct = {category: {key_of[name] for name in names} for category, names in corpus.items()}
    val, test, seen = set[str](), set[str](), set[str]()
    for category in sorted(corpus, key=lambda category: (len(distinct[category]), category)):
        names = sorted(distinct[category] - seen, key=rank.__getitem__)
        seen.update(names)
        n_test = _share(test_fraction, len(names), at_most=len(names) - 1)
        n_val = _share(val_fraction, len(names), at_most=len(names) - 1 - n_test)
        test.update(names[:n_test])
        val.update(names[n_test : n_test + n_val])

    sides = {"val_fraction": (val_fraction, val), "test_fraction": (test_fraction, test)}
    for key, (fraction, side) in sides.items():
        if fraction and not side:
            raise UserError(f"{key}={fraction}: too few names to hold any out; use {key}=0")
    held_out = val | test
    train = {c: [n for n in names if key_of[n] not in held_out] for c, names in corpus.items()}
    for category in (c for c, names in train.items() if not names):
        why = "every name is held out, as a name of other categories too"
        raise UserError(f"{category}: {why}; lower val_fraction and test_fraction")

    def spellings(side: set[str]) -> Corpus:
        return {c: sorted({n for n in names if key_of[n] in side}) for c, names in corpus.items()}

    return train, spellings(val), spellings(test)


def _share(fraction: float, count: int, at_most: int) -> int:
    at_least = 1 if fraction and count >= 3 else 0
    return max(0, min(max(round(fraction * count), at_least), at_most))
