import html
import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from src.data.alphabet import UNKNOWN_SYMBOL, Alphabet
from src.data.normalize import ASCII_SYMBOLS, MAX_NAME_LENGTH
from src.export import __main__ as export
from src.inference.trained_model import TrainedModel, load_model
from src.models.recurrent import LAYERS
from src.models.registry import DEFAULT_PRIOR, PRIORS
from tests.helpers import (
    CALIBRATION,
    CHECKPOINT_SUMMARY,
    GRU_NETWORK,
    NETWORK,
    ROOT,
    make_checkpoint,
    read_corpus,
)

Captured = pytest.CaptureFixture[str]

NAMES = """
    Jones O'Neill Kowalczyk Ślusàrski Müller WEISS Weiß STRAẞE straße Łukasiewicz Đorđević
    Þórsson Æsir Ægir søren SMITH smith mcDonald McDonald Nguyễn ĐẶNG İnönü IŞIK ısı
    Papadopoulos Παπαδόπουλος ΆΡΗΣ Иванов ИВАНОВ Щукин Соловьёв Ольга Ієвлєв Շահ कुमार
    ทักษิณ מֹשֶׁה محمد やまもと サトー d’Angelo O`Brien ʻAkahi 'tHooft Jones' "Lee" Smith-Jones
    Ångström ﹡ x1y2 ,.;
""".split()
NAMES += "Satoshi Nakamura Hinton Dovesky Jackson Abdurahmanov Vosoughi Tsvetkov Shi Ueda".split()
NAMES += "MacKenzie Ribeiro Nuremberg Cheng Noh Phi Arian Schmidhuber Quirke Xydias".split()
NAMES += [
    " De  la\tFontaine. ",
    "'s-Gravesande",
    "e\u0301a\u0308",
    "x" * MAX_NAME_LENGTH,
    "Lee\u2013Kim",
]
UNSPELLED = "Li 王3é"


def write(file: Path, network: dict[str, Any], **more: object) -> Path:
    """Write a checkpoint whose answers differ much from letter to letter."""
    checkpoint = make_checkpoint(network) | more
    for name, weight in checkpoint["state_dict"].items():
        weight.mul_(20 if "i2o" in name or "output" in name else 2)
    torch.save(checkpoint, file)
    return file


def run(*arguments: str) -> int:
    """Run export; return its exit status."""
    try:
        export.main([*arguments])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def values_of(page: str) -> dict[str, Any]:
    (embedded,) = re.findall(r'<script id="model" type="application/json">(.*)</script>', page)
    values: dict[str, Any] = json.loads(embedded)
    return values


def test_the_page_holds_the_very_weights(tmp_path: Path, capsys: Captured) -> None:
    file, page = write(tmp_path / "a.ckpt", NETWORK, decision=CALIBRATION), tmp_path / "see.html"
    assert run(str(file), f"--html={page}", "--prior=uniform") == 0
    assert capsys.readouterr().out == f"{page}: {load_model(file).description}\n"
    values = values_of(page.read_text(encoding="utf-8"))
    weights = torch.load(file, weights_only=True)["state_dict"]
    assert [*values["weights"]] == ["i2h.weight", "i2h.bias", "i2o.weight", "i2o.bias"]
    for name, text in values["weights"].items():
        expected = weights[f"network.recurrent.rnn.{name}"].numpy()
        given = np.frombuffer(b64decode(text), "<f4").reshape(expected.shape)
        np.testing.assert_array_equal(given, expected)
    assert values["categories"] == ["A", "B", "C"]
    assert values["letters"]["symbols"] == ASCII_SYMBOLS
    assert values["prior"] == "uniform"
    assert values["about"] == CHECKPOINT_SUMMARY
    assert str(tmp_path) not in page.read_text(encoding="utf-8")


def test_the_page_asks_for_nothing(tmp_path: Path) -> None:
    file, page = write(tmp_path / "a.ckpt", NETWORK), tmp_path / "see.html"
    assert run(f"--checkpoint={file}", f"--html={page}") == 0
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|//[a-z]+\.|\bfetch\b|@import|\bsrc=", text)


