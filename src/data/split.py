"""Holds out names for validation and test. The choice depends on the names and the seed alone.

Shapes: N distinct names.
"""

from hashlib import sha256
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.data.corpus import NO_SPLIT, Corpus, NamesByCategory, sorted_unique_names
from src.data.normalize import name_key
from src.data.readers import DataSource
from src.errors import UserError

UNASSIGNED = -1
TRAIN = 0
VAL = 1
TEST = 2
"""Codes of the splits in the arrays below."""

DIGEST_TYPE = "S32"
"""NumPy's type of a SHA-256 digest: 32 bytes. Digests are sorted in the order of the big-endian
integers that they represent."""

FINGERPRINT_KEYS = ("all", "train", "val", "test", "counts")

Integers = NDArray[np.integer[Any]]


class Split(NamedTuple):
    """The names to train on, to validate with and to test with."""

    train: NamesByCategory
    val: NamesByCategory
    test: NamesByCategory


class SplitRecord(NamedTuple):
    """How a run split its names, with fingerprints that tell whether the names have changed."""

    source: DataSource
    seed: int
    val_fraction: float
    test_fraction: float
    fingerprints: dict[str, str]
    """Hashes of the names. The keys are `train`, `val`, `test`, `all` for all names and, if the
    source has counts, `counts` for the numbers of lines."""
    longest_train_name: int = 0
    """Number of letters of the longest training name; 0 if an older version wrote the record."""

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values. The keys are part of the checkpoint format."""
        return {
            **self.source._asdict(),
            "seed": self.seed,
            "val_fraction": self.val_fraction,
            "test_fraction": self.test_fraction,
            "longest_train_name": self.longest_train_name,
            **self.fingerprints,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SplitRecord":
        """Build a record from the dictionary that `to_dict` returns.

        Raises:
            ValueError: if a value is invalid. A missing or wrong value can raise other errors.
        """
        source = {key: values.get(key) for key in DataSource._fields}
        for text in source.values():
            # Messages show these settings, and unprintable characters could control the terminal.
            if text is not None and not text.isprintable():
                raise ValueError("a path or a column is not printable")
        val_fraction = float(values["val_fraction"])
        test_fraction = float(values["test_fraction"])
        for fraction in (val_fraction, test_fraction):
            if not 0 <= fraction < 1:
                raise ValueError("a held-out fraction is not between 0 and 1")
        # Only sources with counts have the fingerprint `counts`.
        fingerprints = {key: str(values[key]) for key in FINGERPRINT_KEYS if key in values}
        return cls(
            source=DataSource(**source),
            seed=int(values["seed"]),
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            fingerprints=fingerprints,
            longest_train_name=int(values.get("longest_train_name", 0)),
        )


def fingerprint(names: NamesByCategory) -> str:
    """Return a SHA-256 hash of all categories and names, in their order."""
    # The text that is hashed has a line `# category` for each category, followed by its names.
    lines = []
    for category, category_names in names.items():
        lines.append(f"# {category}")
        lines += category_names
    return sha256("\n".join(lines).encode()).hexdigest()


def split_corpus(corpus: Corpus, val_fraction: float, test_fraction: float, seed: int) -> Split:
    """Split a corpus into training, validation and test names.

    Splits that the source gives are kept. Missing splits are taken from the remaining names; see
    `hold_out_distinct_names`.

    Raises:
        UserError: if a category has no names to train on, or a split would have no names.
    """
    given = corpus.splits
    if NO_SPLIT in given:
        names = given[NO_SPLIT]
    elif "train" in given:
        names = given["train"]
    else:
        category = next(iter(corpus.all_names))
        reason = "the source has splits, but no split `train`"
        raise UserError(f"{category}: no name is left to train on; {reason}")
    held_out = hold_out_distinct_names(
        names,
        val_fraction=0 if "val" in given else val_fraction,
        test_fraction=0 if "test" in given else test_fraction,
        seed=seed,
    )
    # Names that the source gives for a split are used as they are, whatever the seed.
    val = held_out.val
    if "val" in given:
        val = sorted_unique_names(given["val"])
    test = held_out.test
    if "test" in given:
        test = sorted_unique_names(given["test"])
    return Split(held_out.train, val, test)


def hold_out_distinct_names(
    names: NamesByCategory, val_fraction: float, test_fraction: float, seed: int
) -> Split:
    """Hold out a random choice of distinct names for validation and test.

    All lines with the same `name_key` go to the same split, whatever their category. The training
    names keep repeated lines; the other splits have each name once per category.

    The choice is stratified: the fractions apply to the distinct names of each category, where a
    name with several categories counts in the rarest of them. A category keeps at least one of
    these names for training. If it has three or more, it gives at least one to each split with a
    fraction above 0.

    The names with the lowest hashes are chosen. A hash is the SHA-256 of the seed and the
    alphabetically first spelling of a name, so the choice depends on nothing else.

    Raises:
        UserError: if a category has no names left to train on, or a split would have no names.
    """
    # Names are handled as integer ids in arrays: a corpus may have millions of them.
    name_ids, spellings = group_spellings_by_name_key(names)
    hashes = hash_names(spellings, seed)  # [N]
    splits = assign_splits(name_ids, hashes, val_fraction, test_fraction)  # [N]

    # All names of a category may have been held out by a rarer category that shares them.
    train = select_lines(names, name_ids, splits == TRAIN)
    for category, lines in train.items():
        if not lines:
            remedy = "add some, or lower val_fraction and test_fraction"
            raise UserError(f"{category}: no name is left to train on; {remedy}")
    # If all categories have fewer than three names, a small fraction holds out no name at all; see
    # `count_held_out`.
    for key, fraction, code in (
        ("val_fraction", val_fraction, VAL),
        ("test_fraction", test_fraction, TEST),
    ):
        if fraction and not (splits == code).any():
            raise UserError(f"{key}={fraction}: too few names to hold any out; use {key}=0")
    val = select_lines(names, name_ids, splits == VAL)
    test = select_lines(names, name_ids, splits == TEST)
    return Split(train, sorted_unique_names(val), sorted_unique_names(test))


class DistinctNames(NamedTuple):
    """The distinct names of all categories, with ids from 0 to N - 1."""

    id_of_each_line: dict[str, Integers]
    """For each category, the id of the name on each of its lines."""
    first_spellings: list[str]
    """For each id, the alphabetically first spelling of the name [N]."""


def group_spellings_by_name_key(names: NamesByCategory) -> DistinctNames:
    """Assign ids to the distinct names; spellings with the same `name_key` share an id."""
    id_of_key: dict[str, int] = {}
    name_ids: dict[str, Integers] = {}
    spellings: list[str] = []
    for category, lines in names.items():
        line_ids = []
        for name in lines:
            key = name_key(name)
            if key not in id_of_key:
                id_of_key[key] = len(spellings)
                spellings.append(name)
            name_id = id_of_key[key]
            # The first spelling in sorted order does not depend on the order of the lines.
            spellings[name_id] = min(name, spellings[name_id])
            line_ids.append(name_id)
        name_ids[category] = np.array(line_ids, int)
    return DistinctNames(name_ids, spellings)


def hash_names(spellings: list[str], seed: int) -> NDArray[np.bytes_]:
    """Return the SHA-256 of the seed and each name [N]."""
    # A generator, because a list of digests would take more memory than the array.
    digests = (sha256(f"{seed} {name}".encode()).digest() for name in spellings)
    return np.fromiter(digests, DIGEST_TYPE, len(spellings))


def assign_splits(
    name_ids: dict[str, Integers],
    hashes: NDArray[np.bytes_],
    val_fraction: float,
    test_fraction: float,
) -> NDArray[np.int8]:
    """Return the code of the split of each distinct name [N].

    Args:
        name_ids: the ids of each category's names; see `group_spellings_by_name_key`.
        hashes: the hash of each name [N]; low ones are held out.
        val_fraction: fraction of each category's names to hold out for validation.
        test_fraction: fraction of each category's names to hold out for the test.
    """
    # One byte for each name is sufficient for the codes.
    splits = np.full(len(hashes), UNASSIGNED, np.int8)
    distinct = {category: np.unique(ids) for category, ids in name_ids.items()}
    # A name with several categories counts in the rarest of them, so the rarest category chooses
    # first.
    rarest_first = sorted(distinct, key=lambda category: (len(distinct[category]), category))
    for category in rarest_first:
        ids = distinct[category]
        unassigned = ids[splits[ids] == UNASSIGNED]  # the names that no rarer category has
        by_hash = unassigned[hashes[unassigned].argsort()]
        n_names = len(by_hash)
        n_available = n_names - 1  # one name remains for training; -1 if there are no names
        n_test = count_held_out(test_fraction, n_names, n_available)
        n_val = count_held_out(val_fraction, n_names, n_available - n_test)
        n_held_out = n_test + n_val
        splits[by_hash[:n_test]] = TEST
        splits[by_hash[n_test:n_held_out]] = VAL
        splits[by_hash[n_held_out:]] = TRAIN
    return splits


def count_held_out(fraction: float, n_names: int, n_available: int) -> int:
    """Return how many of a category's names to hold out for one split.

    Args:
        fraction: fraction of the names to hold out.
        n_names: number of names of the category.
        n_available: maximum number of names to hold out.
    """
    n_held_out = round(fraction * n_names)
    # Even a small category should be validated and tested, unless it needs its names for training.
    if fraction > 0 and n_names >= 3:
        n_held_out = max(n_held_out, 1)
    return max(0, min(n_held_out, n_available))


def select_lines(
    names: NamesByCategory, name_ids: dict[str, Integers], is_selected: NDArray[np.bool_]
) -> NamesByCategory:
    """Return the lines whose names are selected.

    Args:
        names: the lines of each category.
        name_ids: the id of the name on each line; see `group_spellings_by_name_key`.
        is_selected: whether each distinct name is selected [N].
    """
    selected: NamesByCategory = {}
    for category, lines in names.items():
        # A list, because iterating over an array is slow.
        is_line_selected = is_selected[name_ids[category]].tolist()
        selected[category] = list(compress(lines, is_line_selected))
    return selected
