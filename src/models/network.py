"""The network of a model: a recurrent network, alone or in a mixture with n-gram models.

Shapes: B names in a batch, S symbols in the alphabet, C categories.
"""

from typing import Any

import torch
from torch import Tensor, nn

from src.data.alphabet import Alphabet
from src.models.registry import CELL_OPTIONS, CELLS
from src.ngrams.ensemble import MIXTURE_WEIGHTS, NgramEnsemble

SHAPE_OPTIONS = ("layers", "bidirectional", "embedding", "pooling")
"""Options of recurrent networks that determine the shapes of their weights."""


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
        cell: key of the recurrent network in `CELLS`.
        hidden: size of the hidden state.
        ngrams: maximum number of context letters of the n-gram models; 0 for no such models.
        options: further arguments of the recurrent network; see `RecurrentNetwork`. An option that
            the network does not take must have the value in `CELL_OPTIONS`.

    Attributes:
        alphabet: encodes names for `forward`.
        recurrent: the recurrent network.
        ngrams: the n-gram models, or None.
        architecture: the arguments that determine the shapes of the weights.

    Raises:
        ValueError: if the recurrent network does not take one of the options.
    """

    def __init__(
        self,
        letters: dict[str, Any],
        categories: list[str],
        shares: list[float] | None,
        cell: str,
        hidden: int,
        ngrams: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.alphabet = Alphabet.from_dict(letters)
        self.categories = list(categories)
        self.recurrent = self._build_recurrent(cell, hidden, options)
        self.architecture = {"cell": cell, "hidden": hidden}
        for key in SHAPE_OPTIONS:
            self.architecture[key] = options.get(key, CELL_OPTIONS[key])
        symbols = self.alphabet.symbols
        self.ngrams = NgramEnsemble(symbols, len(categories), ngrams) if ngrams else None
        # The logarithm of the training prior. Its name is part of the checkpoint format.
        self.log_shares: Tensor | None = nn.Buffer(torch.tensor(shares).log()) if shares else None

    def _build_recurrent(self, cell: str, hidden: int, options: dict[str, Any]) -> nn.Module:
        """Return the recurrent network that is registered for `cell`.

        Raises:
            ValueError: if it does not take one of the options.
        """
        registered = CELLS[cell]
        # The class takes some of the options. For the others, only values without an effect are
        # valid; checkpoints contain these as well.
        available = {"cell": cell, **options}
        arguments = {key: available[key] for key in registered.keys if key in available}
        for key in options.keys() - arguments.keys():
            if options[key] != CELL_OPTIONS.get(key):
                raise ValueError(f"cell={cell} does not take {key}={options[key]}")
        network_class = registered.load_class()
        network: nn.Module = network_class(
            alphabet=self.alphabet,
            n_categories=len(self.categories),
            hidden=hidden,
            **arguments,
        )
        return network

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Return the log-probabilities of the categories [B, C].

        Without a training prior and with n-gram models, the result is not normalized.

        Args:
            letters: letter indices of all names, end to end [sum of lengths].
            lengths: number of letters in each name [B], all at least 1.
        """
        scores: Tensor = self.recurrent(letters, lengths)  # [B, C]
        if self.ngrams is not None and not self.training:
            # A weighted mean of log-scores: each model can veto a category.
            scores = MIXTURE_WEIGHTS.recurrent * scores + self.ngrams(letters, lengths)
        if self.log_shares is None:
            return scores
        return (scores + self.log_shares).log_softmax(dim=1)
