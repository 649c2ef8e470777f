import json
import os
import pickle
import random
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src import evaluate, predict
from src.data.alphabet import ASCII_ALPHABET, UNKNOWN_SYMBOL, Alphabet, name_to_tensor
from src.data.batch import size_limited_batches
from src.data.normalize import ASCII_SYMBOLS, MAX_NAME_LENGTH
from src.errors import UserError
from src.inference.trained_model import TrainedModel, load_model
from src.models.checkpoint import VERSION
from src.models.registry import PRIORS, SCORE, PriorName
from src.models.rnn import RNN, read_name
from src.run.run_folder import find_checkpoint
from tests.helpers import (
    CALIBRATION,
    CHECKPOINT_SUMMARY,
    GRU_NETWORK,
    NETWORK_PATH,
    PRECISION_CURVE,
    make_checkpoint,
    replace_value,
    write_checkpoint,
)

Captured = pytest.CaptureFixture[str]

NAMES = ["Jones", "", "O'Neill", "123", "Иванов", "a", "Ślusàrski"]
FOLDED = ["Jones", "", "O'Neill", "", "Ivanov", "a", "Slusarski"]


def rnn_of(model: TrainedModel) -> RNN:
    rnn = model.network.get_submodule("recurrent.rnn")
    assert isinstance(rnn, RNN)
    return rnn


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
    longest, longer = "x" * MAX_NAME_LENGTH, "x" * (MAX_NAME_LENGTH + 1)
    assert model.probabilities([longest, longer, "123", "x"])[:, 0].isnan().tolist() == [
        *(True, True, True, False)
    ]
    assert model.reason(longest) == "too long for this model"
    assert model.reason(longer) == "longer than 200 letters"
    assert model.reason("123") == "no letters I know"


def test_the_longest_name_that_is_answered(model: TrainedModel) -> None:
    """What counts are letters of the folded name, not what was written."""
    longest, longer = "x" * MAX_NAME_LENGTH, "x" * (MAX_NAME_LENGTH + 1)
    assert model.probabilities([longest, f" {longest}1-", longer])[:, 0].isnan().tolist() == [
        *(False, False, True)
    ]
    assert model.beliefs(longer)[1].shape == (0, 3)


def test_blocks_are_bounded_in_names_and_letters() -> None:
    assert [len(block) for block in size_limited_batches(["a"] * 9, len, 4, 100)] == [4, 4, 1]
    assert [len(block) for block in size_limited_batches(["xxx"] * 5, len, 4, 6)] == [2, 2, 1]


def test_best(model: TrainedModel) -> None:
    rows = torch.tensor([[0.2, 0.5, 0.3], [torch.nan] * 3])
    assert model.best(rows, 2) == [[("B", 0.5), ("C", pytest.approx(0.3))], []]


def test_among_some_categories_by_hand(tmp_path: Path) -> None:
    """Bayes' rule with the prior's own shares, of those asked about only."""
    path = write_checkpoint(tmp_path / "a.ckpt", decision=CALIBRATION)
    names = ["Jones", "123", "O'Neill"]
    for prior in PRIORS:
        whole = load_model(path, prior).probabilities(names)[:, [2, 0]]
        some = load_model(path, prior, ["C", "A"])
        assert some.categories == ["C", "A"]
        expected = whole / whole.sum(dim=1, keepdim=True)
        torch.testing.assert_close(some.probabilities(names), expected, equal_nan=True)
        assert len(some.best(expected, 2)[0]) == 2
    plain = load_model(write_checkpoint(tmp_path / "b.ckpt"), among=["A", "B", "C"])
    whole = load_model(tmp_path / "b.ckpt").probabilities(names)
    torch.testing.assert_close(plain.probabilities(names), whole, equal_nan=True)


def test_an_answer_and_why_there_is_none(model: TrainedModel) -> None:
    rows = torch.tensor([[0.2, 0.5, 0.3], [torch.nan] * 3, [0.5, 0.375, 0.125], [torch.nan] * 3])
    answers = model.answered(["a", "1", "b", "a"], rows, 1, threshold=0.5)
    sure = [([("B", 0.5)], ""), ([], "no letters I know"), ([("A", 0.5)], "")]
    assert answers == [*sure, ([], "too long for this model")]
    unsure = model.answered(["a", "1"], rows[:2], 2, threshold=0.625)
    assert unsure == [([], "unknown: below 0.625"), ([], "no letters I know")]
    assert model.answered(["a"], rows[:1], 1) == sure[:1]


