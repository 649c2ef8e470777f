import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import SingleDeviceStrategy

from src.data.alphabet import ALPHABET
from src.data.datamodule import NamesDataModule
from src.data.tensors import Batch
from src.errors import UserError
from src.experiment import run_experiment
from src.models.batched import NGRAM_LR, BatchedClassifier
from src.models.rnn import RNN, read_name
from src.runs.build import make_model
from tests.conftest import ROOT, settings
from tests.test_network import NAMES, batch_of
from tests.test_resume import BATCHED, TINY, metrics_of


class StubTrainer:
    """All that a step asks of a trainer."""

    is_last_batch = False
    strategy = SingleDeviceStrategy()


def make(**changes: Any) -> BatchedClassifier:
    torch.manual_seed(0)
    network = {
        **{"alphabet": ALPHABET, "categories": ["A", "B", "C"], "shares": [0.5, 0.3, 0.2]},
        **{"cell": "rnn", "hidden": 5, "ngrams": 0, "layers": 1, "bidirectional": False},
        **{"embedding": 0, "pooling": "last", "dropout": 0.0, "recurrent_dropout": 0.0},
    }
    arguments: dict[str, Any] = {
        **{"iterations": 100, "seed": 0, "lr": 0.1, "optimizer": "sgd", "schedule": "constant"},
        **{"weight_decay": 0.0, "clip": 0.0, "label_smoothing": 0.0, "log_every": 10},
    }
    return BatchedClassifier(network, **(arguments | changes))


def step(model: BatchedClassifier, batch: Batch) -> dict[str, torch.Tensor]:
    """Take one step as Lightning does."""
    optimizer = model.configure_optimizers()
    model.trainer = StubTrainer()  # type: ignore[assignment] # all that a step asks of it
    model.optimizers = lambda use_pl_optimizer=True: optimizer  # type: ignore[method-assign,assignment] # no Lightning loop
    results = model.training_step(batch, 0)
    results["loss"].backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
    model.on_before_optimizer_step(optimizer)
    optimizer.step()
    return results


def test_a_step_is_plain_sgd_on_the_mean_loss() -> None:
    model, same = make(), make()
    batch = batch_of(NAMES)
    results = step(model, batch)
    scores = same.network.recurrent(batch.letters, batch.lengths) + same.network.log_shares
    loss = F.cross_entropy(scores, batch.categories)
    loss.backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
    assert results["losses"].item() == pytest.approx(loss.item(), abs=1e-6)
    assert results["guesses"].tolist() == [int(scores[0].argmax())]
    for mine, theirs in zip(model.parameters(), same.parameters(), strict=True):
        expected = theirs if theirs.grad is None else theirs - 0.1 * theirs.grad
        torch.testing.assert_close(mine, expected, atol=1e-6, rtol=0)
    assert model.iteration == 1


def test_label_smoothing_is_pytorchs() -> None:
    model = make(label_smoothing=0.1)
    batch = batch_of(NAMES)
    scores = model.network.recurrent(batch.letters, batch.lengths) + model.network.log_shares
    expected = F.cross_entropy(scores, batch.categories, label_smoothing=0.1).item()
    assert step(model, batch)["losses"].item() == pytest.approx(expected, abs=1e-6)


def test_a_long_gradient_is_shortened() -> None:
    model = make(clip=0.01)
    before = torch.cat([weight.detach().flatten() for weight in model.parameters()]).clone()
    step(model, batch_of(NAMES))
    after = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_the_cosine_schedule() -> None:
    model = make(schedule="cosine", iterations=200)
    optimizer = model.configure_optimizers()
    model.optimizers = lambda use_pl_optimizer=True: optimizer  # type: ignore[method-assign,assignment] # no Lightning loop
    model.trainer = StubTrainer()  # type: ignore[assignment] # all that a step asks of it
    rates = {}
    for iteration in (0, 4, 8, 100, 198):  # none of them ends at a point of the curve
        model.iteration = iteration
        model.training_step(batch_of(NAMES), 0)
        rates[iteration] = optimizer.param_groups[0]["lr"]
    for iteration, rate in rates.items():
        falling = (1 + math.cos(math.pi * iteration / 200)) / 2
        assert rate == pytest.approx(0.1 * min(1, (iteration + 1) / 10) * falling)


def test_ngrams_learn_at_a_rate_of_their_own(corpus_dir: Path) -> None:
    config = settings(*TINY, *BATCHED, f"data_dir={corpus_dir}", "weight_decay=0.01")
    data = NamesDataModule(corpus_dir, 0.1, 0.1, 0, 60, 5, 20, batch_size=7, sampling="natural")
    model = make_model(config, data)
    assert isinstance(model, BatchedClassifier)
    recurrent, ngrams = model.configure_optimizers().param_groups
    assert (recurrent["lr"], recurrent["weight_decay"]) == (0.05, 0.01)
    assert (ngrams["lr"], ngrams["weight_decay"]) == (NGRAM_LR, 0)
    counts = data.distinct.categories.bincount().double()
    shares = torch.tensor(data.shares()).double()
    torch.testing.assert_close(shares, counts / counts.sum(), atol=1e-6, rtol=0)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    words = ["hidden=8", "batch_size=4", "backend=autograd", "lr=50", "iterations=500"]
    config = settings(*words, "log_every=10", "val_every=100", f"data_dir={ROOT}/data/names")
    with pytest.raises(UserError, match=r"lr=50\.0: the loss is no longer finite at iteration"):
        run_experiment(config, tmp_path)
    assert metrics_of(tmp_path)["status"] == "diverged"


def test_the_tutorials_cell_in_batches_is_a_plain_loop_over_them(
    corpus_dir: Path, tmp_path: Path
) -> None:
    words = [*TINY, "batch_size=4", "backend=autograd", "iterations=100", f"data_dir={corpus_dir}"]
    run_experiment(settings(*words), tmp_path)
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)

    data = NamesDataModule(corpus_dir, 0.1, 0.1, 0, 400, 400, 400)
    torch.manual_seed(0)
    rnn = RNN(57, 8, 3)
    optimizer = torch.optim.SGD(rnn.parameters(), 0.05)
    for iteration in range(100):
        lines = data.examples.take(4 * iteration, 4)
        pairs = [data.train[line] for line in lines]
        outputs = torch.cat([read_name(rnn, name) for name, _ in pairs])
        optimizer.zero_grad()
        loss = F.nll_loss(outputs, torch.cat([category for _, category in pairs]))
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
        optimizer.step()
    for name, weight in rnn.state_dict().items():
        mine = checkpoint["state_dict"][f"network.recurrent.rnn.{name}"]
        torch.testing.assert_close(mine, weight, atol=1e-5, rtol=0)


def test_names_of_one_length_and_a_batch_of_one_name(tmp_path: Path) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    for category, vowel in (("A", "a"), ("O", "o")):
        names = [f"{first}{vowel}{last}" for first in "bdg" for last in "lmnrs"]
        (folder / f"{category}.txt").write_text("\n".join(names))
    words = [*TINY, *BATCHED, f"data_dir={folder}", "batch_size=7", "iterations=100"]
    data = NamesDataModule(folder, 0.1, 0.1, 0, 4, 1, 4, batch_size=7, sampling="natural")
    assert sorted(len(batch.lengths) for batch in data.train_dataloader()) == [1, 7, 7, 7]
    run_experiment(settings(*words), tmp_path / "run")
    assert metrics_of(tmp_path / "run")["test/accuracy"] == 1  # a vowel tells them apart
