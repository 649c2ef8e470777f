import codecs
import csv
import errno
import io
import json
import os
import pty
import re
import shlex
import signal
import sys
from contextlib import suppress
from itertools import chain
from pathlib import Path

import matplotlib.image
import pytest
import torch

from src import predict
from src.data.alphabet import Alphabet
from src.inference.standard_input import MAX_NAMES_AT_ONCE, read_piped_names
from src.inference.trained_model import load_model
from src.models.registry import PRIORS
from tests.helpers import (
    CALIBRATION,
    GRU_NETWORK,
    NETWORK,
    PRECISION_CURVE,
    ROOT,
    make_checkpoint,
    write_checkpoint,
)
from tests.processes import Programs, wait_until

Captured = pytest.CaptureFixture[str]

MODEL_LINE = "Model: a.ckpt (validation balanced accuracy 0.625)\n"
"""What the program prints to stderr before it classifies names with `a.ckpt`."""
PROMPT = "Surname: "
PROMPT_HINT = 'Type a surname, or "quit" to end.\n'
NO_LETTERS = "no letters of the alphabet"
"""The reason for a name without any letter that the model can read."""
ADDED_COLUMNS = ["category_1", "probability_1", "reason"]
"""The columns that `--csv --top-k=1` adds."""
PREDICT = ["src.predict", "--checkpoint=a.ckpt"]
NEW_INTERPRETER = [sys.executable, "-m"] + PREDICT


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a checkpoint `a.ckpt`."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "a.ckpt")
    return tmp_path


def run_predict(arguments: list[str]) -> int:
    """Run the program and return its exit status."""
    try:
        predict.main(["--checkpoint=a.ckpt"] + arguments)
    except SystemExit as exit_request:
        return int(exit_request.code or 0)
    return 0


def read_error(capsys: Captured, arguments: list[str]) -> str:
    """Run the program, assert that it fails with a single line and status 2; return the line."""
    assert run_predict(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if not line.startswith("Model: ")] == lines[-1:]
    return lines[-1]


