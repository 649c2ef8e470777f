"""Small lists whose findings can be told by hand."""

import json
import logging
import math
import operator
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from src.audit import __main__ as command
from src.audit import audit as findings
from src.audit.audit import audit
from tests.helpers import make_corpus, settings

Captured = pytest.CaptureFixture[str]


def write(folder: Path, **files: list[str]) -> dict[str, Any]:
    """Write a file of names for each category; return an audit's arguments."""
    folder.mkdir(exist_ok=True)
    for category, names in files.items():
        (folder / f"{category}.txt").write_text("\n".join(names), encoding="utf-8")
    how = {"letters": "ascii", "val_fraction": 0, "test_fraction": 0, "seed": 0}
    return {"data_dir": str(folder), **how}


def found(report: dict[str, Any], words: str) -> tuple[str, int, list[str]]:
    """Return severity, count and examples of the one finding that has some words in it."""
    (it,) = (each for each in report["findings"] if words in each["text"])
    return it["severity"], it["count"], it["examples"]


def test_nothing_to_say(tmp_path: Path) -> None:
    how = write(tmp_path, Alpha=["Ali", "Ami", "Asa"], Beta=["Bob", "Bert", "Bill"])
    assert audit(**how) == {
        "guessed": [],
        "lines": 6,
        "names": 6,
        "pairs": 6,
        "ceiling": 1.0,
        "symbols": 57,
        "letters": 20,
        "findings": [],
        "categories": [
            {"category": c, "lines": 3, "distinct": 3, "train": 3, "val": 0, "test": 0}
            | {"changed": 0.0}
            for c in ("Alpha", "Beta")
        ],
        "doubted": [],
    }


def test_every_line_that_is_no_name_is_counted(tmp_path: Path) -> None:
    bad = [f"{i}" for i in range(23)] + ["a\tb", "x" * 201]
    report = audit(**write(tmp_path, Alpha=["Ali", *bad], Beta=["Bob"]))
    severity, count, examples = found(report, "lines that are not names")
    assert (severity, count, len(examples)) == ("refused", 25, 20)
    assert examples[0] == f"{tmp_path}/Alpha.txt:2: '0'"
    assert report["lines"] == 2
    assert report["findings"][0]["count"] == 25  # the worst first


def test_what_stands_for_no_name_and_no_category(tmp_path: Path) -> None:
    (tmp_path / "people.csv").touch()
    (tmp_path / ".hidden.txt").touch()
    names = ["Ali", "N/A", "none", "Surname", "Nan"]
    report = audit(**write(tmp_path, README=names, TRAIN=["Bob"], **{"New York": ["Cy"]}))
    severity, count, examples = found(report, "stand for a missing one")
    assert (severity, count) == ("wrong", 4)
    assert examples[0] == f"{tmp_path}/README.txt:2: N/A"
    assert found(report, "look like none") == ("wrong", 2, ["README", "TRAIN"])
    text = "files that are passed over; data_file= reads a table"
    assert found(report, text) == ("note", 2, [".hidden.txt", "people.csv"])


def test_labels_that_are_nearly_one(tmp_path: Path) -> None:
    files = {"Male": ["Ali"], "male": ["Bob"], "New York": ["Cy"], "newyork": ["Di"], "x": ["E"]}
    report = audit(**write(tmp_path, **files))
    twins = ["'Male' = 'male'", "'New York' = 'newyork'"]
    assert found(report, "categories written") == ("wrong", 2, twins)


def test_what_the_letters_change(tmp_path: Path) -> None:
    how = write(tmp_path, A=["Müller", "Muller", "O-Neil", "SMITH"], B=["Иван", "Smith"])
    report = audit(**how)
    severity, count, examples = found(report, "that letters=ascii changes; letters=corpus")
    assert (severity, count) == ("doubtful", 2)  # a third of the lines: not case, nor hyphens
    assert examples == ["Müller → Muller", "Иван → Ivan"]
    assert [row["changed"] for row in report["categories"]] == [1 / 4, 1 / 2]
    same = ["Müller = Muller", "SMITH = Smith"]
    assert found(report, "are read like one") == ("note", 2, same)
    report = audit(**how | {"letters": "corpus"})
    assert [row["changed"] for row in report["categories"]] == [0, 0]
    assert found(report, "are read like one") == ("note", 1, ["SMITH = Smith"])