def test_the_threshold_of_a_precision(tmp_path: Path) -> None:
    decision = CALIBRATION | {"curves": {"tempered": PRECISION_CURVE}}
    path = write_checkpoint(tmp_path / "a.ckpt", decision=decision)
    model = load_model(path)
    points = [model.threshold(precision) for precision in (0.1, 0.8, 0.85, 0.9, 0.937)]
    assert [list(point) for point in points] == [
        PRECISION_CURVE[0],
        PRECISION_CURVE[0],
        PRECISION_CURVE[1],
        PRECISION_CURVE[1],
        PRECISION_CURVE[2],
    ]
    with pytest.raises(
        UserError, match=r"^--precision 0.938: validation reaches 0.937 at the most"
    ):
        model.threshold(0.938)
    for other in (load_model(path, "corpus"), load_model(write_checkpoint(tmp_path / "b.ckpt"))):
        with pytest.raises(UserError, match=r"ckpt holds none; give a --threshold$"):
            other.threshold(0.5)
    with pytest.raises(UserError, match="holds none among these categories; give a --thr"):
        load_model(path, among=["A", "B"]).threshold(0.5)


def test_beliefs_end_in_the_answer(model: TrainedModel) -> None:
    prefixes, beliefs = model.beliefs("Ślusàrski")
    assert prefixes == ["Slusarski"[:end] for end in range(1, 10)]
    assert beliefs.shape == (9, 3)
    for end in range(1, 10):
        expected = model.probabilities([prefixes[end - 1]])[0]
        torch.testing.assert_close(beliefs[end - 1], expected, atol=1e-6, rtol=0)
    assert model.beliefs("123")[1].shape == (0, 3)


@pytest.mark.parametrize(("prior", "strength"), [("uniform", 0), ("corpus", 1), ("tempered", 0.4)])
def test_answers_under_a_prior(tmp_path: Path, prior: PriorName, strength: float) -> None:
    model = load_model(write_checkpoint(tmp_path / "a.ckpt", decision=CALIBRATION), prior)
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
    assert model.calibration is None
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


def test_the_best_run_of_a_sweep_is_found(tmp_path: Path) -> None:
    scores: dict[str, dict[str, Any]] = {
        "0": {"status": "finished", SCORE: 0.4, "test/accuracy": 0.9},
        "1-lr_0.1": {"status": "finished", SCORE: 0.6},
        "2": {"status": "stopped", SCORE: 0.5},
        "3": {"status": "diverged", SCORE: 0.8},
        "4": {"status": "finished"},
        "5": {"status": "interrupted", SCORE: 0.7},
    }
    for run, content in scores.items():
        write_checkpoint(tmp_path / run / "checkpoints/last.ckpt")
        (tmp_path / run / "metrics.json").write_text(json.dumps(content))
    os.utime(tmp_path / "1-lr_0.1/metrics.json", (1, 1))  # not the newest
    assert find_checkpoint(tmp_path) == tmp_path / "1-lr_0.1/checkpoints/last.ckpt"
    assert find_checkpoint(tmp_path / "4") == tmp_path / "4/checkpoints/last.ckpt"
    for run in ("0", "1-lr_0.1", "2"):
        (tmp_path / run / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=f"no finished run with a {SCORE} in {tmp_path}/"):
        find_checkpoint(tmp_path)


def test_what_is_said_of_a_model(tmp_path: Path) -> None:
    assert (
        load_model(write_checkpoint(tmp_path / "a.ckpt")).about
        == f"{tmp_path}/a.ckpt, {CHECKPOINT_SUMMARY}"
    )
    history = [(5, {"train/loss": 1.0})]  # nothing was held out
    torch.save(
        make_checkpoint(GRU_NETWORK) | {"iteration": 5, "history": history}, tmp_path / "b.ckpt"
    )
    about = f"{tmp_path}/b.ckpt, cell=gru letters=ascii, 5 iterations"
    assert load_model(tmp_path / "b.ckpt").about == about


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "5", '"finished"', "[" * 100_000, '{"a":' * 100_000, "\xff"),
        *('{"status": ["finished"]}', '{"status": "finished", "a": "b"}', '{"status": null}'),
        *('{"status": "finished", "a": {}}', '{"status": "finished", "a": null}'),
        *(f'{{"status": "finished", "a": 1{digits}}}' for digits in ("0" * 400, "0" * 5000)),
        *('{"a": 1.0}', '{"status": "finished"', "a folder", "a link to nothing"),
    ],
    ids=lambda content: content[:40],
)
def test_a_malformed_metrics_file_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    good = write_checkpoint(Path("outputs/2026-01-01/a/checkpoints/last.ckpt"))
    (good.parents[1] / "metrics.json").write_text('{"status": "finished"}')
    os.utime(good.parents[1] / "metrics.json", (1, 1))
    newer = Path("outputs/2026-01-02/b/metrics.json")
    newer.parent.mkdir(parents=True)
    if content == "a folder":
        newer.mkdir()
    elif content == "a link to nothing":
        newer.symlink_to("nothing")
    else:
        newer.write_bytes(content.encode("latin-1"))
    assert find_checkpoint(None) == good