def test_categories_of_a_stranger_are_text(tmp_path: Path) -> None:
    categories = ["</script><script>alert(1)</script>", "{model}\"'&", "<!--"]
    file, page = write(tmp_path / "a.ckpt", NETWORK | {"categories": categories}), tmp_path / "b"
    assert run(str(file), f"--html={page}") == 0
    text = page.read_text(encoding="utf-8")
    assert values_of(text)["categories"] == categories
    assert text.count("</script>") == 2
    assert "innerHTML" not in text


def test_what_cannot_be_exported(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def refused(*arguments: str) -> str:
        assert run(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("python -m src.export: ")

    write(Path("gru.ckpt"), GRU_NETWORK)
    only = "--html shows cell=tutorial without n-grams, and no other"
    assert refused("gru.ckpt", "--html=a.html", "--onnx=a.onnx") == f"gru.ckpt: {only}"
    torch.save(make_checkpoint(GRU_NETWORK | {"ngrams": 1}), "best.ckpt")
    none = "--onnx: ONNX has no operator that looks up n-grams in the tables beside the network"
    assert refused("best.ckpt", "--onnx=a.onnx") == f"best.ckpt: {none}; train with ngrams=0"
    assert refused("gru.ckpt") == "--html FILE.html, --onnx FILE.onnx or both say what to write"
    write(Path("a.ckpt"), NETWORK)
    assert refused("a.ckpt", "--html=a.ckpt") == "a.ckpt: exists; --force replaces it"
    assert "does not say how common" in refused("a.ckpt", "--html=a.html", "--prior=corpus")
    content = Path("a.ckpt").read_bytes()
    Path("b.ckpt").write_bytes(content[: len(content) // 2])
    assert refused("b.ckpt", "--html=a.html").startswith("b.ckpt: not a checkpoint, or a damaged")
    assert refused("--html=a.html").startswith("no finished run under outputs/")
    assert "No such file" in refused("nowhere.ckpt", "--html=a.html")
    assert not {*Path().glob("a.*")} - {Path("a.ckpt")}
    Path("a.html").touch()
    Path("a.onnx").touch()
    assert refused("a.ckpt", "--onnx=a.onnx") == "a.onnx: exists; --force replaces it"
    assert run("a.ckpt", "--html=a.html", "--onnx=a.onnx", "--force") == 0
    assert Path("a.html").stat().st_size > 10_000
    assert Path("a.onnx").stat().st_size > 1000
    capsys.readouterr()
    monkeypatch.delitem(sys.modules, "src.export.onnx_graph")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert refused("a.ckpt", "--onnx=b") == "--onnx needs an extra: pip install -e '.[export]'"


CORPUS = Alphabet(
    "corpus", "".join(sorted("абвЖИяáéabcdeijlns O'")) + UNKNOWN_SYMBOL, "lower", True
)
MANY = Alphabet(
    "corpus", "".join(sorted([*ASCII_SYMBOLS, *map(chr, range(0x4E00, 0x4F00))])) + UNKNOWN_SYMBOL
)
IN_CORPUS, IN_MANY = {"letters": CORPUS.to_dict()}, {"letters": MANY.to_dict()}
DEEP: dict[str, Any] = {"bidirectional": True, "layers": 2}
PLAIN: dict[str, Any] = {"bidirectional": False, "embedding": 0}


def graph_of(file: Path, prior: str) -> onnxruntime.InferenceSession:
    """Export a checkpoint's model; return what runs it."""
    assert run(str(file), f"--onnx={file}.onnx", f"--prior={prior}", "--force") == 0
    onnx.checker.check_model(f"{file}.onnx", full_check=True)
    return onnxruntime.InferenceSession(f"{file}.onnx")


def said_of(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    metadata = session.get_modelmeta().custom_metadata_map
    return {name: json.loads(value) for name, value in metadata.items()}


def ask(session: onnxruntime.InferenceSession, names: list[str], fill: int) -> NDArray[np.float32]:
    """Return the probabilities of names in the model's letters; unknown ones are the last."""
    symbols = said_of(session)["letters"]["symbols"]
    lengths = np.array([*map(len, names)])
    letters = np.full((len(names), lengths.max() + 2), fill)
    for row, name in zip(letters, names, strict=True):
        row[: len(name)] = [symbols.find(letter) for letter in name]
    probabilities: NDArray[np.float32]
    (probabilities,) = session.run(None, {"letters": letters, "lengths": lengths})
    return probabilities


@pytest.mark.parametrize(
    "network",
    [
        NETWORK,
        NETWORK | IN_CORPUS | {"shares": [0.2, 0.3, 0.5]},
        *(GRU_NETWORK | {"cell": cell} | changes for cell in LAYERS for changes in (PLAIN, DEEP)),
        *(GRU_NETWORK | {"cell": cell, "pooling": "all"} for cell in LAYERS),
        GRU_NETWORK | IN_CORPUS | {"shares": [0.2, 0.3, 0.5]},
        GRU_NETWORK | IN_MANY | {"layers": 2, "pooling": "all"},
    ],
)
def test_onnx_answers_as_predict_does(network: dict[str, Any], tmp_path: Path) -> None:
    file = write(tmp_path / "a.ckpt", network, decision=CALIBRATION)
    model, session = load_model(file, "corpus"), graph_of(file, "corpus")
    shipped = [name for names in read_corpus(ROOT / "data/names").values() for name in names]
    texts = ["a", *NAMES, *shipped[::20]]
    names = [name for name in map(model.alphabet.normalize, texts) if name]
    assert len(names) > 1000
    assert {1, MAX_NAME_LENGTH} <= {*map(len, names)}
    expected = model.probabilities(names).numpy()
    assert expected.std(axis=0).max() > 0.02
    given = ask(session, names, fill=-1)
    np.testing.assert_allclose(given, expected, atol=1e-5, rtol=0)
    few = [*names[:20], "x" * MAX_NAME_LENGTH]
    alone = np.concatenate([ask(session, [name], fill=0) for name in few])
    np.testing.assert_allclose(alone, model.probabilities(few), atol=1e-5, rtol=0)


def test_onnx_says_what_a_program_has_to_know(tmp_path: Path) -> None:
    network = NETWORK | {"letters": CORPUS.to_dict(), "shares": [0.2, 0.3, 0.5]}
    file = write(tmp_path / "a.ckpt", network, decision=CALIBRATION)
    session = graph_of(file, "uniform")
    said = said_of(session)
    assert Alphabet.from_dict(said["letters"]) == CORPUS
    assert (said["categories"], said["prior"], said["longest"]) == (["A", "B", "C"], "uniform", 200)
    assert said["about"] == CHECKPOINT_SUMMARY.replace("ascii", "corpus")
    assert str(tmp_path) not in json.dumps(said)
    uniform = ask(session, ["lisa"], fill=0)
    for prior in PRIORS:  # the others follow from one
        scores = uniform * np.exp(np.subtract(said["priors"][prior], said["priors"]["uniform"]))
        expected = load_model(file, prior).probabilities(["lisa"])
        np.testing.assert_allclose(scores / scores.sum(), expected, atol=1e-6)

    write(file, network)
    said = said_of(graph_of(file, "tempered"))
    assert said["prior"] == "as trained"
    log_shares: Any = load_model(file).network.log_shares
    assert said["priors"] == {"as trained": log_shares.tolist()}


TRY = """
<script>
  const type = name => { $("name").value = name; typed(); };
  const tried = {
    answers: NAMES.map(name => [read(name).join(""), Object.keys(model.priors).map(prior =>
      think(read(name)).slice(-1).map(step => believe(step.scores, prior)))]),
  };
  type(UNSPELLED);
  tried.said = $("said").textContent;
  type("1");
  tried.nothing = [$("said").textContent, $("letters").children.length];
  type("a".repeat(201));
  tried.long = [$("said").textContent, $("letters").children.length];
  type("O'Neill");
  tried.lines = [...$("lines").children].map(line => [...line.children].map(e => e.textContent));
  $("letters").dispatchEvent(new KeyboardEvent("keydown", {key: "Home"}));
  tried.bars = [...$("bars").children].map(bar => [...bar.children].map(e => e.textContent));
  tried.lit = $("row").querySelector(".first").textContent;
  frameElement.nextSibling.textContent = JSON.stringify(tried);
</script>
"""


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[TrainedModel, dict[str, Any]]]:
    """Return models, each with what its page computes and shows in a browser."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("there is no chromium")
    folder = tmp_path_factory.mktemp("see")
    networks: list[dict[str, Any]] = [
        NETWORK | {"letters": Alphabet(case_style="capitalised").to_dict()},
        NETWORK | {"letters": Alphabet("tutorial").to_dict(), "shares": [0.2, 0.3, 0.5]},
        NETWORK | IN_CORPUS,
    ]
    decisions = [CALIBRATION, None, CALIBRATION]
    code = TRY.replace("NAMES", json.dumps(NAMES)).replace("UNSPELLED", json.dumps(UNSPELLED))
    files, frames = [], ""
    for i, (network, decision) in enumerate(zip(networks, decisions, strict=True)):
        files.append(write(folder / f"{i}.ckpt", network, decision=decision))
        assert run(str(files[i]), f"--html={folder / 'see.html'}", "--force") == 0
        page = (folder / "see.html").read_text(encoding="utf-8").replace("</html>", code)
        frames += f'<iframe srcdoc="{html.escape(page)}"></iframe><pre></pre>'
    (folder / "all.html").write_text(f"<meta charset=utf-8><body>{frames}", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'user'}"]
    command = [browser, *options, "--dump-dom", (folder / "all.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout.decode()
    tried = [json.loads(html.unescape(text)) for text in re.findall("<pre>(.*?)</pre>", dom)]
    return list(zip(map(load_model, files), tried, strict=True))


def test_a_browser_answers_as_predict_does(
    browsed: list[tuple[TrainedModel, dict[str, Any]]],
) -> None:
    for model, tried in browsed:
        assert [name for name, _ in tried["answers"]] == list(map(model.alphabet.normalize, NAMES))
        for i, prior in enumerate(PRIORS if model.calibration else [DEFAULT_PRIOR]):
            expected = load_model(model.path, prior).probabilities(NAMES).numpy()
            rows = [priors[i][0] if priors[i] else [None] * 3 for _, priors in tried["answers"]]
            given = np.array(rows, dtype=float)  # None, as JSON has it, is NaN
            np.testing.assert_allclose(given, expected, atol=1e-5, rtol=0)
            assert np.isfinite(given).all(axis=1).sum() >= 50
            assert np.nanstd(given, axis=0).max() > 0.05


def test_a_browser_shows_it(browsed: list[tuple[TrainedModel, dict[str, Any]]]) -> None:
    said = [tried["said"] for _, tried in browsed]
    assert said[:2] == ["I cannot spell 王 3"] * 2
    assert said[2] == "I cannot spell 3; I have never seen 王"
    for model, tried in browsed:
        assert tried["nothing"] == ["I cannot spell 1; no letters I know", 0]
        assert tried["long"] == ["longer than 200 letters", 0]
        prefixes, probabilities = model.prefix_probabilities("O'Neill")
        answers = model.top_k(probabilities, 3)
        assert tried["lines"] == [
            [prefix, *(f"{category:<12} {p:.3f}" for category, p in answer)]
            for prefix, answer in zip(prefixes, answers, strict=True)
        ]
        first = [f"{p:.3f}" for p in probabilities[0].tolist()]
        assert tried["bars"] == [list(pair) for pair in zip("ABC", first, strict=True)]
        assert tried["lit"] == (prefixes[0] if prefixes[0] in model.alphabet.symbols else "…")
