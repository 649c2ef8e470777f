"""The n-gram models of a network, mixed into one score per category.

Shapes: B names in a batch, C categories.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from src.ngrams.letter_ngrams import Found, LetterNgrams
from src.ngrams.tfidf import BagOfGrams

if TYPE_CHECKING:
    from src.data.dataset import NamesDataset

MIXTURE_WEIGHTS = {"recurrent": 0.2, "ngrams": 0.6, "bag": 0.2}
"""Weights of the scores of the recurrent network, of the letter n-gram models (their mean), and of
the bag of grams. Fitting them to the validation names did not help."""
MAX_CASED_GRAM = 3
"""Maximum length of the case-sensitive grams in the bag."""


class NgramMixture(nn.Module):
    """Letter n-gram models, and a logistic regression on the grams that they find in a name.

    One n-gram model ignores case. A second, case-sensitive one is added if the alphabet has both
    cases.

    Args:
        symbols: the symbols of the alphabet, in index order.
        n_categories: number of categories, C.
        order: maximum number of context letters.
    """

    def __init__(self, symbols: str, n_categories: int, order: int) -> None:
        super().__init__()
        models = [LetterNgrams(symbols, n_categories, order, cased=False)]
        longest_grams = [order + 1]
        if symbols.lower() != symbols:
            models.append(LetterNgrams(symbols, n_categories, order, cased=True))
            longest_grams.append(min(order + 1, MAX_CASED_GRAM))
        # The names of the modules, `counted` and `weighed`, are part of the checkpoint format.
        self.counted: Any = nn.ModuleList(models)
        self.weighed = BagOfGrams(n_categories, longest_grams)

    def fit(self, names: "NamesDataset", prior: list[float], seed: int) -> None:
        """Fit all models to training names, in parallel threads.

        Args:
            names: the training names, each once per category.
            prior: share of each category among these names [C].
            seed: seeds the order of the names and dropout.
        """
        # The models first count the grams of all names, then learn how to weigh these counts.
        all_names = names.all()
        for model in self.counted:
            model.count(*all_names)
        stop = Event()
        with ThreadPoolExecutor() as pool:
            fits = [pool.submit(model.fit, names, prior, seed, stop) for model in self.counted]
            grams = self._find_in_batches(names)  # a generator, which the bag's thread consumes
            prior_tensor = torch.tensor(prior)
            fit_bag = self.weighed.fit
            fits.append(pool.submit(fit_bag, grams, names.targets, prior_tensor, seed, stop))
            try:
                for fit in fits:
                    fit.result()
            finally:  # on Ctrl-C, stop the other threads as well
                stop.set()

    def _find_in_batches(self, names: "NamesDataset") -> Iterator[list[Found]]:
        """Yield the grams of batches of names; see `_find`."""
        for letters, lengths, _ in names.batches():
            yield self._find(letters, lengths)

    def _find(self, letters: Tensor, lengths: Tensor) -> list[Found]:
        """Return the grams of a batch of names that each n-gram model knows."""
        return [model.find(letters, lengths) for model in self.counted]

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Return the weighted log-scores of the n-gram models under a uniform prior [B, C].

        Args:
            letters: letter indices of all names, end to end [sum of lengths].
            lengths: number of letters in each name [B], all at least 1.
        """
        n_names = len(lengths)
        grams_by_model = self._find(letters, lengths)
        scores = []
        for model, grams in zip(self.counted, grams_by_model, strict=True):
            scores.append(model.compare(grams, n_names))
        ngram_scores: Tensor = MIXTURE_WEIGHTS["ngrams"] * torch.stack(scores).mean(dim=0)
        bag_scores: Tensor = MIXTURE_WEIGHTS["bag"] * self.weighed(grams_by_model, n_names)
        return ngram_scores + bag_scores
