"""Logistic regression on the tf-idf features of a name's grams, regardless of their positions.

The terms are the grams that n-gram models find in a name. tf(t) is the number of occurrences of the
term t in the name, df(t) is the number of the N training names that contain it, and the features x
are scaled to unit length:

    (1)  idf(t) = 1 + log((1 + N) / (1 + df(t)))
    (2)  v(t) = (1 + log tf(t)) idf(t)
    (3)  x(t) = v(t) / |v|
    (4)  logit_c = b_c + Σ_t x(t) W_tc

(1) to (3) are those of scikit-learn's `TfidfVectorizer(sublinear_tf=True, min_df=2)`. W and b
minimize the mean cross-entropy + |W|² / (2 · INVERSE_REGULARIZATION · N), with dropout on x.

A term is stored as an integer, its id: a model and a row. A term of a certain name is stored as a
key: a name, a model and a row. Both are packed into 64 bits:

    bits    34 … 62          32 … 33           0 … 31
    id                       index of model    row of gram
    key     index of name    index of model    row of gram

The model is the n-gram model that has found the gram, and the row is that in its table. Sorting the
keys groups them by name.

Shapes: B names in a batch, C categories, T terms in the vocabulary, G pairs of a name and one of
its candidates for terms, V of these pairs whose candidate is in the vocabulary.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.data.batch import indices_of_slices
from src.ngrams.buffers import replace_buffers
from src.ngrams.gram_table import GramMatches
from src.ngrams.minimize import FitProgress, minimize_with_adam

MAX_LR = 0.02
N_EPOCHS = 12
MIN_STEPS = 400
MAX_STEPS = 2000
MIN_BATCH_SIZE = 256
MAX_BATCH_SIZE = 1024
DROPOUT = 0.3
INVERSE_REGULARIZATION = 10
"""The parameter C of scikit-learn's `LogisticRegression`."""

MIN_DOCUMENT_FREQUENCY = 2
MAX_WEIGHTS = 2**23
"""Maximum number of elements of W, T · C. They take 16 MB of a checkpoint."""

MODEL_SHIFT = 32
NAME_SHIFT = 34
END_OF_VOCABULARY = 1 << NAME_SHIFT
"""A number above the ids of all terms."""
TENSOR_KEYS = {"term_ids": "grams", "idf": "idf", "weight": "weight"}
"""For each buffer that is loaded as extra state, its key in a checkpoint."""


def pack_term_keys(name_index: Tensor, model_index: int, rows: Tensor) -> Tensor:
    """Pack indices of names [P], the index of an n-gram model and rows [..., P] into keys."""
    return (name_index << NAME_SHIFT) + (model_index << MODEL_SHIFT) + rows


def shift_name_index(keys: Tensor, n_names: int) -> Tensor:
    """Add a number to the index of the name in each key."""
    return keys + (n_names << NAME_SHIFT)


def unpack_name_index(keys: Tensor) -> Tensor:
    """Return the index of the name in each key."""
    return keys >> NAME_SHIFT


def unpack_term_ids(keys: Tensor) -> Tensor:
    """Return the id of the term in each key."""
    return keys & ((1 << NAME_SHIFT) - 1)


class TermCounts(NamedTuple):
    """The different terms of each name, or the candidates for terms."""

    keys: Tensor
    """Key of each term in each name, in ascending order [G], int64."""
    counts: Tensor
    """Number of occurrences of the term in the name, tf [G], int64 or int16."""


class SparseRows(NamedTuple):
    """A sparse matrix in CSR layout, with a row for each name.

    Row i occupies the slice row_starts[i] : row_starts[i + 1] of `columns` and `values`.
    """

    columns: Tensor
    """Column of each value, row after row [V], int64."""
    values: Tensor
    """Values, row after row [V]."""
    row_starts: Tensor
    """Position of the first value of each row, and the number of values [B + 1], int64."""

    def select(self, rows: Tensor) -> "SparseRows":
        """Return the matrix that consists of the rows with these indices."""
        starts = self.row_starts[rows]
        lengths = self.row_starts[rows + 1] - starts
        index = indices_of_slices(starts, lengths)  # [sum of lengths]
        return SparseRows(
            columns=self.columns[index],
            values=self.values[index],
            row_starts=F.pad(lengths.cumsum(0), (1, 0)),
        )

    def matmul(self, weight: Tensor) -> Tensor:
        """Return the product of this matrix and a dense one [number of columns, C]: [B, C]."""
        starts = self.row_starts[:-1]
        # For each row, this adds up the rows of `weight` with the indices `columns`, each times
        # its value.
        return F.embedding_bag(
            self.columns, weight, starts, mode="sum", per_sample_weights=self.values
        )


