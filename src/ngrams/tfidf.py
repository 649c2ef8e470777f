"""Logistic regression on the grams of a name: which of them it has, wherever they stand.

    logit_c = b_c + Σ_w x_w W_wc        x_w = (1 + log n(w)) (1 + log((1 + N) / (1 + N(w)))) / |x|

n(w) is how often the name has the gram w, N(w) how many of the N training names have it: tf-idf, of
norm 1. W is learned with the mean loss + |W|² / (2 · STRENGTH · N), grams dropped now and then.

Shapes: B names of a batch, C categories, F grams that have weights, G grams of all names together.
"""

from collections.abc import Iterable, Sequence
from threading import Event
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.data.batch import ragged_indices
from src.ngrams.letter_ngrams import NEVER, Found, Tables, descend

LR, PASSES, STEPS, NAMES = 0.02, 12, (400, 2000), (256, 1024)
"""How W is learned: Adam's highest rate; passes over the names, but at least and at most so many
steps; the least and the most names of a step."""
STRENGTH, DROPOUT = 10, 0.3
MOST_WEIGHTS = 2**23
"""F · C at most, of the commonest grams: 16 MB of a checkpoint."""

_MODEL, _NAME = 1 << 32, 1 << 34
"""A gram's number is its row, and the number of its model times _MODEL; with the number of a name
times _NAME it is that name's."""

Bags = tuple[Tensor, Tensor, Tensor]
"""The grams of some names, end to end: index int64 [G] and x [G]; where each name's begin [B + 1].
"""


class BagOfGrams(Tables):
    """Weights of the grams that n-gram models find in a name.

    Args:
        n_categories: C.
        longest: symbols of the longest gram with a weight, for each of the models.
    """

    tables = "grams", "idf", "weight"

    def __init__(self, n_categories: int, longest: Sequence[int]) -> None:
        super().__init__()
        self.longest = longest
        self.bias = nn.Parameter(torch.zeros(n_categories), requires_grad=False)
        # grams [F], int64 in order; idf [F]; weight [F, C], in numbers that 16 bits hold
        with torch.device("cpu"):  # even where the parameters are made on `meta`
            self.grams: Tensor = nn.Buffer(torch.zeros(1).long(), persistent=False)
            self.idf: Tensor = nn.Buffer(torch.zeros(1), persistent=False)
            self.weight: Tensor = nn.Buffer(torch.zeros(1, n_categories).half(), persistent=False)

    def forward(self, found: Sequence[Found], n_names: int) -> Tensor:
        """Return the logits [B, C] of names by the grams that each model has found in them."""
        bags = self._weigh(*self._grams_of(found), n_names)
        return _logits(bags, self.weight.to(self.bias.dtype), self.bias)

    def fit(
        self,
        blocks: Iterable[Sequence[Found]],
        categories: Tensor,
        shares: Tensor,
        seed: int,
        stop: Event = NEVER,
    ) -> None:
        """Learn the weights.

        Args:
            blocks: what each model has found in N training names, in blocks.
            categories: their categories, int64 [N].
            shares: of the categories among them [C].
            seed: of the names' order, and of the grams that are dropped.
            stop: see `descend`.
        """
        parts, n = [], 0
        for found in blocks:
            of_name, times = self._grams_of(found)
            parts.append((of_name + n * _NAME, times.short()))
            n += int(found[0].name[-1]) + 1
        of_name, times = (torch.cat(part) for part in zip(*parts, strict=True))
        parts.clear()  # of a million names a gigabyte
        grams, names = torch.unique(of_name % _NAME, return_counts=True)  # N(w)
        common = names.argsort(descending=True, stable=True)[: MOST_WEIGHTS // len(shares)]
        common = common[names[common] > 1].sort().values
        self.grams = F.pad(grams[common], (0, 1), value=_NAME)
        self.idf = F.pad(1 + ((1 + n) / (1 + names[common])).log(), (0, 1))
        bags = self._weigh(of_name, times, n)

        n_steps = min(max(PASSES * n // NAMES[0], STEPS[0]), STEPS[1])
        size = min(max(PASSES * n // n_steps, NAMES[0]), NAMES[1])
        rng = torch.Generator().manual_seed(seed)
        weight = torch.zeros(len(self.grams), len(shares), requires_grad=True)
        bias = shares.log().requires_grad_()

        def loss(names: Tensor) -> Tensor:
            index, x, begins = _chosen(bags, names)
            x = x * (torch.rand(len(x), generator=rng) >= DROPOUT) / (1 - DROPOUT)
            return F.cross_entropy(_logits((index, x, begins), weight, bias), categories[names])

        groups = [{"params": weight, "weight_decay": 1 / (STRENGTH * n)}, {"params": bias}]
        descend(groups, LR, (n_steps, size, n), rng, loss, stop)
        self.weight = weight.detach().to(self.weight)
        self.bias.data = (bias - shares.log()).detach()

    def _grams_of(self, found: Sequence[Found]) -> tuple[Tensor, Tensor]:
        """Return the distinct grams of each name but for a mark alone, and how often it has them.

        Returns:
            Name · _NAME + gram, in order, and n(w); int64 [G].
        """
        kinds: Any = []
        for model, (each, longest) in enumerate(zip(found, self.longest, strict=True)):
            known = each.rows < each.unknown
            known[1] &= (each.before > 0) & (each.left > 1)
            kind = each.name * _NAME + model * _MODEL + each.rows
            kinds.append(kind[1 : longest + 1][known[1 : longest + 1]])
        kinds, times = torch.unique(torch.cat(kinds), return_counts=True)
        return kinds, times

    def _weigh(self, of_name: Tensor, times: Tensor, n_names: int) -> Bags:
        index = torch.searchsorted(self.grams, of_name % _NAME).clamp(max=len(self.grams) - 1)
        known = self.grams[index] == of_name % _NAME
        name, index = of_name[known] // _NAME, index[known]
        x = (1 + times[known].log()) * self.idf[index]
        x = x / x.new_zeros(n_names).index_add(0, name, x * x).sqrt()[name]
        begins = torch.searchsorted(name, torch.arange(n_names + 1, device=name.device))
        return index, x.to(self.bias.dtype), begins

    def set_extra_state(self, state: Any) -> None:
        """Take the tables of `get_extra_state`; see `Tables`."""
        super().set_extra_state(state)
        if not 0 < len(self.grams) == len(self.idf) == len(self.weight):
            raise ValueError("weights of grams: tables of several lengths")


def _chosen(bags: Bags, names: Tensor) -> Bags:
    index, x, begins = bags
    sizes = begins.diff()[names]
    chosen = ragged_indices(begins[names], sizes)
    return index[chosen], x[chosen], F.pad(sizes.cumsum(0), (1, 0))


def _logits(bags: Bags, weight: Tensor, bias: Tensor) -> Tensor:
    index, x, begins = bags
    return F.embedding_bag(index, weight, begins[:-1], mode="sum", per_sample_weights=x) + bias
