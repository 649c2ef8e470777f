import random

import pytest

from src.data.sampler import Chunks, RandomExamples


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