class TfidfClassifier(nn.Module):
    """Logistic regression on tf-idf features of the grams that n-gram models find in a name.

    Args:
        n_categories: number of categories, C.
        max_term_lengths: for each n-gram model, the number of symbols in the longest gram that is a
            term.

    Attributes:
        bias: b, without the logarithm of the training prior [C].
        term_ids: the vocabulary: ids of its terms in ascending order [T + 1], int64. This and the
            following tensors end with a row for END_OF_VOCABULARY, which is not a term.
        idf: idf(t) of each term [T + 1].
        weight: W [T + 1, C]. Half precision halves the size of checkpoints.
    """

    def __init__(self, n_categories: int, max_term_lengths: Sequence[int]) -> None:
        super().__init__()
        self.max_term_lengths = max_term_lengths
        self.bias = nn.Parameter(torch.zeros(n_categories), requires_grad=False)
        # `network_from_checkpoint` builds networks on the meta device, but these buffers are loaded
        # as extra state, so they must be created on the CPU. Before `fit`, the vocabulary consists
        # of the last row alone.
        with torch.device("cpu"):
            term_ids = torch.full((1,), END_OF_VOCABULARY)
            weight = torch.zeros(1, n_categories)
            self.term_ids: Tensor = nn.Buffer(term_ids, persistent=False)
            self.idf: Tensor = nn.Buffer(torch.zeros(1), persistent=False)
            self.weight: Tensor = nn.Buffer(weight.half(), persistent=False)

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the vocabulary, idf and W, which a state dict holds as extra state."""
        return {"grams": self.term_ids, "idf": self.idf, "weight": self.weight}

    def set_extra_state(self, state: Any) -> None:
        """Replace the vocabulary, idf and W by those of a checkpoint.

        Raises:
            ValueError: if they have the wrong shape or dtype, or different lengths. A value that is
                not a dictionary of tensors raises a LookupError, TypeError or AttributeError.
        """
        replace_buffers(self, state, keys=TENSOR_KEYS)
        n_rows = {len(self.term_ids), len(self.idf), len(self.weight)}
        if len(n_rows) > 1 or 0 in n_rows:
            raise ValueError("grams, idf and weight: different lengths")

    def forward(self, matches: Sequence[GramMatches]) -> Tensor:
        """Return the logits of a batch of names under a uniform prior [B, C], by formula (4).

        Args:
            matches: the grams that each n-gram model found in these names.
        """
        terms = self._count_candidates(matches)
        features = self._compute_features(terms, n_names=matches[0].names.n_names)  # [B, T + 1]
        weight = self.weight.to(self.bias.dtype)
        return features.matmul(weight) + self.bias

    def fit(
        self,
        batches: Iterable[Sequence[GramMatches]],
        targets: Tensor,
        prior: Tensor,
        seed: int,
        progress: FitProgress | None = None,
    ) -> None:
        """Learn the vocabulary, W and b.

        Args:
            batches: the grams that each n-gram model found in the N training names, in batches.
            targets: category of each name [N], int64.
            prior: prior of each category [C]; see `NgramEnsemble.fit`.
            seed: seeds the order of the names and dropout.
            progress: is advanced at each step; another thread can stop the training with it.
        """
        n_names = len(targets)
        terms = self._count_candidates_of_batches(batches)
        self._fit_vocabulary(terms, n_names, max_terms=MAX_WEIGHTS // len(prior))
        features = self._compute_features(terms, n_names)  # [N, T + 1]
        self._fit_weights(features, targets, prior, seed, progress)

    def _count_candidates(self, matches: Sequence[GramMatches]) -> TermCounts:
        """Count the candidates for terms of each name, whether the vocabulary contains them or not.

        The candidates are all grams of 1 … max_length symbols, except for a mark alone, which every
        name contains.
        """
        model_keys = []
        for model_index, max_length in enumerate(self.max_term_lengths):
            model_matches = matches[model_index]
            names = model_matches.names
            rows = model_matches.rows[1 : max_length + 1]  # [max_length, P]
            is_candidate = rows < model_matches.unknown_row
            is_candidate[0] &= names.is_letter  # the first row has the grams of one symbol
            keys = pack_term_keys(names.name_index, model_index, rows)
            model_keys.append(keys[is_candidate])
        unique_keys, counts = torch.unique(torch.cat(model_keys), return_counts=True)  # [G], [G]
        return TermCounts(unique_keys, counts)

    def _count_candidates_of_batches(self, batches: Iterable[Sequence[GramMatches]]) -> TermCounts:
        """Count the candidates of all names, which are numbered continuously over all batches."""
        keys = []
        counts = []
        n_names = 0
        for matches in batches:
            terms = self._count_candidates(matches)
            keys.append(shift_name_index(terms.keys, n_names))
            counts.append(terms.counts.short())  # for a million names, int64 would take gigabytes
            n_names += matches[0].names.n_names
        return TermCounts(torch.cat(keys), torch.cat(counts))

    def _fit_vocabulary(self, terms: TermCounts, n_names: int, max_terms: int) -> None:
        """Select the terms with the highest document frequencies, and compute their idf."""
        # Each key is a pair of a name and a term. A term has one key for each name with it.
        ids = unpack_term_ids(terms.keys)  # [G]
        unique_ids, df = torch.unique(ids, return_counts=True)
        most_frequent = df.argsort(descending=True, stable=True)[:max_terms]
        is_frequent = df[most_frequent] >= MIN_DOCUMENT_FREQUENCY
        selected = most_frequent[is_frequent].sort().values  # [T]
        idf = 1 + ((1 + n_names) / (1 + df[selected])).log()  # (1), [T]
        self.term_ids = F.pad(unique_ids[selected], (0, 1), value=END_OF_VOCABULARY)
        self.idf = F.pad(idf, (0, 1))

    def _compute_features(self, terms: TermCounts, n_names: int) -> SparseRows:
        """Return the tf-idf features x of names [n_names, T + 1]."""
        # Look up the candidates, and drop those that are not in the vocabulary.
        ids = unpack_term_ids(terms.keys)  # [G]
        last_row = len(self.term_ids) - 1
        rows = torch.searchsorted(self.term_ids, ids).clamp(max=last_row)  # [G]
        is_known = self.term_ids[rows] == ids  # [G]
        columns = rows[is_known]  # [V]
        name_index = unpack_name_index(terms.keys[is_known])  # [V]
        tf = terms.counts[is_known]  # [V]

        v = (1 + tf.log()) * self.idf[columns]  # (2), [V]
        squared_norms = v.new_zeros(n_names).index_add(0, name_index, v * v)  # |v|², [n_names]
        norms = squared_norms.sqrt()  # [n_names]
        x = v / norms[name_index]  # (3), [V]

        # The keys are sorted by name, so the features of a name are next to each other.
        all_names = torch.arange(n_names + 1, device=name_index.device)
        row_starts = torch.searchsorted(name_index, all_names)  # [n_names + 1]
        return SparseRows(columns, x.to(self.bias.dtype), row_starts)

    def _fit_weights(
        self,
        features: SparseRows,
        targets: Tensor,
        prior: Tensor,
        seed: int,
        progress: FitProgress | None,
    ) -> None:
        """Learn W and b from the features of the training names [N, T + 1]."""
        n_names = len(targets)
        generator = torch.Generator().manual_seed(seed)
        weight = torch.zeros(len(self.term_ids), len(prior), requires_grad=True)  # W, [T + 1, C]
        bias_with_prior = prior.log().requires_grad_()  # b plus the logarithm of the prior, [C]

        def compute_loss(indices: Tensor) -> Tensor:
            batch = features.select(indices)  # [B, T + 1]
            x = drop_out(batch.values, generator)
            batch = batch._replace(values=x)
            logits = batch.matmul(weight) + bias_with_prior  # (4), [B, C]
            return F.cross_entropy(logits, targets[indices])

        # Adam's weight decay λ adds λ |W|² / 2 to the loss.
        weight_decay = 1 / (INVERSE_REGULARIZATION * n_names)
        schedule = choose_schedule(n_names)
        minimize_with_adam(
            compute_loss,
            [{"params": weight, "weight_decay": weight_decay}, {"params": bias_with_prior}],
            max_lr=MAX_LR,
            n_steps=schedule.n_steps,
            batch_size=schedule.batch_size,
            n_examples=n_names,
            generator=generator,
            progress=progress,
        )
        self.weight = weight.detach().to(self.weight)
        self.bias.data = (bias_with_prior - prior.log()).detach()


def drop_out(values: Tensor, generator: torch.Generator) -> Tensor:
    """Apply dropout to values [V], with random numbers from a generator.

    `F.dropout` would draw from the global generator, which other threads use as well.
    """
    is_kept = torch.rand(len(values), generator=generator) >= DROPOUT
    return values * is_kept / (1 - DROPOUT)


class Schedule(NamedTuple):
    """The number of steps and the batch size of a fit."""

    n_steps: int
    """Number of optimizer steps."""
    batch_size: int
    """Number of names in a step."""


def choose_schedule(n_names: int) -> Schedule:
    """Choose a number of steps and a batch size that make about N_EPOCHS epochs.

    If that would take fewer than MIN_STEPS steps, there are more epochs. If it would take more than
    MAX_STEPS steps, the batches get larger.
    """
    n_examples = N_EPOCHS * n_names
    n_steps = n_examples // MIN_BATCH_SIZE
    n_steps = min(max(n_steps, MIN_STEPS), MAX_STEPS)
    batch_size = n_examples // n_steps
    batch_size = min(max(batch_size, MIN_BATCH_SIZE), MAX_BATCH_SIZE)
    return Schedule(n_steps, batch_size)
