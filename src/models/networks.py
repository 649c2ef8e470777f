"""Networks that read many names side by side: any cell, and letter n-grams beside it.

Shapes: B names of a batch, L letters of the longest, C categories, F features of a name.
"""

import unicodedata
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from src.data.letters import Letters, letter_dtype
from src.models.bag import BagOfGrams
from src.models.ngrams import Found, LetterNgrams
from src.models.rnn import RNN, read_names

CELLS: dict[str, type[nn.RNN | nn.GRU | nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
SIZES = {"layers": 1, "bidirectional": False, "embedding": 0, "pooling": "last"}
"""What else than cell and hidden size the shapes of weights depend on, and what it usually is."""
SHARES = {"network": 0.2, "counted": 0.6, "weighed": 0.2}
"""Of the network, the n-gram models together, and the bag of grams; fitted ones were no better."""


class TutorialNetwork(nn.Module):
    """The hand-written cell."""

    def __init__(self, n_letters: int, n_categories: int, hidden: int) -> None:
        super().__init__()
        self.rnn = RNN(n_letters, hidden, n_categories)

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Read letters, end to end, of names with these lengths [B]: → log-probabilities [B, C]."""
        return read_names(self.rnn, letters, lengths)


class RecurrentNetwork(nn.Module):
    """PyTorch's own recurrent layers, and a linear layer on what they make of a name.

    Args:
        n_letters: symbols that there are, S.
        n_categories: the outputs.
        cell: `rnn`, `gru` or `lstm`.
        hidden: size of the hidden state, in each direction.
        layers: recurrent layers, one on the states of the other.
        bidirectional: whether each layer reads backwards, too.
        embedding: size of a letter's learned vector; 0: its one-hot row.
        pooling: `last`, the state after the last letter (backwards: the first), or `all`, the
            maximum and the mean of all states.
        dropout: of a name's features and between layers; a fifth of it of the letters' vectors.
        recurrent_dropout: of the weights from state to state.
        alike: with learned vectors, what letters share, int64 [S, K], numbered from S on: a
            letter's vector is the sum of its own and of theirs, which helps rare ones.

    Raises:
        ValueError: if there are more layers than anybody wants, or a dropout is no share.
    """

    def __init__(
        self,
        n_letters: int,
        n_categories: int,
        cell: str,
        hidden: int,
        layers: int = 1,
        bidirectional: bool = False,
        embedding: int = 0,
        pooling: str = "last",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        alike: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not (1 <= layers <= 16 and 0 <= dropout < 1 and 0 <= recurrent_dropout < 1):
            raise ValueError(f"layers={layers} or a dropout is out of range")
        self.pooling, self.embedding = pooling, embedding
        self.dropout, self.recurrent_dropout = dropout, recurrent_dropout
        self.letter_dropout = dropout / 5 if embedding else 0.0
        looked_up = not embedding and letter_dtype(n_letters) != torch.uint8
        n_gates = GATES[cell] * hidden
        nothing = torch.empty(n_letters, 0, dtype=torch.int64, device="cpu")
        shared = alike if embedding and alike is not None else nothing
        self.alike: Tensor = nn.Buffer(shared, persistent=False)
        if embedding:
            n_vectors = n_letters if alike is None else int(alike.max()) + 1
            vectors = torch.randn(n_vectors, embedding) / (1 + self.alike.shape[1]) ** 0.5
        elif looked_up:  # a one-hot row selects a column of the first weights: these are columns
            vectors = torch.empty(n_letters, n_gates * (1 + bidirectional)).uniform_(-1, 1)
            vectors /= hidden**0.5
        else:
            vectors = torch.eye(n_letters)
        self.letters = nn.Parameter(vectors, bool(embedding or looked_up))  # [S, E]
        how: Any = {"dropout": dropout if layers > 1 else 0.0, "bidirectional": bidirectional}
        self.rnn = CELLS[cell](vectors.shape[1], hidden, layers, **how)
        if looked_up:  # and are handed on as they are, each direction's own
            ones = torch.split(torch.eye(vectors.shape[1]), n_gates)
            for name, one in zip(("weight_ih_l0", "weight_ih_l0_reverse"), ones, strict=False):
                setattr(self.rnn, name, nn.Parameter(one.clone(), requires_grad=False))
        n_states = hidden * (1 + bidirectional)
        self.output = nn.Linear(n_states * (2 if pooling == "all" else 1), n_categories)

    def vectors(self) -> Tensor:
        """Return what each symbol is read as [S, E]."""
        vectors = F.dropout(self.letters, self.letter_dropout, self.training)
        if self.alike.shape[1]:
            vectors = vectors[: len(self.alike)] + vectors[self.alike].sum(dim=1)
        return vectors

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Read letters, end to end, of names with these lengths [B]: → log-probabilities [B, C]."""
        steps = torch.arange(int(lengths.max()), device=letters.device)[:, None]  # [L, 1]
        places = (lengths.cumsum(0) - lengths + steps).clamp(max=len(letters) - 1)  # [L, B]
        padded = F.embedding(letters[places].long(), self.vectors())  # [L, B, E]; what is behind
        packed = pack_padded_sequence(padded, lengths.cpu(), enforce_sorted=False)  # a name goes
        if self.training:
            drop = partial(F.dropout, p=self.recurrent_dropout)
            weights = {n: drop(w) for n, w in self.rnn.named_parameters() if "weight_hh" in n}
            states, last = functional_call(self.rnn, weights, (packed,))
        else:
            states, last = self.rnn(packed)
        if self.pooling == "all":
            padded, _ = pad_packed_sequence(states)  # [L, B, F / 2]
            highest = padded.masked_fill((steps >= lengths)[:, :, None], -torch.inf).amax(dim=0)
            parts = [highest, padded.sum(dim=0) / lengths[:, None]]
        else:
            hidden = last[0] if isinstance(last, tuple) else last  # an LSTM has a cell state, too
            parts = list(hidden[-2:] if self.rnn.bidirectional else hidden[-1:])
        features = F.dropout(torch.cat(parts, dim=1), self.dropout, self.training)  # [B, F]
        return F.log_softmax(self.output(features), dim=1)


def alike_in(symbols: str) -> Tensor:
    """Return what each symbol shares with others, numbered from S on [S, 2].

    That is its case, and the lower-case letter without its accents.
    """
    bare = [unicodedata.normalize("NFKD", symbol)[0].lower() for symbol in symbols]
    numbers = {letter: n for n, letter in enumerate(dict.fromkeys(bare), start=len(symbols) + 2)}
    cases = [len(symbols) + (symbol != symbol.lower()) for symbol in symbols]
    return torch.tensor([cases, [numbers[letter] for letter in bare]], device="cpu").T


class Ngrams(nn.Module):
    """What stands beside the network: n-gram models, counted, and a bag of their grams, weighed.

    One n-gram model takes upper and lower case as one, another as two, if the letters have case.

    Args:
        symbols: of names, in index order.
        n_categories: C.
        order: letters of the longest context.
    """

    def __init__(self, symbols: str, n_categories: int, order: int) -> None:
        super().__init__()
        both = [False, True] if symbols.lower() != symbols else [False]
        counted = (LetterNgrams(symbols, n_categories, order, cased) for cased in both)
        self.counted: Any = nn.ModuleList(counted)
        self.weighed = BagOfGrams(n_categories, [order + 1, min(order + 1, 3)][: len(both)])

    def fit(self, names: Any, shares: list[float], seed: int) -> None:
        """Learn from training names.

        Args:
            names: a NamesDataset; no name twice in a category.
            shares: of the categories among these names, C of them.
            seed: of what is drawn.
        """
        everything = names.__getitems__(range(len(names)))
        for ngrams in self.counted:
            ngrams.count(*everything)
        order = names.loader().batch_sampler  # the loader itself draws a random number
        blocks = (self._find(*names.__getitems__(lines)[:2]) for lines in order)
        fit_bag = partial(self.weighed.fit, blocks, names.categories, torch.tensor(shares), seed)
        stop = Event()
        with ThreadPoolExecutor() as pool:  # the three know nothing of each other
            fits = [pool.submit(each.fit, names, shares, seed, stop) for each in self.counted]
            fits.append(pool.submit(fit_bag, stop))
            try:
                for fit in fits:
                    fit.result()
            finally:  # Ctrl-C
                stop.set()

    def _find(self, letters: Tensor, lengths: Tensor) -> list[Found]:
        return [ngrams.find(letters, lengths) for ngrams in self.counted]

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Compare names with every category: → their part of the scores under equal shares [B, C].

        Letters and lengths are those of `Network.forward`.
        """
        found, n = self._find(letters, lengths), len(lengths)
        parts = [g.compare(f, n) for g, f in zip(self.counted, found, strict=True)]
        counted = SHARES["counted"] * torch.stack(parts).mean(dim=0)
        return counted + SHARES["weighed"] * self.weighed(found, n)  # type: ignore[no-any-return] # a module


class Network(nn.Module):
    """A recurrent network, alone or beside letter n-grams; knows the mix it was trained on.

    Its parts say how well each category explains a name. With the categories' shares in training
    that makes probabilities. The n-grams are fitted before the network, for themselves, so in
    training it answers alone.

    Args:
        letters: what the names are written in, the fields of `Letters`.
        categories: the names of the categories, in index order.
        shares: of the categories in training, C of them; None: the network's answer is left as
            it is, as in the tutorial.
        cell: `tutorial`, or one of `CELLS`.
        hidden: size of the hidden state.
        ngrams: letters of the longest context of the letter n-grams; 0: there are none.
        recurrent: the other arguments of `RecurrentNetwork`.
    """

    def __init__(
        self,
        letters: dict[str, Any],
        categories: list[str],
        shares: list[float] | None,
        cell: str,
        hidden: int,
        ngrams: int = 0,
        **recurrent: Any,
    ) -> None:
        super().__init__()
        self.letters, self.categories = Letters(**letters), list(categories)
        usual = {key: recurrent.get(key, size) for key, size in SIZES.items()}
        self.sizes = {"cell": cell, "hidden": hidden, **usual}
        n_letters, n_categories = len(self.letters.symbols), len(categories)
        if cell == "tutorial":
            self.recurrent: nn.Module = TutorialNetwork(n_letters, n_categories, hidden)
        else:
            alike = alike_in(self.letters.symbols) if self.letters.kind == "corpus" else None
            recurrent |= {"cell": cell, "hidden": hidden, "alike": alike}
            self.recurrent = RecurrentNetwork(n_letters, n_categories, **recurrent)
        self.ngrams = Ngrams(self.letters.symbols, n_categories, ngrams) if ngrams else None
        self.log_shares: Tensor | None = nn.Buffer(torch.tensor(shares).log()) if shares else None

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Read letters, end to end, of names with these lengths [B]: → log-probabilities [B, C]."""
        scores: Tensor = self.recurrent(letters, lengths)
        if self.ngrams is not None and not self.training:
            scores = SHARES["network"] * scores + self.ngrams(letters, lengths)
        return scores if self.log_shares is None else (scores + self.log_shares).log_softmax(dim=1)
