"""A table of the letter n-grams of names, with the number of their occurrences in each category.

A gram is a sequence of 0 or more symbols that are next to each other in a name. Symbols are the
letters of a name and the marks at its start and end. The table stores n_c(w), the number of
occurrences of the gram w in the training names of the category c.

Every gram except the empty one consists of a shorter gram, its prefix, and its last symbol. The key
of a gram packs the row of its prefix and its last symbol into one integer. Keys therefore fit into
64 bits, however long the grams are and however large the alphabet is.

Shapes: B names in a batch, P symbols of these names including the marks, N grams in the table,
C categories, L symbols in the longest gram.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.data.batch import ragged_indices
from src.ngrams.buffers import replace_buffers

MAX_COUNTS = 2**21
"""Maximum number of counts in a table. They and their grams take up to 48 MB of a checkpoint."""
MAX_DENSE_COUNTS = 2**24
"""Maximum number of cells, zeros included, of a table that is also kept as a dense matrix of up to
64 MB."""
UNKNOWN_KEY = torch.iinfo(torch.int64).max
"""Key of the last row of a table, above the keys of all grams."""


class MarkedNames(NamedTuple):
    """A batch of names as one sequence of symbols, each name between its start and end mark."""

    symbols: Tensor
    """Symbols of all names, end to end [P], int64."""
    name_index: Tensor
    """Index of the name that each symbol belongs to [P], int64."""
    n_before: Tensor
    """Number of symbols before each symbol in its name [P], int64; 0 for the start mark."""
    n_remaining: Tensor
    """Number of symbols from each symbol to the end of its name [P], int64; 1 for the end mark."""
    is_letter: Tensor
    """Whether each symbol is a letter, not a mark [P]."""
    n_names: int
    """Number of names, B."""


class GramMatches(NamedTuple):
    """The table rows of all grams of a batch of names."""

    names: MarkedNames
    rows: Tensor
    """Row of the gram of 0 … L symbols that begins at each symbol [L + 1, P], int64."""
    unknown_row: int
    """Row of the grams that are not in the table, N."""


class GramCounts(NamedTuple):
    """Consecutive rows of a table: M grams, with Q counts above 0."""

    keys: Tensor
    """Keys of the grams in ascending order [M], int64."""
    rows: Tensor
    """Row of each count in ascending order [Q], int64."""
    categories: Tensor
    """Category of each count [Q], int64."""
    counts: Tensor
    """Number of occurrences of the gram in the category [Q], int64."""


def pack_pairs(first: Tensor, second: Tensor, n_second: int) -> Tensor:
    """Pack pairs of integers into one integer each, which sort by the first, then the second.

    The second integer of a pair must be at least 0 and below `n_second`.
    """
    return first * n_second + second


def unpack_pairs(pairs: Tensor, n_second: int) -> tuple[Tensor, Tensor]:
    """Return the first and the second integers of packed pairs."""
    first = pairs // n_second
    second = pairs % n_second
    return first, second


class GramTable(nn.Module):
    """The counts n_c(w) as a sparse matrix [N + 1, C] in CSR layout.

    Row 0 is the empty gram. The last row has no counts; it represents all grams that are not in the
    table.

    Args:
        n_symbols: number of different symbols, which are at least 0 and below this number.
        n_categories: number of categories, C.

    Attributes:
        grams: keys of the grams in ascending order, and UNKNOWN_KEY [N + 1], int64.
        starts: row i is at starts[i] : starts[i + 1] in `categories` and `counts` [N + 2], int32.
        categories: category of each count [starts[-1]], int32.
        counts: counts, row after row [starts[-1]], int32.
        dense: the same matrix as a dense one [N + 1, C], or without rows if it would be too large.
    """

    def __init__(self, n_symbols: int, n_categories: int) -> None:
        super().__init__()
        self.n_symbols = n_symbols
        self.n_categories = n_categories
        empty = torch.empty(0, dtype=torch.int32)
        self.grams: Tensor = nn.Buffer(torch.tensor([UNKNOWN_KEY]), persistent=False)
        self.starts: Tensor = nn.Buffer(empty.new_zeros(2), persistent=False)
        self.categories: Tensor = nn.Buffer(empty, persistent=False)
        self.counts: Tensor = nn.Buffer(empty, persistent=False)
        self.dense: Tensor = nn.Buffer(torch.empty(0, n_categories), persistent=False)

    @property
    def unknown_row(self) -> int:
        """Row of the grams that are not in the table, N."""
        return len(self.grams) - 1

    def get_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that define the table, for a checkpoint."""
        return {
            "grams": self.grams,
            "starts": self.starts,
            "categories": self.categories,
            "counts": self.counts,
        }

    def load_tensors(self, tensors: Any) -> None:
        """Replace the table by the tensors of another one, which may come from a damaged file.

        Raises:
            ValueError: if they are not a valid table. A value that is not a dictionary of tensors
                raises a LookupError, TypeError or AttributeError.
        """
        replace_buffers(self, tensors, names=("grams", "starts", "categories", "counts"))
        self._check_buffers()
        self.dense = self.dense[:0]  # without rows, `lookup_counts` reads the sparse matrix
        n_rows = len(self.grams)
        if n_rows * self.n_categories <= MAX_DENSE_COUNTS:
            all_rows = torch.arange(n_rows, device=self.starts.device)
            self.dense = self.lookup_counts(all_rows)

    def _check_buffers(self) -> None:
        """Check that no look-up can go out of range or return more than C counts for a gram.

        Raises:
            ValueError: if one could.
        """
        n_counts = len(self.counts)
        row_lengths = self.starts.long().diff()  # [N + 1], int64 because int32 could overflow
        is_valid = (
            len(row_lengths) == len(self.grams)
            # With this key, every search in `grams` ends at a row of the table.
            and self.grams[-1] == UNKNOWN_KEY
            and self.starts[0] == 0
            and self.starts[-1] == n_counts
            and len(self.categories) == n_counts
            and ((row_lengths >= 0) & (row_lengths <= self.n_categories)).all()
            and ((self.categories >= 0) & (self.categories < self.n_categories)).all()
            and (self.counts >= 0).all()
        )
        if not is_valid:
            raise ValueError("letter counts: out of range")

    def count(self, names: MarkedNames, categories: Tensor, max_length: int) -> None:
        """Count the grams of training names, and replace the table by these counts.

        The table has room for MAX_COUNTS counts. Shorter grams take precedence over longer ones,
        and among grams of the same length, more frequent ones take precedence.

        Args:
            names: the training names.
            categories: category of each name [B], int64.
            max_length: number of symbols in the longest gram, L.
        """
        symbol_categories = categories[names.name_index]  # [P]
        level = self._count_empty_gram(names, symbol_categories)
        levels = [level]
        n_rows = 1
        n_free = MAX_COUNTS - len(level.counts)

        # Row of the gram of k symbols that begins at each symbol; -1 if it has none.
        rows = torch.zeros_like(names.symbols)  # [P]
        for k in range(max_length):
            # A gram of k + 1 symbols is a gram of k symbols and the symbol after it. The grams of
            # the same length are one level of the table.
            has_gram = (rows >= 0) & (names.n_remaining > k)  # [P]
            last_symbols = names.symbols.roll(-k)  # [P]
            keys = pack_pairs(rows, last_symbols, self.n_symbols)  # [P]
            level, gram_rows = self._count_level(
                keys[has_gram], symbol_categories[has_gram], first_row=n_rows, max_counts=n_free
            )
            levels.append(level)
            n_rows += len(level.keys)
            n_free -= len(level.counts)
            rows = torch.full_like(rows, -1).masked_scatter(has_gram, gram_rows)
        self._load_levels(levels)

    def _count_empty_gram(self, names: MarkedNames, symbol_categories: Tensor) -> GramCounts:
        """Return row 0: the empty gram occurs once for each letter and once for each end mark."""
        has_empty_gram = names.n_before > 0  # [P]
        categories, counts = torch.unique(symbol_categories[has_empty_gram], return_counts=True)
        return GramCounts(
            keys=categories.new_zeros(1),
            rows=torch.zeros_like(categories),
            categories=categories,
            counts=counts,
        )

    def _count_level(
        self, keys: Tensor, categories: Tensor, first_row: int, max_counts: int
    ) -> tuple[GramCounts, Tensor]:
        """Count the grams of one length, and assign rows to the most frequent of them.

        Args:
            keys: key of each occurrence of a gram [R], int64.
            categories: category of each occurrence [R], int64.
            first_row: row of the first gram.
            max_counts: maximum number of counts in all rows.

        Returns:
            The rows, and the row of each occurrence [R], int64; -1 if its gram has none.
        """
        # G different grams have Q counts above 0.
        unique_keys, gram_index = torch.unique(keys, return_inverse=True)  # [G], [R]
        occurrences = pack_pairs(gram_index, categories, self.n_categories)  # [R]
        pairs, counts = torch.unique(occurrences, return_counts=True)  # [Q], [Q]
        count_gram, count_category = unpack_pairs(pairs, self.n_categories)  # [Q], [Q]
        has_row = choose_most_frequent(
            count_gram, counts, n_grams=len(unique_keys), max_counts=max_counts
        )  # [G]
        next_row = first_row + has_row.cumsum(0) - 1  # [G]
        gram_row = torch.where(has_row, next_row, -1)  # [G]

        is_kept = has_row[count_gram]  # [Q]
        level = GramCounts(
            keys=unique_keys[has_row],
            rows=gram_row[count_gram][is_kept],
            categories=count_category[is_kept],
            counts=counts[is_kept],
        )
        return level, gram_row[gram_index]

    def _load_levels(self, levels: list[GramCounts]) -> None:
        """Replace the table by the rows of all grams, from short to long ones."""
        keys = torch.cat([level.keys for level in levels])  # [N]
        rows = torch.cat([level.rows for level in levels])  # [starts[-1]]
        row_lengths = rows.bincount(minlength=len(keys) + 1)  # [N + 1]
        # With `F.pad`, the last key would be converted to a float and back, and become negative.
        last_key = keys.new_tensor([UNKNOWN_KEY])
        table = {
            # The keys are in ascending order: within each level, because `torch.unique` sorts them,
            # and across levels, because shorter grams have prefixes with lower rows.
            "grams": torch.cat((keys, last_key)),
            "starts": F.pad(row_lengths.cumsum(0), (1, 0)),
            "categories": torch.cat([level.categories for level in levels]),
            "counts": torch.cat([level.counts for level in levels]),
        }
        self.load_tensors(table)

    def match(self, names: MarkedNames, max_length: int) -> GramMatches:
        """Look up the rows of all grams of a batch of names.

        Args:
            names: the names.
            max_length: number of symbols in the longest gram, L.
        """
        # Row of the gram of k symbols that begins at each symbol. As in `count`, the empty gram has
        # row 0, and none begins at a start mark.
        rows = torch.zeros_like(names.symbols)  # [P]
        has_empty_gram = names.n_before > 0
        rows_by_length = [torch.where(has_empty_gram, rows, self.unknown_row)]
        for k in range(max_length):
            last_symbols = names.symbols.roll(-k)
            # An unknown prefix has the last row, and no gram of the table has such a key.
            keys = pack_pairs(rows, last_symbols, self.n_symbols)
            candidates = torch.searchsorted(self.grams, keys)
            is_in_table = self.grams[candidates] == keys
            is_in_name = names.n_remaining > k
            rows = torch.where(is_in_name & is_in_table, candidates, self.unknown_row)  # [P]
            rows_by_length.append(rows)
        return GramMatches(names, torch.stack(rows_by_length), self.unknown_row)

    def lookup_counts(self, rows: Tensor) -> Tensor:
        """Return the counts of the grams with these rows [...] in all categories [..., C]."""
        if len(self.dense):
            return self.dense[rows]
        # Write the counts of the sparse rows into dense ones.
        flat_rows = rows.flatten()  # [R]
        starts = self.starts[flat_rows]  # [R]
        lengths = self.starts[flat_rows + 1] - starts  # [R]
        index = ragged_indices(starts, lengths)  # [sum of lengths]
        row_index = torch.arange(len(lengths), device=rows.device).repeat_interleave(lengths)
        categories = self.categories[index].long()
        dense_rows = self.dense.new_zeros(len(lengths), self.n_categories)  # [R, C]
        dense_rows[row_index, categories] = self.counts[index].to(dense_rows.dtype)
        return dense_rows.reshape(*rows.shape, self.n_categories)


def choose_most_frequent(
    count_gram: Tensor, counts: Tensor, n_grams: int, max_counts: int
) -> Tensor:
    """Choose the most frequent grams, as many as have room in a table.

    Args:
        count_gram: index of the gram of each count [Q], int64.
        counts: number of occurrences of a gram in a category [Q], int64.
        n_grams: number of grams, G.
        max_counts: number of counts that the table has room for.

    Returns:
        Whether each gram is chosen [G], bool.
    """
    frequency = counts.new_zeros(n_grams).index_add(0, count_gram, counts)  # n(w), [G]
    by_frequency = frequency.argsort(descending=True, stable=True)
    counts_per_gram = count_gram.bincount()
    has_room = counts_per_gram[by_frequency].cumsum(0) <= max_counts
    is_chosen = torch.zeros(n_grams, dtype=torch.bool)
    return is_chosen.index_fill(0, by_frequency[has_room], True)
