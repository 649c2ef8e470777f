from hashlib import sha256

import pytest

from src.data.normalize import name_key
from src.data.readers.source import INCLUDED_CORPUS
from src.data.split import fingerprint, hold_out_distinct_names
from src.errors import UserError
from tests.helpers import read_corpus


@pytest.fixture(scope="module")
def shipped() -> dict[str, list[str]]:
    return read_corpus(INCLUDED_CORPUS)


def test_fingerprint_is_equal_only_for_the_same_corpus() -> None:
    corpora = [
        {"A": ["a", "b"], "B": ["c"]},
        {"A": ["a"], "B": ["b", "c"]},
        {"A": ["b", "a"], "B": ["c"]},
        {"A": ["a", "b", "b"], "B": ["c"]},
        {"A": ["a", "b"], "C": ["c"]},
        {"A": ["ab"], "B": ["c"]},
    ]
    assert len({fingerprint(corpus) for corpus in corpora}) == len(corpora)
    lines = "# A\na\nb\n# B\nc"
    assert fingerprint(corpora[0]) == sha256(lines.encode()).hexdigest()


def rank(seed: int, name: str) -> bytes:
    return sha256(f"{seed} {name}".encode()).digest()


@pytest.mark.parametrize("seed", [0, 1])
def test_split_is_disjoint_by_name_and_complete(shipped: dict[str, list[str]], seed: int) -> None:
    train, val, test = hold_out_distinct_names(shipped, 0.1, 0.1, seed)
    sides = [{n for names in side.values() for n in names} for side in (train, val, test)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    for category, names in shipped.items():
        assert train[category] == [n for n in names if n in sides[0]]  # every line, in file order
        assert val[category] == sorted(set(names) & sides[1])  # each pair once
        assert test[category] == sorted(set(names) & sides[2])


def test_split_is_stratified(shipped: dict[str, list[str]]) -> None:
    _, val, test = hold_out_distinct_names(shipped, 0.1, 0.2, seed=0)
    for category, names in shipped.items():
        distinct = len(set(names))
        assert len(val[category]) == pytest.approx(0.1 * distinct, abs=0.02 * distinct + 1)
        assert len(test[category]) == pytest.approx(0.2 * distinct, abs=0.02 * distinct + 1)


def test_split_depends_only_on_seed_and_names(shipped: dict[str, list[str]]) -> None:
    shuffled = {category: names[::-1] for category, names in reversed(shipped.items())}
    assert (
        hold_out_distinct_names(shuffled, 0.1, 0.1, 0)[1]
        == hold_out_distinct_names(shipped, 0.1, 0.1, 0)[1]
    )
    assert (
        hold_out_distinct_names(shipped, 0.1, 0.1, 1)[1]
        != hold_out_distinct_names(shipped, 0.1, 0.1, 0)[1]
    )
    # Vietnamese is the rarest category, so nothing goes before it: 7 of 71, by hash.
    ranked = sorted(set(shipped["Vietnamese"]), key=lambda name: rank(0, name))
    chosen = sorted(ranked[:7])
    assert chosen == ["Banh", "Chung", "Giang", "Mach", "Nghiem", "Vinh", "Vo"]
    assert hold_out_distinct_names(shipped, 0.1, 0.1, 0)[2]["Vietnamese"] == chosen


def test_split_without_held_out_names_is_the_whole_corpus(shipped: dict[str, list[str]]) -> None:
    train, val, test = hold_out_distinct_names(shipped, 0, 0, seed=0)
    assert train == shipped
    assert not any(val.values())
    assert not any(test.values())


def test_spellings_of_a_name_are_in_the_same_split() -> None:
    plain = [f"{a}{b}{c}n" for a in "BDGK" for b in "aeiou" for c in "lmr"]
    written = [f(name) for name in plain for f in (str.upper, str, lambda n: f"{n[:2]} {n[2:]}")]
    corpus = {"A": written, "B": [f"x{name}" for name in plain]}
    sides = hold_out_distinct_names(corpus, 0.2, 0.2, seed=0)
    seen = [{name_key(name) for name in side["A"]} for side in sides]
    assert [len(keys) for keys in seen] == [36, 12, 12]
    assert [len(side["A"]) for side in sides] == [108, 36, 36]  # every spelling goes along
    assert len(seen[0] | seen[1] | seen[2]) == 60
    # What chooses is the first spelling in sorted order: the capitals.
    ranked = sorted(plain, key=lambda name: rank(0, name.upper()))
    assert seen[2] == set(map(name_key, ranked[:12]))


def test_small_categories() -> None:
    corpus = {"One": ["a"], "Three": ["b", "c", "d"], "Ten": [f"x{i}" for i in "abcdefghij"]}
    train, val, test = hold_out_distinct_names(corpus, 0.1, 0.1, seed=0)
    assert {c: (len(train[c]), len(val[c]), len(test[c])) for c in corpus} == {
        "One": (1, 0, 0),
        "Three": (1, 1, 1),
        "Ten": (8, 1, 1),
    }


def test_corpora_too_small_to_split() -> None:
    with pytest.raises(UserError, match=r"val_fraction=0\.1: too few names"):
        hold_out_distinct_names({"A": ["a"], "B": ["b"]}, 0.1, 0, seed=0)
    crossed = {"B": ["p", "q", "r"], "X": ["p", "x"], "Y": ["q", "y"], "Z": ["r", "z"]}
    # X, Y and Z go first and give one of two; this seed takes p, q and r.
    seed = next(
        s for s in range(1000) if all(rank(s, n) < rank(s, o) for n, o in ("px", "qy", "rz"))
    )
    with pytest.raises(UserError, match="B: no name is left to train on"):
        hold_out_distinct_names(crossed, 0.5, 0, seed)