def test_names_of_several_categories_and_the_ceiling(tmp_path: Path) -> None:
    files = {"A": ["Ali", "Lee", "lee"], "B": ["Lee", "Ali", "Bob"], "C": ["Lee"]}
    report = audit(**write(tmp_path, **files))
    assert (report["names"], report["pairs"], report["ceiling"]) == (3, 6, 0.5)
    severity, count, examples = found(report, "than 50.0% of the pairs")
    assert (severity, count, examples) == ("doubtful", 2, ["Ali: A, B", "Lee: A, B, C"])


def test_counts_and_sides_as_given(tmp_path: Path) -> None:
    table = ["name,label,split,n"]
    table += ["Anna,f,train,5", "Annab,f,test,1", "ANNA,f,test,1", "Hans,m,train,1", "Otto,m,val,2"]
    file = tmp_path / "people.csv"
    file.write_text("\n".join(table))
    report = audit(
        "ascii", 0.1, 0.1, 0, data_file=str(file), count_column="n", split_column="split"
    )
    assert len(report["guessed"]) == 1  # which columns
    assert report["lines"] == 10
    assert found(report, "on several sides") == ("doubtful", 1, ["anna"])
    assert found(report, "counts for more lines") == ("note", 1, ["Anna: 5 of 10 lines"])
    near = "of 1 with 5 letters or more"
    assert found(report, near) == ("note", 1, ["Annab, Anna (f)"])
    sizes = [
        [row[key] for key in ("lines", "train", "val", "test")] for row in report["categories"]
    ]
    assert sizes == [[7, 1, 0, 2], [3, 1, 1, 0]]


def test_the_split_that_a_run_makes(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "names")  # 20, 12 and 6 names, one of them in two
    (folder / "Tiny.txt").write_text("Zoe\nZac")
    report = audit("ascii", 0.1, 0.1, 0, data_dir=str(folder))
    tests = [row["test"] for row in report["categories"]]
    assert tests == [2, 1, 1, 0]
    few = ["Beta (1)", "Gamma (1)", "Alpha (2)"]
    assert found(report, "fewer than 10 test names") == ("doubtful", 3, few)
    assert found(report, "too small") == ("doubtful", 1, ["Tiny"])
    report = audit(**write(tmp_path / "one", A=["Bob"]))
    assert found(report, "training needs two") == ("refused", 1, ["A"])


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        *(("anna", other, True) for other in ("anne", "ann", "annan", "xanna", "nna", "ana")),
        *(("anna", other, False) for other in ("anna", "an", "anan", "annabe", "nnax", "")),
    ],
)
def test_a_letter_away(one: str, other: str, near: bool) -> None:
    assert findings._a_letter_away([one], [other]) == ({one: other} if near else {})


def test_labels_that_are_not_believed(tmp_path: Path) -> None:
    """Of two languages that share no letter, one name each is on the wrong side."""
    names = {c: [f"{x}{y}{z}{y}" for x in c for y in c for z in c] for c in ("abcde", "vwxyz")}
    names["abcde"].append("wyvxz")
    names["vwxyz"].append("bdace")
    report = audit(**write(tmp_path, **names))
    doubted = [(d["name"], d["category"], d["guess"]) for d in report["doubted"]]
    assert sorted(doubted) == [("bdace", "vwxyz", "abcde"), ("wyvxz", "abcde", "vwxyz")]
    assert all(0.99 < d["probability"] <= 1 for d in report["doubted"])
    assert found(report, "n-grams")[1] == 2

    names["abcde"].append("bdace")  # a name of both, and either is right
    report = audit(**write(tmp_path, **names))
    assert [d["name"] for d in report["doubted"]] == ["wyvxz"]


