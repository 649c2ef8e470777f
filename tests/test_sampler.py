import random
from collections.abc import Callable
from itertools import chain, pairwise

import pytest

from src.data.sampler import (
    RandomExamples,
    RunLength,
    ShuffledPasses,
    TrainBatchSampler,
    TrainingPosition,
)


def draw_examples(counts: list[int], seed: int, n_examples: int) -> list[int]:
    """Draw a category and then one of its lines, as the tutorial does, and number all lines."""
    generator = random.Random(seed)
    lines = []
    for _ in range(n_examples):
        category = generator.randint(0, len(counts) - 1)
        first_line = sum(counts[:category])
        lines.append(first_line + generator.randint(0, counts[category] - 1))
    return lines


@pytest.mark.parametrize("counts", [[3, 1, 5], [2000, 268, 519, 9384], [1, 1]])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_draws_equal_randint(counts: list[int], seed: int) -> None:
    assert RandomExamples(counts, 1, seed).take(0, 500) == draw_examples(counts, seed, 500)


def test_sampler_can_start_anywhere() -> None:
    all_at_once = RandomExamples([3, 1, 5], 1, seed=7).take(0, 100)
    examples = RandomExamples([3, 1, 5], 1, seed=7)
    # The first call skips examples, the second continues, and the third one starts again.
    assert examples.take(40, 10) == all_at_once[40:50]
    assert examples.take(50, 20) == all_at_once[50:70]
    assert examples.take(0, 100) == all_at_once
    assert examples.take(99, 0) == []


def test_pass_contains_each_name_once_in_batches_of_similar_length() -> None:
    lengths = [1 + number * 7 % 12 for number in range(100)]
    sampler = ShuffledPasses(lengths, batch_size=8, seed=3)
    all_batches = [sampler.take(8 * iteration, 8) for iteration in range(26)]
    # A pass over 100 names has 12 batches of 8 names and one of 4.
    first_pass = all_batches[:13]
    second_pass = all_batches[13:]
    for batches in (first_pass, second_pass):
        assert sorted(chain.from_iterable(batches)) == list(range(100))
        assert sorted(map(len, batches)) == [4] + [8] * 12
        ranges = []
        for batch in batches:
            batch_lengths = [lengths[number] for number in batch]
            ranges.append(max(batch_lengths) - min(batch_lengths))
        # Without sorting by length, nearly all batches would have a range of 11.
        assert sum(ranges) / 13 < 3
    assert first_pass != second_pass
    # The sampler can return to a batch of the first pass.
    assert sampler.take(8 * 5, 8) == first_pass[5]
    assert ShuffledPasses(lengths, batch_size=8, seed=4).take(0, 8) != first_pass[0]


def test_names_of_an_iteration() -> None:
    assert RandomExamples([3, 1, 5], 1, seed=7).names_per_iteration == 1
    assert RandomExamples([3, 1, 5], 7, seed=7).names_per_iteration == 7
    # 38 names are 6 batches of up to 7 names.
    assert ShuffledPasses([5] * 38, 7, seed=7).names_per_iteration == 38 / 6
    assert ShuffledPasses([5] * 38, 100, seed=7).names_per_iteration == 38


Sampler = RandomExamples | ShuffledPasses


def make_random_examples() -> RandomExamples:
    return RandomExamples([3, 1, 5], 2, seed=7)


def make_shuffled_passes() -> ShuffledPasses:
    return ShuffledPasses([1 + number % 5 for number in range(11)], 2, seed=7)


def read_batches(
    sampler: Sampler, iteration: int, chunk_size: int = 1, rank: int = 0, world_size: int = 1
) -> list[list[int]]:
    """Return the batches up to the next validation, which is at every 30th of 100 iterations."""
    length = RunLength(100, 8, 30)
    position = TrainingPosition(iteration, rank, world_size)
    return list(TrainBatchSampler(sampler, 2, chunk_size, lambda: position, length))


def test_batches_end_at_curve_points_and_epochs_at_validations() -> None:
    names = make_random_examples().take(0, 200)  # two names per iteration
    # A batch ends at each multiple of 8, where the loss is logged, at each multiple of 30, where
    # the network is validated, and after at most 5 iterations.
    boundaries = {
        0: [0, 5, 8, 13, 16, 21, 24, 29, 30],
        60: [60, 64, 69, 72, 77, 80, 85, 88, 90],
        90: [90, 95, 96, 100],
        12: [12, 16, 21, 24, 29, 30],
        29: [29, 30],
        99: [99, 100],
    }
    for iteration, batch_ends in boundaries.items():
        expected = [names[2 * start : 2 * end] for start, end in pairwise(batch_ends)]
        assert read_batches(make_random_examples(), iteration, chunk_size=5) == expected
    # After the last iteration, there is nothing left to train on.
    assert read_batches(make_random_examples(), 100) == []


@pytest.mark.parametrize("make_sampler", [make_random_examples, make_shuffled_passes])
def test_names_of_a_resumed_run_equal_the_whole_run(make_sampler: Callable[[], Sampler]) -> None:
    all_batches = []
    for iteration in (0, 30, 60, 90):
        all_batches += read_batches(make_sampler(), iteration)
    assert len(all_batches) == 100
    sampler = make_sampler()
    # A single sampler moves forward and back, as it does when a trainer fits several times.
    for iteration in (57, 3, 30, 31, 29, 98):
        next_validation = min((iteration // 30 + 1) * 30, 100)
        assert read_batches(sampler, iteration) == all_batches[iteration:next_validation]


@pytest.mark.parametrize("make_sampler", [make_random_examples, make_shuffled_passes])
def test_parts_of_several_processes_are_disjoint_and_complete(
    make_sampler: Callable[[], Sampler],
) -> None:
    whole_batches = read_batches(make_sampler(), 3)
    batches_by_rank = []
    for rank in range(3):
        batches_by_rank.append(read_batches(make_sampler(), 3, rank=rank, world_size=3))
    parts_by_batch = zip(*batches_by_rank, strict=True)
    for batch, parts in zip(whole_batches, parts_by_batch, strict=True):
        assert sorted(chain.from_iterable(parts)) == sorted(batch)
        part_sizes = [len(part) for part in parts]
        assert max(part_sizes) - min(part_sizes) <= 1
