import re
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.alphabet import name_to_tensor
from src.data.batch import size_limited_batches
from src.data.normalize import MAX_NAME_LENGTH
from src.errors import UserError
from src.inference.trained_model import Answer, Prediction, TrainedModel, load_model
from src.models.registry import PRIORS, PriorName
from src.models.rnn import RNN, read_name
from tests.helpers import (
    CALIBRATION,
    CHECKPOINT_SUMMARY,
    GRU_NETWORK,
    PRECISION_CURVE,
    make_checkpoint,
    write_checkpoint,
)

NAMES = ["Jones", "", "O'Neill", "123", "Иванов", "a", "Ślusàrski"]
NORMALIZED_NAMES = ["Jones", "", "O'Neill", "", "Ivanov", "a", "Slusarski"]
LONGEST_NAME = "x" * MAX_NAME_LENGTH
TOO_LONG_NAME = "x" * (MAX_NAME_LENGTH + 1)


def get_rnn(model: TrainedModel) -> RNN:
    """Return the cell of a model with `cell=tutorial`."""
    rnn = model.network.get_submodule("recurrent.rnn")
    assert isinstance(rnn, RNN)
    return rnn


@pytest.fixture
def model(tmp_path: Path) -> TrainedModel:
    """An untrained model without calibration, for the categories A, B and C."""
    return load_model(write_checkpoint(tmp_path / "a.ckpt"))


def test_probabilities_of_a_batch_equal_those_of_single_names(model: TrainedModel) -> None:
    probabilities = model.predict_probabilities(NAMES)
    assert probabilities.shape == (7, 3)
    for name, row in zip(NORMALIZED_NAMES, probabilities, strict=True):
        if not name:
            assert row.isnan().all()
            continue
        with torch.no_grad():
            expected = read_name(get_rnn(model), name_to_tensor(name)).exp()[0]
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)
    # A batch may be empty, or contain no name that can be classified.
    assert model.predict_probabilities([]).shape == (0, 3)
    assert model.predict_probabilities(["1"]).isnan().all()


def test_reasons_why_a_name_cannot_be_classified(model: TrainedModel) -> None:
    """The hidden state is linear and grows with each letter, until it overflows."""
    with torch.no_grad():
        # With larger weights, the state overflows within the maximum length.
        get_rnn(model).i2h.weight.mul_(20)
    probabilities = model.predict_probabilities([LONGEST_NAME, TOO_LONG_NAME, "123", "x"])
    assert probabilities[:, 0].isnan().tolist() == [True, True, True, False]
    assert model.explain_rejection(LONGEST_NAME) == "too long: the hidden state overflows"
    assert model.explain_rejection(TOO_LONG_NAME) == "more than 200 letters"
    assert model.explain_rejection("123") == "no letters of the alphabet"


def test_the_maximum_length_applies_to_the_normalized_name(model: TrainedModel) -> None:
    probabilities = model.predict_probabilities([LONGEST_NAME, f" {LONGEST_NAME}1-", TOO_LONG_NAME])
    assert probabilities[:, 0].isnan().tolist() == [False, False, True]
    # A name that cannot be classified has no prefixes.
    _, prefix_probabilities = model.prefix_probabilities(TOO_LONG_NAME)
    assert prefix_probabilities.shape == (0, 3)


def test_batches_are_limited_in_names_and_letters() -> None:
    # The first limit is 4 names, and the second one is 6 letters.
    assert [len(batch) for batch in size_limited_batches(["a"] * 9, len, 4, 100)] == [4, 4, 1]
    assert [len(batch) for batch in size_limited_batches(["xxx"] * 5, len, 4, 6)] == [2, 2, 1]


def test_top_k(model: TrainedModel) -> None:
    probabilities = torch.tensor([[0.2, 0.5, 0.3], [torch.nan] * 3])
    predictions = [("B", 0.5), ("C", pytest.approx(0.3))]
    assert model.top_k(probabilities, 2) == [predictions, []]


def test_among_some_categories_by_hand(tmp_path: Path) -> None:
    """By Bayes' rule, the probabilities under a prior are divided by their sum."""
    path = write_checkpoint(tmp_path / "a.ckpt", calibration=CALIBRATION)
    names = ["Jones", "123", "O'Neill"]
    for prior in PRIORS:
        # The columns of C and A are in the order of the option.
        probabilities = load_model(path, prior).predict_probabilities(names)[:, [2, 0]]
        expected = probabilities / probabilities.sum(dim=1, keepdim=True)
        restricted = load_model(path, prior, ["C", "A"])
        assert restricted.categories == ["C", "A"]
        actual = restricted.predict_probabilities(names)
        torch.testing.assert_close(actual, expected, equal_nan=True)
        assert len(restricted.top_k(expected, 2)[0]) == 2
    # With all categories, nothing changes.
    uncalibrated = load_model(write_checkpoint(tmp_path / "b.ckpt"), among=["A", "B", "C"])
    expected = load_model(tmp_path / "b.ckpt").predict_probabilities(names)
    torch.testing.assert_close(uncalibrated.predict_probabilities(names), expected, equal_nan=True)


