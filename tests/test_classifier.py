from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping

from src.data.alphabet import ASCII_ALPHABET
from src.data.batch import Batch
from src.data.datamodule import NamesDataModule
from src.models.calibration import Calibration
from src.models.classifier import DivergenceError, NameClassifier
from src.models.metrics import BalancedAccuracy, MacroF1
from src.models.online_classifier import OnlineClassifier
from src.models.registry import PRIORS
from src.models.rnn import RNN, read_name
from tests.helpers import fit, flat_weights, make_trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:lightning", "ignore::FutureWarning:lightning"
)
SCORES = {"loss", "accuracy", "balanced_accuracy", "macro_f1", "top3_accuracy"}


def make_model(categories: list[str], lr: float = 0.05, **changes: Any) -> OnlineClassifier:
    torch.manual_seed(0)
    network = {
        "alphabet": ASCII_ALPHABET.to_dict(),
        "categories": categories,
        "train_prior": None,
        "cell": "tutorial",
        "hidden": 16,
    }
    arguments: dict[str, Any] = {"iterations": 300, "log_every": 50, "val_every": 100}
    arguments |= changes
    return OnlineClassifier(network=network, lr=lr, **arguments)


def make_data(corpus_dir: Path, iterations: int = 300) -> NamesDataModule:
    return NamesDataModule(corpus_dir, 0.2, 0.2, 0, iterations, 50, 100, chunk_size=1000)


@pytest.mark.parametrize("model_class", [NameClassifier, OnlineClassifier])
def test_settings_of_a_model_for_data_go_to_the_network_or_to_the_training(
    corpus_dir: Path, model_class: type[NameClassifier]
) -> None:
    data = make_data(corpus_dir)
    model = model_class.for_data(data, hidden=16, layers=1, lr=0.02, seed=3)
    network = model.hparams["network"]
    # The tutorial's network has no prior, because its categories are drawn equally often.
    prior = data.train_prior if model_class is NameClassifier else None
    assert network == {
        "alphabet": data.alphabet.to_dict(),
        "categories": data.categories,
        "train_prior": prior,
        "hidden": 16,
        "layers": 1,
    }
    assert (model.hparams["lr"], model.hparams["seed"]) == (0.02, 3)
    assert model.run_length == data.run_length
    with pytest.raises(TypeError, match="hiden"):
        model_class.for_data(data, hiden=16)


def tutorial_losses(rnn: RNN, batch: Batch, lr: float, clip: float = torch.inf) -> list[float]:
    """Train on each name as the tutorial does, and return the losses before the steps."""
    losses = []
    optimizer = torch.optim.SGD(rnn.parameters(), lr)
    for name, category in batch.one_hot_examples(57):
        loss = F.nll_loss(read_name(rnn, name), category)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
        torch.nn.utils.clip_grad_norm_(rnn.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_balanced_accuracy_ignores_categories_without_names() -> None:
    metric = BalancedAccuracy(4, average="macro")
    guesses = torch.tensor([0, 0, 0, 1, 3])
    targets = torch.tensor([0, 0, 1, 1, 2])
    # The recalls are 1, 1/2 and 0. Category 3 is only guessed, so it has no recall.
    metric.update(guesses, targets)
    assert metric.compute().item() == pytest.approx(0.5)


def test_macro_f1_ignores_categories_without_names() -> None:
    metric = MacroF1(4, average="macro")
    metric.update(torch.tensor([0, 0, 0, 1, 3]), torch.tensor([0, 0, 1, 1, 2]))
    # The F1 scores are 2 · 2 / (3 + 2), 2 · 1 / (1 + 2) and 0. Category 3 is only guessed.
    assert metric.compute().item() == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)


PROBABILITIES = torch.tensor(
    [[0.6, 0.2, 0.1, 0.1], [0.2, 0.5, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]]
)
TARGETS = torch.tensor([0, 1, 1, 3])


def test_metrics_computed_by_hand() -> None:
    model = make_model(["A", "B", "C", "D"])
    model.metrics.update(PROBABILITIES.log(), TARGETS)
    scores = {name: value.item() for name, value in model.metrics.compute().items()}
    assert scores == {
        "accuracy": pytest.approx(2 / 4),
        "balanced_accuracy": pytest.approx((1 + 1 / 2 + 0) / 3),
        # The F1 of A is 2 · (1/3) · 1 / (4/3) = 1/2, that of B is 2 · 1 · (1/2) / (3/2) = 2/3, and
        # that of D is 0. C has neither names nor guesses.
        "macro_f1": pytest.approx((1 / 2 + 2 / 3 + 0) / 3),
        "top3_accuracy": pytest.approx(3 / 4),
    }