def refusal(capsys: Captured, path: Path) -> str:
    """Have predict and evaluate refuse a checkpoint in one line; return what both say of it."""
    said = set()
    for program, words in ((predict, ["Jones"]), (evaluate, [])):
        with pytest.raises(SystemExit) as ended:
            program.main([f"--checkpoint={path}", *words])
        assert ended.value.code == 2
        printed, told = capsys.readouterr()
        begin = f"python -m {program.__name__}: {path}: "
        assert (printed, told.count("\n"), told[: len(begin)]) == ("", 1, begin)
        said.add(told[len(begin) : -1])
    (line,) = said
    return line


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


DAMAGED = "not a checkpoint, or a damaged or unsafe one"


def pickled(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def zipped(content: Any, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content))


@pytest.mark.parametrize("save", [torch.save, pickled, zipped])
def test_a_malicious_checkpoint_runs_no_code(
    tmp_path: Path, capsys: Captured, save: Callable[[Any, Path], None]
) -> None:
    target = tmp_path / "made-by-the-checkpoint"
    save({"state_dict": Malicious(target)}, tmp_path / "bad.ckpt")
    assert refusal(capsys, tmp_path / "bad.ckpt") == DAMAGED
    assert not target.exists()
    pickle.loads(pickle.dumps(Malicious(target)))  # it would have run
    assert target.exists()


def test_a_checkpoint_that_would_grow_in_memory(tmp_path: Path, capsys: Captured) -> None:
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
    assert refusal(capsys, small) == DAMAGED

    wide = {"network.recurrent.rnn.i2h.weight": torch.zeros(1, 1).expand(16, 73)}  # one number
    path = write_checkpoint(
        tmp_path / "wide.ckpt", state_dict=make_checkpoint()["state_dict"] | wide
    )
    assert "a weight is not contiguous" in refusal(capsys, path)


def test_a_truncated_checkpoint(tmp_path: Path, capsys: Captured) -> None:
    whole = write_checkpoint(tmp_path / "a.ckpt").read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        assert refusal(capsys, tmp_path / "cut.ckpt") == DAMAGED


def test_a_flipped_bit_anywhere_in_the_data_is_refused(tmp_path: Path, capsys: Captured) -> None:
    whole = write_checkpoint(tmp_path / "a.ckpt").read_bytes()
    data: list[int] = []
    with zipfile.ZipFile(tmp_path / "a.ckpt") as archive:
        for each in archive.infolist():
            name, more = struct.unpack_from("<HH", whole, each.header_offset + 26)
            begin = each.header_offset + 30 + name + more
            assert whole[begin : begin + each.file_size] == archive.read(each)
            data += range(begin, begin + each.file_size)
    assert len(data) > len(whole) / 2
    for at in random.Random(0).sample(data, 50):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        (tmp_path / "flipped.ckpt").write_bytes(flipped)
        assert refusal(capsys, tmp_path / "flipped.ckpt") == DAMAGED


