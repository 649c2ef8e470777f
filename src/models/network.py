"""The network of a model: a recurrent network, alone or in a mixture with n-gram models.

Shapes: B names in a batch, S symbols in the alphabet, C categories.
"""

from typing import Any

import torch
from torch import Tensor, nn

from src.data.alphabet import Alphabet
from src.models.recurrent import (
    CellType,
    Pooling,
    RecurrentNetwork,
    TutorialNetwork,
    symbol_groups,
)
from src.ngrams.ensemble import MIXTURE_WEIGHTS, NgramEnsemble


class Network(nn.Module):
    """Predicts the log-probabilities of the categories for a batch of names.

    The recurrent network and the n-gram models score how well each category explains a name. The
    training prior turns these scores into probabilities. The n-gram models are fitted before the
    recurrent network is trained. In training mode, only the recurrent network is used.

    The names of the arguments are part of the checkpoint format.

    Args:
        letters: the alphabet, as `Alphabet.to_dict` returns it.
        categories: names of the categories, in index order.
        shares: prior of each category during training [C]. If None, the network returns its scores
            without a prior, as in the tutorial.
        cell: the recurrent cell: the tutorial's or one of PyTorch's.
        hidden: size of the hidden state.
        ngrams: maximum number of context letters of the n-gram models; 0 for no such models.
        layers: see `RecurrentNetwork` for this and the following arguments. The tutorial's cell
            ignores them.
        bidirectional: whether the layers also read backwards.
        embedding: size of learned letter vectors; 0 for one-hot letters.
        pooling: how the hidden states of a name are pooled.
        dropout: dropout rate of the pooled features and between layers.
        recurrent_dropout: dropout rate of the hidden-to-hidden weights.

    Attributes:
        alphabet: encodes names for `forward`.
        architecture: the arguments that determine the shapes of the weights.
    """

    def __init__(
        self,
        letters: dict[str, Any],
        categories: list[str],
        shares: list[float] | None,
        cell: CellType,
        hidden: int,
        ngrams: int = 0,
        layers: int = 1,
        bidirectional: bool = False,
        embedding: int = 0,
        pooling: Pooling = "last",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.alphabet = Alphabet.from_dict(letters)
        self.categories = list(categories)
        # What `transfer_weights` compares, by the keys of the configuration.
        self.architecture = {
            "cell": cell,
            "hidden": hidden,
            "layers": layers,
            "bidirectional": bidirectional,
            "embedding": embedding,
            "pooling": pooling,
        }
        symbols = self.alphabet.symbols
        if cell == "tutorial":  # its network takes no further options
            self.recurrent: nn.Module = TutorialNetwork(len(symbols), len(categories), hidden)
        else:
            self.recurrent = RecurrentNetwork(
                n_letters=len(symbols),
                n_categories=len(categories),
                cell=cell,
                hidden=hidden,
                layers=layers,
                bidirectional=bidirectional,
                embedding=embedding,
                pooling=pooling,
                dropout=dropout,
                recurrent_dropout=recurrent_dropout,
                groups=symbol_groups(symbols) if self.alphabet.kind == "corpus" else None,
            )
        self.ngrams = NgramEnsemble(symbols, len(categories), ngrams) if ngrams else None
        # The logarithm of the training prior. Its name is part of the checkpoint format.
        self.log_shares: Tensor | None = nn.Buffer(torch.tensor(shares).log()) if shares else None

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Return the log-probabilities of the categories [B, C].

        Without a training prior and with n-gram models, the result is not normalized.

        Args:
            letters: letter indices of all names, end to end [sum of lengths].
            lengths: number of letters in each name [B], all at least 1.
        """
        scores: Tensor = self.recurrent(letters, lengths)
        if self.ngrams is not None and not self.training:
            # A weighted mean of log-scores: each model can veto a category.
            scores = MIXTURE_WEIGHTS.recurrent * scores + self.ngrams(letters, lengths)
        if self.log_shares is None:
            return scores
        return (scores + self.log_shares).log_softmax(dim=1)
