"""The order of the training names: reproducible, and resumable at any iteration."""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from typing import NamedTuple, Protocol

import numpy as np

MAX_SKIPPED_AT_ONCE = 100_000
"""Maximum number of examples drawn at once when skipping ahead; limits memory use."""
N_BATCHES_SORTED_TOGETHER = 8
"""Number of batches whose names are sorted by length together. The larger it is, the less the
batches differ from pass to pass."""


class NameSampler(Protocol):
    """An endless sequence of training names, which depends on nothing but its seed."""

    names_per_iteration: float
    """Mean number of names in an iteration."""

    def take(self, start: int, count: int) -> list[int]:
        """Return the indices of up to `count` names of the sequence, the first at position `start`.

        There are fewer than `count` only if a shorter batch of the sequence begins at `start`.
        """


class RandomExamples:
    """Draws random training examples: first a category, then one of its lines, both uniformly.

    The draws are the same as those of the tutorial's loop, which calls `randint` of a single
    generator `rng = random.Random(s)` for each example:

        category = rng.randint(0, n_categories - 1)
        line = rng.randint(0, lines_per_category[category] - 1)

    Args:
        lines_per_category: number of lines in each category, all at least 1.
        batch_size: number of examples in an iteration.
        seed: the seed *s*.
        lines_per_name: number of lines that each name stands for, in the order of the categories.
            Empty if it is 1 for all names.
    """

    def __init__(
        self,
        lines_per_category: Sequence[int],
        batch_size: int,
        seed: int,
        lines_per_name: Sequence[int] = (),
    ) -> None:
        self.names_per_iteration: float = batch_size
        self._lines_per_category = lines_per_category
        self._seed = seed
        # Lines are numbered across the categories: each category starts where the last one ends.
        self._first_lines = [0, *accumulate(lines_per_category)]
        # Name i owns the lines from _line_ends[i - 1], or 0, up to but excluding _line_ends[i].
        self._line_ends = list(accumulate(lines_per_name))
        self._rng = random.Random(seed)
        self._position = 0  # number of examples drawn so far

    def take(self, start: int, count: int) -> list[int]:
        """Return the indices of `count` names of the sequence, the first at position `start`.

        Continuing where the last call stopped costs nothing extra. For any other start, the
        examples before it are drawn as well, which takes a third of a microsecond for each.
        """
        if start < self._position:  # the generator cannot go back, so it starts again
            self._rng.seed(self._seed)
            self._position = 0
        while self._position < start:
            self._draw_lines(min(start - self._position, MAX_SKIPPED_AT_ONCE))
        lines = self._draw_lines(count)
        if not self._line_ends:
            return lines  # each name is one line
        # A line belongs to the first name whose end is greater than the number of the line.
        return [bisect_right(self._line_ends, line) for line in lines]

    def _draw_lines(self, count: int) -> list[int]:
        """Return the next random lines, numbered across the categories."""
        # Like `randint(0, n - 1)`, draw as many bits as n has, and repeat until the number is below
        # n. Without a function call, this is three times as fast.
        draw_bits = self._rng.getrandbits
        lines_per_category = self._lines_per_category
        first_lines = self._first_lines
        n_categories = len(lines_per_category)
        category_bits = n_categories.bit_length()
        line_bits = [n_lines.bit_length() for n_lines in lines_per_category]
        lines = []
        for _ in range(count):
            category = draw_bits(category_bits)
            while category >= n_categories:
                category = draw_bits(category_bits)
            line = draw_bits(line_bits[category])
            while line >= lines_per_category[category]:
                line = draw_bits(line_bits[category])
            lines.append(first_lines[category] + line)
        self._position += count
        return lines


