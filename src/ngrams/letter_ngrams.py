"""A letter n-gram model of each category, counted, with a few hundred learned weights.

A name is spelled between a start and an end mark, `^lee$`. n_c(w) is how often the
training names of category c have the letters w, n(w) the sum of n_c(w) over all categories. Read
forward, h_k is the k symbols before a letter x and hx the two together; read backward, h_k is the
k symbols after x, and hx stands for xh. The probability of x comes from ever longer contexts,
k = 0 … K, each leaning on the shorter one:

    q_k(x) = (n(h_k x) + δ_k q_{k-1}(x)) / (n(h_k) + δ_k)
    p_k(x) = (n_c(h_k x) + β_k (μ_k p_{k-1}(x) + (1 - μ_k) q_k(x))) / (n_c(h_k) + β_k)
    logit_c = b_c + Σ_readings w_c Σ_x log p(x)

q is the probability in all categories together, p the one in category c; p_{-1} and q_{-1} are
1 / the number of symbols that can follow, and p(x) is p_k(x) for the longest context that lies in
the name, marks included. Each reading takes every symbol as x but the mark that it begins with.

Counted: n. Learned, a name never on its own counts: the strengths β > 0 and δ > 0 and the share
0 < μ < 1 for each reading and k, the weight w for each reading — β, μ and w for each category as
well — and b for each category.

Shapes: B names of a batch, P their symbols with the marks, C categories, K longest context,
N distinct grams (runs of 0 … K + 1 symbols) of the training names, the empty one first.
"""

from collections import defaultdict
from collections.abc import Callable
from itertools import count
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.data.batch import MAX_BATCH_CELLS, ragged_indices

LR, STEPS, NAMES = 0.1, 450, 128
"""How the weights are learned: Adam's highest rate, its steps, the names of a step."""
MOST_COUNTS = 2**21
"""Counts that are kept, of the commonest grams: 48 MB of a checkpoint at most."""

MOST_DENSE = 2**24
"""Counts that are laid out as a table to be looked up at once, zeros included: 64 MB at most."""

_NONE = torch.iinfo(torch.int64).max
"""Above the keys of all grams."""

Loss = Callable[[Tensor], Tensor]
"""Of names, given by their numbers."""


NEVER = Event()
"""That nobody sets."""


