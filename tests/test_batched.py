"""Training on batches of names with autograd: `backend=autograd`."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from src.data.alphabet import ASCII_ALPHABET
from src.data.batch import Batch
from src.data.datamodule import NamesDataModule
from src.data.dataset import NamesDataset
from src.models.classifier import DivergenceError, NameClassifier
from src.models.rnn import RNN, read_name
from tests.helpers import fit, flat_weights, make_batch, make_trainer
from tests.test_network import NAMES

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:lightning", "ignore::FutureWarning:lightning"
)


def make_model(network: dict[str, Any] | None = None, **changes: Any) -> NameClassifier:
    """Return an untrained model with three categories.

    Args:
        network: arguments of the network that differ from a small Elman network.
        changes: arguments of the model that differ from plain SGD.
    """
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "alphabet": ASCII_ALPHABET.to_dict(),
        "categories": ["A", "B", "C"],
        "train_prior": [0.5, 0.3, 0.2],
    }
    arguments: dict[str, Any] = {"iterations": 100, "log_every": 1, "lr": 0.1}
    network_arguments = names | {"cell": "rnn", "hidden": 5}
    if network is not None:
        network_arguments |= network
    arguments |= changes
    return NameClassifier(network_arguments, **arguments)


class StepRecorder(Callback):
    """Records the output and the learning rate of each training step."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, Tensor]] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Record the learning rate."""
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Any, model: Any, outputs: Any, *_: Any) -> None:
        """Record the output of the step."""
        self.outputs.append(outputs)


def train_on_batches(model: NameClassifier, batches: list[Batch], **arguments: Any) -> StepRecorder:
    """Take one training step on each batch, and return the outputs of the steps."""
    recorder = StepRecorder()
    dataset: Any = batches
    loader = DataLoader[Any](dataset, batch_size=None)
    make_trainer(callbacks=[recorder], max_epochs=1, **arguments).fit(model, loader)
    return recorder


def compute_scores(model: NameClassifier, batch: Batch) -> Tensor:
    """Return the scores of a batch, computed without the methods of the model."""
    scores: Tensor = model.network.recurrent(batch.letters, batch.lengths)
    return scores + torch.tensor([0.5, 0.3, 0.2]).log()


def test_step_is_plain_sgd_on_the_mean_loss() -> None:
    model = make_model()
    reference = make_model()
    batch = make_batch(NAMES)
    (results,) = train_on_batches(model, [batch]).outputs
    scores = compute_scores(reference, batch)
    loss = F.cross_entropy(scores, batch.targets)
    loss.backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
    assert results["losses"].tolist() == pytest.approx([loss.item()], abs=1e-6)
    assert results["guesses"].tolist() == [int(scores[0].argmax())]
    for weight, reference_weight in zip(model.parameters(), reference.parameters(), strict=True):
        expected: Tensor = reference_weight
        if reference_weight.grad is not None:
            expected = reference_weight - 0.1 * reference_weight.grad
        torch.testing.assert_close(weight, expected, atol=1e-6, rtol=0)
    assert model.iteration == 1
    assert dict(model.curve("train/loss")) == pytest.approx({1: loss.item()}, abs=1e-6)


def test_label_smoothing_equals_pytorch() -> None:
    model = make_model(label_smoothing=0.1)
    reference = make_model()
    batch = make_batch(NAMES)
    scores = compute_scores(reference, batch)
    expected = F.cross_entropy(scores, batch.targets, label_smoothing=0.1).item()
    (results,) = train_on_batches(model, [batch]).outputs
    assert results["losses"].item() == pytest.approx(expected, abs=1e-6)


