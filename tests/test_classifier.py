from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from src.data.alphabet import ALPHABET
from src.data.datamodule import NamesDataModule
from src.data.tensors import Batch
from src.errors import UserError
from src.models.classifier import BalancedAccuracy
from src.models.online import OnlineClassifier
from src.models.rnn import read_name


def make_model(
    categories: list[str], lr: float = 0.05, backend: str = "compiled"
) -> OnlineClassifier:
    torch.manual_seed(0)
    return OnlineClassifier(categories, ALPHABET, hidden=16, lr=lr, backend=backend, log_every=50)


def make_data(corpus_dir: Path, iterations: int = 300) -> NamesDataModule:
    return NamesDataModule(corpus_dir, 0.2, 0.2, 0, iterations, log_every=50, epoch_size=100)


def fit(model: OnlineClassifier, data: NamesDataModule, folder: Path) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        reload_dataloaders_every_n_epochs=1,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, data)
    return trainer


def weights(model: OnlineClassifier) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_balanced_accuracy_leaves_out_categories_without_names() -> None:
    metric = BalancedAccuracy(4, average="macro")
    guesses = torch.tensor([0, 0, 0, 1, 3])
    targets = torch.tensor([0, 0, 1, 1, 2])  # recalls 1, 1/2, 0; category 3 is only guessed
    metric.update(guesses, targets)
    assert metric.compute().item() == pytest.approx(0.5)


def test_scores_by_hand() -> None:
    model = make_model(["A", "B", "C", "D"])
    probabilities = torch.tensor(
        [[0.6, 0.2, 0.1, 0.1], [0.2, 0.5, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]]
    )
    targets = torch.tensor([0, 1, 1, 3])
    model.scores.update(probabilities.log(), targets)
    scores = {name: value.item() for name, value in model.scores.compute().items()}
    assert scores == {
        "accuracy": pytest.approx(2 / 4),
        "balanced_accuracy": pytest.approx((1 + 1 / 2 + 0) / 3),
        # F1: A 2·(1/3)·1/(4/3) = 1/2, B 2·1·(1/2)/(3/2) = 2/3, D 0; C has no name, no guess
        "macro_f1": pytest.approx((1 / 2 + 2 / 3 + 0) / 3),
        "top3_accuracy": pytest.approx(3 / 4),
    }


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning:lightning")
def test_evaluation_is_that_of_the_names_one_by_one(corpus_dir: Path, tmp_path: Path) -> None:
    data = make_data(corpus_dir)
    model = make_model(data.categories)
    trainer = fit(model, data, tmp_path)
    items = [data.val[i] for i in range(len(data.val))]
    with torch.no_grad():
        outputs = [read_name(model.rnn, name) for name, _ in items]
    targets = torch.cat([category for _, category in items])
    losses = [-float(o[0, y]) for o, y in zip(outputs, targets.tolist(), strict=True)]
    guesses = torch.tensor([int(output.argmax()) for output in outputs])
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(sum(losses) / len(losses))
    accuracy = (guesses == targets).float().mean().item()
    assert float(trainer.callback_metrics["val/accuracy"]) == pytest.approx(accuracy)

    matrix = model.confusion_matrix(data.val.__getitems__(range(len(data.val))))
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for true, guess in zip(targets.tolist(), guesses.tolist(), strict=True):
        expected[true, guess] += 1
    assert torch.equal(matrix, expected)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning:lightning")
def test_backends_agree_and_a_seed_repeats_bit_for_bit(corpus_dir: Path, tmp_path: Path) -> None:
    trained: dict[str, list[Any]] = {"compiled": [], "autograd": []}
    for backend in ("compiled", "compiled", "autograd", "autograd"):
        data = make_data(corpus_dir)
        model = make_model(data.categories, backend=backend)
        trainer = fit(model, data, tmp_path)
        assert model.iteration == 300
        assert trainer.global_step == 6  # one step of the optimizer a chunk
        trained[backend].append(weights(model))
    assert torch.equal(*trained["compiled"])
    assert torch.equal(*trained["autograd"])
    torch.testing.assert_close(trained["compiled"][0], trained["autograd"][0], atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning:lightning")
def test_divergence_names_lr_and_iteration(corpus_dir: Path, tmp_path: Path) -> None:
    data = make_data(corpus_dir)
    model = make_model(data.categories, lr=1e6)
    twin = make_model(data.categories, lr=1e6)
    first_bad, batches = 0, iter(data.train_dataloader())
    while not first_bad:  # the definition, by autograd: when does its loss cease to be finite?
        losses, _ = next_losses(twin, next(batches))
        bad = losses.isfinite().logical_not().nonzero()
        first_bad = int(bad[0]) + 1 if len(bad) else 0
    with pytest.raises(UserError, match=rf"lr=1000000\.0: .* at iteration {first_bad};"):
        fit(model, data, tmp_path)
    assert weights(model).isfinite().all()  # those before the batch


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning:lightning")
def test_a_last_step_to_infinity_is_seen(corpus_dir: Path, tmp_path: Path) -> None:
    """The loss of the one name was finite; the step it caused was not."""
    data = make_data(corpus_dir, iterations=1)
    with pytest.raises(UserError, match=r"no longer finite at iteration 1;"):
        fit(make_model(data.categories, lr=1e38), data, tmp_path)


def next_losses(model: OnlineClassifier, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    from src.models.online_sgd import autograd_steps

    return autograd_steps(model.rnn, batch, model.lr)
