from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from src.models.calibration import (
    Calibration,
    CurvePoint,
    compute_precision_curve,
    fit_calibration,
    golden_section_search,
)
from src.models.registry import PRIORS, PriorName


def calibrate(
    calibration: Calibration, probabilities: list[float], prior: PriorName
) -> list[float]:
    """Return the calibrated probabilities of a single name."""
    log_probs = torch.tensor([probabilities], dtype=torch.float64).log()
    (row,) = calibration.log_probabilities(log_probs, prior).exp().tolist()
    return list(row)


def test_bayes_rule_by_hand() -> None:
    """With probabilities 0.6 and 0.4, the likelihoods are 0.6 / 0.75 and 0.4 / 0.25, or 1 to 2."""
    calibration = Calibration([0.75, 0.25], [0.9, 0.1], prior_strength=0.5)
    assert calibrate(calibration, [0.6, 0.4], "uniform") == pytest.approx([1 / 3, 2 / 3])
    # The corpus prior makes 1 · 0.9 to 2 · 0.1 of the likelihoods.
    assert calibrate(calibration, [0.6, 0.4], "corpus") == pytest.approx([9 / 11, 2 / 11])
    # With a strength of 0.5, it is 1 · √0.9 to 2 · √0.1.
    assert calibrate(calibration, [0.6, 0.4], "tempered") == pytest.approx([3 / 5, 2 / 5])
    # A temperature of 0.5 squares the likelihoods: 1 to 4.
    cooler = Calibration([0.75, 0.25], [0.9, 0.1], temperature=0.5)
    assert calibrate(cooler, [0.6, 0.4], "uniform") == pytest.approx([1 / 5, 4 / 5])
    assert calibrate(cooler, [0.6, 0.4], "corpus") == pytest.approx([9 / 13, 4 / 13])


def test_the_trained_prior_leaves_probabilities_unchanged() -> None:
    prior_values = [0.5, 0.3, 0.2 - 1e-9, 1e-9]
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(1000, 4, generator=generator).log_softmax(dim=1)
    calibration = Calibration(prior_values, prior_values, temperature=1.0, prior_strength=1.0)
    for prior in ("corpus", "tempered"):
        calibrated = calibration.log_probabilities(log_probs, prior)
        torch.testing.assert_close(calibrated, log_probs, atol=1e-6, rtol=0)


def test_a_row_of_nan_remains_a_row_of_nan() -> None:
    log_probs = torch.tensor([[0.5, 0.5], [torch.nan, torch.nan], [0.1, 0.9]]).log()
    calibration = Calibration([0.5, 0.5], [0.9, 0.1], 2.0)
    for prior in PRIORS:
        calibrated = calibration.log_probabilities(log_probs, prior)
        assert calibrated.dtype == torch.float32
        assert calibrated.isnan().all(dim=1).tolist() == [False, True, False]
        assert calibrated[[0, 2]].exp().sum(dim=1).tolist() == pytest.approx([1, 1])


