"""Damaged and malicious checkpoints, which the programs must refuse."""

import os
import pickle
import random
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from src import evaluate, predict
from src.data.alphabet import ASCII_ALPHABET, UNKNOWN_SYMBOL, Alphabet
from src.data.normalize import ASCII_SYMBOLS
from src.inference.trained_model import load_model
from src.models.checkpoint import VERSION, rename_keys_of_early_version_4
from src.models.registry import PRIORS, SCORE
from tests.helpers import (
    CALIBRATION,
    GRU_NETWORK,
    NETWORK_PATH,
    make_checkpoint,
    replace_value,
    with_old_names,
    write_checkpoint,
)

Captured = pytest.CaptureFixture[str]

DAMAGED = "not a checkpoint, or a damaged one"


def read_refusal(capsys: Captured, path: Path) -> str:
    """Assert that `predict` and `evaluate` refuse a checkpoint in one line; return its message."""
    messages = set()
    arguments_by_program: dict[ModuleType, list[str]] = {predict: ["Jones"], evaluate: []}
    for program, arguments in arguments_by_program.items():
        with pytest.raises(SystemExit) as exit_request:
            program.main([f"--checkpoint={path}"] + arguments)
        assert exit_request.value.code == 2
        stdout, stderr = capsys.readouterr()
        prefix = f"python -m {program.__name__}: {path}: "
        assert (stdout, stderr.count("\n"), stderr[: len(prefix)]) == ("", 1, prefix)
        messages.add(stderr[len(prefix) : -1])
    # Both programs give the same reason.
    (message,) = messages
    return message


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def save_pickle(content: Any, path: Path) -> None:
    """Save a checkpoint as a plain pickle."""
    path.write_bytes(pickle.dumps(content))


