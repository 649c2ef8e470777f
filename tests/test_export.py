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
from src.models.recurrent import LAYER_CLASSES
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
UNREADABLE_NAME = "Li 王3é"


def write_model(file: Path, network: dict[str, Any], **entries: object) -> Path:
    """Write a checkpoint whose probabilities differ much from letter to letter."""
    checkpoint = make_checkpoint(network) | entries
    for name, weight in checkpoint["state_dict"].items():
        # The outputs of a network with random weights would be nearly equal for all names.
        weight.mul_(20 if "i2o" in name or "output" in name else 2)
    torch.save(checkpoint, file)
    return file


def run_export(arguments: list[str]) -> int:
    """Run the program, and return its exit status."""
    try:
        export.main(arguments)
    except SystemExit as exit_request:
        return int(exit_request.code or 0)
    return 0


def embedded_values(page: str) -> dict[str, Any]:
    """Return the values that a page contains."""
    (embedded,) = re.findall(r'<script id="model" type="application/json">(.*)</script>', page)
    values: dict[str, Any] = json.loads(embedded)
    return values


def test_page_contains_the_exact_weights(tmp_path: Path, capsys: Captured) -> None:
    file = write_model(tmp_path / "a.ckpt", NETWORK, calibration=CALIBRATION)
    page = tmp_path / "see.html"
    assert run_export([str(file), f"--html={page}", "--prior=uniform"]) == 0
    lines = capsys.readouterr().out.splitlines()
    size = f"{page.stat().st_size / 1000:,.0f} kB"
    source = f"{file} (validation balanced accuracy 0.625)"
    assert lines == [f"Wrote {page} ({size}) from {source}", f"Open {page} in a browser."]
    values = embedded_values(page.read_text(encoding="utf-8"))
    weights = torch.load(file, weights_only=True)["state_dict"]
    assert list(values["weights"]) == ["i2h.weight", "i2h.bias", "i2o.weight", "i2o.bias"]
    for name, text in values["weights"].items():
        expected = weights[f"network.recurrent.rnn.{name}"].numpy()
        embedded = np.frombuffer(b64decode(text), "<f4").reshape(expected.shape)
        np.testing.assert_array_equal(embedded, expected)
    assert values["categories"] == ["A", "B", "C"]
    assert values["letters"]["symbols"] == ASCII_SYMBOLS
    assert values["prior"] == "uniform"
    assert values["about"] == CHECKPOINT_SUMMARY
    # A published page must not reveal the folders of its author.
    assert str(tmp_path) not in page.read_text(encoding="utf-8")


def test_page_loads_nothing(tmp_path: Path) -> None:
    file = write_model(tmp_path / "a.ckpt", NETWORK)
    page = tmp_path / "see.html"
    assert run_export([f"--checkpoint={file}", f"--html={page}"]) == 0
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    # A link loads nothing until it is clicked.
    without_links = re.sub(r'<a href="https://[^"]+">', "", text)
    assert not re.search(r"https?:|//[a-z]+\.|\bfetch\b|@import|\bsrc=", without_links)


@pytest.mark.parametrize(
    ("categories", "title"),
    [
        (["Czech", "Greek", "Irish"], "Which language is your surname from?"),
        (["Czech", "Greek", "Klingon"], "Which category does a name belong to?"),
    ],
)
def test_title_of_the_page(tmp_path: Path, categories: list[str], title: str) -> None:
    file = write_model(tmp_path / "a.ckpt", NETWORK | {"categories": categories})
    page = tmp_path / "see.html"
    assert run_export([str(file), f"--html={page}"]) == 0
    text = page.read_text(encoding="utf-8")
    assert f"<title>{title}</title>" in text
    assert f"<h1>{title}</h1>" in text
    assert f'<meta property="og:title" content="{title}">' in text
    assert "of 3 " in text
    assert "{" + "summary}" not in text


def test_untrusted_categories_cannot_inject_code(tmp_path: Path) -> None:
    categories = ["</script><script>alert(1)</script>", "{model}\"'&", "<!--"]
    file = write_model(tmp_path / "a.ckpt", NETWORK | {"categories": categories})
    page = tmp_path / "see.html"
    assert run_export([str(file), f"--html={page}"]) == 0
    text = page.read_text(encoding="utf-8")
    assert embedded_values(text)["categories"] == categories
    # The page has one script for the values and one for its code.
    assert text.count("</script>") == 2
    assert "innerHTML" not in text