def set_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes, is_terminal: bool = False) -> None:
    """Replace standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    # At a terminal, the program prompts for names.
    monkeypatch.setattr(sys.stdin, "isatty", lambda: is_terminal)


def test_a_name_in_a_single_case_causes_one_warning_with_the_tutorial_alphabet(
    here: Path, capsys: Captured
) -> None:
    alphabet = Alphabet("tutorial").to_dict()
    torch.save(make_checkpoint(NETWORK | {"alphabet": alphabet}), here / "a.ckpt")
    assert run_predict(["--checkpoint=a.ckpt", "Smith", "SMITH", "lee"]) == 0
    warnings = capsys.readouterr().err.splitlines()[1:]
    # Smith is written as in the corpus, and the warning about lee would be the same.
    assert len(warnings) == 1
    reason = "with letters=tutorial, the case of a name matters"
    assert warnings[0] == f"SMITH: {reason}; write it like Smith"
    write_checkpoint(here / "a.ckpt")
    assert run_predict(["--checkpoint=a.ckpt", "SMITH"]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_names(here: Path, capsys: Captured) -> None:
    assert run_predict(["--top-k=2", "O'Neill", "Иванов", "王", "123"]) == 0
    # The description of the model goes to the error stream, so that a pipe has only answers.
    stdout, stderr = capsys.readouterr()
    assert stderr == MODEL_LINE
    lines = stdout.splitlines()
    expected = (
        load_model(here / "a.ckpt").predict_probabilities(["O'Neill"])[0].sort(descending=True)
    )
    highest = f"{expected.values[0]:.3f}"
    first_category = "ABC"[expected.indices[0]]
    second_category = "ABC"[expected.indices[1]]
    second = f"{expected.values[1]:.3f}"
    assert lines[0].split() == ["O'Neill", first_category, highest, second_category, second]
    # The columns are aligned, even if a letter is two columns wide.
    assert lines[0].index(highest) == lines[1].index(lines[1].split()[2])
    assert lines[2].startswith("王       ")
    assert lines[3] == f"123      {NO_LETTERS}"


def test_top_k(here: Path, capsys: Captured) -> None:
    assert run_predict(["--top-k=99", "Jones"]) == 0
    # A name and three pairs of a category and a probability are printed.
    assert len(capsys.readouterr().out.split()) == 1 + 2 * 3
    line = read_error(capsys, ["--top-k=0", "Jones"])
    assert line == "python -m src.predict: --top-k 0: must be at least 1"


def test_json(here: Path, capsys: Captured) -> None:
    assert run_predict(["--json", "Müller", "1", "\udcff"]) == 0
    stdout = capsys.readouterr().out
    müller, digit, surrogate = map(json.loads, stdout.splitlines())
    assert '{"name": "Müller", ' in stdout
    # Python represents invalid UTF-8 in arguments by surrogates.
    assert surrogate["name"] == "\udcff"
    expected = load_model(here / "a.ckpt").predict_probabilities(["Müller"])[0]
    assert müller["name"] == "Müller"
    actual = {item["category"]: item["probability"] for item in müller["predictions"]}
    assert actual == dict(zip("ABC", expected.tolist(), strict=True))
    assert digit == {"name": "1", "predictions": [], "reason": NO_LETTERS}


def test_explain(here: Path, capsys: Captured) -> None:
    assert run_predict(["--explain", "--top-k=1", "Öz", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["Öz", "O", "Oz", "1"]
    assert run_predict(["--explain", "--json", "Öz"]) == 0
    (answer,) = map(json.loads, capsys.readouterr().out.splitlines())
    # The name is read as `Oz` after normalization.
    assert [step["prefix"] for step in answer["prefixes"]] == ["O", "Oz"]
    expected = load_model(here / "a.ckpt").predict_probabilities(["O", "Oz"]).max(dim=1).values
    actual = [step["predictions"][0]["probability"] for step in answer["prefixes"]]
    assert actual == pytest.approx(expected.tolist(), abs=1e-6)
    assert run_predict(["--explain", "--threshold=0.99", "Öz"]) == 0
    assert capsys.readouterr().out == "Öz\n  O   unknown: below 0.99\n  Oz  unknown: below 0.99\n"


def test_plot(here: Path, capsys: Captured) -> None:
    assert run_predict(["--explain", "Satoshi", "--plot=b.png"]) == 0
    # An empty picture would have no variation.
    assert matplotlib.image.imread(here / "b.png").std() > 0.01
    capsys.readouterr()
    line = read_error(capsys, ["--explain", "Sato", "--plot=b.png"])
    assert line.endswith(": b.png: the file already exists; use --force to replace it")
    for arguments in (["--explain", "a", "b"], ["a"]):
        line = read_error(capsys, arguments + ["--plot=c.png"])
        assert line.endswith(": --plot requires --explain and exactly one NAME")
    line = read_error(capsys, ["--explain", "1", "--plot=c.png"])
    assert line.endswith(f": --plot: 1: {NO_LETTERS}")
    assert not (here / "c.png").exists()


def test_piped_names(here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    # Windows programs write a byte-order mark and CRLF.
    set_stdin(monkeypatch, "\ufeffMüller\r\n\nO'Neill".encode())
    assert run_predict(["--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # An empty line has an answer, too, so that lines of input and output correspond.
    assert [answer["name"] for answer in answers] == ["Müller", "", "O'Neill"]
    assert answers[1]["reason"] == NO_LETTERS
    set_stdin(monkeypatch, b"")
    assert run_predict([]) == 0
    assert capsys.readouterr().out == ""
    # The message names the first line that cannot be decoded.
    set_stdin(monkeypatch, b"Lee\n\nJones\nM\xfcller\nO\xdf\n")
    assert read_error(capsys, []).endswith("standard input:4: not utf-8; set --encoding")
    set_stdin(monkeypatch, b"Jones\n")
    message = read_error(capsys, ["--encoding=utf-16"])
    assert message.endswith(
        "standard input: the text after line 0 is not valid utf-16; set --encoding"
    )
    set_stdin(monkeypatch, b"M\xfcller\n")
    assert run_predict(["--encoding=latin-1"]) == 0
    assert capsys.readouterr().out.startswith("Müller")


def test_piped_names_are_read_in_batches(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"name {number}" for number in range(2 * MAX_NAMES_AT_ONCE + 3)]
    (here / "names.txt").write_text("\n".join(names))
    with (here / "names.txt").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        batches = list(read_piped_names("utf-8"))
    assert [len(batch) for batch in batches] == [MAX_NAMES_AT_ONCE, MAX_NAMES_AT_ONCE, 3]
    assert list(chain.from_iterable(batches)) == names


@pytest.mark.parametrize(
    "first", ["surname", "Last_Name\r", "last name", "\ufeffNACHNAME", "Name "]
)
def test_a_header_in_a_pipe_causes_a_warning(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    # Only the first line can be a header.
    for content, n_warnings in ((f"{first}\nsurname", 1), (first, 1), (f"Jones\n{first}\n", 0)):
        set_stdin(monkeypatch, content.encode())
        assert run_predict([]) == 0
        stdout, stderr = capsys.readouterr()
        assert stderr.count("' looks like a header, but is classified as a name\n") == n_warnings
        assert len(stdout.splitlines()) == len(content.splitlines())  # it may be a name


def test_a_prior_applies_to_all_kinds_of_output(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share of A in the corpus is 0.9: A is more likely, the stronger this prior is."""
    write_checkpoint(here / "a.ckpt", calibration=CALIBRATION)
    (here / "in.csv").write_text("surname\nJones\n")
    probability_of_a: dict[str, float] = {}
    for prior in PRIORS:
        # The default prior is `tempered`.
        options = [f"--prior={prior}"] if prior != "tempered" else []  # the default
        row = load_model(here / "a.ckpt", prior).predict_probabilities(["Jones"])[0]
        expected = row[0].item()
        probability_of_a[prior] = expected

        assert run_predict(["Jones"] + options) == 0
        # Categories are sorted by probability, so the position of A depends on the prior.
        cells = capsys.readouterr().out.split()
        assert float(cells[cells.index("A") + 1]) == pytest.approx(expected, abs=6e-4)
        for is_terminal in (False, True):
            set_stdin(monkeypatch, b"Jones\n", is_terminal)
            assert run_predict(["--json"] + options) == 0
            line = capsys.readouterr().out.removeprefix(PROMPT).splitlines()[0]
            predictions = json.loads(line)["predictions"]
            assert {p["category"]: p["probability"] for p in predictions}["A"] == expected
        assert run_predict(["--json", "--explain", "Jones", f"--plot={prior}.png"] + options) == 0
        predictions = json.loads(capsys.readouterr().out)["prefixes"][-1]["predictions"]
        actual = {p["category"]: p["probability"] for p in predictions}
        assert actual["A"] == pytest.approx(expected, abs=1e-6)
        csv_options = ["--csv=in.csv", "--column=surname", f"--out={prior}.csv"]
        assert run_predict(csv_options + options) == 0
        (line,) = (here / f"{prior}.csv").read_text().splitlines()[1:]
        cells = line.split(",")
        assert cells[cells.index("A") + 1] == f"{expected:.6f}"
    assert probability_of_a["uniform"] < probability_of_a["tempered"] < probability_of_a["corpus"]
    assert (here / "uniform.png").read_bytes() != (here / "corpus.png").read_bytes()