def make_overconfident(
    calibrated: Tensor, train_prior: Tensor, corpus_prior: Tensor, temperature: float
) -> Tensor:
    """Return the log-probabilities of a network that needs this temperature [N, C].

    Args:
        calibrated: the correct probabilities under the corpus prior [N, C].
        train_prior: prior of each category in training [C].
        corpus_prior: prior of each category in the corpus [C].
        temperature: above 1 for an overconfident network, below 1 for an underconfident one.
    """
    likelihoods = calibrated.log() - corpus_prior.log()
    return (temperature * likelihoods + train_prior.log()).log_softmax(dim=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_the_fitted_temperature_corrects_over_and_underconfidence(temperature: float) -> None:
    """The names of each row have the correct frequencies exactly, so the fit is exact, too."""
    rows = torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
    # Ten names have the probabilities of each row, and their targets have the same frequencies.
    targets = []
    for probability in rows[:, 0].tolist():
        n_first = round(10 * probability)
        targets += [0] * n_first + [1] * (10 - n_first)
    train_prior = torch.tensor([0.6, 0.4])
    corpus_prior = torch.tensor([0.375, 0.625])
    # The corpus prior of the names is 15 to 25 of 40.
    calibrated = rows.repeat_interleave(10, dim=0)
    log_probs = make_overconfident(calibrated, train_prior, corpus_prior, temperature)
    calibration = fit_calibration(
        log_probs, torch.tensor(targets), train_prior.tolist(), corpus_prior.tolist()
    )
    assert calibration.temperature == pytest.approx(temperature, rel=1e-4)
    fitted = calibration.log_probabilities(log_probs, "corpus").exp()
    torch.testing.assert_close(fitted[::10], rows, atol=1e-4, rtol=0)


def test_the_fitted_temperature_has_bounds() -> None:
    log_probs = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
    correct = torch.tensor([0, 1])
    wrong = torch.tensor([1, 0])
    # Networks that are always right or always wrong would need the temperatures 0 and infinity.
    for targets, bound in ((correct, 0.2), (wrong, 5)):
        calibration = fit_calibration(log_probs, targets, [0.5, 0.5], [0.5, 0.5])
        assert calibration.temperature == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize("minimum", [-1.0, 0.25, 2.0])
def test_golden_section_search(minimum: float) -> None:
    result = golden_section_search(lambda x: abs(x - minimum), low=-1, high=2, tolerance=1e-6)
    assert result == pytest.approx(minimum, abs=1e-6)


def random_predictions(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities [300, 5], targets [300] and the corpus prior [5]."""
    torch.manual_seed(seed)
    corpus_prior = torch.tensor([0.7, 0.15, 0.09, 0.05, 0.01])
    targets = corpus_prior.multinomial(300, replacement=True)
    log_probs = (torch.randn(300, 5) + 1.5 * torch.eye(5)[targets]).log_softmax(dim=1)
    return log_probs, targets, corpus_prior


def best_strength(
    log_probs: Tensor, targets: Tensor, corpus_prior: Tensor, temperature: float
) -> float:
    """Return the lowest strength whose smoothed macro F1 is nearly the highest, by its definition.

    The trained prior is uniform.
    """
    scores = []
    for i in range(21):
        scaled = log_probs.double() / temperature
        predictions = (scaled + i / 20 * corpus_prior.double().log()).argmax(dim=1)
        pairs = list(zip(predictions.tolist(), targets.tolist(), strict=True))
        f1 = []
        for category in set(targets.tolist()):
            n_correct = pairs.count((category, category))
            n_wrong = 0
            for prediction, target in pairs:
                # Names of the category that are missed, and others that are predicted as it.
                n_wrong += (prediction == category) != (target == category)
            f1.append(n_correct / (n_correct + n_wrong / 2))
        scores.append(np.mean(f1))
    # The moving average has a width of five. The first and the last score are repeated.
    padded_scores = [scores[0]] * 2 + scores + [scores[-1]] * 2
    smoothed = []
    for i in range(21):
        smoothed.append(np.mean(padded_scores[i : i + 5]))
    is_nearly_best = np.array(smoothed) >= max(smoothed) - 0.005
    return int(np.flatnonzero(is_nearly_best)[0]) / 20


def test_the_fitted_strength_is_the_lowest_of_the_best() -> None:
    strengths = set()
    for seed in range(10):
        log_probs, targets, corpus_prior = random_predictions(seed)
        calibration = fit_calibration(log_probs, targets, [0.2] * 5, corpus_prior.tolist())
        expected = best_strength(log_probs, targets, corpus_prior, calibration.temperature)
        assert calibration.prior_strength == expected
        repeated = fit_calibration(log_probs, targets, [0.2] * 5, corpus_prior.tolist())
        assert repeated == calibration
        strengths.add(calibration.prior_strength)
    # The test would prove little if all seeds had the same strength.
    assert len(strengths) > 3


def test_a_calibration_of_many_names_uses_evenly_spaced_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_probs, targets, corpus_prior = random_predictions(3)
    expected = fit_calibration(log_probs[::4], targets[::4], [0.2] * 5, corpus_prior.tolist())
    assert fit_calibration(log_probs, targets, [0.2] * 5, corpus_prior.tolist()) != expected
    monkeypatch.setattr("src.models.calibration.MAX_CALIBRATION_NAMES", 99)
    assert fit_calibration(log_probs, targets, [0.2] * 5, corpus_prior.tolist()) == expected


def test_the_strength_is_0_if_all_strengths_are_equally_good() -> None:
    log_probs = torch.tensor([[0.999, 0.001], [0.001, 0.999]]).log()
    calibration = fit_calibration(log_probs, torch.tensor([0, 1]), [0.5] * 2, [0.6, 0.4])
    assert calibration.prior_strength == 0


def test_a_precision_curve_by_hand() -> None:
    """A threshold is halfway to the next lower confidence; three names share one of 0.75."""
    confidence = torch.tensor([0.75, 0.5, 0.9375, 0.75, 0.75, 0.625])
    probabilities = torch.stack((confidence, 1 - confidence), dim=1)
    curve = compute_precision_curve(probabilities, torch.tensor([0, 0, 0, 1, 0, 1])).tolist()
    assert curve == [
        [(0.9375 + 0.75) / 2, 1, 1 / 6],
        [(0.75 + 0.625) / 2, 3 / 4, 4 / 6],
        [(0.625 + 0.5) / 2, pytest.approx(3 / 5), 5 / 6],
        [0.25, pytest.approx(4 / 6), 1],
    ]


def test_the_stored_curve_by_hand() -> None:
    """Of 40 names in order of decreasing confidence, the 11th, 31st and 36th are wrong.

    Of the first 20, the smallest sample, 19 are correct; of 30, 29; of 35, 33; of all, 37.
    """
    likelihood = torch.linspace(0.99, 0.6, 40, dtype=torch.float64)
    targets = torch.zeros(40, dtype=torch.int64)
    targets[[10, 30, 35]] = 1
    log_probs = torch.stack((likelihood, 1 - likelihood), dim=1).log()
    calibration = fit_calibration(log_probs, targets, [0.5, 0.5], [0.5, 0.5])
    for prior in PRIORS:
        curve = calibration.precision_curves[prior]
        confidence = calibration.log_probabilities(log_probs, prior).exp()[:, 0]
        points = [(point.precision, point.coverage) for point in curve]
        assert points == [(37 / 40, 1), (33 / 35, 35 / 40), (29 / 30, 30 / 40)]
        n_answered = [int((confidence >= point.threshold).sum()) for point in curve]
        assert n_answered == [40, 35, 30]
    assert Calibration.from_checkpoint(calibration.to_checkpoint()) == calibration
    # With fewer than 20 names, no precision can be estimated.
    small_calibration = fit_calibration(log_probs[:19], targets[:19], [0.5, 0.5], [0.5, 0.5])
    assert small_calibration.precision_curves == {prior: [] for prior in PRIORS}


def test_the_stored_curve_has_the_lowest_thresholds() -> None:
    log_probs, targets, corpus_prior = random_predictions(0)
    calibration = fit_calibration(log_probs, targets, [0.2] * 5, corpus_prior.tolist())
    probabilities = calibration.log_probabilities(log_probs, "tempered").exp()
    confidence, predictions = probabilities.max(dim=1)
    is_correct = predictions == targets
    curve = calibration.precision_curves["tempered"]
    assert 5 < len(curve) <= 1001
    assert curve == sorted(curve)
    for threshold, precision, coverage in curve:
        is_answered = confidence >= threshold
        assert is_answered.double().mean().item() == pytest.approx(coverage)
        assert is_correct[is_answered].double().mean().item() == pytest.approx(precision)
    for min_precision in (0.8, 0.9, curve[-1].precision):
        precise_points = [point for point in curve if point.precision >= min_precision]
        lowest = precise_points[0].threshold
        # A curve has a point for each thousandth of precision.
        step = int(1000 * min_precision + 1) / 1000
        for threshold in confidence.tolist():
            # No lower threshold reaches the next thousandth with at least 20 names.
            is_answered = confidence >= threshold
            precision = is_correct[is_answered].double().mean().item()
            assert threshold >= lowest or is_answered.sum() < 20 or precision < step


VALUES = Calibration([0.25, 0.75], [0.5, 0.5], 1.5, 0.25).to_checkpoint()


def test_values_in_a_checkpoint() -> None:
    # Checkpoints contain these keys, so they must not be renamed.
    assert VALUES == {
        "trained_prior": [0.25, 0.75],
        "corpus_prior": [0.5, 0.5],
        "temperature": 1.5,
        "strength": 0.25,
        "curves": {},
    }
    assert Calibration.from_checkpoint(VALUES).to_checkpoint() == VALUES
    # The sum of a prior may differ from 1 by rounding.
    limits = {"temperature": 20, "strength": 1, "corpus_prior": [0.49995, 0.50001]}
    assert Calibration.from_checkpoint(VALUES | limits).prior_strength == 1
    curves = {"corpus": [[0.0, 0.5, 1.0], [0.25, 1.0, 0.0]], "uniform": []}
    calibration = Calibration.from_checkpoint(VALUES | {"curves": curves})
    assert calibration.precision_curves["corpus"][1] == CurvePoint(0.25, 1.0, 0.0)
    assert calibration.to_checkpoint()["curves"] == curves


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        3,
        "corpus",
        {},
        torch.zeros(2),
        VALUES | {"more": 1},
        {key: value for key, value in VALUES.items() if key != "corpus_prior"},
        {key: value for key, value in VALUES.items() if key != "curves"},
        VALUES | {"curves": None},
        VALUES | {"curves": 5},
        VALUES | {"curves": []},
        VALUES | {"curves": [5]},
        VALUES | {"curves": "corpus"},
        VALUES | {"curves": torch.zeros(2)},
    ],
)
def test_malformed_values_raise(values: Any) -> None:
    """The code that loads checkpoints expects any error."""
    with pytest.raises((ValueError, LookupError, TypeError, AttributeError)):
        Calibration.from_checkpoint(values)


@pytest.mark.parametrize(
    "curve",
    [
        None,
        "row",
        [None],
        [[]],
        [[0.5, 0.5]],
        [[0.5] * 4],
        ["row"],
        [[0.5, "half", 0.5]],
        [[0.5, [], 0.5]],
        [[0.5, torch.zeros(2), 0.5]],
        [[0.5, 10**400, 0.5]],
    ],
)
def test_malformed_curves_raise(curve: Any) -> None:
    with pytest.raises((ValueError, TypeError, ArithmeticError, RuntimeError)):
        Calibration.from_checkpoint(VALUES | {"curves": {"corpus": curve}})
