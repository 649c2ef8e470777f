"""Recurrent networks that read a batch of names in parallel.

Shapes: B names in a batch, L letters in the longest name, S symbols in the alphabet, K groups that
each symbol belongs to (0 or 2; see `symbol_groups`), E size of an input vector, H hidden size,
D directions, C categories, V input vectors (S, plus one for each group).
"""

import math
import unicodedata
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from src.data.alphabet import MAX_UINT8_SYMBOLS, Alphabet
from src.errors import UserError
from src.models.rnn import RNN, compute_log_probs_of_names

PyTorchCell = Literal["rnn", "gru", "lstm"]
Pooling = Literal["last", "all"]

LAYER_CLASSES: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
"""The recurrent layer class for each kind of cell."""
MAX_LAYERS = 16


class TutorialNetwork(nn.Module):
    """The hand-written cell of the PyTorch tutorial "Classifying names with a character-level RNN".

    Args:
        alphabet: the alphabet of the names, with S symbols.
        n_categories: number of categories, C.
        hidden: size of the hidden state, H.
    """

    def __init__(self, alphabet: Alphabet, n_categories: int, hidden: int) -> None:
        super().__init__()
        self.rnn = RNN(len(alphabet.symbols), hidden, n_categories)

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Return the log-probabilities of the categories [B, C]; see `RecurrentNetwork.forward`."""
        return compute_log_probs_of_names(self.rnn, letters, lengths)


def check_one_hot_vectors_are_small(n_letters: int, cell: str) -> None:
    """Check the size of an alphabet whose letters are one-hot vectors.

    Raises:
        UserError: if the vectors would take much memory and time.
    """
    if n_letters > MAX_UINT8_SYMBOLS:
        raise UserError(
            f"embedding=0: the names have {n_letters:,} different letters, and cell={cell} "
            f"takes at most {MAX_UINT8_SYMBOLS} without learned vectors; use embedding=32"
        )


class RecurrentNetwork(nn.Module):
    """PyTorch's recurrent layers, and a linear layer on the pooled hidden states of a name.

    The input for a letter is a learned vector or a one-hot vector. With an alphabet of kind
    `corpus`, the learned vector is the sum of the letter's own vector and those of its groups, so
    that rare letters benefit from frequent ones; see `symbol_groups`.

    Args:
        alphabet: the alphabet of the names, with S symbols.
        n_categories: number of categories, C.
        hidden: size of the hidden state in each direction, H.
        cell: the kind of recurrent layers.
        layers: number of stacked recurrent layers.
        bidirectional: whether each layer also reads backwards.
        embedding: size of learned letter vectors; 0 for one-hot letters.
        pooling: `last` uses the last hidden state of each direction; `all` uses the maximum and the
            mean of all hidden states.
        dropout: dropout rate of the pooled features and between layers. Learned letter vectors use
            a fifth of it.
        recurrent_dropout: dropout rate of the hidden-to-hidden weights.

    Attributes:
        input_vectors: the vectors of all letters, followed by those of all groups [V, E].
        groups: for each letter, the rows of its groups in `input_vectors` [S, K], int64.

    Raises:
        UserError: if the alphabet is too large for one-hot letters.
        ValueError: if the number of layers or a dropout rate is out of range.
    """

    def __init__(
        self,
        alphabet: Alphabet,
        n_categories: int,
        hidden: int,
        cell: PyTorchCell,
        layers: int = 1,
        bidirectional: bool = False,
        embedding: int = 0,
        pooling: Pooling = "last",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_layers_and_dropout(layers, dropout, recurrent_dropout)
        n_letters = len(alphabet.symbols)
        if not embedding:
            check_one_hot_vectors_are_small(n_letters, cell)
        self.pooling = pooling
        self.has_learned_vectors = embedding > 0
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.input_dropout = dropout / 5 if self.has_learned_vectors else 0.0
        # `network_from_checkpoint` builds networks on the meta device, but this buffer is not in
        # checkpoints, so it must be created on the CPU.
        groups = torch.empty(n_letters, 0, dtype=torch.int64, device="cpu")  # no groups, K = 0
        if self.has_learned_vectors and alphabet.kind == "corpus":
            groups = symbol_groups(alphabet.symbols)
        self.groups: Tensor = nn.Buffer(groups, persistent=False)

        if self.has_learned_vectors:
            vectors = random_vectors(groups, size=embedding)  # [V, E]
        else:
            vectors = torch.eye(n_letters)  # [S, S]
        # One-hot vectors are constant.
        self.input_vectors = nn.Parameter(vectors, requires_grad=self.has_learned_vectors)

        self.rnn = LAYER_CLASSES[cell](
            input_size=vectors.shape[1],
            hidden_size=hidden,
            num_layers=layers,
            dropout=dropout if layers > 1 else 0.0,  # PyTorch warns about dropout in one layer
            bidirectional=bidirectional,
        )
        n_features = hidden
        if bidirectional:
            n_features *= 2
        if pooling == "all":
            n_features *= 2  # the maximum and the mean
        self.output = nn.Linear(n_features, n_categories)

    def sum_input_vectors(self) -> Tensor:
        """Return the input for each letter: its vector plus those of its groups [S, E].

        In training mode, dropout is applied to the vectors.
        """
        vectors = F.dropout(self.input_vectors, self.input_dropout, self.training)
        has_groups = self.groups.shape[1] > 0
        if not has_groups:
            return vectors  # letters only
        letter_vectors = vectors[: len(self.groups)]  # [S, E]
        group_vectors = vectors[self.groups]  # [S, K, E]
        return letter_vectors + group_vectors.sum(dim=1)

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Return the log-probabilities of the categories [B, C].

        Args:
            letters: letter indices of all names, end to end [sum of lengths].
            lengths: number of letters in each name [B], all at least 1.
        """
        steps = torch.arange(int(lengths.max()), device=letters.device).unsqueeze(1)  # [L, 1]
        starts = lengths.cumsum(0) - lengths
        # All names get the length of the longest one. A shorter name is padded with the letters
        # that follow it in `letters`; for `ng` and `lee`, the first name becomes `ngl`. Packing
        # removes the padding. The indices of the last name are limited, because no letters follow.
        indices = (starts + steps).clamp(max=len(letters) - 1)  # [L, B]
        padded = F.embedding(letters[indices].long(), self.sum_input_vectors())  # [L, B, E]
        packed = pack_padded_sequence(padded, lengths.cpu(), enforce_sorted=False)
        states, last_states = self._run_layers(packed)
        if self.pooling == "all":
            features = pool_states(states, lengths)  # [B, 2 · D · H]
        else:
            hidden = last_states  # [layers · D, B, H]
            if isinstance(last_states, tuple):  # an LSTM also returns its cell states
                hidden = last_states[0]
            # The states of the last layer come last: one for each direction.
            n_directions = 2 if self.rnn.bidirectional else 1
            last_layer = hidden[-n_directions:]  # [D, B, H]
            features = torch.cat(list(last_layer), dim=1)  # [B, D · H]
        features = F.dropout(features, self.dropout, self.training)
        return F.log_softmax(self.output(features), dim=1)

    def _run_layers(self, packed: PackedSequence) -> Any:
        """Return the states of the last layer, packed, and the last states of all layers."""
        if not self.training:
            return self.rnn(packed)
        # DropConnect: drop hidden-to-hidden weights instead of states. The call uses these weights
        # in place of the module's own; all others are unchanged.
        dropped_weights = {}
        for name, weight in self.rnn.named_parameters():
            if "weight_hh" in name:
                dropped_weights[name] = F.dropout(weight, self.recurrent_dropout)
        return functional_call(self.rnn, dropped_weights, (packed,))


