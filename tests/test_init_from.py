"""Tests of runs that start from the weights of another model."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from src.data.alphabet import ASCII_ALPHABET, UNKNOWN_SYMBOL, Alphabet
from src.data.normalize import ASCII_SYMBOLS
from src.errors import UserError
from src.models.network import Network
from src.models.transfer import transfer_and_describe_weights
from src.run.run_folder import LAST_CHECKPOINT, read_settings
from src.train import train
from tests.helpers import (
    GRU_NETWORK,
    NETWORK_PATH,
    assert_equal_runs,
    load_checkpoint,
    make_checkpoint,
    replace_value,
    settings,
)

pytestmark = pytest.mark.usefixtures("blank_pictures")

SOURCE_CATEGORIES = ["Alpha", "Beta", "Delta"]
TARGET_CATEGORIES = ["Beta", "Gamma", "Alpha", "Epsilon"]
CATEGORY_MATCHES = {0: 1, 2: 0}
"""Indices of the shared categories in SOURCE_CATEGORIES, by the index in TARGET_CATEGORIES."""
SOURCE_ALPHABET = Alphabet("corpus", "Aabé" + UNKNOWN_SYMBOL)
TARGET_ALPHABET = Alphabet("corpus", "AÄbcé" + UNKNOWN_SYMBOL)
LETTER_MATCHES = {0: 0, 2: 2, 4: 3, 5: 4}
"""Indices of the shared letters in SOURCE_ALPHABET, by the index in TARGET_ALPHABET."""
LARGE_ALPHABET = Alphabet(
    "corpus", ASCII_SYMBOLS + "".join(map(chr, range(0x4E00, 0x4EC0))) + UNKNOWN_SYMBOL
)


def make_network(letters: Alphabet, categories: list[str], seed: int = 0, **sizes: Any) -> Any:
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {"cell": "gru", "hidden": 6}
    return Network(letters.to_dict(), categories, None, **defaults | sizes)


def get_weights(network: Any) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in network.recurrent.named_parameters()}


def replace_rows(initial: Tensor, source: Tensor, matches: dict[int, int]) -> Tensor:
    """Return the initial rows, with some replaced by rows of the source.

    Args:
        initial: rows of the target before the transfer.
        source: rows of the source.
        matches: indices of rows of the source, by the index in the target.
    """
    rows = list(initial)
    for target_index, source_index in matches.items():
        rows[target_index] = source[source_index]
    return torch.stack(rows)


def letter_columns(network: Any) -> Tensor:
    """Return the input of the first layer for each letter, for all directions [S, G]."""
    first = [weight for name, weight in get_weights(network).items() if "weight_ih_l0" in name]
    return torch.cat([weight @ get_weights(network)["input_vectors"].T for weight in first]).T


def test_transfer_of_the_tutorial_cell() -> None:
    """Letters are columns of both layers, and categories are rows of the second."""
    source = make_network(SOURCE_ALPHABET, SOURCE_CATEGORIES, seed=1, cell="tutorial")
    network = make_network(TARGET_ALPHABET, TARGET_CATEGORIES, cell="tutorial")
    fresh = make_network(TARGET_ALPHABET, TARGET_CATEGORIES, cell="tutorial")
    assert transfer_and_describe_weights(source, network, "it") == (
        "it: copied 2 of 4 categories (new: Epsilon, Gamma; left out: Delta), "
        "4 of 6 letters (new: c, Ä; left out: a)"
    )
    actual = get_weights(network)
    source_weights = get_weights(source)
    initial = get_weights(fresh)
    # The hidden state follows the letters, of which the source has one less.
    inputs = LETTER_MATCHES | {6 + i: 5 + i for i in range(6)}
    hidden = replace_rows(initial["rnn.i2h.weight"].T, source_weights["rnn.i2h.weight"].T, inputs).T
    rows = list(initial["rnn.i2o.weight"])
    for target_index, source_index in CATEGORY_MATCHES.items():
        source_row = source_weights["rnn.i2o.weight"][source_index]
        rows[target_index] = replace_rows(rows[target_index], source_row, inputs)
    assert torch.equal(actual["rnn.i2h.weight"], hidden)
    assert torch.equal(actual["rnn.i2h.bias"], source_weights["rnn.i2h.bias"])
    assert torch.equal(actual["rnn.i2o.weight"], torch.stack(rows))
    bias = replace_rows(initial["rnn.i2o.bias"], source_weights["rnn.i2o.bias"], CATEGORY_MATCHES)
    assert torch.equal(actual["rnn.i2o.bias"], bias)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("embedding", [0, 4])
def test_transfer_of_the_cells_of_pytorch(cell: str, bidirectional: bool, embedding: int) -> None:
    """Letters are columns of the first weights, or embeddings; categories are output rows."""
    sizes: dict[str, Any] = {
        "cell": cell,
        "bidirectional": bidirectional,
        "embedding": embedding,
        "layers": 1 + bidirectional,
    }
    source = make_network(SOURCE_ALPHABET, SOURCE_CATEGORIES, seed=1, **sizes)
    network = make_network(TARGET_ALPHABET, TARGET_CATEGORIES, **sizes)
    fresh = make_network(TARGET_ALPHABET, TARGET_CATEGORIES, **sizes)
    transfer_and_describe_weights(source, network, "it")
    actual = get_weights(network)
    source_weights = get_weights(source)
    initial = get_weights(fresh)
    for name in ("output.weight", "output.bias"):
        assert torch.equal(
            actual[name], replace_rows(initial[name], source_weights[name], CATEGORY_MATCHES)
        )
    # Without embeddings, letters are columns of these weights.
    letter_weights = [] if embedding else ["rnn.weight_ih_l0", "rnn.weight_ih_l0_reverse"]
    for name in actual:
        if name.startswith("rnn.") and name not in letter_weights:
            assert torch.equal(actual[name], source_weights[name])
    if not embedding:
        expected = replace_rows(letter_columns(fresh), letter_columns(source), LETTER_MATCHES)
        assert torch.equal(letter_columns(network), expected)
        return
    # Each letter also has two vectors that it shares with other letters, rows after its own.
    shared_vectors = {}
    for target_index, source_index in LETTER_MATCHES.items():
        for k in range(2):
            target_row = int(network.recurrent.groups[target_index, k])
            shared_vectors[target_row] = int(source.recurrent.groups[source_index, k])
    # These are the vectors of two cases, of a, b and e, and of the unknown symbol.
    assert len(shared_vectors) == 2 + 4
    expected = replace_rows(
        initial["input_vectors"], source_weights["input_vectors"], LETTER_MATCHES | shared_vectors
    )
    assert torch.equal(actual["input_vectors"], expected)


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize(
    ("letters", "other_letters", "sizes"),
    [
        (ASCII_ALPHABET, LARGE_ALPHABET, {"bidirectional": True}),
        (LARGE_ALPHABET, Alphabet("corpus", LARGE_ALPHABET.symbols.replace("x", "")), {}),
        (ASCII_ALPHABET, TARGET_ALPHABET, {"embedding": 4}),  # only one has letter groups
    ],
)
def test_predictions_for_shared_letters_are_unchanged(
    letters: Alphabet, other_letters: Alphabet, sizes: dict[str, Any], is_swapped: bool
) -> None:
    # Weights are transferred to a larger and to a smaller alphabet.
    if is_swapped:
        letters, other_letters = other_letters, letters
    source = make_network(letters, SOURCE_CATEGORIES, seed=1, **sizes)
    network = make_network(other_letters, SOURCE_CATEGORIES, **sizes)
    transfer_and_describe_weights(source, network, "it")
    names = ["bAc", "A", "cccb"]
    # Letters have different indices in the two alphabets.
    source_letters, lengths = source.alphabet.encode(names)
    expected = source.eval()(source_letters, lengths)
    network_letters, lengths = network.alphabet.encode(names)
    actual = network.eval()(network_letters, lengths)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_prior_case_and_ngrams_are_not_transferred() -> None:
    """The n-gram models are fitted to the names of the new run."""
    source = make_network(
        Alphabet(case_style="upper", force_case=True), SOURCE_CATEGORIES, seed=1, ngrams=1
    )
    report = transfer_and_describe_weights(
        source, make_network(ASCII_ALPHABET, TARGET_CATEGORIES), "it"
    )
    assert report.endswith(
        "57 of 57 letters; n-gram models are not copied, but fitted to the new names"
    )
    network = make_network(Alphabet(case_style="lower"), SOURCE_CATEGORIES, ngrams=1)
    transfer_and_describe_weights(source, network, "it")
    assert network.alphabet.case_style == "lower"
    # The n-gram model has not been fitted yet.
    assert len(network.ngrams.letter_ngrams[0].table.counts) == 0


@pytest.mark.parametrize(
    ("letters", "categories", "sizes", "message"),
    [
        (
            ASCII_ALPHABET,
            TARGET_CATEGORIES,
            {"hidden": 8},
            "hidden=8: it has another architecture; use hidden=6",
        ),
        (
            ASCII_ALPHABET,
            TARGET_CATEGORIES,
            {"layers": 2},
            "layers=2: it has another architecture; use layers=1",
        ),
        (
            ASCII_ALPHABET,
            TARGET_CATEGORIES,
            {"embedding": 4},
            "embedding=4: it has another architecture; use embedding=0",
        ),
        (
            ASCII_ALPHABET,
            TARGET_CATEGORIES,
            {"cell": "tutorial"},
            "cell=tutorial: it has another architecture; use cell=gru",
        ),
        (
            ASCII_ALPHABET,
            TARGET_CATEGORIES,
            {"pooling": "all"},
            "pooling=all: it has another architecture; use pooling=last",
        ),
        (
            ASCII_ALPHABET,
            TARGET_CATEGORIES,
            {"cell": "lstm", "bidirectional": True},
            "cell=lstm bidirectional=true: it has another architecture; "
            "use cell=gru bidirectional=false",
        ),
        (
            ASCII_ALPHABET,
            ["X"],
            {},
            "it: no categories in common; the model has Alpha, Beta, Delta",
        ),
        (
            Alphabet("corpus", "жя" + UNKNOWN_SYMBOL),
            TARGET_CATEGORIES,
            {},
            "it: no letters in common; the model has  , ', ,, ., ;, A, B, C and 49 more",
        ),
    ],
)
def test_models_that_do_not_match_are_refused(
    letters: Alphabet, categories: list[str], sizes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        transfer_and_describe_weights(
            make_network(ASCII_ALPHABET, SOURCE_CATEGORIES),
            make_network(letters, categories, **sizes),
            "it",
        )
    assert str(caught.value) == message


def test_unknown_symbol_is_not_a_shared_letter() -> None:
    source = make_network(Alphabet("corpus", "жя" + UNKNOWN_SYMBOL), SOURCE_CATEGORIES)
    with pytest.raises(UserError, match="it: no letters in common; the model has ж, я"):
        transfer_and_describe_weights(
            source, make_network(SOURCE_ALPHABET, TARGET_CATEGORIES), "it"
        )


QUICK_RUN = ["hidden=8", "iterations=100", "log_every=50", "val_every=50"]


@pytest.fixture
def source_run(tmp_path: Path, own_corpus_dir: Path) -> Path:
    """A run that was trained on Alpha and Beta."""
    shutil.copytree(own_corpus_dir, tmp_path / "others")
    # The target has a category that the source lacks.
    (tmp_path / "others/Gamma.txt").unlink()
    train(settings(QUICK_RUN + [f"data_dir={tmp_path / 'others'}"]), tmp_path / "source")
    return tmp_path / "source"


def test_a_run(
    source_run: Path,
    own_corpus_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A very small step leaves the copied weights and the initial weights of the seed."""
    monkeypatch.chdir(tmp_path)
    overrides = QUICK_RUN + ["data_dir=names", "lr=1e-30", "iterations=50"]
    train(settings(overrides), tmp_path / "fresh")
    with caplog.at_level("INFO"):
        train(settings(overrides + ["init_from=source"]), tmp_path / "run")
    (message,) = [text for text in caplog.messages if text.startswith("init_from=")]
    copied = "2 of 3 categories (new: Gamma), 57 of 57 letters"
    assert message == f"init_from={source_run / LAST_CHECKPOINT}: copied {copied}"
    actual = load_checkpoint(tmp_path / "run")["state_dict"]
    source_weights = load_checkpoint(source_run)["state_dict"]
    fresh = load_checkpoint(tmp_path / "fresh")["state_dict"]
    name = "network.recurrent.rnn.i2o.weight"
    assert torch.equal(actual[name], replace_rows(fresh[name], source_weights[name], {0: 0, 1: 1}))
    saved = read_settings(tmp_path / "run")
    assert saved is not None
    # The path is stored absolutely, so that it can be found from other folders.
    assert saved["init_from"] == str(source_run)


