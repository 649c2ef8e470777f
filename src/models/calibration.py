"""Calibration of a network: temperature scaling, and priors other than the training prior.

A network that was trained on categories with the prior π_train predicts p(c | name). By Bayes'
rule, this is proportional to p(name | c) π_train(c). Dividing it by π_train(c), and multiplying it
by another prior, therefore gives the prediction for names whose categories have that prior:

    (1)  logit_c = (log p(c | name) - log π_train(c)) / T + s log π_corpus(c)
    (2)  log p'(c | name) = log_softmax(logit)_c

The temperature T corrects over- or underconfidence. It scales what the network has learned from the
name, but not the new prior. The strength s is 0 for the prior `uniform` (all categories are equally
likely), 1 for `corpus` (as likely as in the corpus), and between 0 and 1 for `tempered`.
`fit_calibration` fits T and s to names that the network was not trained on.

With a threshold, the model answers a name, that is, it gives a category, only if the highest
probability of the name reaches the threshold.

Shapes: N names, C categories, S strengths that are tried, M thresholds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import exp, log
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from src.models.registry import PRIORS, PriorName
from src.models.scores import macro_f1

MIN_TEMPERATURE = 0.2
MAX_TEMPERATURE = 5.0
LOG_TEMPERATURE_TOLERANCE = 1e-4
"""The search for log T ends when it is known this precisely."""
PRIOR_STRENGTHS = [i / 20 for i in range(21)]
"""The values of s that are tried, in increasing order."""
MACRO_F1_TOLERANCE = 0.005
"""Maximum distance of macro F1 from its highest value. Among the strengths within this distance,
the lowest one is chosen."""
MAX_CALIBRATION_NAMES = 200_000
"""Maximum number of names that a calibration is fitted to; more would not change it."""
MIN_SAMPLE_SIZE = 20
"""Minimum number of names for a reliable precision or recall. Thresholds with fewer answered names
are not stored."""
PRECISION_STEPS = 1000
"""Number of equal steps between a precision of 0 and 1. A stored curve has at most one point for
each step."""
CHECKPOINT_KEYS = {"trained_prior", "corpus_prior", "temperature", "strength", "curves"}
"""Keys of the calibration in a checkpoint."""


class CurvePoint(NamedTuple):
    """Precision and coverage if names below a threshold are not answered."""

    threshold: float
    """A name is answered if its highest probability is at least this value."""
    precision: float
    """Fraction of correct answers among the answered names."""
    coverage: float
    """Fraction of answered names among all names."""


@dataclass(frozen=True)
class Calibration:
    """Parameters that convert the log-probabilities of a network to those under each prior."""

    train_prior: list[float]
    """Prior of each category in training [C]; see `NamesDataModule`."""
    corpus_prior: list[float]
    """Prior of each category in the corpus [C]; see `NamesDataModule`."""
    temperature: float = 1.0
    """T in formula (1)."""
    prior_strength: float = 0.5
    """s in formula (1) for the prior `tempered`."""
    precision_curves: dict[PriorName, list[CurvePoint]] = field(default_factory=dict)
    """For each prior, precision and coverage of the validation names, in order of increasing
    threshold and precision."""

    def log_probabilities(self, log_probs: Tensor, prior: PriorName) -> Tensor:
        """Return the log-probabilities of names under a prior [N, C], by formulas (1) and (2).

        Args:
            log_probs: log-probabilities of the network [N, C]. A row of NaN remains a row of NaN.
            prior: name of the prior.
        """
        strengths = {"uniform": 0.0, "corpus": 1.0, "tempered": self.prior_strength}
        log_train = log_probs.new_tensor(self.train_prior).log()  # [C]
        log_corpus = log_probs.new_tensor(self.corpus_prior).log()  # [C]
        # The terms of (1) that do not depend on the name are added up first.
        offset = strengths[prior] * log_corpus - log_train / self.temperature  # [C]
        return (log_probs / self.temperature + offset).log_softmax(dim=1)

    def to_checkpoint(self) -> dict[str, Any]:
        """Return plain values for a checkpoint, with the keys of the checkpoint format."""
        curves = {}
        for prior, points in self.precision_curves.items():
            curves[prior] = [list(point) for point in points]
        return {
            "trained_prior": self.train_prior,
            "corpus_prior": self.corpus_prior,
            "temperature": self.temperature,
            "strength": self.prior_strength,
            "curves": curves,
        }

    @classmethod
    def from_checkpoint(cls, values: Any) -> "Calibration":
        """Return the calibration with the values that `to_checkpoint` returned.

        The numbers are not checked here; see `check_trial_predictions` in src/models/checkpoint.py.

        Raises:
            ValueError: if the keys are not those of `to_checkpoint`. Values from a damaged file can
                raise any error.
        """
        if values.keys() != CHECKPOINT_KEYS:
            raise ValueError(f"not the fields of a calibration: {', '.join(map(str, values))}")
        precision_curves = {}
        for prior, rows in values["curves"].items():
            precision_curves[prior] = [parse_curve_point(row) for row in rows]
        return cls(
            train_prior=values["trained_prior"],
            corpus_prior=values["corpus_prior"],
            temperature=values["temperature"],
            prior_strength=values["strength"],
            precision_curves=precision_curves,
        )


def parse_curve_point(row: Any) -> CurvePoint:
    """Return the point of a curve, which a checkpoint stores as a list of three numbers."""
    # Unpacking raises an error if there are not exactly three.
    threshold, precision, coverage = row
    return CurvePoint(float(threshold), float(precision), float(coverage))


@torch.no_grad()
def fit_calibration(
    log_probs: Tensor, targets: Tensor, train_prior: list[float], corpus_prior: list[float]
) -> Calibration:
    """Fit a calibration to names that the network was not trained on.

    Args:
        log_probs: log-probabilities of the network [N, C].
        targets: correct category of each name [N], int64.
        train_prior: prior of each category in training [C], all above 0.
        corpus_prior: prior of each category in the corpus [C], all above 0.
    """
    # If there are more names than necessary, use every second or third one, and so on.
    stride = 1 + len(targets) // MAX_CALIBRATION_NAMES
    log_probs = log_probs[::stride]
    targets = targets[::stride]

    # Each step uses the parameters that were fitted before it.
    calibration = Calibration(train_prior, corpus_prior)
    temperature = fit_temperature(calibration, log_probs, targets)
    calibration = replace(calibration, temperature=temperature)
    prior_strength = fit_prior_strength(calibration, log_probs, targets)
    calibration = replace(calibration, prior_strength=prior_strength)

    curves = {}
    for prior in PRIORS:
        probabilities = calibration.log_probabilities(log_probs, prior).exp()  # [N, C]
        curve = compute_precision_curve(probabilities, targets)  # [M, 3]
        curves[prior] = select_lowest_thresholds(curve, n_names=len(targets))
    return replace(calibration, precision_curves=curves)


def fit_temperature(calibration: Calibration, log_probs: Tensor, targets: Tensor) -> float:
    """Return the temperature with the lowest cross-entropy under the prior `corpus`.

    Args:
        calibration: its priors are used.
        log_probs: log-probabilities of the network [N, C].
        targets: correct category of each name [N], int64.
    """
    log_probs = log_probs.double()

    def compute_loss(log_temperature: float) -> float:
        candidate = replace(calibration, temperature=exp(log_temperature))
        corpus_log_probs = candidate.log_probabilities(log_probs, "corpus")  # [N, C]
        return F.nll_loss(corpus_log_probs, targets).item()

    # The loss is convex in 1 / T, and log T is a monotone function of 1 / T. As a function of
    # log T, the loss therefore also has a single minimum.
    log_temperature = golden_section_search(
        function=compute_loss,
        low=log(MIN_TEMPERATURE),
        high=log(MAX_TEMPERATURE),
        tolerance=LOG_TEMPERATURE_TOLERANCE,
    )
    return exp(log_temperature)


def golden_section_search(
    function: Callable[[float], float], low: float, high: float, tolerance: float
) -> float:
    """Return the point between two bounds at which a function has its minimum.

    Args:
        function: decreases up to its minimum, and increases after it.
        low: lower bound.
        high: upper bound.
        tolerance: the search ends when the bounds are this close.
    """
    inverse_golden_ratio = (5**0.5 - 1) / 2
    while high - low > tolerance:
        step = inverse_golden_ratio * (high - low)
        if function(high - step) <= function(low + step):
            high = low + step
        else:
            low = high - step
    return (low + high) / 2


def fit_prior_strength(calibration: Calibration, log_probs: Tensor, targets: Tensor) -> float:
    """Return the lowest strength of the prior `tempered` with nearly the highest macro F1.

    A few names that are classified differently change macro F1 by chance. It is therefore smoothed
    over five neighboring strengths. The smoothed curve is flat near its maximum, and there, lower
    strengths have a higher balanced accuracy. The lowest one is therefore chosen.

    Args:
        calibration: its priors and its temperature are used.
        log_probs: log-probabilities of the network [N, C].
        targets: correct category of each name [N], int64.
    """
    n_categories = log_probs.shape[1]
    support = targets.bincount(minlength=n_categories)  # [C]
    scores = []
    for strength in PRIOR_STRENGTHS:
        candidate = replace(calibration, prior_strength=strength)
        predictions = candidate.log_probabilities(log_probs, "tempered").argmax(dim=1)  # [N]
        correct_targets = targets[predictions == targets]
        n_correct = correct_targets.bincount(minlength=n_categories)  # [C]
        n_predicted = predictions.bincount(minlength=n_categories)  # [C]
        scores.append(macro_f1(n_correct, support, n_predicted))

    # A moving average; the scores at both ends are repeated.
    macro_f1_scores = torch.stack(scores).double()  # [S]
    padded = F.pad(macro_f1_scores[None], (2, 2), mode="replicate")  # [1, S + 4]
    smoothed = F.avg_pool1d(padded, kernel_size=5, stride=1)[0]  # [S]
    is_nearly_highest = smoothed >= smoothed.max() - MACRO_F1_TOLERANCE
    lowest_index = int(is_nearly_highest.nonzero()[0])
    return PRIOR_STRENGTHS[lowest_index]


def compute_precision_curve(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return precision and coverage for one threshold between any two consecutive confidences.

    The confidence of a name is the highest of its probabilities. All thresholds between two
    consecutive confidences have the same result.

    Args:
        probabilities: probabilities of the categories of each name [N, C].
        targets: correct category of each name [N], int64.

    Returns:
        Threshold, precision and coverage, as in `CurvePoint`, in order of decreasing threshold
        [M, 3], float64.
    """
    confidence, predictions = probabilities.double().max(dim=1)  # [N], [N]
    confidence, order = confidence.sort(descending=True, stable=True)  # [N], [N]

    # If the threshold is just below the i-th highest confidence, i names are answered.
    n_answered = torch.arange(1, len(order) + 1, dtype=torch.float64)
    n_correct = (predictions == targets)[order].cumsum(dim=0)
    precision = n_correct / n_answered
    coverage = n_answered / len(order)

    # A threshold is halfway between two confidences, so that rounding does not change which names
    # are answered. Names of equal confidence are answered together, so only the last of them has a
    # threshold.
    next_confidence = F.pad(confidence[1:], (0, 1))
    threshold = (confidence + next_confidence) / 2
    points = torch.stack((threshold, precision, coverage), dim=1)  # [N, 3]
    return points[confidence > next_confidence]


def select_lowest_thresholds(curve: Tensor, n_names: int) -> list[CurvePoint]:
    """For each step of precision, return the lowest threshold that reaches it.

    Thresholds at which fewer than MIN_SAMPLE_SIZE names are answered are left out.

    Args:
        curve: the result of `compute_precision_curve` [M, 3].
        n_names: number of names, N.
    """
    n_answered = curve[:, 2] * n_names  # [M]
    is_large_sample = n_answered > MIN_SAMPLE_SIZE - 0.5  # half a name allows for rounding
    points = curve[is_large_sample].flip(0)  # in order of increasing threshold

    # Keep a point if it reaches a step of precision that no lower threshold reaches.
    steps = (PRECISION_STEPS * points[:, 1]).floor()
    highest_step = steps.cummax(0).values  # up to and including each point
    previous_highest_step = F.pad(highest_step[:-1], (1, 0), value=-1)
    is_new_step = highest_step > previous_highest_step
    return [CurvePoint(*row) for row in points[is_new_step].tolist()]
