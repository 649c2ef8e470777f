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
from pathlib import Path

import matplotlib.image
import pytest
import torch

from src import predict
from src.data.alphabet import Alphabet
from src.inference.trained_model import AT_ONCE, load_model
from tests.helpers import (
    CALIBRATION,
    CHECKPOINT_SUMMARY,
    GRU_NETWORK,
    NETWORK,
    PRECISION_CURVE,
    ROOT,
    make_checkpoint,
    write_checkpoint,
)
from tests.processes import Programs, wait_until

Captured = pytest.CaptureFixture[str]

MODEL = f"model: a.ckpt, {CHECKPOINT_SUMMARY}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a checkpoint `a.ckpt`."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "a.ckpt")
    return tmp_path


def test_a_name_in_one_case_is_pointed_out_once_where_case_is_read_as_it_is(
    here: Path, capsys: Captured
) -> None:
    letters = Alphabet("tutorial").to_dict()
    torch.save(make_checkpoint(NETWORK | {"letters": letters}), here / "a.ckpt")
    assert ask("--checkpoint=a.ckpt", "Smith", "SMITH", "lee") == 0
    told = capsys.readouterr().err.splitlines()[1:]
    assert len(told) == 1
    assert told[0].startswith("SMITH is in one case, and letters=tutorial reads it so")
    write_checkpoint(here / "a.ckpt")
    assert ask("--checkpoint=a.ckpt", "SMITH") == 0
    assert len(capsys.readouterr().err.splitlines()) == 1


def ask(*arguments: str) -> int:
    """Run predict; return its exit status."""
    try:
        predict.main(["--checkpoint=a.ckpt", *arguments])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def refused(capsys: Captured, *arguments: str) -> str:
    """Run predict, which must refuse in one line with exit status 2; return the line."""
    assert ask(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if not line.startswith("model: ")] == lines[-1:]
    return lines[-1]


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_names(here: Path, capsys: Captured) -> None:
    assert ask("--top-k=2", "O'Neill", "Иванов", "王", "123") == 0
    printed, told = capsys.readouterr()
    assert told == MODEL
    lines = printed.splitlines()
    expected = load_model(here / "a.ckpt").probabilities(["O'Neill"])[0].sort(descending=True)
    first = f"{expected.values[0]:.3f}"
    assert lines[0].split() == [
        *("O'Neill", "ABC"[expected.indices[0]], first),
        *("ABC"[expected.indices[1]], f"{expected.values[1]:.3f}"),
    ]
    assert lines[0].index(first) == lines[1].index(lines[1].split()[2])  # aligned
    assert lines[2].startswith("王       ")  # two columns wide
    assert lines[3] == "123      no letters I know"


def test_top_k(here: Path, capsys: Captured) -> None:
    assert ask("--top-k=99", "Jones") == 0
    assert len(capsys.readouterr().out.split()) == 1 + 2 * 3
    with pytest.raises(SystemExit) as caught:
        predict.main(["--top-k=0", "Jones"])
    assert caught.value.code == 2
    assert "'0' is no whole number above 0" in capsys.readouterr().err


def test_json(here: Path, capsys: Captured) -> None:
    assert ask("--json", "Müller", "1", "\udcff") == 0
    printed = capsys.readouterr().out
    müller, one, lone = map(json.loads, printed.splitlines())
    assert '{"name": "Müller", ' in printed
    assert lone["name"] == "\udcff"
    expected = load_model(here / "a.ckpt").probabilities(["Müller"])[0]
    assert müller["name"] == "Müller"
    given = {answer["category"]: answer["probability"] for answer in müller["predictions"]}
    assert given == dict(zip("ABC", expected.tolist(), strict=True))
    assert one == {"name": "1", "predictions": [], "reason": "no letters I know"}