def save_zipped_pickle(content: Any, path: Path) -> None:
    """Save a pickle in a zip archive, as `torch.save` does."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content))


@pytest.mark.parametrize("save", [torch.save, save_pickle, save_zipped_pickle])
def test_the_code_in_a_malicious_checkpoint_is_not_run(
    tmp_path: Path, capsys: Captured, save: Callable[[Any, Path], None]
) -> None:
    target = tmp_path / "made-by-the-checkpoint"
    save({"state_dict": Malicious(target)}, tmp_path / "bad.ckpt")
    assert read_refusal(capsys, tmp_path / "bad.ckpt") == DAMAGED
    assert not target.exists()
    # The test would be useless if unpickling did not run the code.
    pickle.loads(pickle.dumps(Malicious(target)))
    assert target.exists()


def test_a_checkpoint_that_is_larger_in_memory_is_refused(tmp_path: Path, capsys: Captured) -> None:
    original = write_checkpoint(tmp_path / "a.ckpt", zeros=torch.zeros(10**6))
    small = tmp_path / "small.ckpt"
    with (
        zipfile.ZipFile(original) as stored,
        zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for entry in stored.infolist():
            deflated.writestr(entry.filename, stored.read(entry))
    # The file has less than 100 kB, but its tensor has 4 MB.
    assert small.stat().st_size < 10**5
    assert len(torch.load(small, weights_only=True)["zeros"]) == 10**6
    assert read_refusal(capsys, small) == DAMAGED

    weights = make_checkpoint()["state_dict"]
    # A single number, which the strides of the tensor repeat.
    weights["network.recurrent.rnn.i2h.weight"] = torch.zeros(1, 1).expand(16, 73)
    path = write_checkpoint(tmp_path / "wide.ckpt", state_dict=weights)
    assert "a weight is not contiguous" in read_refusal(capsys, path)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path, capsys: Captured) -> None:
    content = write_checkpoint(tmp_path / "a.ckpt").read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.ckpt").write_bytes(content[:length])
        assert read_refusal(capsys, tmp_path / "cut.ckpt") == DAMAGED


def test_a_flipped_bit_anywhere_in_the_data_is_refused(tmp_path: Path, capsys: Captured) -> None:
    content = write_checkpoint(tmp_path / "a.ckpt").read_bytes()
    data_positions: list[int] = []
    with zipfile.ZipFile(tmp_path / "a.ckpt") as archive:
        for entry in archive.infolist():
            # The header of an entry has 30 bytes, followed by its name and extra fields.
            lengths = struct.unpack_from("<HH", content, entry.header_offset + 26)
            start = entry.header_offset + 30 + sum(lengths)
            assert content[start : start + entry.file_size] == archive.read(entry)
            data_positions += range(start, start + entry.file_size)
    # Headers of the archive may change without effect, but most of the file is data.
    assert len(data_positions) > len(content) / 2
    for position in random.Random(0).sample(data_positions, 50):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        (tmp_path / "flipped.ckpt").write_bytes(flipped)
        assert read_refusal(capsys, tmp_path / "flipped.ckpt") == DAMAGED


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_pickle(make_checkpoint(), path),
        lambda path: save_zipped_pickle(make_checkpoint()["NamesDataModule"], path),
        lambda path: zipfile.ZipFile(path, "w").close(),
        lambda path: torch.save(make_checkpoint(), path, _use_new_zipfile_serialization=False),
        lambda path: path.write_text("Jones\n" * 1000),
        lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path),
    ],
    ids=["pickle", "other zip", "empty zip", "legacy", "text", "torchscript"],
)
def test_another_type_of_file_is_refused(
    tmp_path: Path, capsys: Captured, write: Callable[[Path], None]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        write(tmp_path / "other.ckpt")
    assert read_refusal(capsys, tmp_path / "other.ckpt") == DAMAGED


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(()),
        torch.zeros(3),
        [1, 2],
        [],
        None,
        5,
        "version",
        {},
        {1: 2},
        {"version": VERSION},
        {"version": torch.ones(3), "NamesDataModule": {}},
        # This is how the checkpoint of another program that uses Lightning begins.
        {"state_dict": {}, "epoch": 3, "pytorch-lightning_version": "2.6"},
        {2: {}, (): ()},
    ],
    ids=str,
)
def test_a_checkpoint_of_another_program_is_refused(
    tmp_path: Path, capsys: Captured, content: Any
) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    assert read_refusal(capsys, tmp_path / "other.ckpt").startswith("not a checkpoint")


def test_a_checkpoint_of_an_older_version_is_refused(tmp_path: Path, capsys: Captured) -> None:
    oldest = make_checkpoint()
    del oldest["version"]
    oldest["hyper_parameters"] = {
        "categories": ["A", "B", "C"],
        "letters": ASCII_ALPHABET.to_dict(),
        "hidden": 16,
    }
    # The first version had no network around the recurrent network.
    weights = {}
    for name, weight in oldest["state_dict"].items():
        weights[name.replace("network.recurrent.", "")] = weight
    oldest["state_dict"] = weights
    all_changes: list[dict[str, Any]] = [{}, {"loops": {}}, {"version": 1}, {"version": None}]
    for changes in all_changes:
        torch.save(oldest | changes, tmp_path / "old.ckpt")
        message = read_refusal(capsys, tmp_path / "old.ckpt")
        assert message == "written by another version of this program; train a new model"


def test_a_checkpoint_with_the_names_of_an_older_version_gives_the_same_predictions(
    tmp_path: Path,
) -> None:
    checkpoint = make_checkpoint(GRU_NETWORK | {"ngrams": 2}) | {"calibration": CALIBRATION}
    older = with_old_names(checkpoint)
    old_keys = {"network.log_shares", "network.recurrent.letters", "network.ngrams.weighed.bias"}
    old_keys.add("network.ngrams.counted.1.own_share")
    assert old_keys <= older["state_dict"].keys()
    torch.save(checkpoint, tmp_path / "new.ckpt")
    torch.save(older, tmp_path / "old.ckpt")
    for prior in PRIORS:
        expected = load_model(tmp_path / "new.ckpt", prior)
        actual = load_model(tmp_path / "old.ckpt", prior)
        assert actual.calibration == expected.calibration
        names = ["Jones", "O'Neill", "Lee"]
        assert torch.equal(
            actual.predict_probabilities(names), expected.predict_probabilities(names)
        )


def test_a_recent_network_may_use_the_weight_names_of_an_older_version() -> None:
    checkpoint = make_checkpoint()
    checkpoint["state_dict"]["network.recurrent.letters"] = torch.zeros(3)
    keys = list(checkpoint["state_dict"])
    rename_keys_of_early_version_4(checkpoint)
    assert list(checkpoint["state_dict"]) == keys


def pair_keys_with_values(values_by_key: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    """Return a pair of the key and the value for each value of each key."""
    pairs = []
    for key, values in values_by_key.items():
        for value in values:
            pairs.append((key, value))
    return pairs


BIAS = "state_dict network.recurrent.rnn.i2h.bias"
# A prior has three positive values, whose sum is 1.
MALFORMED_PRIORS: list[Any] = [
    None,
    {},
    [],
    [0.5, 0.5],
    [0.25] * 4,
    "corpus",
    ["0.5"] * 3,
    [torch.nan] * 3,
    [torch.inf] * 3,
    [10**400] * 3,
    [1.0, 0.0, 0.0],
    [1.5, -0.25, -0.25],
]
# Terminals would run the escape sequence if a program printed the alphabet.
ALPHABET_WITH_ESCAPE = Alphabet("corpus", "\x1b" + ASCII_SYMBOLS[:55] + UNKNOWN_SYMBOL).to_dict()

INVALID_VALUES: dict[str, list[Any]] = {
    "hyper_parameters": [{}, None, [], 5, {"network": None}],
    "state_dict": [{}, None, [], {5: torch.zeros(3)}],
    "NamesDataModule": [{}, None, [], "seed"],
    f"{NETWORK_PATH} categories": [[], 3, None, ["A"], ["\x1b", "B", "C"]],
    f"{NETWORK_PATH} alphabet": [
        None,
        57,
        [],
        {"symbols": None},
        {"more": 1},
        ALPHABET_WITH_ESCAPE,
    ],
    f"{NETWORK_PATH} alphabet symbols": ["", None, 57, ["a"]],
    f"{NETWORK_PATH} alphabet style": ["bold"],
    # Huge sizes must be refused before memory for the network is allocated.
    f"{NETWORK_PATH} hidden": [17, 0, -1, 10**9, 10**30, 0.5, "16", None],
    f"{NETWORK_PATH} cell": ["mlp", "gru", None, []],
    f"{NETWORK_PATH} train_prior": [[1.0], ["a"], 5, [0.5, 0.5, 0.0]],
    f"{NETWORK_PATH} ngrams": [4, -1, 7, 10**9, 10**30, 0.5, "4", [4]],
    # The bias has 16 finite real values. Other shapes, types and layouts are refused.
    BIAS: [
        None,
        5,
        [0.0] * 16,
        torch.zeros(3),
        torch.zeros(()),
        torch.full((16,), torch.nan),
        torch.full((16,), torch.inf),
        torch.zeros(16).long(),
        torch.zeros(16) + 0j,
        torch.zeros(16).to_sparse(),
    ],
    "state_dict network.more": [torch.zeros(3)],
    "state_dict more_extra_state": [{}],
    "NamesDataModule val_fraction": ["all", None, [], 1.5],
    "NamesDataModule data_dir": [5],
    "calibration": [{}, [], CALIBRATION | {"more": 1}],
    "calibration trained_prior": MALFORMED_PRIORS,
    "calibration corpus_prior": MALFORMED_PRIORS,
    "iteration": [None, "many", [], torch.zeros(3)],
    "history": [None, 5, [5], [(5, None)], [(5, {SCORE: "high"})], [(5, {SCORE: None})]],
    "calibration curves": [None, [], {"tempered": [[0.5, 0.5]]}],
    # An integer of 401 digits is too large for a float.
    "calibration temperature": [0.0, torch.nan, 10**400, "1", None, []],
    "calibration strength": [torch.nan, torch.inf, 10**400, "1", None, []],
}


@pytest.mark.parametrize(("path", "value"), pair_keys_with_values(INVALID_VALUES))
def test_an_invalid_value_is_refused(
    tmp_path: Path, capsys: Captured, path: str, value: object
) -> None:
    checkpoint = make_checkpoint() | {"calibration": CALIBRATION}
    torch.save(replace_value(checkpoint, path, value), tmp_path / "bad.ckpt")
    assert "not a checkpoint of this program" in read_refusal(capsys, tmp_path / "bad.ckpt")


# The weights are those of a bidirectional GRU with a single layer.
IMPOSSIBLE_ARGUMENTS: dict[str, list[Any]] = {
    "layers": [0, 2, 17, 10**9, 10**30, "two", 1.5],
    "dropout": [7.0, 1.0, -0.5, float("nan"), "half"],
    "recurrent_dropout": [7.0],
    "cell": ["mlp", "lstm", "tutorial"],
    "hidden": [9, -1, 10**9, 10**12, 10**30],
    "embedding": [0, 5, -1, 10**9, 10**30, None],
    "pooling": ["all"],
    "ngrams": [3, 7, 10**6, 10**9, 10**30],
    "bidirectional": [False, 7, "yes"],
    "train_prior": [[1.0], None],
    "categories": [[str(number) for number in range(10_000)]],
    "more": [1],
}


@pytest.mark.parametrize(
    ("key", "value"),
    pair_keys_with_values(IMPOSSIBLE_ARGUMENTS),
    ids=lambda part: str(part)[:40],
)
def test_an_impossible_network_is_refused(
    tmp_path: Path, capsys: Captured, key: str, value: object
) -> None:
    checkpoint = make_checkpoint(GRU_NETWORK)
    torch.save(checkpoint, tmp_path / "good.ckpt")
    assert load_model(tmp_path / "good.ckpt").predict_probabilities(["Jones"]).shape == (1, 3)
    torch.save(replace_value(checkpoint, f"{NETWORK_PATH} {key}", value), tmp_path / "bad.ckpt")
    # A network that needs much memory would take longer than two seconds to build.
    start = time.perf_counter()
    assert "not a checkpoint of this program" in read_refusal(capsys, tmp_path / "bad.ckpt")
    assert time.perf_counter() - start < 2


def test_complex_weights_are_refused(tmp_path: Path, capsys: Captured) -> None:
    """Such a network can be loaded, but its predictions fail."""
    for name in ("ngrams.letter_ngrams.0.weight", "recurrent.input_vectors", "log_train_prior"):
        checkpoint = make_checkpoint(GRU_NETWORK | {"embedding": 0, "ngrams": 2})
        weight = checkpoint["state_dict"][f"network.{name}"]
        assert not weight.requires_grad or name == "ngrams.letter_ngrams.0.weight"
        checkpoint["state_dict"][f"network.{name}"] = weight.to(torch.complex64)
        torch.save(checkpoint, tmp_path / "bad.ckpt")
        assert "not a checkpoint of this program" in read_refusal(capsys, tmp_path / "bad.ckpt")


def test_weights_of_lower_precision_are_accepted(tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    torch.save(checkpoint, tmp_path / "full.ckpt")
    for name, weight in checkpoint["state_dict"].items():
        checkpoint["state_dict"][name] = weight.bfloat16()
    torch.save(checkpoint, tmp_path / "half.ckpt")
    names = ["Jones", "Lee"]
    expected = load_model(tmp_path / "full.ckpt").predict_probabilities(names)
    actual = load_model(tmp_path / "half.ckpt").predict_probabilities(names)
    assert actual.dtype == torch.float32  # The weights are converted to float32.
    torch.testing.assert_close(actual, expected, atol=0.01, rtol=0)


def test_ngram_tables_that_are_larger_in_memory_are_refused(
    tmp_path: Path, capsys: Captured
) -> None:
    """A tensor with a stride of 0 repeats a single number, and must not be copied."""
    checkpoint = make_checkpoint(GRU_NETWORK | {"ngrams": 2})
    for tables in checkpoint["state_dict"].values():
        if isinstance(tables, dict):
            for key, table in tables.items():
                tables[key] = torch.zeros(1, dtype=table.dtype).expand(10**8)
    torch.save(checkpoint, tmp_path / "wide.ckpt")
    assert (tmp_path / "wide.ckpt").stat().st_size < 10**5
    start = time.perf_counter()
    assert "not a checkpoint of this program" in read_refusal(capsys, tmp_path / "wide.ckpt")
    assert time.perf_counter() - start < 2


# In Python, 1 == True, so a comparison with the default values does not detect these.
@pytest.mark.parametrize(("key", "value"), [("bidirectional", 1), ("layers", True)])
def test_a_value_of_the_wrong_type_is_refused(
    tmp_path: Path, capsys: Captured, key: str, value: object
) -> None:
    checkpoint = make_checkpoint(GRU_NETWORK)
    checkpoint["hyper_parameters"]["network"] = GRU_NETWORK | {key: value}
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    assert "not a checkpoint of this program" in read_refusal(capsys, tmp_path / "bad.ckpt")