class ShuffledPasses:
    """Passes over all names, each in another order, in batches of names of similar length.

    The order depends on the seed and the number of the pass alone.

    Args:
        lengths: number of letters in each name.
        batch_size: number of names in a batch, which is an iteration. The last batch of a pass may
            be smaller.
        seed: seeds the order.
        lines_per_name: number of lines that each name stands for. Empty if it is 1 for all names.
            Otherwise, a pass has the same number of names as without counts, but they are drawn in
            proportion to their lines, so that some occur several times and others not at all.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        lines_per_name: Sequence[int] = (),
    ) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._line_ends = np.cumsum(lines_per_name)
        self._batches_per_pass = ceil(len(lengths) / batch_size)
        self.names_per_iteration = len(lengths) / self._batches_per_pass
        # The batches of one pass are kept, because each iteration takes one of them.
        self._pass_number = -1  # no batches have been made yet
        self._batches: list[list[int]] = []

    def take(self, start: int, count: int) -> list[int]:
        """Return the indices of the names in the batch that begins at position `start`.

        Positions are counted as if the last batch of a pass were full, too, so that batch number i
        always begins at position i times the batch size.

        Args:
            start: a multiple of the batch size.
            count: must be the batch size, because batches are always taken whole. A
                `TrainBatchSampler` must therefore have a `chunk_size` of 1.
        """
        assert count == self._batch_size
        batch_number = start // self._batch_size
        pass_number, index = divmod(batch_number, self._batches_per_pass)
        if pass_number != self._pass_number:
            # Each pass has its own generator, so it can be made without the passes before it.
            rng = random.Random(f"{self._seed} {pass_number}")
            self._batches = self._make_batches_of_similar_length(rng)
            self._pass_number = pass_number
        return self._batches[index]

    def _make_batches_of_similar_length(self, rng: random.Random) -> list[list[int]]:
        """Return the batches of one pass, each a list of indices of names."""
        n_names = len(self._lengths)
        indices = list(range(n_names))
        if len(self._line_ends):
            indices = self._draw_names_by_lines(rng)
        rng.shuffle(indices)
        # The recurrent network pads the names of a batch to the longest of them, so names of
        # similar length need little padding. Sorting all names would give each pass the same
        # batches, so only chunks of the shuffled names are sorted.
        chunk_size = N_BATCHES_SORTED_TOGETHER * self._batch_size
        sorted_indices: list[int] = []
        for start in range(0, n_names, chunk_size):
            chunk = indices[start : start + chunk_size]
            sorted_indices += sorted(chunk, key=lambda index: self._lengths[index])
        batches = []
        for start in range(0, n_names, self._batch_size):
            batches.append(sorted_indices[start : start + self._batch_size])
        rng.shuffle(batches)
        return batches

    def _draw_names_by_lines(self, rng: random.Random) -> list[int]:
        """Draw names in proportion to their lines, and return the indices of the drawn names.

        The number of draws is the number of names. This is systematic sampling: from a random
        start, take every `step`-th line, and find the name that it belongs to. A name with more
        than `step` lines occurs several times.
        """
        n_names = len(self._lengths)
        step = self._line_ends[-1] / n_names
        lines = (np.arange(n_names) + rng.random()) * step
        # A line belongs to the first name whose end is greater than the number of the line. The
        # last end is left out, so that rounding cannot lead to an index above that of the last
        # name.
        indices: list[int] = np.searchsorted(self._line_ends[:-1], lines, side="right").tolist()
        return indices


@dataclass(frozen=True)
class RunLength:
    """The length of a run, and how often it logs and validates."""

    iterations: int
    """Number of iterations of the whole run."""
    log_every: int
    """Iterations between points of the loss curve."""
    val_every: int
    """Iterations between validations, a multiple of `log_every`."""

    @classmethod
    def from_settings(cls, iterations: int, log_every: int, val_every: int) -> "RunLength":
        """Return the run length for some settings, with defaults for those that are 0.

        By default a run has 50 points of the loss curve and 10 validations. `val_every` is rounded
        up to a multiple of `log_every`.
        """
        if log_every == 0:
            log_every = ceil(iterations / 50)
        if val_every == 0:
            val_every = ceil(iterations / 10)
        # A validation always comes with a point of the loss curve.
        points_per_validation = ceil(val_every / log_every)
        return cls(iterations, log_every, val_every=points_per_validation * log_every)


class TrainingPosition(NamedTuple):
    """The current iteration, and the rank of this process among all that train together."""

    iteration: int = 0
    rank: int = 0
    world_size: int = 1


@dataclass
class TrainBatchSampler:
    """A batch sampler for epochs that end with a validation.

    Each pass over the sampler is one epoch, from the current iteration to the next validation or to
    the end of the run.

    A batch holds the names of up to `chunk_size` iterations, and never extends past the next point
    of the loss curve. With several processes, each takes its own part of every batch. The parts are
    disjoint, and their sizes differ by at most one name.
    """

    sampler: NameSampler
    batch_size: int
    """Number of names in an iteration, for all processes together."""
    chunk_size: int
    """Maximum number of iterations in a batch."""
    get_training_position: Callable[[], TrainingPosition]
    """Called at the start of each epoch."""
    run_length: RunLength

    def __iter__(self) -> Iterator[list[int]]:
        log_every = self.run_length.log_every
        val_every = self.run_length.val_every
        position = self.get_training_position()
        iteration = position.iteration
        next_validation = (iteration // val_every + 1) * val_every
        end = min(next_validation, self.run_length.iterations)
        # A batch never extends past a validation or the end of the run.
        while iteration < end:
            next_point = (iteration // log_every + 1) * log_every
            chunk_end = min(iteration + self.chunk_size, next_point, end)
            start = iteration * self.batch_size
            n_names = (chunk_end - iteration) * self.batch_size
            # All processes draw the same names, and each keeps its part of them.
            indices = self.sampler.take(start, n_names)
            yield indices[position.rank :: position.world_size]
            iteration = chunk_end
