"""What to answer when categories are not as common as they were in training.

A network trained on categories in the shares π_trained answers p(category | name), which by Bayes'
rule is p(name | category) · π_trained, normalised. Divided by π_trained and multiplied by other
shares, it is the answer for names that come in those other shares:

    log_softmax((logp - log π_trained) / T + s · log π_corpus)

The temperature T says how sure to be. The strength s is 0 for the prior `uniform`, all categories
equally common; 1 for `corpus`, as common as in the corpus; between the two for `tempered`.

Shapes: N names, C categories.
"""

from dataclasses import dataclass, field
from math import exp, fsum, log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from src.models.registry import PRIORS

ENOUGH = 200_000
"""Names that a decision is fitted to, at most: of more, evenly spaced ones."""
TIE = 0.005
"""Of macro F1, within which a lower strength is preferred."""
FEWEST = 20
"""Names, below which a share of them says little."""


@dataclass(frozen=True)
class Calibration:
    """What it takes to answer under each prior; `dataclasses.asdict` makes it plain values."""

    trained_prior: list[float]
    """The share of each category among the examples trained on [C]."""
    corpus_prior: list[float]
    """The share of each category among the distinct pairs of name and category to train on [C]."""
    temperature: float = 1.0
    strength: float = 0.5
    """Of the corpus's prior in the tempered one, from 0 to 1."""
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    """Under each prior, rows of `precision_curve` for the validation names, precision rising."""

    @classmethod
    def from_checkpoint(cls, values: Any) -> "Calibration":
        """Return the calibration that plain values from a file describe."""
        calibration = cls(**values)
        for curve in calibration.curves.values():
            for threshold, precision, coverage in curve:
                float(threshold), float(precision), float(coverage)
        return calibration

    @classmethod
    def checked(cls, values: Any, n_categories: int) -> "Calibration":
        """Return the decision that plain values from a file describe.

        Raises:
            ValueError: if they describe none for so many categories, and likewise TypeError.
        """
        decision = cls(**values)
        good = 0.05 <= decision.temperature <= 20 and 0 <= decision.strength <= 1
        for shares in (decision.trained_prior, decision.corpus_prior):
            good &= isinstance(shares, list) and len(shares) == n_categories and min(shares) > 0
            good &= abs(fsum(shares) - 1) < 1e-4
        for curve in {**decision.curves}.values():
            rows = curve if isinstance(curve, list) else [None]
            good &= all(isinstance(row, list) and len(row) == 3 for row in rows)
            good = good and all(isinstance(x, float) and 0 <= x <= 1 for row in rows for x in row)
        if not good:
            raise ValueError("its decision is out of range, or for other categories")
        return decision

    def log_probabilities(self, logp: Tensor, prior: str) -> Tensor:
        """Return the log-probabilities [N, C] under one of PRIORS.

        Args:
            logp: the network's own [N, C]; a row of NaN stays one.
            prior: one of PRIORS.
        """
        strength = {"uniform": 0.0, "corpus": 1.0, "tempered": self.strength}[prior]
        log_trained = logp.new_tensor(self.trained_prior).log()  # [C]
        log_corpus = logp.new_tensor(self.corpus_prior).log()  # [C]
        offset = strength * log_corpus - log_trained / self.temperature  # 0 under its own prior
        return (logp / self.temperature + offset).log_softmax(dim=1)


@torch.no_grad()
def fit_calibration(
    logp: Tensor, targets: Tensor, trained_prior: list[float], corpus_prior: list[float]
) -> Calibration:
    """Return the decision that suits names the network was not trained on, such as validation's.

    The temperature, from 0.2 to 5, is the one of the least negative log-likelihood under the
    corpus's prior. The strength is then the lowest whose macro F1 is within TIE of the highest.
    That F1 is averaged over five neighbouring strengths, as a few names guessed otherwise move it
    by chance; and it is flat at its top, where a lower strength has the better balanced accuracy.

    Its curves hold, for each thousandth of precision that is reached, the lowest threshold that
    reaches it and answers FEWEST names.

    Args:
        logp: the network's log-probabilities of the names [N, C].
        targets: their true categories [N], int64.
        trained_prior: see Calibration; all above 0.
        corpus_prior: likewise.
    """
    # Imported now, as it takes a second, and answering needs none of it.
    from torchmetrics.functional.classification import multiclass_f1_score as f1_of

    every = 1 + len(targets) // ENOUGH
    logp, targets = logp[::every], targets[::every]

    def loss(log_temperature: float) -> float:
        decision = Calibration(trained_prior, corpus_prior, exp(log_temperature))
        return F.nll_loss(decision.log_probabilities(logp.double(), "corpus"), targets).item()

    # Golden-section search: the loss is convex in 1 / T, so it has one valley, in log T as well.
    low, high = log(0.2), log(5)
    while high - low > 1e-4:
        step = (5**0.5 - 1) / 2 * (high - low)
        if loss(high - step) <= loss(low + step):
            high = low + step
        else:
            low = high - step
    temperature = exp((low + high) / 2)

    tempered = [Calibration(trained_prior, corpus_prior, temperature, i / 20) for i in range(21)]
    guesses = [each.log_probabilities(logp, "tempered").argmax(dim=1) for each in tempered]
    f1 = torch.stack([f1_of(each, targets, logp.shape[1], average="none") for each in guesses])
    f1 = f1[:, targets.bincount(minlength=logp.shape[1]) > 0].mean(dim=1)  # of those there
    means = F.avg_pool1d(F.pad(f1.double()[None], (2, 2), mode="replicate"), 5, stride=1)[0]
    decision = tempered[int((means >= means.max() - TIE).nonzero()[0])]
    for prior in PRIORS:
        curve = precision_curve(decision.log_probabilities(logp, prior).exp(), targets)
        curve = curve[curve[:, 2] * len(targets) > FEWEST - 0.5].flip(0)
        steps = F.pad((1000 * curve[:, 1]).floor().cummax(0).values, (1, 0), value=-1)
        decision.curves[prior] = curve[steps.diff() > 0].tolist()
    return decision


def precision_curve(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return what thresholds do to names, from the highest to the lowest [M, 3], as float64.

    A row is a threshold, the precision (the share of right guesses among the names whose best
    probability is not below it) and the coverage (the share of these names among all).

    Args:
        probabilities: of the names [N, C].
        targets: their true categories [N].
    """
    confidence, guesses = probabilities.double().max(dim=1)
    confidence, order = confidence.sort(descending=True, stable=True)
    answered = torch.arange(1, len(order) + 1, dtype=torch.float64)
    precision = (guesses == targets)[order].cumsum(dim=0) / answered
    below = F.pad(confidence[1:], (0, 1))  # halfway to it, rounding moves no name across
    rows = torch.stack(((confidence + below) / 2, precision, answered / len(order)), dim=1)
    return rows[confidence > below]
