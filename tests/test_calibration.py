from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from src.models.calibration import Calibration, fit_calibration, precision_curve
from src.models.registry import PRIORS


def probabilities(decision: Calibration, network: list[float], prior: str) -> list[float]:
    logp = torch.tensor([network], dtype=torch.float64).log()
    (row,) = decision.log_probabilities(logp, prior).exp().tolist()
    return list(row)


def test_bayes_rule_by_hand() -> None:
    """The network says 0.6 and 0.4, so the likelihoods are as 0.6 / 0.75 to 0.4 / 0.25: 1 to 2."""
    decision = Calibration([0.75, 0.25], [0.9, 0.1], strength=0.5)
    uniform, corpus, tempered = (probabilities(decision, [0.6, 0.4], prior) for prior in PRIORS)
    assert uniform == pytest.approx([1 / 3, 2 / 3])
    assert corpus == pytest.approx([9 / 11, 2 / 11])  # 1 · 0.9 to 2 · 0.1
    assert tempered == pytest.approx([3 / 5, 2 / 5])  # 1 · √0.9 to 2 · √0.1
    cooler = Calibration([0.75, 0.25], [0.9, 0.1], temperature=0.5)
    assert probabilities(cooler, [0.6, 0.4], "uniform") == pytest.approx([1 / 5, 4 / 5])
    assert probabilities(cooler, [0.6, 0.4], "corpus") == pytest.approx([9 / 13, 4 / 13])


def test_under_the_prior_it_was_trained_on_the_network_answers_for_itself() -> None:
    shares = [0.5, 0.3, 0.2 - 1e-9, 1e-9]
    logp = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1)
    same = Calibration(shares, shares, temperature=1.0, strength=1.0)
    for prior in ("corpus", "tempered"):
        torch.testing.assert_close(same.log_probabilities(logp, prior), logp, atol=1e-6, rtol=0)


def test_what_has_no_answer_still_has_none() -> None:
    logp = torch.tensor([[0.5, 0.5], [torch.nan, torch.nan], [0.1, 0.9]]).log()
    for prior in PRIORS:
        answers = Calibration([0.5, 0.5], [0.9, 0.1], 2.0).log_probabilities(logp, prior)
        assert answers.dtype == torch.float32
        assert answers.isnan().all(dim=1).tolist() == [False, True, False]
        assert answers[[0, 2]].exp().sum(dim=1).tolist() == pytest.approx([1, 1])


def network(calibrated: Tensor, trained: Tensor, corpus: Tensor, surer: float) -> Tensor:
    """Return what a network says, `surer` times too sure, where [N, C] is true in the corpus."""
    return (surer * (calibrated.log() - corpus.log()) + trained.log()).log_softmax(dim=1)


@pytest.mark.parametrize("surer", [0.5, 1.0, 2.0, 4.0])
def test_the_temperature_undoes_too_sure_a_network(surer: float) -> None:
    """In each ten names of a row the categories are as frequent as is true, so it is exact."""
    rows = torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
    targets = torch.tensor([i >= round(10 * a) for a in rows[:, 0].tolist() for i in range(10)])
    trained, corpus = torch.tensor([0.6, 0.4]), torch.tensor([0.375, 0.625])
    logp = network(rows.repeat_interleave(10, dim=0), trained, corpus, surer)
    decision = fit_calibration(logp, targets.long(), trained.tolist(), corpus.tolist())
    assert decision.temperature == pytest.approx(surer, rel=1e-4)
    fitted = decision.log_probabilities(logp, "corpus").exp()
    torch.testing.assert_close(fitted[::10], rows, atol=1e-4, rtol=0)


def test_the_temperature_has_bounds() -> None:
    logp = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
    right, wrong = torch.tensor([0, 1]), torch.tensor([1, 0])
    for targets, bound in ((right, 0.2), (wrong, 5)):
        decision = fit_calibration(logp, targets, [0.5, 0.5], [0.5, 0.5])
        assert decision.temperature == pytest.approx(bound, rel=1e-4)


