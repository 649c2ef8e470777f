"""Batches of names of different lengths, without padding: all letters are stored end to end.

Shapes: B names in a batch, L letters in a name, S symbols in the alphabet.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from src.data.normalize import ASCII_SYMBOLS

MAX_BATCH_CELLS = 2**21
"""Upper limit of n_letters · (n_symbols + n_categories) for a batch that is scored at once. It
limits the memory for one-hot letters and for scores; larger batches would not be faster."""

T = TypeVar("T")
"""Type of the items of a batch."""


class Batch(NamedTuple):
    """A batch of names with their categories."""

    letters: Tensor
    """Letter indices of all names, end to end [sum of lengths], uint8 or int16; see
    `Alphabet.encode`."""
    lengths: Tensor
    """Number of letters in each name [B], int64, all at least 1."""
    targets: Tensor
    """Category index of each name [B], int64."""

    def one_hot_examples(self, n_symbols: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the tutorial's tensors for each name: one-hot letters [L, 1, S] and target [1]."""
        # The tutorial's middle dimension is a batch of one name.
        one_hot_letters = one_hot(self.letters, n_symbols).unsqueeze(1)  # [sum of lengths, 1, S]
        names = torch.split(one_hot_letters, self.lengths.tolist())
        return zip(names, torch.split(self.targets, 1), strict=True)


def one_hot(letters: Tensor, n_symbols: int = len(ASCII_SYMBOLS)) -> Tensor:
    """Return the float32 one-hot rows [..., S] of letter indices of any shape [...]."""
    return F.one_hot(letters.long(), n_symbols).float()


def indices_of_slices(starts: Tensor, lengths: Tensor) -> Tensor:
    """Return the indices of the elements of several slices of a tensor, one slice after the other.

    Args:
        starts: index of the first element of each slice [B].
        lengths: number of elements of each slice [B].

    Returns:
        The indices [sum of lengths], int64.
    """
    # For starts 7, 0 and lengths 2, 3, the slices begin at positions 0 and 2 of the result. The
    # offsets are therefore 7 - 0 and 0 - 2: positions 0 1 2 3 4 plus offsets 7 7 -2 -2 -2 give the
    # indices 7 8 0 1 2.
    positions = torch.arange(int(lengths.sum()), device=lengths.device)
    positions_of_starts = lengths.cumsum(0) - lengths
    offsets = starts - positions_of_starts
    return positions + offsets.repeat_interleave(lengths)


def size_limited_batches(
    items: Iterable[T], length_of: Callable[[T], int], max_items: int, max_letters: int
) -> Iterator[list[T]]:
    """Yield the items in lists of limited size, in their order.

    Args:
        items: names, or anything that has a number of letters.
        length_of: returns the number of letters of an item.
        max_items: maximum number of items in a list.
        max_letters: maximum number of letters in a list; a longer item gets a list of its own.
    """
    batch: list[T] = []
    n_letters = 0
    for item in items:
        is_full = len(batch) == max_items or n_letters + length_of(item) > max_letters
        if batch and is_full:  # an empty batch takes any item, however long
            yield batch
            batch = []  # a new list, because the receiver may keep the other one
            n_letters = 0
        batch.append(item)
        n_letters += length_of(item)
    if batch:
        yield batch