def test_beliefs_by_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores are those of the formula, counted anew without the name."""
    own = {"aba": (0, 1), "ab": (0,), "ba": (0, 2), "bb": (1,), "abb": (1,), "cab": (2,)}
    pairs = [(name, c) for name, categories in own.items() for c in categories]

    def runs(name: str) -> list[str]:
        text = f"^{name}$"
        return [
            text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1) if j < i + 4
        ]

    n = [
        Counter(g for name, c in pairs if c == category for g in runs(name))
        for category in range(3)
    ]
    q = {g: count / sum(map(Counter.total, n)) for g, count in sum(n, Counter()).items()}
    expected = []
    for name, label in pairs:
        scores = {}
        for c in {0, 1, 2} - {*own[name]} | {label}:
            less = Counter(set(runs(name))) if c == label else Counter()
            total = n[c].total() - (len(runs(name)) if c == label else 0) + 100
            logs = [math.log((n[c][g] - less[g] + 100 * q[g]) / total) for g in runs(name)]
            scores[c] = math.exp(sum(logs) / 4) * sum(y == c for _, y in pairs)
        guess = max(scores, key=scores.__getitem__)
        probability = pytest.approx(scores[guess] / sum(scores.values()), rel=1e-4)
        about = {"name": name, "category": "ABC"[label], "guess": "ABC"[guess]}
        expected.append((scores[label] / scores[guess], about | {"probability": probability}))
    monkeypatch.setattr(findings, "DOUBT", 1.1)  # all of them
    said = findings._doubted(own, ["A", "B", "C"])
    order = sorted(expected, key=lambda each: each[0])
    key = operator.itemgetter("name", "category")
    assert sorted(said, key=key) == sorted((each for _, each in order), key=key)
    assert [key(each) for each in said][:3] == [key(each) for _, each in order][:3]


def test_the_command(tmp_path: Path, capsys: Captured) -> None:
    write(tmp_path / "names", Alpha=["Ali", "Ami\x1b"], Beta=["Bob", "Bea"])
    keys = [f"data_dir={tmp_path}/names", "val_fraction=0", "test_fraction=0", "iterations=3000"]
    command.main([*keys, f"--out={tmp_path}/audit.json"])
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "audit.json").read_text())
    assert "\nrefused   lines that are not names (1): a name has at least one letter " in printed
    assert "\x1b" not in printed
    assert "3,000 iterations see each of 3 training names about 1,000.0 times, in about" in printed
    assert [row["category"] for row in report["categories"]] == ["Alpha", "Beta"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data_fil=x.csv"], "data_fil: no such key; did you mean data_file?"),
        (["letters=latin"], "letters=latin: must be ascii, tutorial or corpus"),
        (["data_dir=nowhere"], "data_dir="),
    ],
)
def test_wrong_words(words: list[str], told: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_what_a_training_takes() -> None:
    """Measured in one process on one core: 9.0 s less the start, 22 ms a step."""
    report = {"categories": [{"train": 10_000}, {"train": 2500}], "symbols": 57, "names": 12_500}
    report |= {"letters": 12_500 * 7, "pairs": 12_500}
    text = command.expected(settings("iterations=1000000"), report)
    assert text == (
        "1,000,000 iterations see each of 12,500 training names about 80.0 times, "
        "in about 0:00:10 of one core and 0.6 GB of memory"
    )  # 1e6 × 7 letters × 128 × (57 + 128) weights / 1.6e10
    text = command.expected(settings("experiment=best", "iterations=1000"), report)
    assert text.startswith("1,000 iterations see each of 12,500 training names about 10.2 times, ")
    text = command.expected(settings("experiment=names"), report)  # 24 passes in batches of 128
    assert text.startswith("2,352 iterations see each of 12,500 training names about 24.0 times, ")
    text = command.expected(settings("experiment=names"), report | {"pairs": 10**6})
    assert text.endswith(" of one core and 4.6 GB of memory")


def test_the_worst_are_told_before_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    how = write(tmp_path, README=["Ali", "None"], Beta=["Bob", "Ali"])
    with caplog.at_level(logging.WARNING):
        findings.tell_worst(**how)
        findings.tell_worst(**how)
    assert caplog.messages == [
        "wrong     names that stand for a missing one, or are a header (1)",
        "wrong     categories that look like none (1)",
        "doubtful  names of several categories (1): no model can be right on more than 75.0% of "
        "the pairs",
    ]


def test_of_a_long_list_a_share_of_the_names_is_looked_at(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{a}{b}{c}ov" for a in "BDGK" for b in "aeiou" for c in "lmr"]
    how = write(tmp_path, A=[*names, "None"], B=[*names, "Bob"], README=["Cy"])
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    monkeypatch.setattr(findings, "QUICK", size // 2)  # bytes: one name in three
    several = sum(zlib.crc32(name.lower().encode()) % 3 == 0 for name in names)
    assert 10 < several < 30
    with caplog.at_level(logging.INFO):
        findings.tell_worst(**how | {"test_fraction": 0.1})
    assert caplog.messages[:2] == [  # whatever can be told without the other names is told
        "wrong     names that stand for a missing one, or are a header (1)",
        "wrong     categories that look like none (1)",
    ]
    assert f"names of several categories ({several}): " in "".join(caplog.messages)
    assert not any(words in str(caplog.messages) for words in ("categories with", "too small"))
    assert caplog.messages[-1] == "that is one name in 3; python -m src.audit looks at all"
