"""The random training examples, reproducible and resumable."""

import random
from collections.abc import Iterator, Sequence


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