def test_top_k_or_reason(model: TrainedModel) -> None:
    nan_row = [torch.nan] * 3
    probabilities = torch.tensor([[0.2, 0.5, 0.3], nan_row, [0.5, 0.375, 0.125], nan_row])
    answers = model.top_k_or_reason(["a", "1", "b", "a"], probabilities, 1, threshold=0.5)
    assert answers == [
        Answer([Prediction("B", 0.5)], ""),
        Answer([], "no letters of the alphabet"),
        Answer([Prediction("A", 0.5)], ""),
        Answer([], "too long: the hidden state overflows"),
    ]
    below_threshold = model.top_k_or_reason(["a", "1"], probabilities[:2], 2, threshold=0.625)
    assert below_threshold == [([], "unknown: below 0.625"), ([], "no letters of the alphabet")]
    assert model.top_k_or_reason(["a"], probabilities[:1], 1) == answers[:1]


def test_the_threshold_of_a_precision(tmp_path: Path) -> None:
    calibration = CALIBRATION | {"curves": {"tempered": PRECISION_CURVE}}
    path = write_checkpoint(tmp_path / "a.ckpt", calibration=calibration)
    model = load_model(path)
    # The first point of the curve that reaches the precision is used.
    points = [model.find_threshold(precision) for precision in (0.1, 0.8, 0.85, 0.9, 0.937)]
    assert [list(point) for point in points] == [
        PRECISION_CURVE[0],
        PRECISION_CURVE[0],
        PRECISION_CURVE[1],
        PRECISION_CURVE[1],
        PRECISION_CURVE[2],
    ]
    message = "--precision 0.938: the highest precision on the validation names is 0.937"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        model.find_threshold(0.938)
    uncalibrated = load_model(write_checkpoint(tmp_path / "b.ckpt"))
    # The curve is that of the tempered prior, and an uncalibrated model has none.
    for model_without_curve in (load_model(path, "corpus"), uncalibrated):
        with pytest.raises(
            UserError, match=r"ckpt has no precision curve; use --threshold instead$"
        ):
            model_without_curve.find_threshold(0.5)
    with pytest.raises(
        UserError,
        match=r"precision curves are not available with --among; use --threshold instead$",
    ):
        load_model(path, among=["A", "B"]).find_threshold(0.5)


def test_prefix_probabilities_equal_those_of_the_prefixes(model: TrainedModel) -> None:
    prefixes, probabilities = model.prefix_probabilities("Ślusàrski")
    assert prefixes == ["Slusarski"[:end] for end in range(1, 10)]
    assert probabilities.shape == (9, 3)
    for prefix, row in zip(prefixes, probabilities, strict=True):
        expected = model.predict_probabilities([prefix])[0]
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)
    _, no_probabilities = model.prefix_probabilities("123")
    assert no_probabilities.shape == (0, 3)


@pytest.mark.parametrize(("prior", "strength"), [("uniform", 0), ("corpus", 1), ("tempered", 0.4)])
def test_probabilities_under_a_prior(tmp_path: Path, prior: PriorName, strength: float) -> None:
    model = load_model(write_checkpoint(tmp_path / "a.ckpt", calibration=CALIBRATION), prior)
    assert model.prior_label == prior
    trained_prior = np.array([0.2, 0.3, 0.5])
    corpus_prior = np.array([0.9, 0.06, 0.04])
    for name, row in zip(NORMALIZED_NAMES, model.predict_probabilities(NAMES), strict=True):
        if not name:
            assert row.isnan().all()
            continue
        with torch.no_grad():
            output = read_name(get_rnn(model), name_to_tensor(name)).double().exp()[0].numpy()
        # This is Bayes' rule with a temperature of 1.5.
        expected = (output / trained_prior) ** (1 / 1.5) * corpus_prior**strength
        assert row.tolist() == pytest.approx(expected / expected.sum(), abs=1e-6)
        _, prefix_probabilities = model.prefix_probabilities(name)
        assert prefix_probabilities[-1].tolist() == pytest.approx(row.tolist(), abs=1e-6)


def test_a_model_without_calibration_has_no_prior(tmp_path: Path, model: TrainedModel) -> None:
    assert model.calibration is None
    assert model.prior_label == "as trained"
    for prior in ("uniform", "corpus"):
        with pytest.raises(UserError) as error:
            load_model(tmp_path / "a.ckpt", prior)
        reason = "has no calibration, because no names were held out for validation"
        message = f"--prior {prior}: {tmp_path}/a.ckpt {reason}; omit --prior"
        assert str(error.value) == message


def test_title_and_description(tmp_path: Path) -> None:
    """The title is the name of the run, or the path of a checkpoint outside of a run's folder."""
    model = load_model(write_checkpoint(tmp_path / "a.ckpt"))
    assert model.title == f"{tmp_path}/a.ckpt (validation balanced accuracy 0.625)"
    assert model.description == CHECKPOINT_SUMMARY
    model = load_model(write_checkpoint(tmp_path / "my run/checkpoints/last.ckpt"))
    assert model.title == "my run (validation balanced accuracy 0.625)"
    assert model.description == CHECKPOINT_SUMMARY
    history = [(5, {"train/loss": 1.0})]  # the run had no validation names
    checkpoint = make_checkpoint(GRU_NETWORK) | {"iteration": 5, "history": history}
    # The description names no score, because there is none.
    torch.save(checkpoint, tmp_path / "b.ckpt")
    model = load_model(tmp_path / "b.ckpt")
    assert model.title == f"{tmp_path}/b.ckpt"
    assert model.description == "cell=gru letters=ascii, 5 iterations"