def check_layers_and_dropout(layers: int, dropout: float, recurrent_dropout: float) -> None:
    """Check the number of layers and the dropout rates.

    Raises:
        ValueError: if one of them is out of range.
    """
    if not 1 <= layers <= MAX_LAYERS:
        raise ValueError(f"layers={layers} is out of range: must be 1 to {MAX_LAYERS}")
    for name, rate in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
        if not 0 <= rate < 1:
            raise ValueError(f"{name}={rate} is out of range: must be at least 0, below 1")


def random_vectors(groups: Tensor, size: int) -> Tensor:
    """Return random vectors of letters and of their groups, one after the other [V, size].

    The sum of a letter's vector and those of its groups has variance 1.

    Args:
        groups: for each letter, the rows of its groups [S, K].
        size: number of elements of a vector.
    """
    n_letters, groups_per_letter = groups.shape
    n_rows = n_letters
    if groups_per_letter > 0:
        # Groups are numbered after the letters, so the highest number belongs to the last vector.
        n_rows = int(groups.max()) + 1
    return torch.randn(n_rows, size) / math.sqrt(1 + groups_per_letter)


def pool_states(states: PackedSequence, lengths: Tensor) -> Tensor:
    """Return the maximum and the mean of the hidden states of each name.

    Args:
        states: the states of the last layer, of size D · H.
        lengths: number of letters in each name [B].

    Returns:
        The maximum and the mean, concatenated [B, 2 · D · H].
    """
    padded, _ = pad_packed_sequence(states)  # [L, B, D · H], zeros beyond the end of a name
    steps = torch.arange(len(padded), device=lengths.device).unsqueeze(1)  # [L, 1]
    is_padding = (steps >= lengths).unsqueeze(2)  # [L, B, 1]
    maximum = padded.masked_fill(is_padding, -torch.inf).amax(dim=0)  # [B, D · H]
    mean = padded.sum(dim=0) / lengths.unsqueeze(1)  # [B, D · H]
    return torch.cat([maximum, mean], dim=1)


def symbol_groups(symbols: str) -> Tensor:
    """Return the two groups that each symbol of an alphabet belongs to.

    One group contains all symbols of the same case; symbols without case count as lower-case. The
    other contains all forms of the same base letter, with and without accents, in both cases.
    Groups are numbered after the symbols: S is lower case, S + 1 is upper case, and the base
    letters follow.

    Returns:
        The numbers of the case group and the base group of each symbol [S, 2], int64.
    """
    lower_group = len(symbols)
    upper_group = lower_group + 1
    next_group = upper_group + 1
    group_of_base: dict[str, int] = {}
    case_groups = []
    base_groups = []
    for symbol in symbols:
        is_upper = symbol != symbol.lower()
        case_groups.append(upper_group if is_upper else lower_group)
        # The decomposed form of `É` starts with `E`.
        base = unicodedata.normalize("NFKD", symbol)[0].lower()
        if base not in group_of_base:
            group_of_base[base] = next_group
            next_group += 1
        base_groups.append(group_of_base[base])
    return torch.tensor([case_groups, base_groups], device="cpu").T