def test_a_prior_that_the_checkpoint_does_not_support(here: Path, capsys: Captured) -> None:
    assert run_predict(["--prior=tempered", "Jones"]) == 0
    # Without a calibration, the probabilities are those of the network.
    as_trained = capsys.readouterr().out
    assert run_predict(["Jones"]) == 0
    assert capsys.readouterr().out == as_trained
    line = read_error(capsys, ["--prior=corpus", "Jones"])
    reason = "a.ckpt has no calibration, because no names were held out for validation"
    assert line == f"python -m src.predict: --prior corpus: {reason}; omit --prior"
    assert run_predict(["--prior=mine", "Jones"]) == 2
    assert "invalid choice: 'mine'" in capsys.readouterr().err


PAIR = re.compile(r"  (\w[\w, ]*?) +(\d\.\d+)")
"""A category and its probability in a line."""


def predict_jones(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> list[dict[str, str]]:
    """Classify `Jones` with all kinds of input and output except for --explain.

    Returns:
        The answer of each, with probabilities by category or a reason, as printed.
    """
    (here / "in.csv").write_text("surname\nJones\n")
    answers: list[dict[str, str]] = []
    for arguments, is_terminal in ((["Jones"], False), ([], False), ([], True)):
        for format_options in ([], ["--json"]):
            set_stdin(monkeypatch, b"Jones\n", is_terminal)
            assert run_predict(arguments + options + format_options) == 0
            line = capsys.readouterr().out.removeprefix(PROMPT).splitlines()[0]
            if format_options:
                values = json.loads(line)
                answer = {p["category"]: f"{p['probability']:.3f}" for p in values["predictions"]}
                if "reason" in values:
                    answer["reason"] = values["reason"]
            else:
                name, *cells = re.split("  +", line)
                assert name == "Jones"
                answer = dict(PAIR.findall(line)) or {"reason": cells[0]}
            answers.append(answer)
    assert run_predict(["--csv=in.csv", "--out=out.csv", "--force"] + options) == 0
    capsys.readouterr()
    with (here / "out.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header[-1] == "reason"
    pairs = zip(row[1:-1:2], row[2:-1:2], strict=True)
    answer = {category: f"{float(value):.3f}" for category, value in pairs if category}
    if row[-1]:
        answer["reason"] = row[-1]
    return answers + [answer]


def test_among_applies_to_all_kinds_of_output(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = NETWORK | {"categories": ["A", "B", "Congo, DR"]}
    torch.save(make_checkpoint(network) | {"calibration": CALIBRATION}, here / "a.ckpt")
    # The probabilities of the selected categories are divided by their sum.
    p = load_model(here / "a.ckpt").predict_probabilities(["Jones"])[0]
    expected = {
        "A": f"{p[0] / (p[0] + p[2]):.3f}",
        "Congo, DR": f"{p[2] / (p[0] + p[2]):.3f}",
    }
    # A category that contains a comma is quoted, as in a CSV file.
    among = '--among="Congo, DR", A'
    assert predict_jones(here, capsys, monkeypatch, [among]) == [expected] * 7
    assert run_predict(["--json", "--explain", "Jones", "--plot=b.png", among]) == 0
    predictions = json.loads(capsys.readouterr().out)["prefixes"][-1]["predictions"]
    assert {p["category"]: f"{p['probability']:.3f}" for p in predictions} == expected
    assert matplotlib.image.imread(here / "b.png").std() > 0.01


@pytest.mark.parametrize(
    ("among", "message"),
    [
        ("Alpha,beta", "--among: unknown category 'beta'; did you mean 'Beta'?"),
        ("Alpha,Bet", "--among: unknown category 'Bet'; did you mean 'Beta'?"),
        ("Beta,xyz", "unknown category 'xyz'; choose from 'Alpha', 'Beta', 'Gamma'"),
        ("Beta,", "unknown category ''; choose from 'Alpha', 'Beta', 'Gamma'"),
        ("Beta", "--among: at least two categories are required"),
        ("Beta, Alpha ,Beta", "--among: 'Beta' occurs more than once"),
        ("", "--among: at least two categories are required"),
    ],
)
def test_among_with_invalid_categories(
    here: Path, capsys: Captured, among: str, message: str
) -> None:
    categories = {"categories": ["Alpha", "Beta", "Gamma"]}
    torch.save(make_checkpoint(NETWORK | categories), here / "a.ckpt")
    assert read_error(capsys, [f"--among={among}", "Jones"]).endswith(message)


def test_a_threshold_applies_to_all_kinds_of_output(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(
        here / "a.ckpt", calibration=CALIBRATION | {"curves": {"tempered": PRECISION_CURVE}}
    )
    # The thresholds of the test are below and above this probability.
    highest = load_model(here / "a.ckpt").predict_probabilities(["Jones"])[0].max().item()
    assert 0.5 < highest < 0.75
    answers = predict_jones(here, capsys, monkeypatch, [])
    assert predict_jones(here, capsys, monkeypatch, [f"--threshold={highest}"]) == answers
    assert predict_jones(here, capsys, monkeypatch, ["--precision=0.9"]) == answers
    unknown = {"reason": "unknown: below 0.75"}
    assert predict_jones(here, capsys, monkeypatch, ["--threshold=0.75"]) == [unknown] * 7
    assert predict_jones(here, capsys, monkeypatch, ["--precision=0.93"]) == [unknown] * 7
    assert run_predict(["--precision=0.9", "1", "Jones"]) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout.splitlines()[0] == f"1      {NO_LETTERS}"
    summary = "coverage 75.0% and precision 90.0% on the validation names"
    assert stderr == f"{MODEL_LINE}Threshold: 0.5 ({summary})\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold=2"], "--threshold 2: must be between 0 and 1"),
        (["--threshold=-0.5"], "--threshold -0.5: must be between 0 and 1"),
        (["--threshold=nan"], "--threshold nan: must be between 0 and 1"),
        (["--precision=1"], "--precision 1: must be between 0 and 1"),
        (
            ["--precision=0.99"],
            "--precision 0.99: the highest precision on the validation names is 0.937",
        ),
        (
            ["--precision=0.9", "--prior=corpus"],
            "--precision: a.ckpt has no precision curve; use --threshold instead",
        ),
        (
            ["--precision=0.9", "--among=A,B"],
            "--precision: precision curves are not available with --among; use --threshold instead",
        ),
    ],
)
def test_an_invalid_threshold_or_precision(
    here: Path, capsys: Captured, arguments: list[str], message: str
) -> None:
    write_checkpoint(
        here / "a.ckpt", calibration=CALIBRATION | {"curves": {"tempered": PRECISION_CURVE}}
    )
    assert read_error(capsys, arguments + ["Jones"]).endswith(f": {message}")


