"""A run that starts from another model's weights."""

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
from src.models.transfer import transfer_weights
from src.run.run_folder import read_settings
from src.train import train
from tests.helpers import (
    GRU_NETWORK,
    NETWORK_PATH,
    assert_equal_runs,
    make_checkpoint,
    replace_value,
    settings,
)

pytestmark = pytest.mark.usefixtures("blank_pictures")

THEIRS, MINE = ["Alpha", "Beta", "Delta"], ["Beta", "Gamma", "Alpha", "Epsilon"]
CATEGORIES = {0: 1, 2: 0}
"""Where those of MINE stand in THEIRS."""
FEW, MORE = (
    Alphabet("corpus", "Aabé" + UNKNOWN_SYMBOL),
    Alphabet("corpus", "AÄbcé" + UNKNOWN_SYMBOL),
)
LETTERS = {0: 0, 2: 2, 4: 3, 5: 4}
MANY = Alphabet("corpus", ASCII_SYMBOLS + "".join(map(chr, range(0x4E00, 0x4EC0))) + UNKNOWN_SYMBOL)


def make(letters: Alphabet, categories: list[str], seed: int = 0, **sizes: Any) -> Any:
    torch.manual_seed(seed)
    usual: dict[str, Any] = {"cell": "gru", "hidden": 6}
    return Network(letters.to_dict(), categories, None, **usual | sizes)


def weights(network: Any) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in network.recurrent.named_parameters()}


def with_rows(fresh: Tensor, theirs: Tensor, places: dict[int, int]) -> Tensor:
    """Return the initial rows, but some of the other's."""
    rows = [theirs[places[i]] if i in places else row for i, row in enumerate(fresh)]
    return torch.stack(rows)


def columns(network: Any) -> Tensor:
    """Return what the first layer adds for each one-hot letter, all directions [S, G]."""
    first = [weight for name, weight in weights(network).items() if "weight_ih_l0" in name]
    return torch.cat([weight @ weights(network)["letters"].T for weight in first]).T


def test_transfer_of_the_tutorial_cell() -> None:
    """Letters are columns of both layers, categories rows of the second."""
    source = make(FEW, THEIRS, seed=1, cell="tutorial")
    network, fresh = (make(MORE, MINE, cell="tutorial") for _ in range(2))
    assert transfer_weights(source, network, "it") == (
        "it: copied 2 of 4 categories (new: Epsilon, Gamma; left out: Delta), "
        "4 of 6 letters (new: c, Ä; left out: a)"
    )
    mine, theirs, was = (weights(each) for each in (network, source, fresh))
    inputs = LETTERS | {6 + i: 5 + i for i in range(6)}  # and the hidden state
    hidden = with_rows(was["rnn.i2h.weight"].T, theirs["rnn.i2h.weight"].T, inputs).T
    rows = [
        with_rows(row, theirs["rnn.i2o.weight"][CATEGORIES[i]], inputs) if i in CATEGORIES else row
        for i, row in enumerate(was["rnn.i2o.weight"])
    ]
    assert torch.equal(mine["rnn.i2h.weight"], hidden)
    assert torch.equal(mine["rnn.i2h.bias"], theirs["rnn.i2h.bias"])
    assert torch.equal(mine["rnn.i2o.weight"], torch.stack(rows))
    bias = with_rows(was["rnn.i2o.bias"], theirs["rnn.i2o.bias"], CATEGORIES)
    assert torch.equal(mine["rnn.i2o.bias"], bias)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("embedding", [0, 4])
def test_transfer_of_the_cells_of_pytorch(cell: str, both: bool, embedding: int) -> None:
    """Letters are columns of the first weights, or vectors; categories rows of the output."""
    sizes: dict[str, Any] = {
        "cell": cell,
        "bidirectional": both,
        "embedding": embedding,
        "layers": 1 + both,
    }
    source = make(FEW, THEIRS, seed=1, **sizes)
    network, fresh = (make(MORE, MINE, **sizes) for _ in range(2))
    transfer_weights(source, network, "it")
    mine, theirs, was = (weights(each) for each in (network, source, fresh))
    for name in ("output.weight", "output.bias"):
        assert torch.equal(mine[name], with_rows(was[name], theirs[name], CATEGORIES))
    first = [] if embedding else ["rnn.weight_ih_l0", "rnn.weight_ih_l0_reverse"]
    same = [name for name in mine if name.startswith("rnn.") and name not in first]
    assert all(torch.equal(mine[name], theirs[name]) for name in same)
    if not embedding:
        expected = with_rows(columns(fresh), columns(source), LETTERS)
        assert torch.equal(columns(network), expected)
        return
    rows = network.recurrent.groups, source.recurrent.groups  # behind the letters' own vectors
    alike = {int(rows[0][i, k]): int(rows[1][LETTERS[i], k]) for i in LETTERS for k in (0, 1)}
    assert len(alike) == 2 + 4  # cases; a, b, e and what is unknown
    expected = with_rows(was["letters"], theirs["letters"], LETTERS | alike)
    assert torch.equal(mine["letters"], expected)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("letters", "others", "sizes"),
    [
        (ASCII_ALPHABET, MANY, {"bidirectional": True}),
        (MANY, Alphabet("corpus", MANY.symbols.replace("x", "")), {}),
        (ASCII_ALPHABET, MORE, {"embedding": 4}),  # of letters that share nothing, and that do
    ],
)
def test_predictions_for_shared_letters_are_unchanged(
    letters: Alphabet, others: Alphabet, sizes: dict[str, Any], turned: bool
) -> None:
    letters, others = (others, letters) if turned else (letters, others)
    source, network = make(letters, THEIRS, seed=1, **sizes), make(others, THEIRS, **sizes)
    transfer_weights(source, network, "it")
    names = ["bAc", "A", "cccb"]
    answers = [each.eval()(*each.alphabet.encode(names)) for each in (source, network)]
    torch.testing.assert_close(answers[1], answers[0], atol=1e-6, rtol=0)


