"""An ensemble of n-gram models, which scores how well each category explains a name.

Shapes: B names in a batch, C categories.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from src.data.dataset import NamesDataset
from src.ngrams.gram_table import GramMatches
from src.ngrams.letter_ngrams import LetterNgrams
from src.ngrams.minimize import FitProgress
from src.ngrams.tfidf import TfidfClassifier


class MixtureWeights(NamedTuple):
    """Weights of the log-scores of the models that a network consists of."""

    recurrent: float
    """Weight of the recurrent network."""
    ngrams: float
    """Weight of the letter n-gram models, which share it equally."""
    tfidf: float
    """Weight of the logistic regression on tf-idf features."""


MIXTURE_WEIGHTS = MixtureWeights(recurrent=0.2, ngrams=0.6, tfidf=0.2)
"""Fixed weights: fitting them to the validation names did not help."""

MAX_CASE_SENSITIVE_TERM_LENGTH = 3
"""Maximum length of the case-sensitive grams whose tf-idf is used."""


class NgramEnsemble(nn.Module):
    """Letter n-gram models, and a logistic regression on the grams that they find in a name.

    One n-gram model ignores case. A second, case-sensitive one is added if the alphabet has both
    cases.

    Args:
        alphabet: the symbols of the alphabet, in index order.
        n_categories: number of categories, C.
        order: maximum number of context letters.

    Attributes:
        letter_ngrams: the letter n-gram models.
        tfidf: the logistic regression.
    """

    def __init__(self, alphabet: str, n_categories: int, order: int) -> None:
        super().__init__()
        models = [LetterNgrams(alphabet, n_categories, order, case_sensitive=False)]
        # For each model, the maximum length of the grams whose tf-idf is used.
        max_term_lengths = [order + 1]
        has_case = alphabet.lower() != alphabet
        if has_case:
            models.append(LetterNgrams(alphabet, n_categories, order, case_sensitive=True))
            max_term_lengths.append(min(order + 1, MAX_CASE_SENSITIVE_TERM_LENGTH))
        self.letter_ngrams: Any = nn.ModuleList(models)
        self.tfidf = TfidfClassifier(n_categories, max_term_lengths)

    def fit(
        self,
        dataset: NamesDataset,
        prior: list[float],
        seed: int,
        show_progress: bool = False,
    ) -> None:
        """Fit all models to training names, in parallel threads.

        Args:
            dataset: the training names, each once per category, whatever their spelling:
                `NamesDataModule.distinct_names`.
            prior: prior of each category [C]: `NamesDataModule.corpus_prior`. It counts spellings,
                so it is close to the shares among these names, but not equal.
            seed: seeds the order of the names and dropout.
            show_progress: whether to show a progress bar if the output is a terminal.
        """
        # The logistic regression uses the grams that the letter n-gram models find, and these find
        # only grams that they have counted. So everything is counted first.
        letters, lengths, targets = dataset.as_one_batch()
        for model in self.letter_ngrams:
            model.count_all_names(letters, lengths, targets)

        # The fits do not depend on each other. PyTorch releases Python's lock, so they run at once.
        progress = FitProgress(n_fits=len(self.letter_ngrams) + 1, show=show_progress)
        with ThreadPoolExecutor() as pool:
            futures = []
            for model in self.letter_ngrams:
                futures.append(pool.submit(model.fit_parameters, dataset, prior, seed, progress))
            futures.append(pool.submit(self._fit_tfidf, dataset, prior, seed, progress))
            try:
                for future in futures:
                    future.result()  # waits until the fit has ended, and raises its error if any
            finally:
                # This closes the progress bar. After an error or Ctrl-C, it also stops the other
                # fits; the pool would otherwise wait until they have ended.
                progress.stop()

    def _fit_tfidf(
        self, dataset: NamesDataset, prior: list[float], seed: int, progress: FitProgress
    ) -> None:
        """Fit the logistic regression; see `fit`."""
        self.tfidf.fit(
            self._match_batches(dataset),
            targets=dataset.targets,
            prior=torch.tensor(prior),
            seed=seed,
            progress=progress,
        )

    def _match_batches(self, dataset: NamesDataset) -> Iterator[list[GramMatches]]:
        """Yield the grams of batches of names; see `_match_grams`."""
        for letters, lengths, _ in dataset.batches():
            yield self._match_grams(letters, lengths)

    def _match_grams(self, letters: Tensor, lengths: Tensor) -> list[GramMatches]:
        """Return the grams of a batch of names that each n-gram model finds."""
        return [model.match_grams(letters, lengths) for model in self.letter_ngrams]

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Return the weighted log-scores of the n-gram models under a uniform prior [B, C].

        Args:
            letters: letter indices of all names, end to end [sum of lengths].
            lengths: number of letters in each name [B], all at least 1.
        """
        # The logistic regression uses the same look-ups of the grams as the other models.
        matches = self._match_grams(letters, lengths)
        logits = []
        for model, model_matches in zip(self.letter_ngrams, matches, strict=True):
            logits.append(model.compute_logits(model_matches))
        ngram_logits = torch.stack(logits).mean(dim=0)  # [B, C]
        tfidf_logits: Tensor = self.tfidf(matches)  # [B, C]
        return MIXTURE_WEIGHTS.ngrams * ngram_logits + MIXTURE_WEIGHTS.tfidf * tfidf_logits
