"""The order of the training names: reproducible, and resumable at any iteration."""

import random
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

Counts = Sequence[int]


class RandomExamples:
    """Draws a category uniformly, then one of its lines uniformly, over and over.

    With seed *s* the draws are those of one `random.Random(s)`, two a training example:
    `randint(0, n - 1)` for the category, then for the line.

    Args:
        counts: lines of each category, all at least 1, each as often as it counts. Lines are
            numbered through, category after category.
        size: names of an iteration.
        seed: the seed *s*.
        weights: how often each line counts; none: once.
    """

    def __init__(self, counts: Counts, size: int, seed: int, weights: Counts = ()) -> None:
        self.names_per_iteration: float = size
        self._counts, self._seed = counts, seed
        self._first, self._ends = [0, *accumulate(counts)], [*accumulate(weights)]
        self._rng, self._position = random.Random(seed), 0

    def take(self, start: int, count: int) -> list[int]:
        """Return the lines' numbers of `count` examples, as if the first `start` had been drawn.

        Going on from where the last call stopped costs nothing; any other start draws its way
        there, a third of a microsecond an example.
        """
        if start < self._position:
            self._rng.seed(self._seed)
            self._position = 0
        while self._position < start:
            self._draw(min(start - self._position, 100_000))
        return self._draw(count)

    def _draw(self, count: int) -> list[int]:
        # What randint does, without its calls, is three times as fast: as many random bits as the
        # number of choices has, until they are below it.
        bits, counts, first, n = self._rng.getrandbits, self._counts, self._first, len(self._counts)
        n_bits, sizes = n.bit_length(), [count.bit_length() for count in counts]
        lines = []
        for _ in range(count):
            while (category := bits(n_bits)) >= n:
                pass
            while (line := bits(sizes[category])) >= counts[category]:
                pass
            lines.append(first[category] + line)
        self._position += count
        return [bisect(self._ends, line) for line in lines] if self._ends else lines


class Passes:
    """Passes over all of some names, in batches of names of similar length.

    The order depends on nothing but seed and pass. With weights a pass draws as many names, each in
    proportion to its weight: at equal steps through the lines, from a random one on.

    Args:
        lengths: letters of each name.
        size: names of a batch, an iteration's; the last batch of a pass is what is left.
        seed: of the order.
        weights: how often each name counts; none: once.
    """

    def __init__(self, lengths: Counts, size: int, seed: int, weights: Counts = ()) -> None:
        self._lengths, self._size, self._seed = lengths, size, seed
        self._ends = np.cumsum(weights)
        self._n_batches = -(-len(lengths) // size)  # of a pass
        self.names_per_iteration = len(lengths) / self._n_batches
        self._pass, self._batches = -1, [[0]]

    def take(self, start: int, count: int) -> list[int]:
        """Return the numbers of the batch that begins where `start` names would have been drawn."""
        number, index = divmod(start // self._size, self._n_batches)
        if number != self._pass:
            rng = random.Random(f"{self._seed} {number}")
            self._pass, self._batches = number, self._shuffled(rng)
        return self._batches[index]

    def _shuffled(self, rng: random.Random) -> list[list[int]]:
        order = list(range(len(self._lengths)))
        if len(self._ends):
            steps = (np.arange(len(order)) + rng.random()) * (self._ends[-1] / len(order))
            order = np.searchsorted(self._ends[:-1], steps, side="right").tolist()
        rng.shuffle(order)
        nearby = 8 * self._size  # few enough that batches differ from pass to pass
        parts = (order[at : at + nearby] for at in range(0, len(order), nearby))
        order = [name for part in parts for name in sorted(part, key=self._lengths.__getitem__)]
        batches = [order[at : at + self._size] for at in range(0, len(order), self._size)]
        rng.shuffle(batches)
        return batches


@dataclass
class Iterations:
    """The names of the iterations up to the next validation: a batch sampler for PyTorch.

    A batch holds the names of several iterations, and ends at each point of the loss curve. Of the
    processes that train together, each takes its own part: the parts are disjoint, and equal but
    for what cannot be divided.
    """

    order: RandomExamples | Passes
    size: int
    """Names of an iteration."""
    together: int
    """Iterations of a batch, at most."""
    place: Callable[[], tuple[int, int, int]]
    """Where a pass begins: the iteration, this process's number and how many there are."""
    iterations: int
    """Of the whole run."""
    log_every: int
    val_every: int

    def __iter__(self) -> Iterator[list[int]]:
        at, process, n_processes = self.place()
        stop = min((at // self.val_every + 1) * self.val_every, self.iterations)
        while at < stop:
            count = min(self.together, self.log_every - at % self.log_every, stop - at)
            yield self.order.take(at * self.size, count * self.size)[process::n_processes]
            at += count