def test_run_is_resumed_without_the_source_of_its_weights(
    source_run: Path, corpus_dir: Path, tmp_path: Path
) -> None:
    overrides = QUICK_RUN + [f"data_dir={corpus_dir}", f"init_from={source_run}"]
    train(settings(overrides + ["iterations=200"]), tmp_path / "uninterrupted")
    train(settings(overrides), tmp_path / "parts")
    # The weights are in the checkpoint of the new run, so the source is no longer needed.
    shutil.rmtree(source_run)
    train(settings([f"resume={tmp_path / 'parts'}", "iterations=200"]), tmp_path / "parts")
    assert_equal_runs(tmp_path / "uninterrupted", tmp_path / "parts")
    with pytest.raises(UserError, match=f"init_from={source_run}: no such file or folder"):
        settings(overrides)
    with pytest.raises(UserError, match=r"init_from=\S+names: the run in \S+parts has init"):
        settings([f"resume={tmp_path / 'parts'}", f"init_from={corpus_dir}"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK", "{}: not a checkpoint, or a damaged one"),
        (("version", 3), "{}: written by another version of this program; train a new model"),
        ((f"{NETWORK_PATH} hidden", 9), "{}: not a checkpoint of this program ("),
        (
            (f"{NETWORK_PATH} categories", ["\x1b", "B", "C"]),
            "{}: not a checkpoint of this program (",
        ),
        (
            None,
            "{}: no finished run with a val/balanced_accuracy; "
            "use the folder of a run, or a checkpoint",
        ),
    ],
)
def test_invalid_source_of_weights_is_refused(
    tmp_path: Path, corpus_dir: Path, content: Any, message: str
) -> None:
    path = tmp_path / "bad.ckpt"
    # The content is the file itself, or a change of a valid checkpoint.
    if content is None:
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(replace_value(make_checkpoint(GRU_NETWORK), *content), path)
    with pytest.raises(UserError) as caught:
        train(
            settings(QUICK_RUN + [f"data_dir={corpus_dir}", f"init_from={path}"]), tmp_path / "run"
        )
    assert str(caught.value).startswith(message.format(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
