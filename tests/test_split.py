from hashlib import sha256
from itertools import chain, product

import pytest

from src.data.normalize import name_key
from src.data.readers.source import INCLUDED_CORPUS
from src.data.split import fingerprint, hold_out_distinct_names
from src.errors import UserError
from tests.helpers import read_corpus

Corpus = dict[str, list[str]]


@pytest.fixture(scope="module")
def included_corpus() -> Corpus:
    return read_corpus(INCLUDED_CORPUS)


def test_fingerprint_is_equal_only_for_the_same_corpus() -> None:
    # Adjacent names, categories or lines must not run together in the text that is hashed.
    corpora = [
        {"A": ["a", "b"], "B": ["c"]},
        {"A": ["a"], "B": ["b", "c"]},
        {"A": ["b", "a"], "B": ["c"]},
        {"A": ["a", "b", "b"], "B": ["c"]},
        {"A": ["a", "b"], "C": ["c"]},
        {"A": ["ab"], "B": ["c"]},
    ]
    fingerprints = {fingerprint(corpus) for corpus in corpora}
    assert len(fingerprints) == len(corpora)
    # Checkpoints store the fingerprint, so its definition must not change.
    lines = "# A\na\nb\n# B\nc"
    assert fingerprint(corpora[0]) == sha256(lines.encode()).hexdigest()


def hash_name(seed: int, name: str) -> bytes:
    """Return the hash by which the split orders names."""
    return sha256(f"{seed} {name}".encode()).digest()


@pytest.mark.parametrize("seed", [0, 1])
def test_split_is_disjoint_by_name_and_complete(included_corpus: Corpus, seed: int) -> None:
    splits = hold_out_distinct_names(included_corpus, 0.1, 0.1, seed)
    train, val, test = splits
    names_by_split = []
    for split in splits:
        names_by_split.append(set(chain.from_iterable(split.values())))
    train_names, val_names, test_names = names_by_split
    assert not train_names & val_names
    assert not train_names & test_names
    assert not val_names & test_names
    for category, names in included_corpus.items():
        # Training keeps every line in file order, because repeated names are drawn more often.
        assert train[category] == [name for name in names if name in train_names]
        # Each pair of a name and a category is scored once.
        assert val[category] == sorted(set(names) & val_names)
        assert test[category] == sorted(set(names) & test_names)


def test_split_is_stratified(included_corpus: Corpus) -> None:
    # Different fractions show that they are not exchanged.
    _, val, test = hold_out_distinct_names(included_corpus, 0.1, 0.2, seed=0)
    for category, names in included_corpus.items():
        n_names = len(set(names))
        # A name with several categories is held out of all of them, which moves the counts a bit.
        tolerance = 0.02 * n_names + 1
        assert len(val[category]) == pytest.approx(0.1 * n_names, abs=tolerance)
        assert len(test[category]) == pytest.approx(0.2 * n_names, abs=tolerance)


def test_split_depends_only_on_seed_and_names(included_corpus: Corpus) -> None:
    _, val, test = hold_out_distinct_names(included_corpus, 0.1, 0.1, seed=0)
    reordered = {}
    for category, names in reversed(included_corpus.items()):
        reordered[category] = names[::-1]
    _, val_of_reordered, _ = hold_out_distinct_names(reordered, 0.1, 0.1, seed=0)
    assert val_of_reordered == val
    _, val_of_another_seed, _ = hold_out_distinct_names(included_corpus, 0.1, 0.1, seed=1)
    assert val_of_another_seed != val
    # Vietnamese is the rarest category, so it is split first: 7 of its 71 names, by hash.
    ordered = sorted(set(included_corpus["Vietnamese"]), key=lambda name: hash_name(0, name))
    test_names = sorted(ordered[:7])
    assert test_names == ["Banh", "Chung", "Giang", "Mach", "Nghiem", "Vinh", "Vo"]
    assert test["Vietnamese"] == test_names


def test_split_without_held_out_names_is_the_whole_corpus(included_corpus: Corpus) -> None:
    train, val, test = hold_out_distinct_names(included_corpus, 0, 0, seed=0)
    assert train == included_corpus
    # Every category has an entry in each split, even if it is empty.
    assert not any(val.values())
    assert not any(test.values())


def test_spellings_of_a_name_are_in_the_same_split() -> None:
    names = ["".join(letters) + "n" for letters in product("BDGK", "aeiou", "lmr")]
    spellings = []
    for name in names:
        spellings += [name.upper(), name, f"{name[:2]} {name[2:]}"]
    corpus = {"A": spellings, "B": [f"x{name}" for name in names]}
    splits = hold_out_distinct_names(corpus, 0.2, 0.2, seed=0)
    train_keys, val_keys, test_keys = ({name_key(name) for name in split["A"]} for split in splits)
    assert (len(train_keys), len(val_keys), len(test_keys)) == (36, 12, 12)
    # Each name has three spellings, all of which are in its split.
    assert [len(split["A"]) for split in splits] == [108, 36, 36]
    assert len(train_keys | val_keys | test_keys) == 60
    # The hash of the first spelling in sorted order decides, which is the one in capitals.
    ordered = sorted(names, key=lambda name: hash_name(0, name.upper()))
    assert test_keys == {name_key(name) for name in ordered[:12]}


def test_small_categories() -> None:
    corpus = {"One": ["a"], "Three": ["b", "c", "d"], "Ten": [f"x{i}" for i in "abcdefghij"]}
    train, val, test = hold_out_distinct_names(corpus, 0.1, 0.1, seed=0)
    counts = {}
    for category in corpus:
        counts[category] = (len(train[category]), len(val[category]), len(test[category]))
    # A category gives a name to each split if one is left to train on.
    assert counts == {"One": (1, 0, 0), "Three": (1, 1, 1), "Ten": (8, 1, 1)}


def test_corpora_too_small_to_split() -> None:
    with pytest.raises(UserError, match=r"val_fraction=0\.1: too few names"):
        hold_out_distinct_names({"A": ["a"], "B": ["b"]}, 0.1, 0, seed=0)
    corpus = {"B": ["p", "q", "r"], "X": ["p", "x"], "Y": ["q", "y"], "Z": ["r", "z"]}
    # X, Y and Z are split first, and one of their two names is held out. With a seed that holds out
    # p, q and r, no name of B is left.
    seed = 0
    while not all(
        hash_name(seed, shared) < hash_name(seed, own) for shared, own in ("px", "qy", "rz")
    ):
        seed += 1
    with pytest.raises(UserError, match="B: no name is left to train on"):
        hold_out_distinct_names(corpus, 0.5, 0, seed)