def test_explain(here: Path, capsys: Captured) -> None:
    assert ask("--explain", "--top-k=1", "Öz", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["Öz", "O", "Oz", "1"]
    assert ask("--explain", "--json", "Öz") == 0
    (answer,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert [step["prefix"] for step in answer["prefixes"]] == ["O", "Oz"]
    expected = load_model(here / "a.ckpt").probabilities(["O", "Oz"]).max(dim=1).values
    given = [step["predictions"][0]["probability"] for step in answer["prefixes"]]
    assert given == pytest.approx(expected.tolist(), abs=1e-6)
    assert ask("--explain", "--threshold=0.99", "Öz") == 0
    assert capsys.readouterr().out == "Öz\n  O   unknown: below 0.99\n  Oz  unknown: below 0.99\n"


def test_plot(here: Path, capsys: Captured) -> None:
    assert ask("--explain", "Satoshi", "--plot=b.png") == 0
    assert matplotlib.image.imread(here / "b.png").std() > 0.01
    capsys.readouterr()
    assert "b.png: exists; --force" in refused(capsys, "--explain", "Sato", "--plot=b.png")
    assert "one NAME" in refused(capsys, "--explain", "a", "b", "--plot=c.png")
    assert "one NAME" in refused(capsys, "a", "--plot=c.png")
    assert "1: no letters I know" in refused(capsys, "--explain", "1", "--plot=c.png")
    assert not (here / "c.png").exists()


def test_a_pipe(here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, "\ufeffMüller\r\n\nO'Neill".encode())
    assert ask("--json") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["name"] for answer in answers] == ["Müller", "", "O'Neill"]
    assert answers[1]["reason"] == "no letters I know"
    pipe(monkeypatch, b"")
    assert ask() == 0
    assert capsys.readouterr().out == ""
    pipe(monkeypatch, b"Lee\n\nJones\nM\xfcller\nO\xdf\n")
    assert refused(capsys).endswith("standard input:4: not utf-8; name its --encoding")
    pipe(monkeypatch, b"Jones\n")
    assert refused(capsys, "--encoding=utf-16").endswith("not utf-16; name its --encoding")
    pipe(monkeypatch, b"M\xfcller\n")
    assert ask("--encoding=latin-1") == 0
    assert capsys.readouterr().out.startswith("Müller")


@pytest.mark.parametrize(
    "first", ["surname", "Last_Name\r", "last name", "\ufeffNACHNAME", "Name "]
)
def test_a_header_in_a_pipe_is_pointed_out(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    for content, hints in ((f"{first}\nsurname", 1), (first, 1), (f"Jones\n{first}\n", 0)):
        pipe(monkeypatch, content.encode())
        assert ask() == 0
        printed, told = capsys.readouterr()
        assert told.count("looks like a header; it is answered") == hints
        assert len(printed.splitlines()) == len(content.splitlines())  # it may be a name


def test_a_prior_moves_every_answer(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A is 0.9 of the corpus: the more the prior counts, the likelier it is."""
    write_checkpoint(here / "a.ckpt", decision=CALIBRATION)
    (here / "in.csv").write_text("surname\nJones\n")
    found: dict[str, float] = {}
    for prior in ("uniform", "tempered", "corpus"):
        ways = [f"--prior={prior}"] if prior != "tempered" else []  # the default
        row = load_model(here / "a.ckpt", prior).probabilities(["Jones"])[0]
        found[prior] = row[0].item()

        assert ask("Jones", *ways) == 0
        shown = capsys.readouterr().out.split()
        assert float(shown[shown.index("A") + 1]) == pytest.approx(found[prior], abs=6e-4)
        for terminal in (False, True):
            pipe(monkeypatch, b"Jones\n")
            monkeypatch.setattr(sys.stdin, "isatty", lambda terminal=terminal: terminal)
            assert ask("--json", *ways) == 0
            printed = capsys.readouterr().out.removeprefix("Input: ").splitlines()[0]
            last = json.loads(printed)["predictions"]
            assert {p["category"]: p["probability"] for p in last}["A"] == found[prior]
        assert ask("--json", "--explain", "Jones", f"--plot={prior}.png", *ways) == 0
        last = json.loads(capsys.readouterr().out)["prefixes"][-1]["predictions"]
        given = {p["category"]: p["probability"] for p in last}
        assert given["A"] == pytest.approx(found[prior], abs=1e-6)
        assert ask("--csv=in.csv", "--column=surname", f"--out={prior}.csv", *ways) == 0
        (line,) = (here / f"{prior}.csv").read_text().splitlines()[1:]
        cells = line.split(",")
        assert cells[cells.index("A") + 1] == f"{found[prior]:.6f}"
    assert found["uniform"] < found["tempered"] < found["corpus"]
    assert (here / "uniform.png").read_bytes() != (here / "corpus.png").read_bytes()


def test_a_prior_that_cannot_be_asked(here: Path, capsys: Captured) -> None:
    assert ask("--prior=tempered", "Jones") == 0
    as_trained = capsys.readouterr().out
    assert ask("Jones") == 0
    assert capsys.readouterr().out == as_trained
    line = refused(capsys, "--prior=corpus", "Jones")
    assert line.startswith("python -m src.predict: --prior corpus: a.ckpt does not say how common")
    assert ask("--prior=mine", "Jones") == 2
    assert "invalid choice: 'mine'" in capsys.readouterr().err


PAIR = re.compile(r"  (\w[\w, ]*?) +(\d\.\d+)")
"""A category and its probability in a line."""


def all_ways(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, *options: str
) -> list[dict[str, str]]:
    """Ask about Jones in every way but --explain; return category and probability as printed."""
    (here / "in.csv").write_text("surname\nJones\n")
    found = []
    for terminal in (None, False, True):
        for shown in ((), ("--json",)):
            pipe(monkeypatch, b"Jones\n")
            monkeypatch.setattr(sys.stdin, "isatty", lambda terminal=terminal: terminal)
            assert ask(*(["Jones"] if terminal is None else []), *options, *shown) == 0
            line = capsys.readouterr().out.removeprefix("Input: ").splitlines()[0]
            if shown:
                answer = json.loads(line)
                said = {p["category"]: f"{p['probability']:.3f}" for p in answer["predictions"]}
                found.append(said | ({"reason": answer["reason"]} if "reason" in answer else {}))
            else:
                name, *cells = re.split("  +", line)
                assert name == "Jones"
                found.append(dict(PAIR.findall(line)) or {"reason": cells[0]})
    assert ask("--csv=in.csv", "--out=out.csv", "--force", *options) == 0
    capsys.readouterr()
    with (here / "out.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header[-1] == "reason"
    said = {c: f"{float(p):.3f}" for c, p in zip(row[1:-1:2], row[2:-1:2], strict=True) if c}
    found.append(said | ({"reason": row[-1]} if row[-1] else {}))
    return found


def test_among_in_every_way(here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    network = NETWORK | {"categories": ["A", "B", "Congo, DR"]}
    torch.save(make_checkpoint(network) | {"decision": CALIBRATION}, here / "a.ckpt")
    p = load_model(here / "a.ckpt").probabilities(["Jones"])[0]
    expected = {c: f"{p[i] / (p[0] + p[2]):.3f}" for i, c in ((0, "A"), (2, "Congo, DR"))}
    among = '--among="Congo, DR", A'
    assert all_ways(here, capsys, monkeypatch, among) == [expected] * 7
    assert ask("--json", "--explain", "Jones", "--plot=b.png", among) == 0
    last = json.loads(capsys.readouterr().out)["prefixes"][-1]["predictions"]
    assert {s["category"]: f"{s['probability']:.3f}" for s in last} == expected
    assert matplotlib.image.imread(here / "b.png").std() > 0.01


@pytest.mark.parametrize(
    ("among", "message"),
    [
        ("Alpha,beta", "--among: the model knows no category 'beta'; try 'Beta'"),
        ("Alpha,Bet", "--among: the model knows no category 'Bet'; try 'Beta'"),
        ("Beta,xyz", "knows no category 'xyz'; try 'Alpha', 'Beta', 'Gamma'"),
        ("Beta,", "knows no category ''; try 'Alpha', 'Beta', 'Gamma'"),
        ("Beta", "--among: needs two categories"),
        ("Beta, Alpha ,Beta", "--among: Beta is named twice"),
        ("", "--among: needs two categories"),
    ],
)
def test_categories_that_cannot_be_asked_about(
    here: Path, capsys: Captured, among: str, message: str
) -> None:
    categories = {"categories": ["Alpha", "Beta", "Gamma"]}
    torch.save(make_checkpoint(NETWORK | categories), here / "a.ckpt")
    assert message in refused(capsys, f"--among={among}", "Jones")


def test_below_a_threshold_in_every_way(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(
        here / "a.ckpt", decision=CALIBRATION | {"curves": {"tempered": PRECISION_CURVE}}
    )
    best = load_model(here / "a.ckpt").probabilities(["Jones"])[0].max().item()
    assert 0.5 < best < 0.75
    answers = all_ways(here, capsys, monkeypatch)
    assert all_ways(here, capsys, monkeypatch, f"--threshold={best}") == answers
    assert all_ways(here, capsys, monkeypatch, "--precision=0.9") == answers
    unknown = {"reason": "unknown: below 0.75"}
    assert all_ways(here, capsys, monkeypatch, "--threshold=0.75") == [unknown] * 7
    assert all_ways(here, capsys, monkeypatch, "--precision=0.93") == [unknown] * 7
    assert ask("--precision=0.9", "1", "Jones") == 0
    printed, told = capsys.readouterr()
    assert printed.splitlines()[0] == "1      no letters I know"
    about = "answered 75.0% of the validation names, 90.0% of them right"
    assert told == f"{MODEL}threshold: 0.5, {about}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threshold=2"], "--threshold 2: is not between 0 and 1"),
        (["--threshold=-0.5"], "--threshold -0.5: is not between 0 and 1"),
        (["--threshold=nan"], "--threshold nan: is not between 0 and 1"),
        (["--precision=1"], "--precision 1: is not between 0 and 1"),
        (["--precision=0.99"], "--precision 0.99: validation reaches 0.937 at the most"),
        (["--precision=0.9", "--prior=corpus"], "--precision: a.ckpt holds none; give a --thre"),
        (["--precision=0.9", "--among=A,B"], "holds none among these categories"),
    ],
)
def test_a_threshold_that_cannot_be(
    here: Path, capsys: Captured, words: list[str], message: str
) -> None:
    write_checkpoint(
        here / "a.ckpt", decision=CALIBRATION | {"curves": {"tempered": PRECISION_CURVE}}
    )
    assert message in refused(capsys, *words, "Jones")


def test_hostile_names(here: Path, capsys: Captured) -> None:
    assert ask("a\x1b[2J\x00b", "x" * 100_000, "\udcff", "-", "\u0301") == 0
    first, second, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("a\ufffd[2J\ufffdb ")  # nothing that steers the terminal
    assert first.split()[1] in "ABC"
    assert second.endswith("x  longer than 200 letters")
    assert [line.rpartition("  ")[2] for line in others] == ["no letters I know"] * 3


CSV = 'id,surname,note\r\n1,Müller,"a, b"\r\n2,123,\r\n\r\n3,"O\'\nNeill",x\r\n'


def answer_csv(here: Path, capsys: Captured, content: bytes, *arguments: str) -> list[list[str]]:
    (here / "in.csv").write_bytes(content)
    assert ask("--csv=in.csv", "--column=surname", "--out=out.csv", "--force", *arguments) == 0
    assert capsys.readouterr().out == ""
    assert {path.name for path in here.iterdir()} == {"a.ckpt", "in.csv", "out.csv"}
    said = (word.split("=")[1] for word in arguments if word.startswith("--encoding"))
    encoding = next(said, "utf-8-sig" if content.startswith(codecs.BOM_UTF8) else "utf-8")
    with (here / "out.csv").open(encoding=encoding, newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_csv(here: Path, capsys: Captured, encoding: str) -> None:
    said = [] if "utf-8" in encoding else [f"--encoding={encoding}"]
    header, *rows = answer_csv(here, capsys, CSV.encode(encoding), "--top-k=2", *said)
    added = ["category_1", "probability_1", "category_2", "probability_2", "reason"]
    assert header == ["id", "surname", "note", *added]
    assert [row[:3] for row in rows] == [
        ["1", "Müller", "a, b"],
        ["2", "123", ""],
        [],
        ["3", "O'\nNeill", "x"],
    ]
    model = load_model(here / "a.ckpt")
    for row in (rows[0], rows[3]):
        ((first, second),) = model.best(model.probabilities([row[1]]), 2)
        assert row[3:] == [first[0], f"{first[1]:.6f}", second[0], f"{second[1]:.6f}", ""]
    assert rows[1][3:] == ["", "", "", "", "no letters I know"]
    marked = (here / "out.csv").read_bytes().startswith(codecs.BOM_UTF8)
    assert marked == (encoding == "utf-8-sig")  # Excel reads UTF-8 by its mark


ADDED = "category_1 probability_1 reason".split()


@pytest.mark.parametrize(
    ("delimiter", "words", "text"),
    [
        (",", [], 'id,surname,note\n1,Lee,"a; b"\n\n2,"Le,e",5" wide\n'),
        (";", [], 'id;surname;"a,b,c"\r\n1;"Lee";"say ""so"""\r\n\r\n2;Jones;'),
        ("\t", [], 'x;y\t"surname"\tnote\r1\t"O\'\nNeill"\t\r'),
        ("|", [], "surname|a,b,c,d\nLee|\n"),  # fewer fields, but the column is there
        (";", [], "sep=;\r\nid,x;surname,y;surname\r\n1;2;Lee\r\n"),
        (",", [], '"SEP=,"\nid,surname\n1,Lee\n'),
        ("|", ["--delimiter=|"], "sep=;\nid|surname\n;|Lee\n"),
        (":", ["--delimiter=:"], "id:surname\na,b,c:Lee\n"),
        ("\t", ["--delimiter=tab"], "a,b\tsurname\n,\tLee\n"),
        ("\t", ["--delimiter=\\t"], "a,b\tsurname\n,\tLee\n"),
    ],
)
def test_a_file_is_kept_as_it_is(
    here: Path, capsys: Captured, delimiter: str, words: list[str], text: str
) -> None:
    """Quotes, blank lines, line ends, what Excel writes first; only cells are added."""
    answer_csv(here, capsys, f"\ufeff{text}".encode(), "--top-k=1", *words)
    kept, more = [], []
    for line in (here / "out.csv").read_bytes().decode().splitlines(keepends=True):
        cells = line.rstrip("\r\n").split(delimiter)
        if cells[-3:] == ADDED or (len(cells) > 3 and cells[-3] in "ABC"):
            more.append(cells[-3:])
            line = delimiter.join(cells[:-3]) + line[len(line.rstrip("\r\n")) :]
        kept.append(line)
    assert "".join(kept) == f"\ufeff{text}"
    assert more[0] == ADDED
    assert len(more) == 1 + sum(name in text for name in ("Lee", "Le,e", "Jones", "O'"))
    model = load_model(here / "a.ckpt")
    names = [name for name in ("Le,e", "Lee", "Jones", "O'\nNeill") if name in text]
    expected = {a[0][0] for a in model.best(model.probabilities(names), 1)}
    assert {cells[0] for cells in more[1:]} == expected


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("id,Surname", ["--column=Surname"]),
        ("SURNAME,surname", ["--column=surname"]),
        ("id, SurName ", ["--column=surname"]),
        ("id,STRASSE", ["--column= Straße"]),
        ("id,surname", ["--column=2"]),
        ("2,1", ["--column=1"]),  # a name goes before a number
        ("surname,surname", ["--column=2"]),
        ('id,""', ["--column="]),
    ],
)
def test_a_column_by_name_or_number(
    here: Path, capsys: Captured, header: str, words: list[str]
) -> None:
    (here / "in.csv").write_text(f"{header}\n7,Lee\n", encoding="utf-8")
    assert ask("--csv=in.csv", "--out=-", "--top-k=1", *words) == 0
    answered = capsys.readouterr().out.splitlines()[1].split(",")
    model = load_model(here / "a.ckpt")
    (((category, probability),),) = model.best(model.probabilities(["Lee"]), 1)
    assert answered == ["7", "Lee", category, f"{probability:.6f}", ""]