def test_hostile_names(here: Path, capsys: Captured) -> None:
    assert run_predict(["a\x1b[2J\x00b", "x" * 100_000, "\udcff", "-", "\u0301"]) == 0
    first, second, *others = capsys.readouterr().out.splitlines()
    # Control characters must not reach the terminal.
    assert first.startswith("a\ufffd[2J\ufffdb ")
    # The letter `a` remains, so there is a prediction.
    assert first.split()[1] in "ABC"
    assert second.endswith("x  more than 200 letters")
    assert [line.rpartition("  ")[2] for line in others] == [NO_LETTERS] * 3


CSV = 'id,surname,note\r\n1,Müller,"a, b"\r\n2,123,\r\n\r\n3,"O\'\nNeill",x\r\n'


def predict_csv(
    here: Path, capsys: Captured, content: bytes, arguments: list[str]
) -> list[list[str]]:
    """Classify the column `surname` of a CSV file, and return the cells of `out.csv`."""
    (here / "in.csv").write_bytes(content)
    files = ["--csv=in.csv", "--column=surname", "--out=out.csv", "--force"]
    assert run_predict(files + arguments) == 0
    assert capsys.readouterr().out == ""
    assert {path.name for path in here.iterdir()} == {"a.ckpt", "in.csv", "out.csv"}
    # The output has a byte-order mark if the input has one.
    encoding = "utf-8-sig" if content.startswith(codecs.BOM_UTF8) else "utf-8"
    for argument in arguments:
        if argument.startswith("--encoding="):
            encoding = argument.removeprefix("--encoding=")
    with (here / "out.csv").open(encoding=encoding, newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_csv(here: Path, capsys: Captured, encoding: str) -> None:
    # UTF-8 is the default, with or without a byte-order mark.
    options = [] if "utf-8" in encoding else [f"--encoding={encoding}"]
    header, *rows = predict_csv(here, capsys, CSV.encode(encoding), ["--top-k=2"] + options)
    added_columns = ["category_1", "probability_1", "category_2", "probability_2", "reason"]
    assert header == ["id", "surname", "note"] + added_columns
    assert [row[:3] for row in rows] == [
        ["1", "Müller", "a, b"],
        ["2", "123", ""],
        ["3", "O'\nNeill", "x"],
    ]
    model = load_model(here / "a.ckpt")
    for row in (rows[0], rows[2]):
        ((first, second),) = model.top_k(model.predict_probabilities([row[1]]), 2)
        assert row[3:] == [first[0], f"{first[1]:.6f}", second[0], f"{second[1]:.6f}", ""]
    assert rows[1][3:] == ["", "", "", "", NO_LETTERS]
    has_mark = (here / "out.csv").read_bytes().startswith(codecs.BOM_UTF8)
    assert has_mark == (encoding == "utf-8-sig")  # Excel recognizes UTF-8 by the byte-order mark


@pytest.mark.parametrize(
    ("delimiter", "options", "preamble", "text"),
    [
        (",", [], "", 'id,surname,note\n1,Lee,"a; b"\n\n2,"Le,e",5" wide\n'),
        (";", [], "", 'id;surname;"a,b,c"\r\n1;"Lee";"say ""so"""\r\n\r\n2;Jones;'),
        ("\t", [], "", 'x;y\t"surname"\tnote\r1\t"O\'\nNeill"\t"a\rb"\r'),
        ("|", [], "", "surname|a,b,c,d\nLee|\n"),  # fewer columns, but one is called `surname`
        (";", [], "sep=;\r\n", "id,x;surname,y;surname\r\n1;2;Lee\r\n"),
        (",", [], '"SEP=,"\n', "id,surname\n1,Lee\n"),
        ("|", ["--delimiter=|"], "sep=;\n", "id|surname\n;|Lee\n"),
        (":", ["--delimiter=:"], "", "id:surname\na,b,c:Lee\n"),
        ("\t", ["--delimiter=tab"], "", "a,b\tsurname\n,\tLee\n"),
        ("\t", ["--delimiter=\\t"], "", "a,b\tsurname\n,\tLee\n"),
    ],
)
def test_csv_keeps_cells_and_what_precedes_the_header(
    here: Path, capsys: Captured, delimiter: str, options: list[str], preamble: str, text: str
) -> None:
    """Only cells are added; blank lines are left out."""
    predict_csv(here, capsys, f"\ufeff{preamble}{text}".encode(), ["--top-k=1"] + options)
    output = (here / "out.csv").read_bytes().decode()
    assert output.startswith(f"\ufeff{preamble}")
    output_lines = io.StringIO(output.removeprefix(f"\ufeff{preamble}"), newline="")
    header, *rows = csv.reader(output_lines, delimiter=delimiter, strict=True)
    input_lines = io.StringIO(text, newline="")
    # Blank lines are left out.
    expected_header, *expected_rows = filter(None, csv.reader(input_lines, delimiter=delimiter))
    assert header == expected_header + ADDED_COLUMNS
    assert [row[:-3] for row in rows] == expected_rows
    model = load_model(here / "a.ckpt")
    for row in rows:
        name = row[header.index("surname")]
        ((prediction,),) = model.top_k(model.predict_probabilities([name]), 1)
        assert row[-3:] == [prediction.category, f"{prediction.probability:.6f}", ""]


@pytest.mark.parametrize(
    ("header", "options"),
    [
        ("id,Surname", ["--column=Surname"]),
        ("SURNAME,surname", ["--column=surname"]),
        ("id, SurName ", ["--column=surname"]),
        ("id,STRASSE", ["--column= Straße"]),
        ("id,surname", ["--column=2"]),
        ("2,1", ["--column=1"]),  # a name takes precedence over a number
        ("surname,surname", ["--column=2"]),
        ('id,""', ["--column="]),
    ],
)
def test_a_column_by_name_or_number(
    here: Path, capsys: Captured, header: str, options: list[str]
) -> None:
    (here / "in.csv").write_text(f"{header}\n7,Lee\n", encoding="utf-8")
    assert run_predict(["--csv=in.csv", "--out=-", "--top-k=1"] + options) == 0
    row = capsys.readouterr().out.splitlines()[1].split(",")
    model = load_model(here / "a.ckpt")
    (((category, probability),),) = model.top_k(model.predict_probabilities(["Lee"]), 1)
    assert row == ["7", "Lee", category, f"{probability:.6f}", ""]


def test_csv_through_pipes(here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a single column needs no --column."""
    set_stdin(monkeypatch, "Wer\r\nMüller\r\n\r\n".encode())
    assert run_predict(["--csv=-", "--out=-", "--top-k=1"]) == 0
    stdout = capsys.readouterr().out
    # The output has the encoding of the input.
    set_stdin(monkeypatch, "Wer\r\nMüller\r\n\r\n".encode("latin-1"))
    assert run_predict(["--csv=-", "--out=out.csv", "--top-k=1", "--encoding=latin-1"]) == 0
    assert (here / "out.csv").read_bytes() == stdout.encode("latin-1")
    header, row = stdout.splitlines(keepends=True)
    assert (header, row[:7]) == (f"Wer,{','.join(ADDED_COLUMNS)}\r\n", "Müller,")
    set_stdin(monkeypatch, b"a\nLee\n\nM\xfcller\n")
    line = read_error(capsys, ["--csv=-", "--out=-"])
    assert line.endswith("standard input:4: not utf-8; set --encoding")


def test_a_category_is_not_a_formula_in_a_spreadsheet(here: Path, capsys: Captured) -> None:
    """A spreadsheet must not evaluate formulas that come from a checkpoint."""
    categories = ["=1+1", "@SUM(1)", '+1;"x"', "-2", "x=1"]
    torch.save(make_checkpoint(NETWORK | {"categories": categories}), here / "a.ckpt")
    (here / "in.csv").write_text("id;surname\n=7;Jones\n")
    assert run_predict(["--csv=in.csv", "--column=2", "--out=out.csv", "--top-k=5"]) == 0
    with (here / "out.csv").open(newline="") as file:
        # The cells of the categories have an apostrophe, with which a spreadsheet reads them as
        # text.
        _, row = csv.reader(file, delimiter=";")
    assert row[:2] == ["=7", "Jones"]  # the cells of the user are kept
    assert sorted(row[2:-1:2]) == sorted(["'=1+1", "'@SUM(1)", '\'+1;"x"', "'-2", "x=1"])
    capsys.readouterr()
    assert run_predict(["--json", "Jones", "--top-k=5"]) == 0
    predictions = json.loads(capsys.readouterr().out)["predictions"]
    assert sorted(prediction["category"] for prediction in predictions) == sorted(categories)


def test_csv_of_many_rows_is_in_order(here: Path, capsys: Captured) -> None:
    names = [f"{'abcdefghij'[i % 10] * (i % 7 + 1)}" for i in range(2 * MAX_NAMES_AT_ONCE + 3)]
    content = "surname\n" + "\n".join(names) + "\n"
    _, *rows = predict_csv(here, capsys, content.encode(), ["--top-k=1"])
    assert [row[0] for row in rows] == names
    model = load_model(here / "a.ckpt")
    # There are only 70 different names, so each of them is classified once.
    expected = {
        name: model.top_k(model.predict_probabilities([name]), 1)[0][0] for name in set(names)
    }
    for name, category, probability, _ in rows:
        assert category == expected[name].category
        assert float(probability) == pytest.approx(expected[name].probability, abs=2e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"name,x\nJones,1\n",
            "has no column 'surname'; --column must be the name or number of one of: 'name', 'x'",
        ),
        (
            b"",
            "in.csv: the file is empty",
        ),
        (
            b"surname,x\nJones,1\nLee\n",
            "in.csv:3: the number of columns is 1, but the header has 2",
        ),
        (b"surname\nJones,1\n", "in.csv:2: the number of columns is 2, but the header has 1"),
        (b"surname\nLee\n\nM\xfcller\n" + 9999 * b"Lee\n", "in.csv:4: not utf-8; set --encoding"),
        (b'surname\n"a\r\n\xff"\n', "in.csv:3: not utf-8; set --encoding"),
        (b'surname,x\n1,"Jones\n2,Lee\n', "in.csv:2: unexpected end of data"),
        (
            b'surname,x\nLee,"\n"\nJones\n',
            "in.csv:4: the number of columns is 1, but the header has 2",
        ),
        (
            b"sep=;\nsurname;x\nJones\n",
            "in.csv:3: the number of columns is 1, but the header has 2",
        ),
        (b"Surname,SURNAME\nJones,Lee\n", "in.csv: has 2 columns 'surname'"),
        (b"surname,surname\nJones,Lee\n", "in.csv: has 2 columns 'surname'"),
        (
            b"surname,reason\nJones,1\n",
            "in.csv: already has a column 'reason'; rename or remove it",
        ),
    ],
)
def test_invalid_csv(here: Path, capsys: Captured, content: bytes, message: str) -> None:
    (here / "in.csv").write_bytes(content)
    line = read_error(capsys, ["--csv=in.csv", "--column=surname", "--out=out.csv"])
    assert message in line
    # There is no temporary file.
    assert {path.name for path in here.iterdir()} == {"a.ckpt", "in.csv"}


def test_csv_with_a_cell_of_any_length(here: Path, capsys: Captured) -> None:
    # The csv module has a limit of 131,072 letters, unless it is raised.
    cells = ["x" * 3_000_000, "x" * 201, "x" * 200, "1" * 131_000, "Lee" + "-" * 140_000]
    (here / "in.csv").write_text("\n".join(["surname"] + cells))
    assert run_predict(["--csv=in.csv", "--out=out.csv", "--top-k=1"]) == 0
    rows = [line.split(",") for line in (here / "out.csv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == cells
    assert [row[3] for row in rows] == [
        "more than 200 letters",
        "more than 200 letters",
        "",
        NO_LETTERS,
        "",
    ]


def test_csv_with_nul_bytes(here: Path, capsys: Captured) -> None:
    (here / "in.csv").write_bytes(b"surname\nJo\x00nes\n")
    status = run_predict(["--csv=in.csv", "--column=surname", "--out=out.csv"])
    # The csv module accepts NUL since Python 3.11.
    if sys.version_info >= (3, 11):
        assert status == 0
        assert (here / "out.csv").read_bytes().splitlines()[1].startswith(b"Jo\x00nes,")
    else:
        assert status == 2


def test_output_that_exists_or_cannot_be_written(here: Path, capsys: Captured) -> None:
    (here / "in.csv").write_text("surname\nMüller\n", encoding="utf-8")
    (here / "out.csv").write_text("precious")
    options = ["--csv=in.csv", "--column=surname"]
    assert read_error(capsys, options + ["--out=out.csv"]).endswith(
        ": out.csv: the file already exists; use --force to replace it"
    )
    # The file of the user is kept.
    assert (here / "out.csv").read_text() == "precious"
    (here / "folder").mkdir()
    for folder in ("folder", "."):
        line = read_error(capsys, options + [f"--out={folder}", "--force"])
        assert line.endswith(f": {folder}: not a regular file")
    assert "no/out.csv: No such file" in read_error(capsys, options + ["--out=no/out.csv"])
    assert "gone.csv" in read_error(capsys, ["--csv=gone.csv", "--column=x", "--out=new.csv"])
    assert not (here / "new.csv").exists()


def test_a_full_disk_leaves_no_temporary_file(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "in.csv").write_text("surname\nJones\n")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # The complete file is renamed at the end.
    monkeypatch.setattr(Path, "replace", fail)
    line = read_error(capsys, ["--csv=in.csv", "--column=surname", "--out=out.csv"])
    assert line.endswith("out.csv: No space left on device")
    assert {path.name for path in here.iterdir()} == {"a.ckpt", "in.csv"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--csv=in.csv"],
        ["--out=out.csv"],
        ["--column=x", "Jones"],
        ["--delimiter=x", "Jones"],
        ["--csv=in.csv", "--out=o.csv", "--delimiter=ab"],
        ["--csv=in.csv", "--column=x", "--out=o.csv", "Jones"],
        ["--csv=in.csv", "--column=x", "--out=o.csv", "--json"],
        ["--encoding=klingon", "Jones"],
        ["--encoding=hex", "Jones"],
        ["--checkpoint=nowhere.ckpt", "Jones"],
    ],
)
def test_invalid_options(here: Path, capsys: Captured, arguments: list[str]) -> None:
    read_error(capsys, arguments)


def test_the_prompt(here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    # The program asks again after each name and each empty line, until `quit` or the end of input.
    for content, n_prompts in ((b"Jones\n\nquit\nLee\n", 3), (b"Jones\n", 2), (b"", 1)):
        set_stdin(monkeypatch, content, is_terminal=True)
        assert run_predict([]) == 0
        stdout, stderr = capsys.readouterr()
        assert stderr == f"{MODEL_LINE}{PROMPT_HINT}"
        assert stdout.count(PROMPT) == n_prompts
        assert ("Jones  " in stdout) == bool(content)
        assert "Lee" not in stdout


def test_interrupt_at_the_prompt(here: Path, programs: Programs) -> None:
    """Ctrl-C is typed in the terminal that controls the process."""
    terminal, end = pty.openpty()
    with os.fdopen(end, "r") as stdin:
        process = programs.start(PREDICT, cwd=here, stdin=stdin)
    wait_until(lambda: process.stdout == PROMPT, process)
    # A Ctrl-C that arrives just before Python waits for input takes effect with the next one.
    while process.poll() is None:
        # Writing fails if the process has ended.
        with suppress(OSError):
            os.write(terminal, b"\x03")
        # The process gets time to end, because a Ctrl-C while Python shuts down would be reported.
        with suppress(TimeoutError):
            process.wait(5)
    os.close(terminal)
    assert process.result() == (0, process.stdout, f"{MODEL_LINE}{PROMPT_HINT}")


def test_closed_streams(here: Path, programs: Programs) -> None:
    """A file that the program opens does not replace a closed standard stream.

    This runs a new interpreter, because Python replaces closed streams when it starts.
    """
    script = shlex.join(NEW_INTERPRETER + ["--explain", "Jones", "--plot=a.png"])
    result = programs.run(["sh", "-c", f"{script} <&- >&- 2>&-"], cwd=here, is_forked=False)
    assert result.returncode == 0
    assert matplotlib.image.imread(here / "a.png").std() > 0.01


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_one_closed_stream(here: Path, monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    monkeypatch.setattr(sys, stream, None)
    assert run_predict(["Jones"]) == 0
    # The program leaves this to the end of its process.
    getattr(sys, stream).close()


def test_a_piped_name_is_answered_before_the_next_one_is_written(
    here: Path, programs: Programs
) -> None:
    """Another program can write a name and wait for the answer.

    This runs a new interpreter, because `PYTHONIOENCODING` is read when it starts.
    """
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    stdin, names = os.pipe()
    answers, stdout = os.pipe()
    with os.fdopen(stdin) as source, os.fdopen(stdout, "w") as target:
        process = programs.start(
            NEW_INTERPRETER + ["--json"],
            cwd=here,
            env=environment,
            stdin=source,
            stdout=target,
            is_forked=False,
        )
    with os.fdopen(answers, encoding="utf-8") as lines:
        with os.fdopen(names, "w", encoding="utf-8", buffering=1) as pipe:
            for name in ("Müller", "Lee"):
                pipe.write(f"{name}\n")
                assert json.loads(lines.readline())["name"] == name
        assert lines.read() == ""
    assert process.wait() == 0


def test_full_output(here: Path, programs: Programs) -> None:
    # Without a buffer, Python itself would report the error earlier.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        process = programs.start(PREDICT + ["Jones"], cwd=here, env=environment, stdout=full)
    result = process.result()
    assert result.returncode == 2
    assert result.stderr.splitlines()[1:] == ["python -m src.predict: No space left on device"]


def test_output_that_is_closed_early(here: Path, programs: Programs) -> None:
    """There is no error message, as in `python -m src.predict … | head -1`."""
    # The answers do not fit into the buffer of a pipe.
    names = "Jones\n" * 20_000
    reader, writer = os.pipe()
    with os.fdopen(reader) as output:
        with os.fdopen(writer, "w") as target:
            process = programs.start(PREDICT, cwd=here, stdin=names, stdout=target)
        assert output.readline().endswith("\n"), process.result()
    assert process.result().stderr == MODEL_LINE


def imported_modules(programs: Programs, code: str, modules: set[str], cwd: Path) -> str:
    """Run some code in a new interpreter, and return which of the modules it has imported."""
    code = f"import sys; {code}; sys.stderr.write(str({modules} & sys.modules.keys()))"
    result = programs.run([sys.executable, "-c", code], cwd=cwd, is_forked=False)
    assert result.returncode == 0, result.stderr
    return result.stderr.removeprefix(MODEL_LINE)


def test_options_are_checked_before_torch_is_imported(programs: Programs) -> None:
    code = "import src.predict, src.evaluate"
    modules = {"torch", "numpy", "lightning", "matplotlib"}
    assert imported_modules(programs, code, modules, cwd=ROOT) == "set()"


def test_prediction_imports_neither_lightning_nor_numba(here: Path, programs: Programs) -> None:
    code = "import src.predict; src.predict.main(['--checkpoint=a.ckpt', 'Jones'])"
    modules = {"lightning", "numba", "matplotlib"}
    assert imported_modules(programs, code, modules, cwd=here) == "set()"


@pytest.mark.parametrize("module", ["src.predict", "src.evaluate"])
def test_interrupt_while_torch_is_imported(tmp_path: Path, programs: Programs, module: str) -> None:
    """There is no traceback. The interpreter imports a stand-in for torch, which is slow."""
    (tmp_path / "torch.py").write_text(
        "import time, pathlib; pathlib.Path('importing').touch(); time.sleep(1000)"
    )
    process = programs.start([sys.executable, "-m", module], cwd=tmp_path, is_forked=False)
    wait_until((tmp_path / "importing").exists, process)
    process.send_signal(signal.SIGINT)
    assert process.result() == (-signal.SIGINT, "", "")


def test_the_program_changes_no_global_state(here: Path, capsys: Captured) -> None:
    def global_state() -> list[object]:
        return [
            signal.getsignal(signal.SIGINT),
            signal.getsignal(signal.SIGTERM),
            torch.get_num_threads(),
            csv.field_size_limit(),
        ]

    previous_n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    previous_state = global_state()
    (here / "in.csv").write_text("surname\nJones\n")
    assert run_predict(["--csv=in.csv", "--out=out.csv"]) == 0
    assert run_predict(["--csv=in.csv", "--out=out.csv"]) == 2
    assert global_state() == previous_state
    torch.set_num_threads(previous_n_threads)


def test_signal_while_a_file_is_written_leaves_no_temporary_file(
    here: Path, programs: Programs
) -> None:
    """The program waits for rows that never come, until the signal ends it."""
    os.mkfifo(here / "in.csv")
    process = programs.start(
        PREDICT + ["--csv=in.csv", "--column=surname", "--out=out.csv"], cwd=here
    )
    with (here / "in.csv").open("w") as rows:  # returns when the program has opened it as well
        rows.write("surname\nJones\n")
        rows.flush()
        wait_until(lambda: list(here.glob(".*.part")), process)
        process.send_signal(signal.SIGUSR1)
        result = process.result()
    assert result.returncode == 128 + signal.SIGUSR1
    assert result.stderr == MODEL_LINE
    assert {path.name for path in here.iterdir()} == {"a.ckpt", "in.csv"}


def test_memory_does_not_grow_with_the_longest_cell(here: Path, programs: Programs) -> None:
    """A GRU reads batches of names that are padded to the length of the longest one.

    The memory of a new process is measured.
    """
    torch.save(make_checkpoint(GRU_NETWORK), here / "a.ckpt")
    names = ["Jones"] * 2000 + ["x" * 131_000] + ["Jones"] * 2000
    (here / "in.csv").write_text("\n".join(["surname"] + names))
    command = NEW_INTERPRETER + ["--csv=in.csv", "--column=surname", "--out=out.csv"]
    result = programs.run(
        [sys.executable, "-m", "benchmarks.measure"] + command, cwd=here, is_forked=False
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.split()[2]) < 600  # MiB; torch alone takes 300
