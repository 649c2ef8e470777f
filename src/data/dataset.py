"""A PyTorch dataset of encoded names that returns whole batches.

Shapes: N names in the dataset, B names in a batch, L letters in a name, S symbols in the alphabet.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.data.alphabet import ASCII_ALPHABET, Alphabet
from src.data.batch import MAX_BATCH_CELLS, Batch, indices_of_slices, one_hot, size_limited_batches
from src.data.corpus import NamesByCategory


class NamesDataset(Dataset[tuple[Tensor, Tensor]]):
    """Encoded names: those of the first category, then those of the second, and so on.

    An item is the tutorial's pair of tensors: the one-hot letters of a name [L, 1, S] and the index
    of its category [1]. Data loaders do not use items: they ask for many names at once and get a
    `Batch`.

    Args:
        names: the names of each category, in the case that the alphabet expects.
        alphabet: encodes the names.

    Attributes:
        letters: letter indices of all names, end to end [sum of lengths].
        lengths: number of letters in each name [N], int64.
        targets: category index of each name [N], int64.
    """

    def __init__(self, names: NamesByCategory, alphabet: Alphabet = ASCII_ALPHABET) -> None:
        all_names = list(chain.from_iterable(names.values()))
        self.letters, self.lengths = alphabet.encode(all_names)
        self._starts = self.lengths.cumsum(0) - self.lengths  # index of each name's first letter
        # The names of a category are consecutive, so the targets are 0 … 0 1 … 1 2 … 2.
        counts = torch.tensor([len(category_names) for category_names in names.values()])
        self.targets = torch.arange(len(names)).repeat_interleave(counts)
        # These limit the size of batches; see `_consecutive_indices`.
        self._n_symbols = len(alphabet.symbols)
        self._n_categories = len(names)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        batch = self.batch([index])
        letters = one_hot(batch.letters, self._n_symbols).unsqueeze(1)  # [L, 1, S]
        return letters, batch.targets

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the names with these indices as one batch. Data loaders call this method."""
        return self.batch(indices)

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Return the names with these indices as one batch."""
        # With an explicit dtype, because an empty list would become a float tensor.
        selected = torch.as_tensor(indices, dtype=torch.int64)
        lengths = self.lengths[selected]
        letters = self.letters[indices_of_slices(self._starts[selected], lengths)]
        return Batch(letters, lengths, self.targets[selected])

    def as_one_batch(self) -> Batch:
        """Return all names as one batch."""
        return self.batch(range(len(self)))

    def batches(self) -> Iterator[Batch]:
        """Yield all names in order, in batches that are small enough to be scored at once."""
        for indices in self._consecutive_indices(max_names=len(self)):
            yield self.batch(indices)

    def loader(
        self,
        batch_sampler: Iterable[list[int]] | None = None,
        max_batch_size: int | None = None,
    ) -> DataLoader[Any]:
        """Return a data loader that yields a `Batch` at a time.

        Args:
            batch_sampler: yields the indices of the names in each batch. If None, the loader yields
                all names in order, in batches that are small enough to be scored at once.
            max_batch_size: maximum number of names in a batch if there is no batch sampler.
        """
        if batch_sampler is None:
            max_names = max_batch_size or len(self)
            batch_sampler = BatchList(self._consecutive_indices(max_names))
        # `__getitems__` returns a batch already, so there is nothing left to collate.
        return DataLoader(self, batch_sampler=batch_sampler, collate_fn=unchanged)  # type: ignore[arg-type] # torch expects lists

    def _consecutive_indices(self, max_names: int) -> Iterator[list[int]]:
        """Yield the indices of all names, in lists with limited numbers of names and letters.

        A list has at most `max_names` names, and is small enough to be scored at once.
        """
        max_letters = MAX_BATCH_CELLS // (self._n_symbols + self._n_categories)
        lengths = self.lengths.tolist()  # reading single elements of a tensor would be slow
        return size_limited_batches(
            range(len(self)), lambda index: lengths[index], max_names, max_letters
        )


class BatchList(list[list[int]]):
    """A list that serves as a batch sampler.

    Lightning sets attributes on a batch sampler. A plain `list` accepts none, but a subclass does.
    """


def unchanged(batch: Batch) -> Batch:
    """Return the batch."""
    return batch