def test_long_gradients_are_clipped_by_lightning() -> None:
    model = make_model()
    before = flat_weights(model).clone()
    train_on_batches(model, [make_batch(NAMES)], gradient_clip_val=0.01)
    assert float((flat_weights(model) - before).norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_cosine_schedule() -> None:
    model = make_model(schedule="cosine", iterations=200)
    recorder = train_on_batches(model, [make_batch(["Lee"])] * 200)
    for iteration, rate in enumerate(recorder.rates):
        decay = (1 + math.cos(math.pi * iteration / 200)) / 2
        warm_up = min(1, (iteration + 1) / 10)  # The first 5 % of the iterations.
        assert rate == pytest.approx(0.1 * warm_up * decay)
    assert len(recorder.rates) == 200


def test_adamw_equals_pytorch() -> None:
    model = make_model(optimizer="adamw", weight_decay=0.5)
    reference = make_model(optimizer="adamw", weight_decay=0.5)
    batch = make_batch(NAMES)
    train_on_batches(model, [batch, batch])
    trained = [weight for weight in reference.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.5, betas=(0.9, 0.99))
    for _ in range(2):
        optimizer.zero_grad()
        loss = F.cross_entropy(compute_scores(reference, batch), batch.targets)
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
        optimizer.step()
    torch.testing.assert_close(flat_weights(model), flat_weights(reference), atol=1e-6, rtol=0)


def test_dropout_depends_only_on_the_iteration_and_the_seed() -> None:
    batch = make_batch(NAMES)

    def compute_losses(first_iteration: int, seed: int = 0) -> list[float]:
        # With lr=0, the losses differ only by the dropout.
        model = make_model({"dropout": 0.5}, lr=0.0, seed=seed)
        model.iteration = first_iteration
        # The previous state of the global generator must not matter.
        torch.manual_seed(first_iteration)
        outputs = train_on_batches(model, [batch] * 4).outputs
        return [output["losses"].item() for output in outputs]

    assert compute_losses(2)[:2] == compute_losses(0)[2:]
    all_losses = compute_losses(0) + compute_losses(0, seed=1)
    assert len(set(all_losses)) == 8


@pytest.mark.parametrize("is_fitted", [True, False])
def test_ngrams_are_not_trained_with_the_network(
    is_fitted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is so whether or not they have been fitted when the optimizer is created."""
    monkeypatch.setattr("src.ngrams.letter_ngrams.N_STEPS", 3)
    monkeypatch.setattr("src.ngrams.tfidf.MIN_STEPS", 3)
    monkeypatch.setattr("src.ngrams.tfidf.MAX_STEPS", 3)
    # Weight decay would change weights that have no gradient.
    model = make_model({"ngrams": 2}, weight_decay=0.1)
    without_ngrams = make_model(weight_decay=0.1)
    ngrams = model.network.ngrams
    assert ngrams is not None
    if is_fitted:
        names = NamesDataset({"A": ["Lee"], "B": ["Li"], "C": ["Wu"]})
        ngrams.fit(names, [1 / 3] * 3, seed=0)
    before = [weight.clone() for weight in ngrams.parameters()]
    (group,) = model.configure_optimizers().param_groups
    (expected_group,) = without_ngrams.configure_optimizers().param_groups
    expected_shapes = [weight.shape for weight in expected_group["params"]]
    assert [weight.shape for weight in group["params"]] == expected_shapes
    for trained_model in (model, without_ngrams):
        train_on_batches(trained_model, [make_batch(NAMES), make_batch(NAMES)])
    torch.testing.assert_close(list(ngrams.parameters()), before, atol=0, rtol=0)
    for weight, expected_weight in zip(
        model.network.recurrent.parameters(),
        without_ngrams.network.recurrent.parameters(),
        strict=True,
    ):
        assert torch.equal(weight, expected_weight)


def test_batch_without_names_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With DDP, a process may have no names in a batch. Its gradient is then zero."""
    model = make_model({"ngrams": 2})
    model.trainer = make_trainer()
    sums_of_another_process = torch.tensor([0.0, 7.0])
    monkeypatch.setattr(model.trainer.strategy, "reduce", sums_of_another_process.add)
    batch = make_batch(NAMES)
    empty_batch = Batch(batch.letters[:0], batch.lengths[:0], batch.targets[:0])
    results = model.training_step(empty_batch, 0)
    results["loss"].backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
    assert results["losses"].tolist() == [0]
    assert results["guesses"].tolist() == []
    trained = [weight for weight in model.network.recurrent.parameters() if weight.requires_grad]
    assert all(weight.grad is not None and not weight.grad.any() for weight in trained)


def test_non_finite_loss_stops_training(corpus_dir: Path) -> None:
    sizes: dict[str, Any] = {"iterations": 500, "log_every": 10, "val_every": 100}
    data = NamesDataModule(corpus_dir, 0.1, 0.1, 0, **sizes, batch_size=4, chunk_size=1)
    model = make_model({"cell": "tutorial", "hidden": 8}, lr=50.0, **sizes)
    with pytest.raises(
        DivergenceError,
        match=r"lr=50\.0 clip=0: the loss or a weight is no longer finite at iterat",
    ):
        fit(model, data)


def test_batched_training_of_the_tutorial_cell_equals_a_plain_loop(corpus_dir: Path) -> None:
    sizes: dict[str, Any] = {"iterations": 100, "log_every": 10, "val_every": 50}
    data = NamesDataModule(corpus_dir, 0.1, 0.1, 0, **sizes, batch_size=4, chunk_size=1)
    model = make_model(
        {"cell": "tutorial", "hidden": 8, "train_prior": data.train_prior}, lr=0.05, **sizes
    )
    fit(model, data)

    torch.manual_seed(0)
    rnn = RNN(57, 8, 3)
    optimizer = torch.optim.SGD(rnn.parameters(), 0.05)
    for iteration in range(100):
        lines = data.sampler.take(4 * iteration, 4)
        pairs = [data.train_dataset[line] for line in lines]
        outputs = torch.cat([read_name(rnn, name) for name, _ in pairs])
        optimizer.zero_grad()
        loss = F.nll_loss(outputs, torch.cat([category for _, category in pairs]))
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
        optimizer.step()
    for name, weight in rnn.state_dict().items():
        trained = model.state_dict()[f"network.recurrent.rnn.{name}"]
        torch.testing.assert_close(trained, weight, atol=1e-5, rtol=0)


def test_names_of_equal_length_and_batches_of_one_name(tmp_path: Path) -> None:
    for category, vowel in (("A", "a"), ("O", "o")):
        names = [f"{first}{vowel}{last}" for first in "bdg" for last in "lmnrs"]
        (tmp_path / f"{category}.txt").write_text("\n".join(names))
    sizes: dict[str, Any] = {"iterations": 100, "log_every": 5, "val_every": 20}
    data = NamesDataModule(
        tmp_path, 0.1, 0.1, 0, **sizes, batch_size=7, chunk_size=1, sampling="natural"
    )
    batches = list(data.train_dataloader())
    # A pass over the 22 training names ends with a batch of a single name.
    assert sorted(len(batch.lengths) for batch in batches[:4]) == [1, 7, 7, 7]
    shape = {"cell": "gru", "bidirectional": True, "pooling": "all", "embedding": 4, "dropout": 0.5}
    category_arguments: dict[str, Any] = {
        "categories": data.categories,
        "train_prior": data.train_prior,
    }
    network = category_arguments | shape | {"hidden": 8}
    model = make_model(network, lr=0.05, optimizer="adamw", **sizes)
    trainer = fit(model, data)
    trainer.test(model, data, verbose=False)
    # The vowel determines the category, so a network that learns anything is always correct.
    assert model.last_values()["test/accuracy"] == 1
