"""A letter n-gram model of each category, counted, with a few hundred learned weights.

A name is spelled between a start and an end mark, `^lee$`, in lower case. n_c(w) is how often the
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

Shapes: B names of a batch, S their symbols with the marks, C categories, K longest context,
N distinct grams (runs of 0 … K + 1 symbols) of the training names, the empty one first.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.data.letters import MOST_CELLS
from src.errors import UserError

LR, STEPS, NAMES = 0.1, 900, 128
"""How the weights are learned: Adam's highest rate, its steps, the names of a step."""
MOST_COUNTS = 2**27
"""Grams × categories that are counted, half a GiB of them."""

_NONE = torch.iinfo(torch.int64).max
"""Above the keys of all grams."""

_STATE = {"rows": torch.int32, "categories": torch.int16, "counts": torch.int32}


class LetterNgrams(nn.Module):
    """A letter n-gram model of each category, read in both directions; Bayes' rule does the rest.

    Args:
        alphabet: the symbols of names, in index order; upper and lower case are one.
        n_categories: C.
        order: K, the most letters that a letter is predicted from.
    """

    def __init__(self, alphabet: str, n_categories: int, order: int) -> None:
        super().__init__()
        numbers: dict[str, int] = {}
        symbols = [numbers.setdefault(c.lower(), 1 + len(numbers)) for c in alphabet]
        self._start, self._end = len(numbers) + 1, len(numbers) + 2
        self._base = len(numbers) + 3
        if n_categories > 2**15 or not 0 <= order <= 6:
            raise UserError(f"ngrams={order}: too many for {n_categories:,} categories")
        self.n_categories, self.order = n_categories, order
        sizes = (2, order + 1, 1, n_categories)  # 2: forward, backward; the 1: all symbols
        self.log_strength = nn.Parameter(torch.full(sizes, 8.0).log())  # log β
        self.log_pooled_strength = nn.Parameter(torch.full((*sizes[:3], 1), 8.0).log())  # log δ
        self.own_share = nn.Parameter(torch.full(sizes, 1.5))  # logit of μ
        self.weight = nn.Parameter(torch.full((2, 1, n_categories), 0.4))
        self.bias = nn.Parameter(torch.zeros(n_categories))
        self.requires_grad_(False)  # but in `fit`
        # On the CPU even where the parameters are made on `meta`: the tables are numbers at once.
        # symbols [S], int64 from 1
        # grams [N + 1], int64: sorted keys, 0 for the empty gram, else the row of the gram without
        #     its last symbol · base + that symbol; so a gram's row is behind its beginnings'. The
        #     last is _NONE
        # counts [N + 1, C], int32; the last row is zeros, for every gram that was not counted
        no_counts = torch.zeros(1, n_categories, dtype=torch.int32, device="cpu")
        self.symbols: Tensor = nn.Buffer(torch.tensor(symbols, device="cpu"), persistent=False)
        self.grams: Tensor = nn.Buffer(torch.tensor([_NONE], device="cpu"), persistent=False)
        self.counts: Tensor = nn.Buffer(no_counts, persistent=False)

    def count(self, letters: Tensor, lengths: Tensor, categories: Tensor) -> None:
        """Count the grams of the training names, in place of whatever was counted before.

        Args:
            letters: letter indices of all names, end to end [sum of lengths].
            lengths: int64 letters of each name [B], all at least 1.
            categories: int64 category of each name [B]; no pair of name and category twice.
        """
        symbols, name, before, left = self._spell(letters, lengths)  # [S] each
        keys, rows = [torch.zeros(1, dtype=torch.int64)], torch.zeros_like(name)
        pairs = [categories[name[before > 0]]]  # row · C + category, of each gram that stands
        for k in range(self.order + 1):
            within = left > k
            there, row = torch.unique(
                (rows * self._base + symbols.roll(-k))[within], return_inverse=True
            )
            rows = rows.masked_scatter(within, row + sum(map(len, keys)))
            pairs.append(rows[within] * self.n_categories + categories[name[within]])
            keys.append(there)
        kinds, counts = torch.unique(torch.cat(pairs), return_counts=True)
        rows, categories = kinds // self.n_categories, kinds % self.n_categories
        self._tabulate(torch.cat(keys), rows, categories, counts)

    def fit(self, names: Any, shares: list[float], seed: int) -> None:
        """Count the grams of training names, then learn how far to trust the counts.

        Args:
            names: a NamesDataset to count and to learn from, as `count` demands.
            shares: of the categories among these names, C of them.
            seed: of the order of names that the steps are taken on.
        """
        self.count(*names.__getitems__(range(len(names))))
        self.requires_grad_(True)
        optimizer = torch.optim.Adam(self.parameters(), LR)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        log_shares = torch.tensor(shares).log()
        rng = torch.Generator().manual_seed(seed)
        size = min(NAMES, 1 + MOST_CELLS // (64 * self.n_categories))  # fewer of many categories
        n_passes = 1 + STEPS * size // len(names)
        passes = torch.cat([torch.randperm(len(names), generator=rng) for _ in range(n_passes)])
        for lines in torch.split(passes[: STEPS * size], size):
            batch = names.__getitems__(lines)
            scores = self(batch.letters, batch.lengths, leave_out=batch.categories)
            loss = F.cross_entropy(scores + log_shares, batch.categories)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
            optimizer.step()
            schedule.step()
        self.requires_grad_(False)

    def forward(self, letters: Tensor, lengths: Tensor, leave_out: Tensor | None = None) -> Tensor:
        """Compare a batch of names with every category.

        Args:
            letters: letter indices of all names, end to end [sum of lengths].
            lengths: int64 letters of each name [B], all at least 1.
            leave_out: int64 [B]; in training, the category that counted each name: the name's own
                grams are left out of that category's counts.

        Returns:
            The logits under a uniform prior [B, C].
        """
        symbols, name, before, left = self._spell(letters, lengths)  # [S] each
        none = len(self.grams) - 1
        row = torch.zeros_like(name)  # of the gram of k symbols that begins at each place
        found = [torch.where(before > 0, row, none)]  # the empty one: once for each x
        for k in range(self.order + 1):
            key = row * self._base + symbols.roll(-k)
            row = torch.searchsorted(self.grams, key)
            row = torch.where((left > k) & (self.grams[row] == key), row, none)
            found.append(row)
        rows = torch.stack(found)  # [K + 2, S]
        counts = self.counts[rows].to(self.bias.dtype)  # [K + 2, S, C]
        if leave_out is not None:
            own = F.one_hot(leave_out, self.n_categories)[name].to(counts.dtype)  # [S, C]
            places = name * len(self.grams) + rows  # of a gram in a name: one number
            _, kinds, times = torch.unique(places, return_inverse=True, return_counts=True)
            counts = (counts - times[kinds].unsqueeze(-1) * own).clamp(min=0)
        evidence = (self._log_probability(counts, before, left) * self.weight).sum(0)  # [S, C]
        return self.bias.expand(len(lengths), -1).index_add(0, name, evidence)

    def _spell(self, letters: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Lay the names end to end, each between its marks.

        Returns:
            The symbol at each place; the name that the place belongs to, the symbols of that name
            before it, and those left from it on; all int64 [S].
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
        """Predict every symbol: counts [K + 2, S, C] → log p, forward and backward [2, S, C].

        The counts lie where their gram begins. Forward, that is k places before x; backward, x is
        where hx begins, and h begins one place after. `within` is whether hx lies in the name.
        """
        beta, mu = self.log_strength.exp(), self.own_share.sigmoid()  # [2, K + 1, 1, C]
        delta = self.log_pooled_strength.exp()  # [2, K + 1, 1, 1]
        p = q = counts.new_tensor(1 / (self._base - 2))  # the letters and one mark can follow
        for k in range(self.order + 1):
            context, gram = counts[k], counts[k + 1]
            n_h = torch.stack((context.roll(k, 0), context.roll(-1, 0)))  # [2, S, C]
            n_hx = torch.stack((gram.roll(k, 0), gram))
            within = torch.stack((before >= max(k, 1), left > max(k, 1))).unsqueeze(-1)  # [2, S, 1]
            pooled_h, pooled_hx = n_h.sum(-1, keepdim=True), n_hx.sum(-1, keepdim=True)
            q_k = (pooled_hx + delta[:, k] * q) / (pooled_h + delta[:, k])  # [2, S, 1]
            p_k = (n_hx + beta[:, k] * torch.lerp(q_k, p, mu[:, k])) / (n_h + beta[:, k])
            q, p = torch.where(within, q_k, q), torch.where(within, p_k, p)
        predicted = torch.stack((before > 0, left > 1)).unsqueeze(-1)
        return torch.where(predicted, p.clamp(min=1e-9).log(), 0)

    def _tabulate(self, keys: Tensor, rows: Tensor, categories: Tensor, counts: Tensor) -> None:
        """Build the tables from numbers on any device."""
        if len(keys) * self.n_categories > MOST_COUNTS:
            what = f"{len(keys):,} runs of letters in {self.n_categories:,} categories"
            raise UserError(f"ngrams={self.order}: {what} are too many to count; use a smaller one")
        table = self.counts.new_zeros(len(keys) + 1, self.n_categories, device=keys.device)
        table[rows, categories.long()] = counts.to(table.dtype)
        self.grams = torch.cat((keys, keys.new_tensor([_NONE]))).to(self.symbols.device)
        self.counts = table.to(self.symbols.device)

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the grams' keys [N], and for each count above 0 its row, category and number."""
        rows, categories = self.counts.nonzero(as_tuple=True)
        parts = rows, categories, self.counts[rows, categories]
        state = {key: part.to(_STATE[key]) for key, part in zip(_STATE, parts, strict=True)}
        return {"keys": self.grams[:-1], **state}

    def set_extra_state(self, state: Any) -> None:
        """Take the counts of `get_extra_state`.

        Raises:
            ValueError: if they are not the counts of such a model, or likewise another error.
        """
        keys = state["keys"]
        if keys.dtype != torch.int64 or keys.dim() != 1:
            raise ValueError("letter counts: keys are no list of int64")
        beginnings = keys // self._base
        if bool((keys[:1] != 0).any() | (keys.diff() <= 0).any()) or bool(
            (beginnings[1:] >= torch.arange(1, max(1, len(keys)), device=keys.device)).any()
        ):
            raise ValueError("letter counts: keys not sorted, or of no gram")
        highest = {"rows": len(keys) - 1, "categories": self.n_categories - 1}
        for key, dtype in _STATE.items():
            part, high = state[key], highest.get(key, torch.iinfo(dtype).max)
            is_list = part.dtype == dtype and part.shape == state["counts"].shape[:1]
            if not is_list or bool(((part < 0) | (part > high)).any()):
                raise ValueError(f"letter counts: {key} out of range, or no list of {dtype}")
        pairs = state["rows"].long() * self.n_categories + state["categories"]
        if bool((pairs.diff() <= 0).any()):
            raise ValueError("letter counts: not sorted")
        self._tabulate(**state)
