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

    All arguments are plain values, so that checkpoints can contain them.

    Args:
        alphabet: the alphabet, as `Alphabet.to_dict` returns it.
        categories: names of the categories, in index order.
        train_prior: prior of each category during training [C]; see `NamesDataModule`. If None, the
            network returns its scores without a prior, as in the tutorial.
        cell: key of the recurrent network in `CELLS`.
        hidden: size of the hidden state.
        ngrams: maximum number of context letters of the n-gram models, which is the value of the
            configuration key `ngrams`; 0 for no such models.
        options: further arguments of the recurrent network; see `RecurrentNetwork`. If the network
            registered for `cell` does not take an option, the value must be the default in
            `CELL_OPTIONS` of src/models/registry.py.

    Attributes:
        alphabet: encodes names for `forward`.
        recurrent: the recurrent network.
        ngrams: the n-gram models, or None.
        log_train_prior: logarithm of the training prior [C], or None.
        architecture: the arguments that determine the shapes of the weights.

    Raises:
        ValueError: if the recurrent network does not take one of the options.
    """

    def __init__(
        self,
        alphabet: dict[str, Any],
        categories: list[str],
        train_prior: list[float] | None,
        cell: str = "tutorial",
        hidden: int = 128,
        ngrams: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.alphabet = Alphabet.from_dict(alphabet)
        self.categories = list(categories)
        self.recurrent = self._build_recurrent(cell, hidden, options)
        # Weights can be transferred only between networks of the same architecture.
        self.architecture = {"cell": cell, "hidden": hidden}
        for key in SHAPE_OPTIONS:
            self.architecture[key] = options.get(key, CELL_OPTIONS[key])
        # In checkpoints, `ngrams` is the name of both the argument and this submodule.
        self.ngrams: NgramEnsemble | None = None
        if ngrams:
            self.ngrams = NgramEnsemble(self.alphabet.symbols, len(categories), order=ngrams)
        # A buffer is saved with the weights but not trained.
        self.log_train_prior: Tensor | None
        log_train_prior = torch.tensor(train_prior).log() if train_prior else None
        self.register_buffer("log_train_prior", log_train_prior)

    def _build_recurrent(self, cell: str, hidden: int, options: dict[str, Any]) -> nn.Module:
        """Return the recurrent network that is registered for `cell`.

        Raises:
            ValueError: if it does not take one of the options.
        """
        # The registry is independent of torch; the class is imported only here.
        registered = CELLS[cell]
        arguments: dict[str, Any] = {}
        # A class that is registered for several cells also takes the name of the cell.
        if "cell" in registered.options:
            arguments["cell"] = cell
        for key, value in options.items():
            if key in registered.options:
                arguments[key] = value
            # Checkpoints also contain the options that the class does not take, as their defaults.
            elif value != CELL_OPTIONS.get(key):
                raise ValueError(f"cell={cell} does not take {key}={value}")
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

        With n-gram models but without a training prior, they are log-scores that do not add up to a
        probability of 1.

        Args:
            letters: letter indices of all names, end to end [sum of lengths].
            lengths: number of letters in each name [B], all at least 1.
        """
        scores: Tensor = self.recurrent(letters, lengths)  # [B, C]
        if self.ngrams is not None and not self.training:
            # In a weighted mean of log-scores, a category that one model finds impossible gets a
            # low score. The scores of the n-gram models are weighted already.
            scores = MIXTURE_WEIGHTS.recurrent * scores + self.ngrams(letters, lengths)
        if self.log_train_prior is None:
            return scores
        return (scores + self.log_train_prior).log_softmax(dim=1)