def descend(
    groups: Any,
    lr: float,
    sizes: tuple[int, int, int],
    rng: torch.Generator,
    loss: Loss,
    stop: Event = NEVER,
) -> None:
    """Take steps of Adam on names in random order, up to a learning rate, then down to 0.

    Args:
        groups: what to learn, as optimizers are told it.
        lr: the highest learning rate.
        sizes: how many steps, names of each, names that there are.
        rng: draws the order, pass after pass.
        loss: of names, given by their numbers.
        stop: set by another thread to end amid it.
    """
    n_steps, size, n_names = sizes
    optimizer = torch.optim.Adam(groups, lr, betas=(0.9, 0.99), fused=True)
    passes = [torch.randperm(n_names, generator=rng) for _ in range(1 + n_steps * size // n_names)]
    for step, names in enumerate(torch.split(torch.cat(passes)[: n_steps * size], size)):
        if stop.is_set():
            return
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, 20 * (step + 1) / n_steps) * (1 - step / n_steps)
        optimizer.zero_grad()
        loss(names).backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
        optimizer.step()


class Found(NamedTuple):
    """The symbols of a batch of names, end to end, each name between its marks."""

    name: Tensor
    """int64 [P]: the name that a symbol belongs to."""
    before: Tensor
    """int64 [P]: the symbols of that name before it."""
    left: Tensor
    """int64 [P]: those from it on."""
    rows: Tensor
    """int64 [K + 2, P]: the gram of 0 … K + 1 symbols that begins there."""
    unknown: int
    """N, the row of all that are not known."""


class Tables(nn.Module):
    """A module with buffers whose length is learned, too; checkpoints have them as extra state."""

    tables: tuple[str, ...]
    """Their names."""

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the tables."""
        return {name: getattr(self, name) for name in self.tables}

    def set_extra_state(self, state: Any) -> None:
        """Take the tables of `get_extra_state`, of whatever precision.

        Raises:
            ValueError: if they are not those of such a module, or likewise another error.
        """
        for name, mine in self.get_extra_state().items():
            table, real = state[name], mine.is_floating_point()
            if table.shape[1:] != mine.shape[1:] or table.is_floating_point() != real:
                raise ValueError(f"{name}: no such table")
            setattr(self, name, table.to(mine))


class LetterNgrams(Tables):
    """A letter n-gram model of each category, read in both directions; Bayes' rule does the rest.

    Args:
        alphabet: the symbols of names, in index order.
        n_categories: C.
        order: K, the most letters that a letter is predicted from.
        cased: whether upper and lower case are two.
    """

    tables = "grams", "starts", "categories", "counts"

    def __init__(self, alphabet: str, n_categories: int, order: int, cased: bool = False) -> None:
        super().__init__()
        numbers: dict[str, int] = {}
        read = alphabet if cased else map(str.lower, alphabet)
        symbols = [numbers.setdefault(c, 1 + len(numbers)) for c in read]
        self._start, self._end = len(numbers) + 1, len(numbers) + 2
        self._base = len(numbers) + 3
        self.n_categories, self.order = n_categories, order
        sizes = (2, order + 1, 1, n_categories)  # 2: forward, backward; the 1: all symbols
        self.log_strength = nn.Parameter(torch.full(sizes, 8.0).log())  # log β
        self.log_pooled_strength = nn.Parameter(torch.full((*sizes[:3], 1), 8.0).log())  # log δ
        self.own_share = nn.Parameter(torch.full(sizes, 1.5))  # logit of μ
        self.weight = nn.Parameter(torch.full((2, 1, n_categories), 0.4))
        self.bias = nn.Parameter(torch.zeros(n_categories))
        self.requires_grad_(False)  # but in `fit`
        # symbols [S], int64 from 1
        # grams [N + 1], int64: sorted keys, 0 for the empty gram, else the row of the gram without
        #     its last symbol · base + that symbol; so a gram's row is behind its beginnings'. The
        #     last is _NONE
        # starts [N + 2], int32: where the counts of each row begin among
        # categories and counts, int32 [starts[-1]]; the last row, of what is not known, has none
        # dense [N + 1, C]: the same counts, if that is not too large; else empty
        with torch.device("cpu"):  # even where the parameters are made on `meta`
            none = torch.empty(0, dtype=torch.int32)
            self.symbols: Tensor = nn.Buffer(torch.tensor(symbols), persistent=False)
            self.grams: Tensor = nn.Buffer(torch.tensor([_NONE]), persistent=False)
            self.starts: Tensor = nn.Buffer(none.new_zeros(2), persistent=False)
            self.categories: Tensor = nn.Buffer(none, persistent=False)
            self.counts: Tensor = nn.Buffer(none, persistent=False)
            self.dense: Tensor = nn.Buffer(torch.empty(0, n_categories), persistent=False)

    def count(self, letters: Tensor, lengths: Tensor, categories: Tensor) -> None:
        """Count the grams of the training names, in place of whatever was counted before.

        The shorter grams come first, of equally long ones the commoner, up to MOST_COUNTS counts.

        Args:
            letters: letter indices of all names, end to end [sum of lengths].
            lengths: int64 letters of each name [B], all at least 1.
            categories: int64 category of each name [B]; no pair of name and category twice.
        """
        symbols, name, before, left = self._spell(letters, lengths)  # [P] each
        c, category = self.n_categories, categories[name]
        rows = torch.zeros_like(name)  # of the gram that begins at each place; -1: it is not kept
        grams, pairs = [rows.new_zeros(1)], [torch.unique(category[before > 0], return_counts=True)]
        n_grams, room = 1, MOST_COUNTS - c
        for k in range(self.order + 1):
            rows = rows.masked_fill(left <= k, -1)
            key = (rows * self._base + symbols.roll(-k))[rows >= 0]
            keys, gram = torch.unique(key, return_inverse=True)
            kinds, times = torch.unique(gram * c + category[rows >= 0], return_counts=True)
            of = kinds // c
            often = torch.zeros_like(keys).index_add(0, of, times)
            common = often.argsort(descending=True, stable=True)
            fits = of.bincount()[common].cumsum(0) <= room
            kept = torch.zeros_like(keys, dtype=torch.bool).index_fill(0, common[fits], True)
            number = torch.where(kept, kept.cumsum(0) - 1 + n_grams, -1)
            rows = rows.masked_scatter(rows >= 0, number[gram])
            grams.append(keys[kept])
            pairs.append(((number[of] * c + kinds % c)[kept[of]], times[kept[of]]))
            n_grams, room = n_grams + len(grams[-1]), room - len(pairs[-1][0])
        pair, counts = (torch.cat(part) for part in zip(*pairs, strict=True))
        starts = F.pad((pair // c).bincount(minlength=n_grams + 1).cumsum(0), (1, 0))
        keys = torch.cat((*grams, torch.tensor([_NONE])))
        tables = keys, starts, pair % c, counts
        self.set_extra_state(dict(zip(self.tables, tables, strict=True)))

    def fit(self, names: Any, shares: list[float], seed: int, stop: Event = NEVER) -> None:
        """Learn how far to trust the counts of training names.

        Args:
            names: a NamesDataset of those counted.
            shares: of the categories among these names, C of them.
            seed: of the order of names that the steps are taken on.
            stop: see `descend`.
        """
        owners = self._owners(*names.batch(range(len(names))))
        log_shares = torch.tensor(shares).log()

        def loss(lines: Tensor) -> Tensor:
            batch = names.batch(lines)
            scores = self(batch.letters, batch.lengths, leave_out=owners[lines])
            return F.cross_entropy(scores + log_shares, batch.targets)

        self.requires_grad_(True)
        size = min(
            NAMES, 1 + MAX_BATCH_CELLS // (64 * self.n_categories)
        )  # fewer of many categories
        rng = torch.Generator().manual_seed(seed)
        groups, sizes = [{"params": list(self.parameters())}], (STEPS, size, len(names))
        descend(groups, LR, sizes, rng, loss, stop)
        self.requires_grad_(False)

    def _owners(self, letters: Tensor, lengths: Tensor, categories: Tensor) -> Tensor:
        """Return the categories that have each name, spelled as it is read here, bool [B, C]."""
        symbols, ends = self.symbols[letters.long()].numpy(), lengths.cumsum(0)[:-1].numpy()
        numbers = defaultdict[bytes, int](count().__next__)
        name = torch.tensor([numbers[each.tobytes()] for each in np.split(symbols, ends)])
        owners = torch.zeros(len(numbers), self.n_categories, dtype=torch.bool)
        owners[name, categories] = True
        return owners[name]

    def find(self, letters: Tensor, lengths: Tensor) -> Found:
        """Find the grams of a batch of names.

        Args:
            letters: letter indices of all names, end to end [sum of lengths].
            lengths: int64 letters of each name [B], all at least 1.
        """
        symbols, name, before, left = self._spell(letters, lengths)  # [P] each
        none = len(self.grams) - 1
        row = torch.zeros_like(name)  # of the gram of k symbols that begins at each place
        found = [torch.where(before > 0, row, none)]  # the empty one: once for each x
        for k in range(self.order + 1):
            key = row * self._base + symbols.roll(-k)
            row = torch.searchsorted(self.grams, key)
            row = torch.where((left > k) & (self.grams[row] == key), row, none)
            found.append(row)
        return Found(name, before, left, torch.stack(found), none)

    def forward(self, letters: Tensor, lengths: Tensor, leave_out: Tensor | None = None) -> Tensor:
        """Compare a batch of names with every category: → the logits of `compare` [B, C]."""
        return self.compare(self.find(letters, lengths), len(lengths), leave_out)

    def compare(self, found: Found, n_names: int, leave_out: Tensor | None = None) -> Tensor:
        """Compare a batch of names with every category.

        Args:
            found: the names' grams.
            n_names: B.
            leave_out: bool [B, C]; in training, the categories that counted each name: the name's
                own grams are left out of their counts.

        Returns:
            The logits under a uniform prior [B, C].
        """
        name, before, left, rows, _ = found
        counts = self._counts(rows)  # [K + 2, P, C]
        if leave_out is not None:
            own = leave_out[name].to(counts.dtype)  # [P, C]
            grams = name * len(self.grams) + rows  # of each name: one number
            _, kinds, times = torch.unique(grams, return_inverse=True, return_counts=True)
            counts = (counts - times[kinds].unsqueeze(-1) * own).clamp(min=0)
        evidence = (self._log_probability(counts, before, left) * self.weight).sum(0)  # [P, C]
        return self.bias.expand(n_names, -1).index_add(0, name, evidence)

    def _counts(self, rows: Tensor) -> Tensor:
        """Return how often each category has some grams, rows [...]: → [..., C]."""
        if len(self.dense):
            return self.dense[rows]
        begins = self.starts[rows.flatten()]
        sizes = self.starts[rows.flatten() + 1] - begins
        place = torch.arange(len(sizes), device=rows.device).repeat_interleave(sizes)
        pair = ragged_indices(begins, sizes)
        table = self.dense.new_zeros(len(sizes), self.n_categories)
        table[place, self.categories[pair].long()] = self.counts[pair].to(table.dtype)
        return table.reshape(*rows.shape, self.n_categories)

    def _spell(self, letters: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Lay the names end to end, each between its marks.

        Returns:
            The symbol at each place, and what `Found` has of it; all int64 [P].
        """
        sizes = lengths + 2
        ends = sizes.cumsum(0)
        place = torch.arange(len(letters) + 2 * len(lengths), device=lengths.device)
        name = torch.searchsorted(ends, place, right=True)
        before, left = place - (ends - sizes)[name], ends[name] - place
        symbols = torch.where(before == 0, self._start, self._end)
        symbols = symbols.masked_scatter((before > 0) & (left > 1), self.symbols[letters.long()])
        return symbols, name, before, left

    def _log_probability(self, counts: Tensor, before: Tensor, left: Tensor) -> Tensor:
        """Predict every symbol: counts [K + 2, P, C] → log p, forward and backward [2, P, C].

        The counts lie where their gram begins. Forward, that is k places before x; backward, x is
        where hx begins, and h begins one place after. `within` is whether hx lies in the name.
        """
        beta, mu = self.log_strength.exp(), self.own_share.sigmoid()  # [2, K + 1, 1, C]
        delta = self.log_pooled_strength.exp()  # [2, K + 1, 1, 1]
        p = q = counts.new_tensor(1 / (self._base - 2))  # the letters and one mark can follow
        for k in range(self.order + 1):
            context, gram = counts[k], counts[k + 1]
            n_h = torch.stack((context.roll(k, 0), context.roll(-1, 0)))  # [2, P, C]
            n_hx = torch.stack((gram.roll(k, 0), gram))
            within = torch.stack((before >= max(k, 1), left > max(k, 1))).unsqueeze(-1)  # [2, P, 1]
            pooled_h, pooled_hx = n_h.sum(-1, keepdim=True), n_hx.sum(-1, keepdim=True)
            q_k = (pooled_hx + delta[:, k] * q) / (pooled_h + delta[:, k])  # [2, P, 1]
            p_k = (n_hx + beta[:, k] * torch.lerp(q_k, p, mu[:, k])) / (n_h + beta[:, k])
            q, p = torch.where(within, q_k, q), torch.where(within, p_k, p)
        predicted = torch.stack((before > 0, left > 1)).unsqueeze(-1)
        return torch.where(predicted, p.clamp(min=1e-9).log(), 0)

    def set_extra_state(self, state: Any) -> None:
        """Take the tables of `get_extra_state`; see `Tables`."""
        super().set_extra_state(state)
        starts, c, n = self.starts, self.categories, len(self.counts)
        good: Any = starts[0] == 0 and starts[-1] == n == len(c) and (starts.diff() >= 0).all()
        good = good and len(starts) == len(self.grams) + 1 and self.grams[-1] == _NONE
        if not (good and ((c >= 0) & (c < self.n_categories) & (self.counts >= 0)).all()):
            raise ValueError("letter counts: out of range")
        self.dense = self.dense[:0]
        if len(self.grams) * self.n_categories <= MOST_DENSE:
            self.dense = self._counts(torch.arange(len(self.grams), device=starts.device))
