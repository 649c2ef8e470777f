import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.data.alphabet import ALPHABET
from src.data.tensors import name_to_tensor
from src.errors import UserError
from src.models.network import TutorialNetwork, make_network
from src.models.rnn import RNN, read_name
from src.trained import (
    AT_ONCE,
    LETTERS_AT_ONCE,
    TrainedModel,
    find_checkpoint,
    in_chunks,
    load_model,
)

NAMES = ["Jones", "", "O'Neill", "123", "Иванов", "a", "Ślusàrski"]
FOLDED = ["Jones", "", "O'Neill", "", "Ivanov", "a", "Slusarski"]
DECISION = {
    **{"trained_prior": [0.2, 0.3, 0.5], "corpus_prior": [0.9, 0.06, 0.04]},
    **{"temperature": 1.5, "strength": 0.4},
}


def write_checkpoint(path: Path, **changes: object) -> Path:
    torch.manual_seed(0)
    rnn = RNN(57, 16, 3)
    checkpoint = {
        "hyper_parameters": {"categories": ["A", "B", "C"], "alphabet": ALPHABET, "hidden": 16},
        "state_dict": {f"rnn.{name}": weight for name, weight in rnn.state_dict().items()},
        "NamesDataModule": {
            **{"data_dir": "data/names", "seed": 0, "val_fraction": 0.1, "test_fraction": 0.1},
            **{"all": "", "train": "", "val": "", "test": ""},
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint | changes, path)
    return path


def rnn_of(model: TrainedModel) -> RNN:
    assert isinstance(model.network, TutorialNetwork)
    return model.network.rnn


@pytest.fixture
def model(tmp_path: Path) -> TrainedModel:
    return load_model(write_checkpoint(tmp_path / "a.ckpt"))


def test_batched_answers_are_the_answers_one_by_one(model: TrainedModel) -> None:
    probabilities = model.probabilities(NAMES)
    assert probabilities.shape == (7, 3)
    for folded, row in zip(FOLDED, probabilities, strict=True):
        if not folded:
            assert row.isnan().all()
            continue
        with torch.no_grad():
            expected = read_name(rnn_of(model), name_to_tensor(folded)).exp()[0]
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)
    assert model.probabilities([]).shape == (0, 3)
    assert model.probabilities(["1"]).isnan().all()


def test_why_there_is_no_answer(model: TrainedModel) -> None:
    """A linear hidden state that grows with every letter: it must not be called unreadable."""
    with torch.no_grad():
        rnn_of(model).i2h.weight.mul_(20)
    assert model.probabilities(["x" * 10_000])[0].isnan().all()
    assert model.reason("x" * 10_000) == "too long for this model"
    assert model.reason("123") == "no letters I know"