@pytest.mark.parametrize(
    "write",
    [
        lambda path: pickled(make_checkpoint(), path),
        lambda path: zipped(make_checkpoint()["NamesDataModule"], path),
        lambda path: zipfile.ZipFile(path, "w").close(),
        lambda path: torch.save(make_checkpoint(), path, _use_new_zipfile_serialization=False),
        lambda path: path.write_text("Jones\n" * 1000),
        lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path),
    ],
    ids=["pickle", "other zip", "empty zip", "legacy", "text", "torchscript"],
)
def test_another_type_of_file(
    tmp_path: Path, capsys: Captured, write: Callable[[Path], None]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        write(tmp_path / "other.ckpt")
    assert refusal(capsys, tmp_path / "other.ckpt") == DAMAGED


@pytest.mark.parametrize(
    "content",
    [
        *(torch.zeros(()), torch.zeros(3), [1, 2], [], None, 5, "version", {}, {1: 2}),
        *({"version": VERSION}, {"version": torch.ones(3), "NamesDataModule": {}}),
        *({"state_dict": {}, "epoch": 3, "pytorch-lightning_version": "2.6"}, {2: {}, (): ()}),
    ],
    ids=str,
)
def test_a_checkpoint_of_anything_else(tmp_path: Path, capsys: Captured, content: Any) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    assert refusal(capsys, tmp_path / "other.ckpt").startswith("not a checkpoint")


def test_a_checkpoint_of_an_older_version(tmp_path: Path, capsys: Captured) -> None:
    first = make_checkpoint()
    del first["version"]
    first["hyper_parameters"] = {
        "categories": ["A", "B", "C"],
        "letters": ASCII_ALPHABET.to_dict(),
        "hidden": 16,
    }
    first["state_dict"] = {
        name.replace("network.recurrent.", ""): weight
        for name, weight in first["state_dict"].items()
    }
    ways: list[dict[str, Any]] = [{}, {"loops": {}}, {"version": 1}, {"version": None}]
    for changes in ways:
        torch.save(first | changes, tmp_path / "old.ckpt")
        line = refusal(capsys, tmp_path / "old.ckpt")
        assert line == "is of an older version of this program; train anew"


def each(place: str, *values: object) -> list[tuple[str, object]]:
    return [(place, value) for value in values]


BIAS = "state_dict network.recurrent.rnn.i2h.bias"
MALFORMED_PRIORS: list[Any] = [
    *(None, {}, [], [0.5, 0.5], [0.25] * 4, "corpus", ["0.5"] * 3),
    *([torch.nan] * 3, [torch.inf] * 3, [10**400] * 3, [1.0, 0.0, 0.0], [1.5, -0.25, -0.25]),
]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *each("hyper_parameters", {}, None, [], 5, {"network": None}),
        *each("state_dict", {}, None, [], {5: torch.zeros(3)}),
        *each("NamesDataModule", {}, None, [], "seed"),
        *each(f"{NETWORK_PATH} categories", [], 3, None, ["A"], ["\x1b", "B", "C"]),
        *each(f"{NETWORK_PATH} letters", None, 57, [], {"symbols": None}, {"more": 1}),
        *each(f"{NETWORK_PATH} letters symbols", "", None, 57, ["a"]),
        *each(f"{NETWORK_PATH} letters style", "bold"),
        *each(
            f"{NETWORK_PATH} letters",
            Alphabet("corpus", "\x1b" + ASCII_SYMBOLS[:55] + UNKNOWN_SYMBOL).to_dict(),
        ),
        *each(f"{NETWORK_PATH} hidden", 17, 0, -1, 10**9, 10**30, 0.5, "16", None),
        *each(f"{NETWORK_PATH} cell", "mlp", "gru", None, []),
        *each(f"{NETWORK_PATH} shares", [1.0], ["a"], 5, [0.5, 0.5, 0.0]),
        *each(f"{NETWORK_PATH} ngrams", 4, -1, 7, 10**9, 10**30, 0.5, "4", [4]),
        *each(BIAS, None, 5, [0.0] * 16, torch.zeros(3), torch.zeros(())),
        *each(BIAS, torch.full((16,), torch.nan), torch.full((16,), torch.inf)),
        *each(BIAS, torch.zeros(16).long(), torch.zeros(16) + 0j, torch.zeros(16).to_sparse()),
        *each("state_dict network.more", torch.zeros(3)),
        *each("state_dict more_extra_state", {}),
        *each("NamesDataModule val_fraction", "all", None, [], 1.5),
        *each("NamesDataModule data_dir", 5),
        *each("decision", {}, [], CALIBRATION | {"more": 1}),
        *each("decision trained_prior", *MALFORMED_PRIORS),
        *each("decision corpus_prior", *MALFORMED_PRIORS),
        *each("iteration", None, "many", [], torch.zeros(3)),
        *each("history", None, 5, [5], [(5, None)], [(5, {SCORE: "high"})], [(5, {SCORE: None})]),
        *each("decision curves", None, [], {"tempered": [[0.5, 0.5]]}),
        *each("decision temperature", 0.0, torch.nan, 10**400, "1", None, []),
        *each("decision strength", torch.nan, torch.inf, 10**400, "1", None, []),
    ],
)
def test_wrong_values_are_refused(
    tmp_path: Path, capsys: Captured, place: str, value: object
) -> None:
    whole = make_checkpoint() | {"decision": CALIBRATION}
    torch.save(replace_value(whole, place, value), tmp_path / "bad.ckpt")
    assert "not a checkpoint of this program" in refusal(capsys, tmp_path / "bad.ckpt")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *each("layers", 0, 2, 17, 10**9, 10**30, "two", 1.5),
        *each("dropout", 7.0, 1.0, -0.5, float("nan"), "half"),
        *each("recurrent_dropout", 7.0),
        *each("cell", "mlp", "lstm", "tutorial"),
        *each("hidden", 9, -1, 10**9, 10**12, 10**30),
        *each("embedding", 0, 5, -1, 10**9, 10**30, None),
        *each("pooling", "all"),
        *each("ngrams", 3, 7, 10**6, 10**9, 10**30),
        *each("bidirectional", False, 7, "yes"),
        *each("shares", [1.0], None),
        *each("categories", [str(number) for number in range(10_000)]),
        *each("more", 1),
    ],
    ids=lambda part: str(part)[:40],
)
def test_a_network_that_cannot_be_is_refused(
    tmp_path: Path, capsys: Captured, key: str, value: object
) -> None:
    whole = make_checkpoint(GRU_NETWORK)
    torch.save(whole, tmp_path / "good.ckpt")
    assert load_model(tmp_path / "good.ckpt").probabilities(["Jones"]).shape == (1, 3)
    torch.save(replace_value(whole, f"{NETWORK_PATH} {key}", value), tmp_path / "bad.ckpt")
    start = time.perf_counter()
    assert "not a checkpoint of this program" in refusal(capsys, tmp_path / "bad.ckpt")
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("kind", [torch.complex64])
def test_weights_of_another_kind_are_refused(
    tmp_path: Path, capsys: Captured, kind: torch.dtype
) -> None:
    """Such a network can be loaded, and fails when it is asked."""
    for name in ("ngrams.counted.0.weight", "recurrent.letters", "log_shares"):
        whole = make_checkpoint(GRU_NETWORK | {"embedding": 0, "ngrams": 2})
        weight = whole["state_dict"][f"network.{name}"]
        assert not weight.requires_grad or name == "ngrams.counted.0.weight"
        whole["state_dict"][f"network.{name}"] = weight.to(kind)
        torch.save(whole, tmp_path / "bad.ckpt")
        assert "not a checkpoint of this program" in refusal(capsys, tmp_path / "bad.ckpt")