def test_prior_case_and_ngrams_are_not_transferred() -> None:
    """The style, the shares and the n-grams; new ones are counted."""
    source = make(Alphabet(case_style="upper", force_case=True), THEIRS, seed=1, ngrams=1)
    said = transfer_weights(source, make(ASCII_ALPHABET, MINE), "it")
    assert said.endswith(
        "57 of 57 letters; n-gram models are not copied but fitted to the new names"
    )
    network = make(Alphabet(case_style="lower"), THEIRS, ngrams=1)
    transfer_weights(source, network, "it")
    assert network.alphabet.case_style == "lower"
    assert len(network.ngrams.counted[0].table.counts) == 0


@pytest.mark.parametrize(
    ("letters", "categories", "sizes", "message"),
    [
        *(
            (
                ASCII_ALPHABET,
                MINE,
                {key: value},
                f"{key}={value}: it has another architecture; use {key}={theirs}",
            )
            for key, value, theirs in [
                ("hidden", 8, 6),
                ("layers", 2, 1),
                ("embedding", 4, 0),
                ("cell", "tutorial", "gru"),
                ("pooling", "all", "last"),
            ]
        ),
        (
            ASCII_ALPHABET,
            MINE,
            {"cell": "lstm", "bidirectional": True},
            "cell=lstm bidirectional=true: it has another architecture; "
            "use cell=gru bidirectional=false",
        ),
        (ASCII_ALPHABET, ["X"], {}, "it: has none of these categories; it has Alpha, Beta, Delta"),
        (
            Alphabet("corpus", "жя" + UNKNOWN_SYMBOL),
            MINE,
            {},
            "it: has none of these letters; it has  , ', ,, ., ;, A, B, C and 49 more",
        ),
    ],
)
def test_models_that_do_not_match_are_refused(
    letters: Alphabet, categories: list[str], sizes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        transfer_weights(make(ASCII_ALPHABET, THEIRS), make(letters, categories, **sizes), "it")
    assert str(caught.value) == message


def test_unknown_symbol_is_not_a_shared_letter() -> None:
    source = make(Alphabet("corpus", "жя" + UNKNOWN_SYMBOL), THEIRS)
    with pytest.raises(UserError, match="has none of these letters; it has ж, я"):
        transfer_weights(source, make(FEW, MINE), "it")


TINY = ["hidden=8", "iterations=100", "log_every=50", "val_every=50"]


@pytest.fixture
def others(tmp_path: Path, own_corpus_dir: Path) -> Path:
    """Alpha and Beta, and a run that has trained on them."""
    shutil.copytree(own_corpus_dir, tmp_path / "others")
    (tmp_path / "others/Gamma.txt").unlink()
    train(settings(*TINY, f"data_dir={tmp_path / 'others'}"), tmp_path / "source")
    return tmp_path / "source"


def test_a_run(
    others: Path,
    own_corpus_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A step that changes nothing leaves what was taken, and what was made for the seed."""
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "data_dir=names", "lr=1e-30", "iterations=50"]
    train(settings(*words), tmp_path / "fresh")
    with caplog.at_level("INFO"):
        train(settings(*words, "init_from=source"), tmp_path / "run")
    last = "checkpoints/last.ckpt"
    assert f"\ninit_from={others / last}: copied 2 of 3 categories (new: Gamma), " in caplog.text
    states = (tmp_path / run / last for run in ("run", "source", "fresh"))
    mine, theirs, fresh = (torch.load(each, weights_only=True)["state_dict"] for each in states)
    name = "network.recurrent.rnn.i2o.weight"
    assert torch.equal(mine[name], with_rows(fresh[name], theirs[name], {0: 0, 1: 1}))
    saved = read_settings(tmp_path / "run")
    assert saved is not None
    assert saved["init_from"] == str(others)


def test_run_is_resumed_without_the_source_of_its_weights(
    others: Path, corpus_dir: Path, tmp_path: Path
) -> None:
    words = [*TINY, f"data_dir={corpus_dir}", f"init_from={others}"]
    train(settings(*words, "iterations=200"), tmp_path / "whole")
    train(settings(*words), tmp_path / "parts")
    shutil.rmtree(others)
    train(settings(f"resume={tmp_path / 'parts'}", "iterations=200"), tmp_path / "parts")
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    with pytest.raises(UserError, match=f"init_from={others}: no such file or folder"):
        settings(*words)
    with pytest.raises(UserError, match=r"init_from=\S+names: the run in \S+parts has init"):
        settings(f"resume={tmp_path / 'parts'}", f"init_from={corpus_dir}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK", "{}: not a checkpoint, or a damaged or unsafe one"),
        (("version", 3), "{}: is of an older version of this program; train anew"),
        ((f"{NETWORK_PATH} hidden", 9), "{}: not a checkpoint of this program ("),
        (
            (f"{NETWORK_PATH} categories", ["\x1b", "B", "C"]),
            "{}: not a checkpoint of this program (",
        ),
        (None, "no finished run with a val/balanced_accuracy in {}/; name a run or a checkpoint"),
    ],
)
def test_invalid_source_of_weights_is_refused(
    tmp_path: Path, corpus_dir: Path, content: Any, message: str
) -> None:
    path = tmp_path / "bad.ckpt"
    if content is None:
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(replace_value(make_checkpoint(GRU_NETWORK), *content), path)
    with pytest.raises(UserError) as caught:
        train(settings(*TINY, f"data_dir={corpus_dir}", f"init_from={path}"), tmp_path / "run")
    assert str(caught.value).startswith(message.format(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
