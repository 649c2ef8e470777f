import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from src.data.sampler import (
    RandomExamples,
    RunLength,
    ShuffledPasses,
    TrainBatchSampler,
    TrainingPosition,
)


def reference(counts: list[int], seed: int, n: int) -> list[tuple[int, int]]:
    rng = random.Random(seed)
    pairs = []
    for _ in range(n):
        category = rng.randint(0, len(counts) - 1)
        pairs.append((category, rng.randint(0, counts[category] - 1)))
    return pairs


@pytest.mark.parametrize("counts", [[3, 1, 5], [2000, 268, 519, 9384], [1, 1]])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_draws_equal_randint(counts: list[int], seed: int) -> None:
    numbered = [sum(counts[:c]) + line for c, line in reference(counts, seed, 500)]
    assert RandomExamples(counts, 1, seed).take(0, 500) == numbered


def test_sampler_can_start_anywhere() -> None:
    all_at_once = RandomExamples([3, 1, 5], 1, seed=7).take(0, 100)
    examples = RandomExamples([3, 1, 5], 1, seed=7)
    assert examples.take(40, 10) == all_at_once[40:50]  # ahead
    assert examples.take(50, 20) == all_at_once[50:70]  # going on
    assert examples.take(0, 100) == all_at_once  # back
    assert examples.take(99, 0) == []


def test_pass_contains_each_name_once_in_batches_of_similar_length() -> None:
    lengths = [1 + number * 7 % 12 for number in range(100)]
    passes = ShuffledPasses(lengths, batch_size=8, seed=3)
    first, second = ([passes.take(8 * (13 * p + i), 8) for i in range(13)] for p in range(2))
    for batches in (first, second):
        assert sorted(number for batch in batches for number in batch) == list(range(100))
        assert sorted(map(len, batches)) == [4] + [8] * 12
        spread = [max(lengths[n] for n in b) - min(lengths[n] for n in b) for b in batches]
        assert sum(spread) / 13 < 3  # 11 without sorting
    assert first != second
    assert passes.take(8 * 5, 8) == first[5]  # back in the first pass
    assert ShuffledPasses(lengths, batch_size=8, seed=4).take(0, 8) != first[0]


def test_names_of_an_iteration() -> None:
    assert RandomExamples([3, 1, 5], 1, seed=7).names_per_iteration == 1
    assert RandomExamples([3, 1, 5], 7, seed=7).names_per_iteration == 7
    assert ShuffledPasses([5] * 38, 7, seed=7).names_per_iteration == 38 / 6
    assert ShuffledPasses([5] * 38, 100, seed=7).names_per_iteration == 38


def examples() -> RandomExamples:
    return RandomExamples([3, 1, 5], 2, seed=7)


def passes() -> ShuffledPasses:
    return ShuffledPasses([1 + number % 5 for number in range(11)], 2, seed=7)


def batches(
    order: RandomExamples | ShuffledPasses,
    at: int,
    chunk_size: int = 1,
    part: tuple[int, int] = (0, 1),
) -> list[list[int]]:
    """Return those up to the next validation: of 100 iterations, at every 30th."""
    length = RunLength(100, 8, 30)
    return list(
        TrainBatchSampler(order, 2, chunk_size, lambda: TrainingPosition(at, *part), length)
    )


def test_batches_end_at_curve_points_and_epochs_at_validations() -> None:
    names = examples().take(0, 200)  # 2 an iteration
    marks = {0: [0, 5, 8, 13, 16, 21, 24, 29, 30], 60: [60, 64, 69, 72, 77, 80, 85, 88, 90]}
    marks |= {90: [90, 95, 96, 100], 12: [12, 16, 21, 24, 29, 30], 29: [29, 30], 99: [99, 100]}
    for at, bounds in marks.items():
        expected = [names[2 * a : 2 * b] for a, b in pairwise(bounds)]
        assert batches(examples(), at, chunk_size=5) == expected
    assert batches(examples(), 100) == []  # the run is over


@pytest.mark.parametrize("order", [examples, passes])
def test_names_of_a_resumed_run_equal_the_whole_run(
    order: Callable[[], RandomExamples | ShuffledPasses],
) -> None:
    whole = [batch for at in (0, 30, 60, 90) for batch in batches(order(), at)]
    assert len(whole) == 100
    same = order()
    for at in (57, 3, 30, 31, 29, 98):  # forward and back
        assert batches(same, at) == whole[at : min((at // 30 + 1) * 30, 100)]


@pytest.mark.parametrize("order", [examples, passes])
def test_parts_of_several_processes_are_disjoint_and_complete(
    order: Callable[[], RandomExamples | ShuffledPasses],
) -> None:
    whole = batches(order(), 3)
    parts = [batches(order(), 3, part=(process, 3)) for process in range(3)]
    for batch, *shared in zip(whole, *parts, strict=True):
        assert sorted(name for part in shared for name in part) == sorted(batch)
        assert max(map(len, shared)) - min(map(len, shared)) <= 1
