"""The random training examples, reproducible and resumable."""

import random
from collections.abc import Callable, Iterator, Sequence


class RandomExamples:
    """Draws a category uniformly, then one of its lines uniformly, over and over.

    With seed *s* the draws are those of one `random.Random(s)`, two a training example:
    `randint(0, n - 1)` for the category, then for the line. `randrange(n)` draws the same and is
    twice as fast.

    Args:
        counts: lines of each category, all at least 1. Lines are numbered through, category
            after category.
        seed: the seed *s*.
    """

    def __init__(self, counts: Sequence[int], seed: int) -> None:
        self._counts = counts
        self._first = [sum(counts[:category]) for category in range(len(counts))]
        self._seed = seed
        self._rng = random.Random(seed)
        self._position = 0

    def take(self, start: int, count: int) -> list[int]:
        """Return the line numbers of `count` examples, as if the first `start` had been drawn.

        Going on from where the last call stopped costs nothing; any other start draws its way
        there, half a microsecond an example.
        """
        if start < self._position:
            self._rng.seed(self._seed)
            self._position = 0
        while self._position < start:
            skipped = min(start - self._position, 100_000)
            self._draw(skipped)
            self._position += skipped
        lines = self._draw(count)
        self._position = start + count
        return lines

    def _draw(self, count: int) -> list[int]:
        randrange, counts, first = self._rng.randrange, self._counts, self._first
        lines = []
        for _ in range(count):
            category = randrange(len(counts))
            lines.append(first[category] + randrange(counts[category]))
        return lines


class Passes:
    """Passes over all of some names, in batches of names of similar length.

    The order depends on nothing but seed and pass.

    Args:
        lengths: letters of each name.
        size: names of a batch; the last batch of a pass is what is left.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], size: int, seed: int) -> None:
        self._lengths = lengths
        self._size = size
        self._seed = seed
        self.n_batches = -(-len(lengths) // size)
        """Of a pass."""
        self._pass = -1
        self._batches: list[list[int]] = []

    def batch(self, iteration: int) -> list[int]:
        """Return the numbers of an iteration's names."""
        number, index = divmod(iteration, self.n_batches)
        if number != self._pass:
            self._batches = self._shuffled(random.Random(f"{self._seed} {number}"))
            self._pass = number
        return self._batches[index]

    def _shuffled(self, rng: random.Random) -> list[list[int]]:
        order = list(range(len(self._lengths)))
        rng.shuffle(order)
        nearby = 8 * self._size  # few enough that batches differ from pass to pass
        for start in range(0, len(order), nearby):
            order[start : start + nearby] = sorted(
                order[start : start + nearby], key=self._lengths.__getitem__
            )
        batches = [order[at : at + self._size] for at in range(0, len(order), self._size)]
        rng.shuffle(batches)
        return batches


class Batches:
    """The batches of the iterations `start` … `stop - 1`, a batch sampler for PyTorch.

    Of `n_processes` that train together, each takes its own part of every batch. The parts are
    disjoint, and equal but for what cannot be divided: in a small batch, some may be empty.
    """

    def __init__(
        self,
        batch: Callable[[int], list[int]],
        start: int,
        stop: int,
        process: int = 0,
        n_processes: int = 1,
    ) -> None:
        self._batch = batch
        self._iterations = range(start, stop)
        self._part = slice(process, None, n_processes)

    def __len__(self) -> int:
        return len(self._iterations)

    def __iter__(self) -> Iterator[list[int]]:
        return (self._batch(iteration)[self._part] for iteration in self._iterations)


class Chunks:
    """The examples `start` … `stop - 1` in lists of at most `size`, cut at multiples of `mark`.

    A batch sampler for PyTorch's data loader; each list is drawn when it is asked for.
    """

    def __init__(
        self, examples: RandomExamples, start: int, stop: int, size: int, mark: int
    ) -> None:
        self._examples = examples
        self._start = start
        self._stop = stop
        self._size = size
        self._mark = mark

    def __len__(self) -> int:
        return sum(1 for _ in self._spans())

    def __iter__(self) -> Iterator[list[int]]:
        for start, count in self._spans():
            yield self._examples.take(start, count)

    def _spans(self) -> Iterator[tuple[int, int]]:
        start = self._start
        while start < self._stop:
            count = min(self._size, self._mark - start % self._mark, self._stop - start)
            yield start, count
            start += count