def test_a_table_through_pipes(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only column need not be named."""
    pipe(monkeypatch, "Wer\r\nMüller\r\n\r\n".encode())
    assert ask("--csv=-", "--out=-", "--top-k=1") == 0
    printed = capsys.readouterr().out
    pipe(monkeypatch, "Wer\r\nMüller\r\n\r\n".encode("latin-1"))
    assert ask("--csv=-", "--out=out.csv", "--top-k=1", "--encoding=latin-1") == 0
    assert (here / "out.csv").read_bytes() == printed.encode("latin-1")
    header, row, blank = printed.splitlines(keepends=True)
    assert (header, row[:7], blank) == (f"Wer,{','.join(ADDED)}\r\n", "Müller,", "\r\n")
    pipe(monkeypatch, b"a\nLee\n\nM\xfcller\n")
    line = refused(capsys, "--csv=-", "--out=-")
    assert line.endswith("standard input:4: not utf-8; name its --encoding")


def test_a_category_is_no_formula(here: Path, capsys: Captured) -> None:
    """A spreadsheet that opens the answers must not run what the checkpoint says."""
    names = ["=1+1", "@SUM(1)", '+1;"x"', "-2", "x=1"]
    torch.save(make_checkpoint(NETWORK | {"categories": names}), here / "a.ckpt")
    (here / "in.csv").write_text("id;surname\n=7;Jones\n")
    assert ask("--csv=in.csv", "--column=2", "--out=out.csv", "--top-k=5") == 0
    with (here / "out.csv").open(newline="") as file:
        _, row = csv.reader(file, delimiter=";")
    assert row[:2] == ["=7", "Jones"]  # the user's own
    assert sorted(row[2:-1:2]) == sorted(["'=1+1", "'@SUM(1)", '\'+1;"x"', "'-2", "x=1"])
    capsys.readouterr()
    assert ask("--json", "Jones", "--top-k=5") == 0
    said = json.loads(capsys.readouterr().out)["predictions"]
    assert sorted(answer["category"] for answer in said) == sorted(names)


def test_csv_of_many_rows_is_in_order(here: Path, capsys: Captured) -> None:
    names = [f"{'abcdefghij'[i % 10] * (i % 7 + 1)}" for i in range(2 * AT_ONCE + 3)]
    content = "surname\n" + "\n".join(names) + "\n"
    _, *rows = answer_csv(here, capsys, content.encode(), "--top-k=1")
    assert [row[0] for row in rows] == names
    model = load_model(here / "a.ckpt")
    answers = {name: model.best(model.probabilities([name]), 1)[0][0] for name in set(names)}
    assert all(row[1] == answers[row[0]][0] for row in rows)
    assert all(float(row[2]) == pytest.approx(answers[row[0]][1], abs=2e-6) for row in rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"name,x\nJones,1\n",
            "has no column 'surname'; --column must be the name or number of one of: 'name', 'x'",
        ),
        (
            b"",
            "in.csv: has no column 'surname'; --column must be the name or number of one of: none",
        ),
        (b"surname,x\nJones,1\nLee\n", "in.csv:3: 1 fields; the header has 2"),
        (b"surname\nJones,1\n", "in.csv:2: 2 fields; the header has 1"),
        (b"surname\nLee\n\nM\xfcller\n" + 9999 * b"Lee\n", "in.csv:4: not utf-8; name its --enc"),
        (b'surname\n"a\r\n\xff"\n', "in.csv:3: not utf-8; name its --encoding"),
        (b'surname,x\n1,"Jones\n2,Lee\n', "in.csv:2: unexpected end of data"),
        (b'surname,x\nLee,"\n"\nJones\n', "in.csv:4: 1 fields; the header has 2"),
        (b"sep=;\nsurname;x\nJones\n", "in.csv:3: 1 fields; the header has 2"),
        (b"Surname,SURNAME\nJones,Lee\n", "in.csv: has 2 columns 'surname'"),
        (b"surname,surname\nJones,Lee\n", "in.csv: has 2 columns 'surname'"),
        (b"surname,reason\nJones,1\n", "in.csv: already has the column reason"),
    ],
)
def test_bad_csv(here: Path, capsys: Captured, content: bytes, message: str) -> None:
    (here / "in.csv").write_bytes(content)
    line = refused(capsys, "--csv=in.csv", "--column=surname", "--out=out.csv")
    assert message in line
    assert {path.name for path in here.iterdir()} == {"a.ckpt", "in.csv"}  # nothing left behind


def test_csv_with_a_cell_of_any_length(here: Path, capsys: Captured) -> None:
    cells = ["x" * 3_000_000, "x" * 201, "x" * 200, "1" * 131_000, "Lee" + "-" * 140_000]
    (here / "in.csv").write_text("\n".join(["surname", *cells]))
    assert ask("--csv=in.csv", "--out=out.csv", "--top-k=1") == 0
    rows = [line.split(",") for line in (here / "out.csv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == cells
    assert [row[3] for row in rows] == [
        *("longer than 200 letters", "longer than 200 letters", "", "no letters I know", ""),
    ]


def test_csv_with_nul_bytes(here: Path, capsys: Captured) -> None:
    (here / "in.csv").write_bytes(b"surname\nJo\x00nes\n")
    status = ask("--csv=in.csv", "--column=surname", "--out=out.csv")
    if sys.version_info >= (3, 11):  # from then on csv takes NUL for a character like any other
        assert status == 0
        assert (here / "out.csv").read_bytes().splitlines()[1].startswith(b"Jo\x00nes,")
    else:
        assert status == 2


def test_output_that_exists_or_cannot_be_written(here: Path, capsys: Captured) -> None:
    (here / "in.csv").write_text("surname\nMüller\n", encoding="utf-8")
    (here / "out.csv").write_text("precious")
    asked = ("--csv=in.csv", "--column=surname")
    assert "out.csv: exists; --force" in refused(capsys, *asked, "--out=out.csv")
    assert (here / "out.csv").read_text() == "precious"
    (here / "folder").mkdir()
    assert "folder: is no plain file" in refused(capsys, *asked, "--out=folder", "--force")
    assert ".: is no plain file" in refused(capsys, *asked, "--out=.", "--force")
    assert "no/out.csv: No such file" in refused(capsys, *asked, "--out=no/out.csv")
    assert "gone.csv" in refused(capsys, "--csv=gone.csv", "--column=x", "--out=new.csv")
    assert not (here / "new.csv").exists()


def test_a_full_disk_leaves_nothing(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "in.csv").write_text("surname\nJones\n")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    line = refused(capsys, "--csv=in.csv", "--column=surname", "--out=out.csv")
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
def test_options_that_make_no_sense(here: Path, capsys: Captured, arguments: list[str]) -> None:
    refused(capsys, *arguments)


def test_the_prompt(here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    for typed, prompts in ((b"Jones\n\nquit\nLee\n", 3), (b"Jones\n", 2), (b"", 1)):
        pipe(monkeypatch, typed)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        assert ask() == 0
        printed, told = capsys.readouterr()
        assert told == f"{MODEL}quit or Ctrl-D ends it\n"
        assert printed.count("Input: ") == prompts
        assert ("Jones  " in printed) == bool(typed)
        assert "Lee" not in printed


PREDICT = ["src.predict", "--checkpoint=a.ckpt"]
NEW_INTERPRETER = [sys.executable, "-m", *PREDICT]


def test_interrupt_at_the_prompt(here: Path, programs: Programs) -> None:
    """Ctrl-C comes from the terminal that the process controls."""
    terminal, end = pty.openpty()
    with os.fdopen(end, "r") as stdin:
        process = programs.start(*PREDICT, cwd=here, stdin=stdin)
    wait_until(lambda: process.stdout == "Input: ", process)
    # A Ctrl-C that arrives just before Python waits for input takes effect with the next one.
    while process.poll() is None:
        with suppress(OSError):  # the process has ended
            os.write(terminal, b"\x03")
        with suppress(TimeoutError):  # a Ctrl-C while Python shuts down would be reported
            process.wait(5)
    os.close(terminal)
    assert process.result() == (0, process.stdout, f"{MODEL}quit or Ctrl-D ends it\n")


def test_closed_streams(here: Path, programs: Programs) -> None:
    """A new interpreter: its checkpoint must not be opened in place of a standard stream."""
    script = shlex.join([*NEW_INTERPRETER, "--explain", "Jones", "--plot=a.png"])
    result = programs.run("sh", "-c", f"{script} <&- >&- 2>&-", cwd=here, is_forked=False)
    assert result.returncode == 0
    assert matplotlib.image.imread(here / "a.png").std() > 0.01


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_one_closed_stream(here: Path, monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    monkeypatch.setattr(sys, stream, None)
    assert ask("Jones") == 0
    getattr(sys, stream).close()  # the program leaves that to the end of its process


def test_names_from_a_pipe_are_answered_one_by_one(here: Path, programs: Programs) -> None:
    """A program that writes a name and waits for the answer must get it.

    A new interpreter, as `PYTHONIOENCODING` is read when it starts.
    """
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    stdin, names = os.pipe()
    answers, stdout = os.pipe()
    with os.fdopen(stdin) as source, os.fdopen(stdout, "w") as target:
        process = programs.start(
            *NEW_INTERPRETER,
            "--json",
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
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        process = programs.start(*PREDICT, "Jones", cwd=here, env=environment, stdout=full)
    result = process.result()
    assert result.returncode == 2
    assert result.stderr.splitlines()[1:] == [
        "python -m src.predict: [Errno 28] No space left on device"
    ]


def test_output_that_is_closed_early(here: Path, programs: Programs) -> None:
    """As with `python -m src.predict … | head -1`: there is no complaint."""
    names = "Jones\n" * 20_000
    reader, writer = os.pipe()
    with os.fdopen(reader) as output:
        with os.fdopen(writer, "w") as target:
            process = programs.start(*PREDICT, cwd=here, stdin=names, stdout=target)
        assert output.readline().endswith("\n"), process.result()
    assert process.result().stderr == MODEL


def test_prediction_imports_neither_lightning_nor_numba(programs: Programs) -> None:
    code = "import sys, src.predict; print({'lightning', 'numba', 'matplotlib'} & set(sys.modules))"
    result = programs.run(sys.executable, "-c", code, cwd=ROOT, is_forked=False)
    assert result == (0, "set()\n", "")


def test_signal_while_a_file_is_written_leaves_nothing(here: Path, programs: Programs) -> None:
    """The program waits for rows that never come, until the signal ends it."""
    os.mkfifo(here / "in.csv")
    process = programs.start(
        *PREDICT, "--csv=in.csv", "--column=surname", "--out=out.csv", cwd=here
    )
    with (here / "in.csv").open("w") as rows:  # returns when the program has opened it as well
        rows.write("surname\nJones\n")
        rows.flush()
        wait_until(lambda: list(here.glob(".*.part")), process)
        process.send_signal(signal.SIGUSR1)
        result = process.result()
    assert result.returncode == 128 + signal.SIGUSR1
    assert result.stderr == MODEL
    assert {path.name for path in here.iterdir()} == {"a.ckpt", "in.csv"}


def test_memory_does_not_grow_with_the_longest_cell(here: Path, programs: Programs) -> None:
    """A new process, whose memory is measured.

    A GRU reads names in a batch, in which all are as long as the longest.
    """
    torch.save(make_checkpoint(GRU_NETWORK), here / "a.ckpt")
    names = ["Jones"] * 2000 + ["x" * 131_000] + ["Jones"] * 2000
    (here / "in.csv").write_text("\n".join(["surname", *names]))
    command = [*NEW_INTERPRETER, "--csv=in.csv", "--column=surname", "--out=out.csv"]
    result = programs.run(
        sys.executable, "-m", "benchmarks.measure", *command, cwd=here, is_forked=False
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.split()[1]) < 600  # MiB; torch alone takes 300