def test_metrics_under_each_prior_computed_by_hand() -> None:
    model = make_model(["A", "B", "C", "D"])
    model.calibration = Calibration([0.25] * 4, [0.01, 0.97, 0.01, 0.01], prior_strength=0)
    scores = model.score_under_each_prior("test", PROBABILITIES.log(), TARGETS)
    # Under the corpus prior, B is predicted for all names, which is correct for two of four.
    for prior in PRIORS:
        assert scores[f"test/{prior}/accuracy"] == pytest.approx(2 / 4)
    assert scores["test/corpus/balanced_accuracy"] == pytest.approx((0 + 1 + 0) / 3)
    assert scores["test/uniform/balanced_accuracy"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    expected_keys = set()
    for prior in PRIORS:
        for name in ("accuracy", "balanced_accuracy", "macro_f1"):
            expected_keys.add(f"test/{prior}/{name}")
    assert scores.keys() == expected_keys


def test_batched_evaluation_equals_single_names(corpus_dir: Path) -> None:
    data = make_data(corpus_dir)
    model = make_model(data.categories)
    trainer = fit(model, data)
    items = [data.val_dataset[i] for i in range(len(data.val_dataset))]
    with torch.no_grad():
        outputs = torch.cat([read_name(model.rnn, name) for name, _ in items])
    targets = torch.cat([category for _, category in items])
    losses = [-float(output[target]) for output, target in zip(outputs, targets, strict=True)]
    mean_loss = sum(losses) / len(losses)
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(mean_loss)
    accuracy = (outputs.argmax(dim=1) == targets).float().mean().item()
    assert float(trainer.callback_metrics["val/accuracy"]) == pytest.approx(accuracy)

    # The names fit into one batch of 1000, or into several of 3.
    for max_batch_size in (1000, 3):
        logp = model.log_probabilities(data.val_dataset.loader(max_batch_size=max_batch_size))
        torch.testing.assert_close(logp, outputs, atol=1e-6, rtol=0)
    assert torch.equal(data.val_dataset.targets, targets)


def test_backends_agree_and_equal_seeds_give_equal_bits(corpus_dir: Path) -> None:
    trained: dict[str, list[Any]] = {"compiled": [], "autograd": []}
    # Each backend trains twice, to show that it repeats its results.
    for backend in ("compiled", "compiled", "autograd", "autograd"):
        data = make_data(corpus_dir)
        model = make_model(data.categories, backend=backend)
        fit(model, data)
        assert model.iteration == 300
        trained[backend].append((flat_weights(model), model.history))
    for first_run, second_run in trained.values():
        first_weights, first_history = first_run
        second_weights, second_history = second_run
        assert torch.equal(first_weights, second_weights)
        assert first_history == second_history
    compiled_weights, compiled_history = trained["compiled"][0]
    autograd_weights, autograd_history = trained["autograd"][0]
    torch.testing.assert_close(compiled_weights, autograd_weights, atol=1e-5, rtol=0)
    iterations = [iteration for iteration, _ in compiled_history]
    # The loss is logged at every 50th iteration, and validation scores at every 100th.
    assert iterations == [50, 100, 100, 150, 200, 200, 250, 300, 300]
    for (_, values), (_, expected) in zip(compiled_history, autograd_history, strict=True):
        assert values == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("clip", [500.0, 0.5])
@pytest.mark.parametrize("backend", ["compiled", "autograd"])
def test_training_equals_the_tutorial_loop(corpus_dir: Path, backend: str, clip: float) -> None:
    """With a clip that no gradient reaches, and with one that nearly all exceed."""
    data = make_data(corpus_dir)
    model = make_model(data.categories, backend=backend, clip=clip)
    torch.manual_seed(0)
    # The model was created with the same seed, so both have the same initial weights.
    rnn = RNN(57, 16, 3)
    fit(model, data)
    batch = data.train_dataset.batch(data.sampler.take(0, 300))
    losses = tutorial_losses(rnn, batch, 0.05, clip)
    for actual, expected in zip(model.rnn.parameters(), rnn.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    means = torch.tensor(losses).reshape(6, 50).mean(dim=1).tolist()
    curve = model.curve("train/loss")
    expected_curve = dict(zip([50, 100, 150, 200, 250, 300], means, strict=True))
    assert dict(curve) == pytest.approx(expected_curve, abs=1e-5)
    assert len(curve) == 6


def test_divergence_error_names_lr_clip_and_iteration(corpus_dir: Path) -> None:
    data = make_data(corpus_dir)
    model = make_model(data.categories, lr=1e6, clip=0)
    # The losses of the tutorial's loop show at which name the first one is not finite.
    same_model = make_model(data.categories)
    batch = data.train_dataset.batch(data.sampler.take(0, 50))
    losses = tutorial_losses(same_model.rnn, batch, lr=1e6)
    # Iterations are counted from 1.
    first_iteration = torch.tensor(losses).isfinite().tolist().index(False) + 1
    message = (
        rf"lr=1000000\.0 clip=0: .* at iteration {first_iteration}; try a lower lr or clip=500$"
    )
    with pytest.raises(DivergenceError, match=message):
        fit(model, data)


def test_divergence_error_suggests_a_lower_clip(corpus_dir: Path) -> None:
    data = make_data(corpus_dir)
    model = make_model(data.categories, lr=1e12)
    with pytest.raises(DivergenceError, match=r" clip=500: .*; try a lower lr or a lower clip$"):
        fit(model, data)


def test_infinite_weight_after_the_last_step_is_an_error(corpus_dir: Path) -> None:
    """The loss of the only name is finite, but the weights are not finite after the step."""
    data = make_data(corpus_dir, iterations=1)
    with pytest.raises(DivergenceError, match=r"no longer finite at iteration 1;"):
        fit(make_model(data.categories, lr=1e38, iterations=1), data)


REGIMES = ["online", "batched"]


def make_model_and_data(regime: str, corpus_dir: Path) -> tuple[NameClassifier, NamesDataModule]:
    """Return an online or a batched model with few settings, and its data."""
    run_length: dict[str, Any] = {"iterations": 30, "log_every": 5, "val_every": 10}
    if regime == "online":
        data = NamesDataModule(corpus_dir, 0.2, 0.2, **run_length)
        return make_model(data.categories, **run_length), data
    data = NamesDataModule(corpus_dir, 0.2, 0.2, **run_length, batch_size=7, sampling="natural")
    network = {
        "alphabet": ASCII_ALPHABET.to_dict(),
        "categories": data.categories,
        "train_prior": data.train_prior,
        "cell": "gru",
        "hidden": 8,
    }
    torch.manual_seed(0)
    return NameClassifier(network, lr=0.5, **run_length), data


@pytest.mark.parametrize("max_epochs", [-1, None])
@pytest.mark.parametrize("regime", REGIMES)
def test_plain_trainer_trains(corpus_dir: Path, regime: str, max_epochs: int | None) -> None:
    model, data = make_model_and_data(regime, corpus_dir)
    trainer = make_trainer(max_epochs=max_epochs)
    trainer.fit(model, data)
    assert model.iteration == 30
    train_iterations = [iteration for iteration, _ in model.curve("train/loss")]
    assert train_iterations == [5, 10, 15, 20, 25, 30]
    val_iterations = [iteration for iteration, _ in model.curve("val/loss")]
    assert val_iterations[-3:] == [10, 20, 30]
    assert {f"val/{name}" for name in SCORES} <= trainer.callback_metrics.keys()


def test_stopping_callback_stops_training(corpus_dir: Path) -> None:
    model, data = make_model_and_data("online", corpus_dir)
    # Every loss is below this threshold, so the first validation ends the training.
    stopping = EarlyStopping("val/loss", stopping_threshold=99.0)
    make_trainer(num_sanity_val_steps=0, callbacks=[stopping]).fit(model, data)
    assert (model.iteration, len(model.curve("val/loss"))) == (10, 1)


def test_sanity_check_is_not_recorded_in_the_history(corpus_dir: Path) -> None:
    model, data = make_model_and_data("online", corpus_dir)
    make_trainer(num_sanity_val_steps=2).fit(model, data)
    # The first entry is that of the training loss.
    assert model.history[0][0] == 5


@pytest.mark.parametrize("regime", REGIMES)
def test_plain_trainer_validates_and_tests(corpus_dir: Path, regime: str) -> None:
    model, data = make_model_and_data(regime, corpus_dir)
    trainer = make_trainer()
    (val_scores,) = trainer.validate(model, data, verbose=False)
    (test_scores,) = trainer.test(model, data, verbose=False)
    results = {"val": (val_scores, data.val_dataset), "test": (test_scores, data.test_dataset)}
    for stage, (scores, dataset) in results.items():
        log_probs = model.eval().log_probabilities(dataset.loader())
        assert scores.keys() - {"step"} == {f"{stage}/{name}" for name in SCORES}
        loss = F.nll_loss(log_probs, dataset.targets).item()
        assert scores[f"{stage}/loss"] == pytest.approx(loss)


@pytest.mark.parametrize("regime", REGIMES)
def test_plain_trainer_predicts(corpus_dir: Path, regime: str) -> None:
    model, data = make_model_and_data(regime, corpus_dir)
    batch_log_probs: Any = make_trainer().predict(model, data.test_dataloader())
    expected = model.eval().log_probabilities(data.test_dataset.loader())
    assert expected.shape == (len(data.test_dataset), 3)
    torch.testing.assert_close(torch.cat(batch_log_probs), expected, atol=0, rtol=0)


@pytest.mark.parametrize("regime", REGIMES)
def test_model_is_restored_from_a_checkpoint(corpus_dir: Path, tmp_path: Path, regime: str) -> None:
    model, data = make_model_and_data(regime, corpus_dir)
    trainer = make_trainer()
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    restored = type(model).load_from_checkpoint(tmp_path / "model.ckpt")
    assert restored.hparams == model.hparams
    assert restored.iteration == 30
    assert torch.equal(flat_weights(restored), flat_weights(model))
