"""Letter n-gram models of names, one for each category, with Dirichlet smoothing.

A name is written between a start and an end mark, as in `^lee$`. Its symbols are predicted one by
one in two readings: forward, each symbol from those before it, and backward, each symbol from those
after it. Bayes' rule turns the predictions into logits of the categories.

The context h_k of a predicted symbol x is the k symbols that were read last. Together with x, it is
a gram of k + 1 symbols, which is written h_k x in both readings. For example, in `^lee$` and for
k = 2, these are the contexts of the first `e`:

    reading      x    h_2    gram h_2 x, as it is written in the name
    forward      e    ^l     ^le
    backward     e    e$     ee$

n_c(g) is the number of occurrences of the gram g in the training names of the category c, and n(g)
is the sum of n_c(g) over all categories. For each reading and for k = 0 … K, the predictions are
q_k for all categories together, and p_k for each category c:

    (1)  q_k(x) = (n(h_k x) + δ_k q_{k-1}(x)) / (n(h_k) + δ_k)
    (2)  m_{c,k}(x) = μ_k p_{c,k-1}(x) + (1 - μ_k) q_k(x)                    prior mean of p_{c,k}
    (3)  p_{c,k}(x) = (n_c(h_k x) + β_k m_{c,k}(x)) / (n_c(h_k) + β_k)
    (4)  logit_c = b_c + Σ_readings w_c Σ_x log p_c(x)

(1) and (3) are posterior means under Dirichlet priors: counts are combined with the estimate from a
shorter context, which weighs as much as δ or β observations. Both recursions start with the uniform
distribution, p_{c,-1} = q_{-1} = 1 / (number of symbols that can follow). In (4), p_c is p_{c,k}
for the longest context that fits into the name. Every symbol is predicted except the mark with
which the reading begins.

`LetterNgrams.count_all_names` counts n_c. `LetterNgrams.fit_parameters` then learns the other
parameters by minimizing a leave-one-out cross-entropy: a training name is scored without its own
grams in the counts. The parameters are:

    δ_k > 0                    for each reading and k
    β_k > 0 and 0 < μ_k < 1    for each reading, k and category
    w                          for each reading and category
    b                          for each category

Shapes: B names in a batch, P symbols of these names including the marks, C categories, K symbols in
the longest context. A leading 2 is the reading: 0 forward, 1 backward.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.data.batch import MAX_BATCH_CELLS
from src.data.dataset import NamesDataset
from src.ngrams.gram_table import GramMatches, GramTable, MarkedNames, pack_pairs
from src.ngrams.minimize import FitProgress, minimize_with_adam

MAX_LR = 0.1
N_STEPS = 450
MAX_BATCH_SIZE = 128
COUNTS_PER_NAME_AND_CATEGORY = 64
"""Typical number of counts that are looked up for a name in each category: one for each of 8
symbols and 8 lengths of grams."""


class LetterNgrams(nn.Module):
    """Letter n-gram models of all categories, in both reading directions.

    `count_all_names` counts the grams of training names, and `fit_parameters` learns how to weigh
    the counts. Without `fit_parameters`, the parameters keep their initial values.

    Args:
        alphabet: the symbols of the alphabet, in index order.
        n_categories: number of categories, C.
        order: number of symbols in the longest context, K.
        case_sensitive: whether an upper-case and a lower-case letter are different symbols.

    Attributes:
        symbol_of_letter: symbol of each letter of the alphabet, int64. Symbols are numbered from 1:
            first the letters, then the start and the end mark. The gram of a symbol 0 would have
            the same key as the empty gram.
        table: the counts n_c of all grams of up to K + 1 symbols.
    """

    def __init__(
        self, alphabet: str, n_categories: int, order: int, case_sensitive: bool = False
    ) -> None:
        super().__init__()
        self.n_categories = n_categories
        self.order = order
        symbols = number_letters(alphabet, case_sensitive)
        n_letters = max(symbols)
        self._start_mark = n_letters + 1
        self._end_mark = n_letters + 2
        n_symbols = self._end_mark + 1  # including 0, which is not used
        self._n_successors = n_letters + 1  # a letter, or the mark at the other end
        # `network_from_checkpoint` builds networks on the meta device, but these buffers are not
        # loaded from the state dict, so they must be created on the CPU.
        with torch.device("cpu"):
            self.symbol_of_letter: Tensor = nn.Buffer(torch.tensor(symbols), persistent=False)
            self.table = GramTable(n_symbols, n_categories)
        self._init_parameters()

    def _init_parameters(self) -> None:
        """Create the parameters with their initial values."""
        n_lengths = self.order + 1  # of contexts: 0 … K
        shape = (2, n_lengths, 1, self.n_categories)
        beta = torch.full(shape, 8.0)
        delta = torch.full((2, n_lengths, 1, 1), 8.0)
        self.log_beta = nn.Parameter(beta.log())
        self.log_delta = nn.Parameter(delta.log())
        self.logit_mu = nn.Parameter(torch.full(shape, 1.5))
        self.weight = nn.Parameter(torch.full((2, 1, self.n_categories), 0.4))  # w
        self.bias = nn.Parameter(torch.zeros(self.n_categories))  # b
        # Only `fit_parameters` trains the parameters; the optimizer of the network must not.
        self.requires_grad_(False)

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the tensors of the table, which a state dict holds as extra state."""
        return self.table.get_tensors()

    def set_extra_state(self, state: Any) -> None:
        """Replace the table; see `GramTable.load_tensors` for the errors that this raises."""
        self.table.load_tensors(state)

    def count_all_names(self, letters: Tensor, lengths: Tensor, categories: Tensor) -> None:
        """Count the grams of the training names, and replace the table by these counts.

        Args:
            letters: letter indices of all names, end to end [sum of lengths].
            lengths: number of letters in each name [B], int64, all at least 1.
            categories: category of each name [B], int64. No name may occur twice in a category.
        """
        names = self._add_marks(letters, lengths)
        self.table.count(names, categories, max_length=self.order + 1)

    def fit_parameters(
        self,
        dataset: NamesDataset,
        prior: list[float],
        seed: int,
        progress: FitProgress | None = None,
    ) -> None:
        """Learn β, δ, μ, w and b from the names that were counted.

        Args:
            dataset: the names that were counted.
            prior: prior of each category [C]; see `NgramEnsemble.fit`.
            seed: seeds the order of the names.
            progress: is advanced at each step; another thread can stop the training with it.
        """
        letters, lengths, targets = dataset.as_one_batch()
        occurs_in = self.find_all_categories_of_names(letters, lengths, targets)  # [N, C]
        log_prior = torch.tensor(prior).log()  # [C]

        def compute_loss(indices: Tensor) -> Tensor:
            batch = dataset.batch(indices)
            # Leave the name out of the counts of all categories that contain it.
            logits = self(batch.letters, batch.lengths, counted_in=occurs_in[indices])
            return F.cross_entropy(logits + log_prior, batch.targets)

        # The counts of a batch are [K + 2, P, C], so many categories require small batches.
        counts_per_name = COUNTS_PER_NAME_AND_CATEGORY * self.n_categories
        batch_size = min(MAX_BATCH_SIZE, 1 + MAX_BATCH_CELLS // counts_per_name)
        self.requires_grad_(True)
        minimize_with_adam(
            compute_loss,
            [{"params": list(self.parameters())}],
            max_lr=MAX_LR,
            n_steps=N_STEPS,
            batch_size=batch_size,
            n_examples=len(dataset),
            generator=torch.Generator().manual_seed(seed),
            progress=progress,
        )
        self.requires_grad_(False)

    def find_all_categories_of_names(
        self, letters: Tensor, lengths: Tensor, categories: Tensor
    ) -> Tensor:
        """Return all categories in which each training name occurs, for `counted_in` of `forward`.

        Names that differ only in case are the same name, unless the model is case-sensitive.

        Args:
            letters: letter indices of all training names, end to end [sum of lengths].
            lengths: number of letters in each name [B], int64, all at least 1.
            categories: category of each name [B], int64.

        Returns:
            Whether each name occurs in each category [B, C], bool.
        """
        symbols = self.symbol_of_letter[letters.long()].numpy()
        ends = lengths.cumsum(0).numpy()
        index_of_name: dict[bytes, int] = {}
        name_indices = []
        for name in np.split(symbols, ends[:-1]):
            key = name.tobytes()  # arrays cannot be keys of a dictionary
            if key not in index_of_name:
                index_of_name[key] = len(index_of_name)
            name_indices.append(index_of_name[key])
        name_index = torch.tensor(name_indices)  # [B]
        occurs = torch.zeros(len(index_of_name), self.n_categories, dtype=torch.bool)
        occurs[name_index, categories] = True
        return occurs[name_index]

    def forward(self, letters: Tensor, lengths: Tensor, counted_in: Tensor | None = None) -> Tensor:
        """Return the logits of a batch of names under a uniform prior [B, C].

        Args:
            letters: letter indices of all names, end to end [sum of lengths].
            lengths: number of letters in each name [B], int64, all at least 1.
            counted_in: for leave-one-out scores of training names: whether each name was counted in
                each category [B, C], bool; see `find_all_categories_of_names`. The grams of the
                name are subtracted from the counts of these categories. By default, nothing is
                subtracted.
        """
        matches = self.match_grams(letters, lengths)
        return self.compute_logits(matches, counted_in)

    def match_grams(self, letters: Tensor, lengths: Tensor) -> GramMatches:
        """Look up the table rows of all grams of a batch of names.

        Args:
            letters: letter indices of all names, end to end [sum of lengths].
            lengths: number of letters in each name [B], int64, all at least 1.
        """
        names = self._add_marks(letters, lengths)
        return self.table.match(names, max_length=self.order + 1)

    def compute_logits(self, matches: GramMatches, counted_in: Tensor | None = None) -> Tensor:
        """Return the logits of a batch of names under a uniform prior [B, C], by formula (4).

        Args:
            matches: the table rows of the names' grams.
            counted_in: see `forward`.
        """
        names = matches.names
        counts = self.table.lookup_counts(matches.rows)  # [K + 2, P, C]
        if counted_in is not None:
            counts = subtract_own_grams(counts, matches, counted_in)
        log_p = self._predict_symbols(counts, names)  # [2, P, C]
        evidence = (log_p * self.weight).sum(dim=0)  # [P, C]
        bias = self.bias.expand(names.n_names, -1)  # [B, C]
        return bias.index_add(0, names.name_index, evidence)

    def _add_marks(self, letters: Tensor, lengths: Tensor) -> MarkedNames:
        """Convert the letters of names to symbols, and put marks around each name."""
        marked_lengths = lengths + 2  # [B]
        ends = marked_lengths.cumsum(0)  # [B]
        starts = ends - marked_lengths  # [B]
        n_symbols = len(letters) + 2 * len(lengths)  # P
        positions = torch.arange(n_symbols, device=lengths.device)  # [P], as all tensors below
        name_index = torch.searchsorted(ends, positions, right=True)
        n_before = positions - starts[name_index]
        n_remaining = ends[name_index] - positions
        is_letter = (n_before > 0) & (n_remaining > 1)
        marks = torch.where(n_before == 0, self._start_mark, self._end_mark)
        # The letters of all names fill the places between the marks in order.
        symbols = marks.masked_scatter(is_letter, self.symbol_of_letter[letters.long()])
        return MarkedNames(
            symbols=symbols,
            name_index=name_index,
            n_before=n_before,
            n_remaining=n_remaining,
            is_letter=is_letter,
            n_names=len(lengths),
        )

    def _predict_symbols(self, counts: Tensor, names: MarkedNames) -> Tensor:
        """Return the log-probability of each symbol of the names, by formulas (1) to (3).

        Args:
            counts: counts n_c of the gram of 0 … K + 1 symbols that begins at each symbol
                [K + 2, P, C].
            names: the names.

        Returns:
            The log-probabilities [2, P, C]; 0 for the mark with which the reading begins.
        """
        beta = self.log_beta.exp()  # [2, K + 1, 1, C]
        mu = self.logit_mu.sigmoid()  # [2, K + 1, 1, C]
        delta = self.log_delta.exp()  # [2, K + 1, 1, 1]
        # Both recursions start with the uniform distribution, a scalar that is broadcast. From
        # the first step on, p is [2, P, C] and q is [2, P, 1].
        p = counts.new_tensor(1 / self._n_successors)
        q = p
        for k in range(self.order + 1):
            n_h, n_hx = get_context_and_gram_counts(counts, k)  # [2, P, C], [2, P, C]
            pooled_n_h = n_h.sum(dim=-1, keepdim=True)  # [2, P, 1]
            pooled_n_hx = n_hx.sum(dim=-1, keepdim=True)

            q_k = smooth(pooled_n_hx, pooled_n_h, delta[:, k], q)  # (1), [2, P, 1]
            m_k = torch.lerp(q_k, p, mu[:, k])  # (2), q_k + μ_k (p - q_k), [2, P, C]
            p_k = smooth(n_hx, n_h, beta[:, k], m_k)  # (3), [2, P, C]

            # Where fewer than k symbols were read before x, keep the estimate of a shorter context.
            has_context_k = has_context(names, k)
            q = torch.where(has_context_k, q_k, q)
            p = torch.where(has_context_k, p_k, p)
        log_p = p.clamp(min=1e-9).log()  # the limit keeps the logarithm finite
        return torch.where(has_context(names, 0), log_p, 0)


def number_letters(alphabet: str, case_sensitive: bool) -> list[int]:
    """Return the symbol of each letter of an alphabet. Symbols are numbered from 1.

    Letters that differ only in case have the same symbol, unless `case_sensitive` is true.
    """
    symbol_by_key: dict[str, int] = {}
    symbols = []
    for letter in alphabet:
        key = letter if case_sensitive else letter.lower()
        if key not in symbol_by_key:
            symbol_by_key[key] = 1 + len(symbol_by_key)
        symbols.append(symbol_by_key[key])
    return symbols


def has_context(names: MarkedNames, k: int) -> Tensor:
    """Return whether each symbol is predicted from k symbols, in both readings [2, P, 1].

    The mark with which a reading begins is never predicted, not even from 0 symbols.
    """
    min_others = max(k, 1)  # for k = 0, this excludes the mark with which the reading begins
    n_after = names.n_remaining - 1  # n_remaining includes the symbol itself
    forward = names.n_before >= min_others  # [P]
    backward = n_after >= min_others  # [P]
    return torch.stack((forward, backward)).unsqueeze(-1)


def get_context_and_gram_counts(counts: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the counts of h_k and h_k x for each predicted symbol x.

    `counts[n]` belongs to the gram of n symbols that begins at each position, but h_k and h_k x do
    not always begin at the position of x. For the first `e` of `^lee$`, which is at position 2, and
    for k = 2:

        reading     h_2 begins at    h_2 x begins at
        forward     0 (`^l`)         0 (`^le`)
        backward    3 (`e$`)         2 (`ee$`)

    Args:
        counts: counts n_c of the gram of 0 … K + 1 symbols that begins at each symbol
            [K + 2, P, C].
        k: number of symbols in the context.

    Returns:
        n_c(h_k) and n_c(h_k x), both [2, P, C]. They have no meaning where x has no such context.
    """
    n_context = counts[k]  # [P, C]
    n_gram = counts[k + 1]  # [P, C]
    # In the forward reading, h_k and h_k x begin k symbols before x: at position i, `roll` by k
    # returns the element i - k. At the ends it wraps around, but there x has no such context.
    n_h_forward = n_context.roll(k, 0)
    n_hx_forward = n_gram.roll(k, 0)
    # In the backward reading, h_k begins one symbol after x, and the gram of both begins at x.
    n_h_backward = n_context.roll(-1, 0)
    n_hx_backward = n_gram
    n_h = torch.stack((n_h_forward, n_h_backward))
    n_hx = torch.stack((n_hx_forward, n_hx_backward))
    return n_h, n_hx


def smooth(count: Tensor, total: Tensor, strength: Tensor, mean: Tensor) -> Tensor:
    """Return the posterior mean of a probability under a Dirichlet prior, as in (1) and (3)."""
    return (count + strength * mean) / (total + strength)


def subtract_own_grams(counts: Tensor, matches: GramMatches, counted_in: Tensor) -> Tensor:
    """Return the counts without the grams of each name itself, in some categories [K + 2, P, C].

    Args:
        counts: counts n_c of the grams of the names [K + 2, P, C].
        matches: the table rows of these grams.
        counted_in: the categories from whose counts the grams of each name are subtracted [B, C],
            bool.
    """
    # Count how often each gram occurs in its name. All lengths are counted at once, because a row
    # of the table belongs to one gram.
    name_index = matches.names.name_index  # [P]
    grams = pack_pairs(name_index, matches.rows, n_second=matches.unknown_row + 1)  # [K + 2, P]
    _, inverse, repeats = torch.unique(grams, return_inverse=True, return_counts=True)
    own_counts: Tensor = repeats[inverse].unsqueeze(-1)  # [K + 2, P, 1]
    is_counted = counted_in[name_index].to(counts.dtype)  # [P, C]
    reduced_counts = counts - own_counts * is_counted
    # The difference is negative for grams that are not in the table, whose count is 0 already.
    return reduced_counts.clamp(min=0)