def test_errors(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def run_error(arguments: list[str]) -> str:
        assert run_export(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("python -m src.export: ")

    # The page draws the computation of the tutorial's cell only.
    write_model(Path("gru.ckpt"), GRU_NETWORK)
    message = "gru.ckpt: --html supports only cell=tutorial with ngrams=0"
    assert run_error(["gru.ckpt", "--html=a.html", "--onnx=a.onnx"]) == message
    torch.save(make_checkpoint(GRU_NETWORK | {"ngrams": 1}), "best.ckpt")
    reason = "n-gram models cannot be exported to ONNX"
    message = f"best.ckpt: --onnx: {reason}; train with ngrams=0"
    assert run_error(["best.ckpt", "--onnx=a.onnx"]) == message
    message = "nothing to write; use --html FILE.html or --onnx FILE.onnx"
    assert run_error(["gru.ckpt"]) == message
    write_model(Path("a.ckpt"), NETWORK)
    exists = "the file already exists; use --force to replace it"
    assert run_error(["a.ckpt", "--html=a.ckpt"]) == f"a.ckpt: {exists}"
    reason = "a.ckpt has no calibration, because no names were held out for validation"
    message = f"--prior corpus: {reason}; omit --prior"
    assert run_error(["a.ckpt", "--html=a.html", "--prior=corpus"]) == message
    content = Path("a.ckpt").read_bytes()
    # A copy may have been interrupted.
    Path("b.ckpt").write_bytes(content[: len(content) // 2])
    assert run_error(["b.ckpt", "--html=a.html"]) == "b.ckpt: not a checkpoint, or a damaged one"
    message = "no finished run in outputs/; train a model first, or use --checkpoint"
    assert run_error(["--html=a.html"]) == message
    assert "No such file" in run_error(["nowhere.ckpt", "--html=a.html"])
    # Nothing was written, because all errors are detected before.
    assert list(Path().glob("a.*")) == [Path("a.ckpt")]
    Path("a.html").touch()
    Path("a.onnx").touch()
    assert run_error(["a.ckpt", "--onnx=a.onnx"]) == f"a.onnx: {exists}"
    assert run_export(["a.ckpt", "--html=a.html", "--onnx=a.onnx", "--force"]) == 0
    assert Path("a.html").stat().st_size > 10_000
    assert Path("a.onnx").stat().st_size > 1000
    capsys.readouterr()
    # This simulates an environment without the extra, even if the package was imported before.
    monkeypatch.delitem(sys.modules, "src.export.onnx_graph")
    monkeypatch.setitem(sys.modules, "onnx", None)
    message = "--onnx requires an extra; run pip install -e '.[export]'"
    assert run_error(["a.ckpt", "--onnx=b"]) == message


CORPUS_ALPHABET = Alphabet(
    "corpus", "".join(sorted("абвЖИяáéabcdeijlns O'")) + UNKNOWN_SYMBOL, "lower", True
)
CHINESE_SYMBOLS = "".join(chr(code_point) for code_point in range(0x4E00, 0x4F00))
LARGE_ALPHABET = Alphabet(
    "corpus", "".join(sorted(ASCII_SYMBOLS + CHINESE_SYMBOLS)) + UNKNOWN_SYMBOL
)
WITH_CORPUS_ALPHABET = {"alphabet": CORPUS_ALPHABET.to_dict()}
WITH_LARGE_ALPHABET = {"alphabet": LARGE_ALPHABET.to_dict()}
DEEP: dict[str, Any] = {"bidirectional": True, "layers": 2}
ONE_HOT: dict[str, Any] = {"bidirectional": False, "embedding": 0}


def export_session(file: Path, prior: str) -> onnxruntime.InferenceSession:
    """Export the model of a checkpoint, and load the graph in onnxruntime."""
    assert run_export([str(file), f"--onnx={file}.onnx", f"--prior={prior}", "--force"]) == 0
    onnx.checker.check_model(f"{file}.onnx", full_check=True)
    return onnxruntime.InferenceSession(f"{file}.onnx")


def read_metadata(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """Return the metadata of a graph as plain values."""
    metadata = session.get_modelmeta().custom_metadata_map
    return {name: json.loads(value) for name, value in metadata.items()}


def run_graph(
    session: onnxruntime.InferenceSession, names: list[str], padding: int
) -> NDArray[np.float32]:
    """Return the probabilities of normalized names.

    A symbol that is not in the alphabet has the letter index -1, which is the last one.
    """
    symbols = read_metadata(session)["letters"]["symbols"]
    lengths = np.array([len(name) for name in names])
    # The graph must ignore the letters behind the end of a name, whatever their indices are.
    letters = np.full((len(names), lengths.max() + 2), padding)
    for row, name in zip(letters, names, strict=True):
        row[: len(name)] = [symbols.find(letter) for letter in name]
    probabilities: NDArray[np.float32]
    (probabilities,) = session.run(None, {"letters": letters, "lengths": lengths})
    return probabilities


EXPORTED_NETWORKS = [
    NETWORK,
    NETWORK | WITH_CORPUS_ALPHABET | {"train_prior": [0.2, 0.3, 0.5]},
    GRU_NETWORK | WITH_CORPUS_ALPHABET | {"train_prior": [0.2, 0.3, 0.5]},
    GRU_NETWORK | WITH_LARGE_ALPHABET | {"layers": 2, "pooling": "all"},
]
for cell in LAYER_CLASSES:
    cell_network = GRU_NETWORK | {"cell": cell}
    EXPORTED_NETWORKS.append(cell_network | ONE_HOT)
    EXPORTED_NETWORKS.append(cell_network | DEEP)
    EXPORTED_NETWORKS.append(cell_network | {"pooling": "all"})


@pytest.mark.parametrize("network", EXPORTED_NETWORKS)
def test_onnx_graph_gives_the_same_probabilities_as_predict(
    network: dict[str, Any], tmp_path: Path
) -> None:
    file = write_model(tmp_path / "a.ckpt", network, calibration=CALIBRATION)
    model = load_model(file, "corpus")
    session = export_session(file, "corpus")
    included_names: list[str] = []
    for category_names in read_corpus(ROOT / "data/names").values():
        included_names += category_names
    # One name in twenty is enough to contain all letters of the corpus.
    texts = ["a"] + NAMES + included_names[::20]
    names = [name for name in map(model.alphabet.normalize, texts) if name]
    assert len(names) > 1000
    assert {1, MAX_NAME_LENGTH} <= {len(name) for name in names}
    expected = model.predict_probabilities(names).numpy()
    # The comparison would prove little if all names had nearly the same probabilities.
    assert expected.std(axis=0).max() > 0.02
    probabilities = run_graph(session, names, padding=-1)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5, rtol=0)
    some_names = names[:20] + ["x" * MAX_NAME_LENGTH]
    one_by_one = np.concatenate([run_graph(session, [name], padding=0) for name in some_names])
    np.testing.assert_allclose(
        one_by_one, model.predict_probabilities(some_names), atol=1e-5, rtol=0
    )


def test_onnx_metadata(tmp_path: Path) -> None:
    network = NETWORK | {"alphabet": CORPUS_ALPHABET.to_dict(), "train_prior": [0.2, 0.3, 0.5]}
    file = write_model(tmp_path / "a.ckpt", network, calibration=CALIBRATION)
    session = export_session(file, "uniform")
    metadata = read_metadata(session)
    # A program needs the alphabet to convert letters to indices.
    assert Alphabet.from_dict(metadata["letters"]) == CORPUS_ALPHABET
    assert metadata["categories"] == ["A", "B", "C"]
    assert metadata["prior"] == "uniform"
    assert metadata["longest"] == 200
    assert metadata["about"] == CHECKPOINT_SUMMARY.replace("ascii", "corpus")
    assert str(tmp_path) not in json.dumps(metadata)
    uniform = run_graph(session, ["lisa"], padding=0)
    offsets = metadata["priors"]
    # A program can compute the probabilities under all priors from those under one of them.
    for prior in PRIORS:
        scores = uniform * np.exp(np.subtract(offsets[prior], offsets["uniform"]))
        expected = load_model(file, prior).predict_probabilities(["lisa"])
        np.testing.assert_allclose(scores / scores.sum(), expected, atol=1e-6)

    write_model(file, network)
    metadata = read_metadata(export_session(file, "tempered"))
    assert metadata["prior"] == "as trained"
    log_train_prior: Any = load_model(file).network.log_train_prior
    assert metadata["priors"] == {"as trained": log_train_prior.tolist()}


BROWSER_SCRIPT = """
<script>
  const texts = element => [...element.children].map(child => child.textContent);
  const answer = (name, prior) =>
    runNetwork(splitLetters(name)).slice(-1).map(step => computeProbabilities(step.scores, prior));
  const results = {
    examples: texts($("examples")),
    first: $("name").value,
    answers: ALL_NAMES.map(name =>
      [splitLetters(name).join(""), Object.keys(model.priors).map(prior => answer(name, prior))]),
  };
  setName(UNREADABLE_NAME);
  results.message = $("message").textContent;
  setName("1");
  results.nothing = [$("message").textContent, $("letters").children.length];
  setName("a".repeat(201));
  results.tooLong = [$("message").textContent, $("letters").children.length];
  setName("aaaaaaaaa");
  results.long = $("message").textContent;
  setName("O'Neill");
  results.prefixes = [...$("prefixes").children].map(texts);
  results.prediction = $("prediction").textContent;
  $("letters").dispatchEvent(new KeyboardEvent("keydown", {key: "Home"}));
  results.bars = [...$("bars").children].map(texts);
  results.highlighted = $("one-hot").querySelector(".is-current").textContent;
  frameElement.nextSibling.textContent = JSON.stringify(results);
</script>
"""


@pytest.fixture(scope="module")
def browser_results(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[TrainedModel, dict[str, Any]]]:
    """Models, each with what its page computes and shows in a browser."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("there is no chromium")
    folder = tmp_path_factory.mktemp("pages")
    networks: list[dict[str, Any]] = [
        NETWORK | {"alphabet": Alphabet(case_style="capitalised").to_dict()},
        NETWORK | {"alphabet": Alphabet("tutorial").to_dict(), "train_prior": [0.2, 0.3, 0.5]},
        NETWORK | WITH_CORPUS_ALPHABET,
    ]
    calibrations = [CALIBRATION, None, CALIBRATION]
    code = BROWSER_SCRIPT.replace("UNREADABLE_NAME", json.dumps(UNREADABLE_NAME))
    code = code.replace("ALL_NAMES", json.dumps(NAMES))
    files, frames = [], ""
    for i, (network, calibration) in enumerate(zip(networks, calibrations, strict=True)):
        entries = {} if calibration is None else {"calibration": calibration}
        files.append(write_model(folder / f"{i}.ckpt", network, **entries))
        assert run_export([str(files[i]), f"--html={folder / 'see.html'}", "--force"]) == 0
        page = (folder / "see.html").read_text(encoding="utf-8").replace("</html>", code)
        frames += f'<iframe srcdoc="{html.escape(page)}"></iframe><pre></pre>'
    (folder / "all.html").write_text(f"<meta charset=utf-8><body>{frames}", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'user'}"]
    command = [browser] + options + ["--dump-dom", (folder / "all.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout.decode()
    results = [json.loads(html.unescape(text)) for text in re.findall("<pre>(.*?)</pre>", dom)]
    return list(zip(map(load_model, files), results, strict=True))


def test_page_gives_the_same_probabilities_as_predict(
    browser_results: list[tuple[TrainedModel, dict[str, Any]]],
) -> None:
    for model, results in browser_results:
        assert [name for name, _ in results["answers"]] == list(
            map(model.alphabet.normalize, NAMES)
        )
        for i, prior in enumerate(PRIORS if model.calibration else [DEFAULT_PRIOR]):
            expected = load_model(model.path, prior).predict_probabilities(NAMES).numpy()
            rows = [priors[i][0] if priors[i] else [None] * 3 for _, priors in results["answers"]]
            probabilities = np.array(rows, dtype=float)  # JSON has no NaN: it is None
            np.testing.assert_allclose(probabilities, expected, atol=1e-5, rtol=0)
            assert np.isfinite(probabilities).all(axis=1).sum() >= 50
            assert np.nanstd(probabilities, axis=0).max() > 0.05


def test_page_shows_messages_probabilities_and_letters(
    browser_results: list[tuple[TrainedModel, dict[str, Any]]],
) -> None:
    messages = [results["message"] for _, results in browser_results]
    hint = "Try the Latin spelling of the name."
    assert messages[:2] == [f"Ignored, not in the alphabet: 王 3. {hint}"] * 2
    assert messages[2] == "Ignored, not in the alphabet: 3. Not seen in training: 王."
    for model, results in browser_results:
        problem = "Ignored, not in the alphabet: 1. There is no letter to read."
        assert results["nothing"] == [problem, 0]
        problem = "The name is too long: 201 letters, at most 200 are allowed."
        assert results["tooLong"] == [problem, 0]
        problem = "The name is longer than any training name (8 letters)"
        assert results["long"] == f"{problem}, so the prediction is unreliable."
        prefixes, probabilities = model.prefix_probabilities("O'Neill")
        assert results["prefixes"] == [
            [prefix, *(f"{category:<11} {f'{100 * p:.1f}%':>6}" for category, p in answer)]
            for prefix, answer in zip(prefixes, model.top_k(probabilities, 3), strict=True)
        ]
        (first, first_p), (second, second_p), _ = model.top_k(probabilities, 3)[-1]
        prediction = f"{first} {100 * first_p:.0f}%"
        if first_p < 0.5:
            prediction = f"Not sure: {prediction}, {second} {100 * second_p:.0f}%"
        assert results["prediction"] == prediction
        ranking = model.top_k(probabilities, 3)[0]
        assert results["bars"] == [[category, f"{100 * p:.1f}%"] for category, p in ranking]
        highlighted = prefixes[0] if prefixes[0] in model.alphabet.symbols else "…"
        assert results["highlighted"] == highlighted


def test_page_starts_with_an_example_that_it_can_read(
    browser_results: list[tuple[TrainedModel, dict[str, Any]]],
) -> None:
    examples = ["Kovalenko", "O'Neill", "Nguyen", "Kowalczyk", "Tanaka", "Garcia"]
    for model, results in browser_results:
        readable = []
        for name in examples:
            if set(model.alphabet.normalize(name)) <= set(model.alphabet.symbols):
                readable.append(name)
        assert results["examples"] == ["Try"] + readable
        assert results["first"] == (readable[0] if readable else "")
