import random

import pytest

from src.data.sampler import Batches, Chunks, Passes, RandomExamples


def reference(counts: list[int], seed: int, n: int) -> list[tuple[int, int]]:
    rng = random.Random(seed)
    pairs = []
    for _ in range(n):
        category = rng.randint(0, len(counts) - 1)
        pairs.append((category, rng.randint(0, counts[category] - 1)))
    return pairs


@pytest.mark.parametrize("counts", [[3, 1, 5], [2000, 268, 519, 9384], [1, 1]])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_draws_are_the_tutorials(counts: list[int], seed: int) -> None:
    numbered = [sum(counts[:c]) + line for c, line in reference(counts, seed, 500)]
    assert RandomExamples(counts, seed).take(0, 500) == numbered


def test_starts_anywhere_as_if_it_had_drawn_up_to_there() -> None:
    all_at_once = RandomExamples([3, 1, 5], seed=7).take(0, 100)
    examples = RandomExamples([3, 1, 5], seed=7)
    assert examples.take(40, 10) == all_at_once[40:50]  # ahead
    assert examples.take(50, 20) == all_at_once[50:70]  # going on
    assert examples.take(0, 100) == all_at_once  # back
    assert examples.take(99, 0) == []


def test_chunks() -> None:
    all_at_once = RandomExamples([3, 1, 5], seed=7).take(0, 25)
    chunks = Chunks(RandomExamples([3, 1, 5], seed=7), start=5, stop=25, size=8, mark=20)
    assert len(chunks) == 3
    assert list(chunks) == [all_at_once[5:13], all_at_once[13:20], all_at_once[20:25]]
    assert list(chunks) == list(chunks)


def test_a_pass_holds_each_name_once_in_batches_of_similar_length() -> None:
    lengths = [1 + number * 7 % 12 for number in range(100)]
    passes = Passes(lengths, size=8, seed=3)
    first, second = ([passes.batch(13 * p + i) for i in range(13)] for p in range(2))
    for batches in (first, second):
        assert sorted(number for batch in batches for number in batch) == list(range(100))
        assert sorted(map(len, batches)) == [4] + [8] * 12
        spread = [max(lengths[n] for n in b) - min(lengths[n] for n in b) for b in batches]
        assert sum(spread) / 13 < 3  # 11 without sorting
    assert first != second
    assert passes.batch(5) == first[5]  # back in the first pass
    assert Passes(lengths, size=8, seed=4).batch(0) != first[0]


def test_batches() -> None:
    batches = Batches(lambda iteration: [iteration, -iteration], 3, 6)
    assert len(batches) == 3
    assert list(batches) == list(batches) == [[3, -3], [4, -4], [5, -5]]
