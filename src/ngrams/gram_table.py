"""A table of the letter n-grams of names, with the number of their occurrences in each category.

A gram is a sequence of 0 or more symbols that are next to each other in a name. Symbols are the
letters of a name and the marks at its start and end. The table stores n_c(g), the number of
occurrences of the gram g in the training names of the category c.

Every gram except the empty one consists of a shorter gram, its prefix, and its last symbol. The key
of a gram packs the row of its prefix and its last symbol into one integer. Keys therefore fit into
64 bits, however long the grams are and however large the alphabet is.

For example, let the symbols be e = 1, l = 2, ^ = 3 and $ = 4, so that n_symbols is 5, and let the
longest grams have L = 2 symbols. After counting the single name `^lee$`, the table is

    row     0      1      2      3      4      5      6      7      8      9
    gram    empty  e      l      ^      $      ee     e$     le     ^l     all others
    key     0      1      2      3      4      1·5+1  1·5+4  2·5+1  3·5+2  UNKNOWN_KEY
    n(g)    4      2      1      1      1      1      1      1      1      0

`match` returns `rows`. rows[k, p] is the row of the gram of k symbols that begins at symbol p:

    p                 0      1      2      3      4
    symbol            ^      l      e      e      $
    rows[0, p]        9      0      0      0      0
    rows[1, p]        3      2      1      1      4
    rows[2, p]        8      7      5      6      9

The empty gram stands before each symbol that can be predicted, so it has no occurrence at the start
mark; and no gram of two symbols begins at the end mark. Both are in the row of all others.

Shapes: B names in a batch, P symbols of these names including the marks, N grams in the table,
C categories, L symbols in the longest gram. Functions that handle the grams of one length define
further sizes.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.data.batch import indices_of_slices
from src.ngrams.buffers import replace_buffers

MAX_COUNTS = 2**21
"""Maximum number of counts in a table. They and their grams take up to 48 MB of a checkpoint."""
MAX_DENSE_CELLS = 2**24
"""A table with at most this many cells (rows times categories) is also kept as a dense matrix of up
to 64 MB."""
UNKNOWN_KEY = torch.iinfo(torch.int64).max
"""Key of the last row of a table, above the keys of all grams."""
TENSOR_KEYS = {
    "keys": "grams",
    "starts": "starts",
    "categories": "categories",
    "counts": "counts",
}
"""For each buffer that defines a table, its key in a checkpoint."""


class MarkedNames(NamedTuple):
    """A batch of names as one sequence of symbols, each name between its start and end mark."""

    symbols: Tensor
    """Symbols of all names, end to end [P], int64."""
    name_index: Tensor
    """Index of the name that each symbol belongs to [P], int64."""
    n_before: Tensor
    """Number of symbols before each symbol in its name [P], int64; 0 for the start mark."""
    n_remaining: Tensor
    """Number of symbols from each symbol, itself included, to the end of its name [P], int64; 1 for
    the end mark."""
    is_letter: Tensor
    """Whether each symbol is a letter, not a mark [P]."""
    n_names: int
    """Number of names, B."""


class GramMatches(NamedTuple):
    """The table rows of all grams of a batch of names."""

    names: MarkedNames
    rows: Tensor
    """rows[k, p] is the row of the gram of k symbols that begins at symbol p [L + 1, P], int64."""
    unknown_row: int
    """Row of the grams that are not in the table, N."""


class GramCounts(NamedTuple):
    """The rows of the grams of one length: M grams that have Q counts above 0."""

    keys: Tensor
    """Keys of the grams in ascending order [M], int64."""
    rows: Tensor
    """Row of each count in ascending order [Q], int64."""
    categories: Tensor
    """Category of each count [Q], int64."""
    counts: Tensor
    """Number of occurrences of the gram in the category [Q], int64."""


def pack_pairs(first: Tensor, second: Tensor, n_second: int) -> Tensor:
    """Pack each pair of integers into one, so that sorting sorts by the first, then the second.

    The second integer of a pair must be at least 0 and below `n_second`.
    """
    return first * n_second + second


def unpack_pairs(pairs: Tensor, n_second: int) -> tuple[Tensor, Tensor]:
    """Return the first and the second integers of packed pairs."""
    first = pairs // n_second
    second = pairs % n_second
    return first, second


class GramTable(nn.Module):
    """The counts n_c(g) as a sparse matrix [N + 1, C] in CSR layout.

    Row 0 is the empty gram. The last row has no counts; it represents all grams that are not in the
    table.

    Args:
        n_symbols: number of different symbols, which are at least 0 and below this number.
        n_categories: number of categories, C.

    Attributes:
        keys: keys of the grams in ascending order, and UNKNOWN_KEY [N + 1], int64.
        starts: row i occupies the slice starts[i] : starts[i + 1] of `categories` and `counts`
            [N + 2], int32.
        categories: category of each count [starts[-1]], int32.
        counts: counts, row after row [starts[-1]], int32.
        dense: the same matrix as a dense one [N + 1, C], or without rows if it would be too large.
    """

    def __init__(self, n_symbols: int, n_categories: int) -> None:
        super().__init__()
        self.n_symbols = n_symbols
        self.n_categories = n_categories
        empty = torch.empty(0, dtype=torch.int32)
        self.keys: Tensor = nn.Buffer(torch.tensor([UNKNOWN_KEY]), persistent=False)
        self.starts: Tensor = nn.Buffer(empty.new_zeros(2), persistent=False)
        self.categories: Tensor = nn.Buffer(empty, persistent=False)
        self.counts: Tensor = nn.Buffer(empty, persistent=False)
        self.dense: Tensor = nn.Buffer(torch.empty(0, n_categories), persistent=False)

    @property
    def unknown_row(self) -> int:
        """Row of the grams that are not in the table, N."""
        return len(self.keys) - 1

    def get_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that define the table, for a checkpoint."""
        return {
            "grams": self.keys,
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
        replace_buffers(self, tensors, keys=TENSOR_KEYS)
        self._check_buffers()
        n_rows = len(self.keys)
        if n_rows * self.n_categories <= MAX_DENSE_CELLS:
            all_rows = torch.arange(n_rows, device=self.starts.device)
            self.dense = self._lookup_sparse_counts(all_rows)
        else:
            self.dense = self.dense[:0]  # no rows

    def _check_buffers(self) -> None:
        """Check that no look-up can go out of range or return more than C counts for a gram.

        Raises:
            ValueError: if one could.
        """
        n_counts = len(self.counts)
        row_lengths = self.starts.long().diff()  # [N + 1], int64 because int32 could overflow
        is_valid = (
            len(row_lengths) == len(self.keys)
            # This key is above all others, so `searchsorted` in `keys` never returns an index that
            # is out of range.
            and self.keys[-1] == UNKNOWN_KEY
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
            has_prefix = rows >= 0  # [P]
            has_gram = has_prefix & (names.n_remaining > k)  # [P]
            # `roll` by -k returns the symbol k places further on. At the end it wraps around, but
            # there `has_gram` is False.
            last_symbols = names.symbols.roll(-k)  # [P]
            keys = pack_pairs(rows, last_symbols, self.n_symbols)  # [P]
            level, gram_rows = self._count_level(
                keys[has_gram], symbol_categories[has_gram], first_row=n_rows, max_counts=n_free
            )
            levels.append(level)
            n_rows += len(level.keys)
            n_free -= len(level.counts)
            rows = torch.full_like(rows, -1)
            rows[has_gram] = gram_rows
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
            The level of these grams, and the row of the gram of each occurrence [R], int64; -1 if
            the gram is not in the table.
        """
        # There are R occurrences of G different grams, which have Q counts above 0. `a_of_b[i]` is
        # the a of the i-th b.
        unique_keys, gram_of_occurrence = torch.unique(keys, return_inverse=True)  # [G], [R]
        occurrences = pack_pairs(gram_of_occurrence, categories, self.n_categories)  # [R]
        pairs, counts = torch.unique(occurrences, return_counts=True)  # [Q], [Q]
        gram_of_count, category_of_count = unpack_pairs(pairs, self.n_categories)  # [Q], [Q]
        has_row = choose_most_frequent(
            gram_of_count, counts, n_grams=len(unique_keys), max_counts=max_counts
        )  # [G]
        # The chosen grams get consecutive rows, in the order of their keys.
        row_if_chosen = first_row + has_row.cumsum(0) - 1  # [G]
        row_of_gram = torch.where(has_row, row_if_chosen, -1)  # [G]

        is_kept = has_row[gram_of_count]  # [Q]
        row_of_count = row_of_gram[gram_of_count]  # [Q]
        level = GramCounts(
            keys=unique_keys[has_row],
            rows=row_of_count[is_kept],
            categories=category_of_count[is_kept],
            counts=counts[is_kept],
        )
        return level, row_of_gram[gram_of_occurrence]

    def _load_levels(self, levels: list[GramCounts]) -> None:
        """Replace the table by the rows of all grams, from short to long ones."""
        keys = torch.cat([level.keys for level in levels])  # [N]
        rows = torch.cat([level.rows for level in levels])  # [starts[-1]]
        row_lengths = rows.bincount(minlength=len(keys) + 1)  # [N + 1]
        # `F.pad` would convert the key to a float and round it.
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
        # Row of the gram of k symbols that begins at each symbol. The empty gram, in row 0, is the
        # prefix of a start mark as well, although it is not counted there.
        rows = torch.zeros_like(names.symbols)  # [P]
        has_empty_gram = names.n_before > 0
        rows_by_length = [torch.where(has_empty_gram, rows, self.unknown_row)]
        for k in range(max_length):
            last_symbols = names.symbols.roll(-k)  # wraps around where `is_in_name` is False
            # If the prefix is unknown, its row is the last one, which is the prefix of no gram. The
            # key is then not found either.
            keys = pack_pairs(rows, last_symbols, self.n_symbols)  # [P]
            # The place at which each key would be inserted: its row, if the table contains it.
            candidates = torch.searchsorted(self.keys, keys)
            is_in_table = self.keys[candidates] == keys
            is_in_name = names.n_remaining > k
            rows = torch.where(is_in_name & is_in_table, candidates, self.unknown_row)  # [P]
            rows_by_length.append(rows)
        return GramMatches(names, torch.stack(rows_by_length), self.unknown_row)

    def lookup_counts(self, rows: Tensor) -> Tensor:
        """Return the counts of the grams with these rows [...] in all categories [..., C]."""
        if len(self.dense):
            return self.dense[rows]
        dense_rows = self._lookup_sparse_counts(rows.flatten())
        return dense_rows.reshape(*rows.shape, self.n_categories)

    def _lookup_sparse_counts(self, rows: Tensor) -> Tensor:
        """Return some rows [n] of the sparse matrix as dense ones [n, C]."""
        starts = self.starts[rows]  # [n]
        lengths = self.starts[rows + 1] - starts  # [n]
        count_indices = indices_of_slices(starts, lengths)  # [sum of lengths], as the next three
        row_indices = torch.arange(len(lengths), device=rows.device).repeat_interleave(lengths)
        categories = self.categories[count_indices].long()
        counts = self.counts[count_indices]
        dense_rows = self.dense.new_zeros(len(lengths), self.n_categories)
        dense_rows[row_indices, categories] = counts.to(dense_rows.dtype)
        return dense_rows


def choose_most_frequent(
    gram_of_count: Tensor, counts: Tensor, n_grams: int, max_counts: int
) -> Tensor:
    """Choose the most frequent of G grams, as many as have room in a table.

    Args:
        gram_of_count: for each count above 0, the index of its gram [Q], int64.
        counts: number of occurrences of the gram in a category [Q], int64.
        n_grams: number of grams, G.
        max_counts: number of counts that the table has room for.

    Returns:
        Whether each gram is chosen [G], bool.
    """
    frequency = counts.new_zeros(n_grams).index_add(0, gram_of_count, counts)  # n(g), [G]
    by_frequency = frequency.argsort(descending=True, stable=True)  # indices of grams [G]
    n_counts_of_gram = gram_of_count.bincount()  # the room that a gram takes [G]
    room_up_to_gram = n_counts_of_gram[by_frequency].cumsum(0)  # in order of frequency [G]
    chosen = by_frequency[room_up_to_gram <= max_counts]
    is_chosen = torch.zeros(n_grams, dtype=torch.bool)
    return is_chosen.index_fill(0, chosen, True)