def test_weights_of_another_precision_are_read(tmp_path: Path) -> None:
    whole = make_checkpoint()
    torch.save(whole, tmp_path / "a.ckpt")
    whole["state_dict"] = {name: each.bfloat16() for name, each in whole["state_dict"].items()}
    torch.save(whole, tmp_path / "half.ckpt")
    asked = ["Jones", "Lee"]
    full, half = (load_model(tmp_path / f"{n}.ckpt").probabilities(asked) for n in ("a", "half"))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.01, rtol=0)


def test_counts_that_would_grow_in_memory(tmp_path: Path, capsys: Captured) -> None:
    """One number for a hundred million: they must not be counted one by one."""
    whole = make_checkpoint(GRU_NETWORK | {"ngrams": 2})
    for state in (each for each in whole["state_dict"].values() if isinstance(each, dict)):
        for key, part in state.items():
            state[key] = torch.zeros(1, dtype=part.dtype).expand(10**8)
    torch.save(whole, tmp_path / "wide.ckpt")
    assert (tmp_path / "wide.ckpt").stat().st_size < 10**5
    start = time.perf_counter()
    assert "not a checkpoint of this program" in refusal(capsys, tmp_path / "wide.ckpt")
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(("place", "value"), [("bidirectional", 1), ("layers", True)])
def test_values_of_a_wrong_type_are_refused(
    tmp_path: Path, capsys: Captured, place: str, value: object
) -> None:
    whole = make_checkpoint(GRU_NETWORK)
    whole["hyper_parameters"]["network"] = GRU_NETWORK | {place: value}
    torch.save(whole, tmp_path / "bad.ckpt")
    assert "not a checkpoint of this program" in refusal(capsys, tmp_path / "bad.ckpt")