def test_chunks_are_bounded_in_names_and_letters() -> None:
    assert [len(c) for c in in_chunks(["a"] * (2 * AT_ONCE + 1), str)] == [AT_ONCE, AT_ONCE, 1]
    long = ["x" * (LETTERS_AT_ONCE // 2)] * 5
    assert [len(chunk) for chunk in in_chunks(long, str)] == [2, 2, 1]


def test_best(model: TrainedModel) -> None:
    rows = torch.tensor([[0.2, 0.5, 0.3], [torch.nan] * 3])
    assert model.best(rows, 2) == [[("B", 0.5), ("C", pytest.approx(0.3))], []]


def test_beliefs_end_in_the_answer(model: TrainedModel) -> None:
    folded, beliefs = model.beliefs("Ślusàrski")
    assert folded == "Slusarski"
    assert beliefs.shape == (9, 3)
    for end in range(1, 10):
        expected = model.probabilities([folded[:end]])[0]
        torch.testing.assert_close(beliefs[end - 1], expected, atol=1e-6, rtol=0)
    assert model.beliefs("123")[1].shape == (0, 3)


@pytest.mark.parametrize(("prior", "strength"), [("uniform", 0), ("corpus", 1), ("tempered", 0.4)])
def test_answers_under_a_prior(tmp_path: Path, prior: str, strength: float) -> None:
    model = load_model(write_checkpoint(tmp_path / "a.ckpt", decision=DECISION), prior)
    trained, corpus = np.array([0.2, 0.3, 0.5]), np.array([0.9, 0.06, 0.04])
    for folded, row in zip(FOLDED, model.probabilities(NAMES), strict=True):
        if not folded:
            assert row.isnan().all()
            continue
        with torch.no_grad():
            network = read_name(rnn_of(model), name_to_tensor(folded)).double().exp()[0].numpy()
        expected = (network / trained) ** (1 / 1.5) * corpus**strength
        assert row.tolist() == pytest.approx(expected / expected.sum(), abs=1e-6)
        belief = model.beliefs(folded)[1][-1]
        assert belief.tolist() == pytest.approx(row.tolist(), abs=1e-6)


def test_no_prior_without_a_decision(tmp_path: Path, model: TrainedModel) -> None:
    assert model.decision is None
    for prior in ("uniform", "corpus"):
        with pytest.raises(
            UserError, match=rf"--prior {prior}: \S+a\.ckpt does not say how common"
        ) as caught:
            load_model(tmp_path / "a.ckpt", prior)
        assert "not a checkpoint" not in str(caught.value)


def test_the_newest_finished_run_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no finished run under outputs/"):
        find_checkpoint(None)
    for i, run in enumerate(["2026-01-01/b", "sweeps/2026-01-02/x/0", "2026-01-03/a"]):
        folder = Path("outputs") / run
        write_checkpoint(folder / "checkpoints/last.ckpt")
        if "03" not in run:  # that one has not finished
            (folder / "metrics.json").write_text('{"status": "finished", "test/loss": 1.0}')
            os.utime(folder / "metrics.json", (i, i))
    newest = Path("outputs/sweeps/2026-01-02/x/0/checkpoints/last.ckpt")
    assert find_checkpoint(None) == newest
    assert find_checkpoint(Path("outputs/2026-01-03/a")).parts[2] == "a"
    assert find_checkpoint(newest) == newest
    with pytest.raises(UserError, match=r"nowhere: no such checkpoint"):
        find_checkpoint(Path("nowhere"))


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_a_malicious_checkpoint_runs_no_code(tmp_path: Path, save: object) -> None:
    assert callable(save)
    target = tmp_path / "made-by-the-checkpoint"
    save({"state_dict": Malicious(target)}, tmp_path / "bad.ckpt")
    with pytest.raises(
        UserError, match=r"bad\.ckpt: not a checkpoint, or a damaged or unsafe one"
    ) as caught:
        load_model(tmp_path / "bad.ckpt")
    assert "\n" not in str(caught.value)
    assert not target.exists()
    pickle.loads(pickle.dumps(Malicious(target)))  # it would have run
    assert target.exists()


def test_a_checkpoint_that_would_grow_in_memory(tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / "a.ckpt", zeros=torch.zeros(10**6))
    small = tmp_path / "small.ckpt"
    with (
        zipfile.ZipFile(whole) as stored,
        zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for each in stored.infolist():
            deflated.writestr(each.filename, stored.read(each))
    assert small.stat().st_size < 10**5
    assert len(torch.load(small, weights_only=True)["zeros"]) == 10**6
    with pytest.raises(UserError, match=r"small\.ckpt: not a checkpoint, or a damaged"):
        load_model(tmp_path / "small.ckpt")

    wide = {"rnn.i2h.weight": torch.zeros(1, 1).expand(16, 73)}  # one number for all
    changes = {"state_dict": torch.load(whole, weights_only=True)["state_dict"] | wide}
    write_checkpoint(tmp_path / "wide.ckpt", **changes)
    with pytest.raises(UserError, match=r"its rnn\.i2h\.weight is not made of plain float32"):
        load_model(tmp_path / "wide.ckpt")


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / "a.ckpt").read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.ckpt: not a checkpoint, or a damaged"):
            load_model(tmp_path / "cut.ckpt")


@pytest.mark.parametrize(
    "changes",
    [
        {"hyper_parameters": {}},
        {"hyper_parameters": None},
        {"state_dict": {}},
        {"state_dict": {"rnn.i2h.bias": torch.zeros(16).half()}},
        {"state_dict": {"rnn.i2h.bias": torch.full((16,), torch.nan)}},
        {"NamesDataModule": {}},
        {"NamesDataModule": None},
        {"hyper_parameters": {"categories": [], "alphabet": ALPHABET, "hidden": 16}},
        {
            "hyper_parameters": {
                "categories": ["\x1b", "B", "C"],
                "alphabet": ALPHABET,
                "hidden": 16,
            }
        },
        {"state_dict": {"rnn.i2h.weight": torch.zeros(3)}},
        {"hyper_parameters": {"categories": ["A"], "alphabet": ALPHABET, "hidden": 10**9}},
        {"hyper_parameters": {"categories": 3, "alphabet": ALPHABET, "hidden": 16}},
        {"decision": None},
        {"decision": {}},
        {"decision": DECISION | {"corpus_prior": [0.5, 0.5]}},
    ],
)
def test_another_programs_checkpoint(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match="not a checkpoint of this program"):
        load_model(write_checkpoint(tmp_path / "a.ckpt", **changes))
    torch.save(torch.zeros(()), tmp_path / "tensor.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of this program"):
        load_model(tmp_path / "tensor.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of this program"):
        load_model(tmp_path / "list.ckpt")


def test_another_alphabet(tmp_path: Path) -> None:
    settings = {"categories": ["A", "B", "C"], "alphabet": ALPHABET[::-1], "hidden": 16}
    with pytest.raises(UserError, match="it was made for another alphabet"):
        load_model(write_checkpoint(tmp_path / "a.ckpt", hyper_parameters=settings))


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": 10**9},
        {"layers": "two"},
        {"dropout": 7.0},
        {"cell": "mlp"},
        {"hidden": 9},
        {"hidden": -1},
        {"pooling": "all"},
        {"ngrams": 10**6},
        {"shares": [1.0]},
        {"more": 1},
    ],
)
def test_a_network_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    settings: dict[str, Any] = {
        **{"alphabet": ALPHABET, "categories": ["A", "B", "C"], "shares": [1 / 3] * 3},
        **{"cell": "gru", "hidden": 8, "layers": 1, "bidirectional": True, "embedding": 4},
        **{"pooling": "last", "dropout": 0.5, "recurrent_dropout": 0.0, "ngrams": 0},
    }
    network = make_network(**settings)
    state = {f"network.{name}": weight for name, weight in network.state_dict().items()}
    for made, name in ((settings, "good.ckpt"), (settings | changes, "bad.ckpt")):
        parts = {"hyper_parameters": {"network": made}, "state_dict": state}
        write_checkpoint(tmp_path / name, **parts)
    assert load_model(tmp_path / "good.ckpt").probabilities(["Jones"]).shape == (1, 3)
    with pytest.raises(UserError, match=r"bad\.ckpt: not a checkpoint of this program"):
        load_model(tmp_path / "bad.ckpt")