def random_names(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities [300, 5], categories [300] and the corpus's shares [5]."""
    torch.manual_seed(seed)
    shares = torch.tensor([0.7, 0.15, 0.09, 0.05, 0.01])
    targets = shares.multinomial(300, replacement=True)
    logp = (torch.randn(300, 5) + 1.5 * torch.eye(5)[targets]).log_softmax(dim=1)
    return logp, targets, shares


def best_strength(logp: Tensor, targets: Tensor, shares: Tensor, temperature: float) -> float:
    """Return the lowest strength of a smoothed macro F1 near the highest, by trying all."""
    scores = []
    for i in range(21):
        guesses = (logp.double() / temperature + i / 20 * shares.double().log()).argmax(dim=1)
        pairs = list(zip(guesses.tolist(), targets.tolist(), strict=True))
        f1 = []
        for c in {target for _, target in pairs}:
            right, wrong = pairs.count((c, c)), sum((g == c) != (t == c) for g, t in pairs)
            f1.append(right / (right + wrong / 2))
        scores.append(np.mean(f1))
    means = [np.mean([scores[min(max(i + d, 0), 20)] for d in range(-2, 3)]) for i in range(21)]
    return int(np.flatnonzero(np.array(means) >= max(means) - 0.005)[0]) / 20


def test_the_strength_is_the_lowest_of_the_best() -> None:
    found = set()
    for seed in range(10):
        logp, targets, shares = random_names(seed)
        decision = fit_calibration(logp, targets, [0.2] * 5, shares.tolist())
        expected = best_strength(logp, targets, shares, decision.temperature)
        assert decision.strength == expected
        assert fit_calibration(logp, targets, [0.2] * 5, shares.tolist()) == decision
        found.add(decision.strength)
    assert len(found) > 3  # it is not the same for all


def test_many_names_are_fitted_to_evenly_spaced_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    logp, targets, shares = random_names(3)
    expected = fit_calibration(logp[::4], targets[::4], [0.2] * 5, shares.tolist())
    assert fit_calibration(logp, targets, [0.2] * 5, shares.tolist()) != expected
    monkeypatch.setattr("src.models.calibration.ENOUGH", 99)
    assert fit_calibration(logp, targets, [0.2] * 5, shares.tolist()) == expected


def test_of_equal_strengths_the_first() -> None:
    logp = torch.tensor([[0.999, 0.001], [0.001, 0.999]]).log()
    assert fit_calibration(logp, torch.tensor([0, 1]), [0.5] * 2, [0.6, 0.4]).strength == 0


def test_what_a_threshold_does_by_hand() -> None:
    """Three names at 0.75 go together; a threshold lies halfway to the next lower one."""
    confidence = torch.tensor([0.75, 0.5, 0.9375, 0.75, 0.75, 0.625])
    p = torch.stack((confidence, 1 - confidence), dim=1)
    curve = precision_curve(p, torch.tensor([0, 0, 0, 1, 0, 1])).tolist()
    assert curve == [
        [(0.9375 + 0.75) / 2, 1, 1 / 6],
        [(0.75 + 0.625) / 2, 3 / 4, 4 / 6],
        [(0.625 + 0.5) / 2, pytest.approx(3 / 5), 5 / 6],
        [0.25, pytest.approx(4 / 6), 1],
    ]


def test_the_curve_that_is_kept_by_hand() -> None:
    """Of forty names, surest first, the 11th, 31st and 36th are wrong.

    Answering 20 (the fewest): 19 right; to the 30th, 29; to the 35th, 33; all, 37.
    """
    likelihood = torch.linspace(0.99, 0.6, 40, dtype=torch.float64)
    targets = torch.zeros(40, dtype=torch.int64)
    targets[[10, 30, 35]] = 1
    logp = torch.stack((likelihood, 1 - likelihood), dim=1).log()
    decision = fit_calibration(logp, targets, [0.5, 0.5], [0.5, 0.5])
    for prior in PRIORS:
        rows = decision.curves[prior]
        answers = decision.log_probabilities(logp, prior).exp()[:, 0]
        assert [row[1:] for row in rows] == [
            *([37 / 40, 1], [33 / 35, 35 / 40], [29 / 30, 30 / 40]),
        ]
        assert [int((answers >= row[0]).sum()) for row in rows] == [40, 35, 30]
    assert Calibration.checked(asdict(decision), 2) == decision
    few = fit_calibration(logp[:19], targets[:19], [0.5, 0.5], [0.5, 0.5])
    assert few.curves == {prior: [] for prior in PRIORS}


def test_the_curve_that_is_kept_against_trying_all_thresholds() -> None:
    logp, targets, shares = random_names(0)
    decision = fit_calibration(logp, targets, [0.2] * 5, shares.tolist())
    confidence, guesses = decision.log_probabilities(logp, "tempered").exp().max(dim=1)
    curve = decision.curves["tempered"]
    assert 5 < len(curve) <= 1001
    assert curve == sorted(curve)
    for threshold, precision, coverage in curve:
        answered = confidence >= threshold
        assert answered.double().mean().item() == pytest.approx(coverage)
        assert (guesses == targets)[answered].double().mean().item() == pytest.approx(precision)
    for wanted in (0.8, 0.9, curve[-1][1]):
        found = next(row for row in curve if row[1] >= wanted)
        for each in confidence.tolist():  # no lower one reaches that thousandth
            answered = confidence >= each
            share = (guesses == targets)[answered].double().mean().item()
            assert each >= found[0] or answered.sum() < 20 or share < int(1000 * wanted + 1) / 1000


GOOD = asdict(Calibration([0.25, 0.75], [0.5, 0.5], 1.5, 0.25))


def test_plain_values_and_back() -> None:
    assert GOOD == {
        **{"trained_prior": [0.25, 0.75], "corpus_prior": [0.5, 0.5]},
        **{"temperature": 1.5, "strength": 0.25, "curves": {}},
    }
    assert asdict(Calibration.checked(GOOD, 2)) == GOOD
    limits = {"temperature": 20, "strength": 1, "corpus_prior": [0.49995, 0.50001]}
    assert Calibration.checked(GOOD | limits, 2).strength == 1
    curves = {"curves": {"corpus": [[0.0, 0.5, 1.0], [0.25, 1.0, 0.0]], "uniform": []}}
    assert Calibration.checked(GOOD | curves, 2).curves == curves["curves"]


NO_SHARES: list[Any] = [
    *(None, 1.0, {}, (0.5, 0.5), [], [1.0], [0.5, 0.25, 0.25], torch.ones(2) / 2),
    *([0.5, 0.5002], [0.5, 0.4998], [1.0, 0.0], [1.5, -0.5]),
    *([torch.nan, 0.5], [torch.inf, 0.5], [10**400, 1], ["0.5", 0.5]),
]
NO_TEMPERATURE: list[Any] = [None, "1", [], 0, 0.04, 20.1, -1.0, torch.nan, torch.inf, 10**400]
NO_ROWS: list[Any] = [
    *(None, {}, "row", torch.zeros(2, 3), [None], [[]], [[0.5, 0.5]], [[0.5] * 4], ["row"]),
    *([torch.zeros(3)], [[0.5, 0.5, 1.5]], [[-0.1, 0.5, 0.5]], [[torch.nan, 0.5, 0.5]]),
    *([[0.5, "0.5", 0.5]], [[0.5, torch.zeros(1), 0.5]], [[0.5, 10**400, 0.5]]),
]
NO_STRENGTH: list[Any] = [None, "1", [], -0.01, 1.01, torch.nan]


@pytest.mark.parametrize(
    "values",
    [
        *(None, [], 3, "corpus", {}, torch.zeros(2)),
        GOOD | {"more": 1},
        {key: value for key, value in GOOD.items() if key != "corpus_prior"},
        *(GOOD | {"trained_prior": value} for value in NO_SHARES),
        *(GOOD | {"corpus_prior": value} for value in NO_SHARES),
        *(GOOD | {"temperature": value} for value in NO_TEMPERATURE),
        *(GOOD | {"strength": value} for value in NO_STRENGTH),
        *(GOOD | {"curves": value} for value in (None, 5, [], [5], "corpus", torch.zeros(2))),
        *(GOOD | {"curves": {"corpus": value}} for value in NO_ROWS),
    ],
)
def test_malformed(values: Any) -> None:
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        Calibration.checked(values, 2)
