"""Audits of small lists of names whose findings are known."""

import json
import logging
import zlib
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from src.audit import __main__ as command
from src.audit import audit as audit_module
from src.audit import labels as labels_module
from src.audit.audit import audit, audit_and_log_worst_findings, warn_about_user_names
from src.audit.corpus import AuditSettings, read_audited_corpus
from src.audit.labels import build_ngram_models, find_improbable_labels
from src.audit.report import AuditReport, CategorySummary, Finding
from src.audit.similar_names import find_names_one_letter_apart
from src.data.readers import DataSource
from src.ngrams.letter_ngrams import LetterNgrams
from tests.helpers import make_corpus, settings

Captured = pytest.CaptureFixture[str]


def write_names(folder: Path, **files: list[str]) -> AuditSettings:
    """Write a file of names for each category, and return the settings of their audit."""
    folder.mkdir(exist_ok=True)
    for category, names in files.items():
        (folder / f"{category}.txt").write_text("\n".join(names), encoding="utf-8")
    source = DataSource(data_dir=str(folder))
    return AuditSettings(source, letters="ascii", val_fraction=0, test_fraction=0)


def find_finding(report: AuditReport, text: str) -> Finding:
    """Return the only finding that contains a text."""
    (finding,) = [finding for finding in report.findings if text in finding.text]
    return finding


def check_finding(
    report: AuditReport, text: str, severity: str, count: int, examples: list[str]
) -> None:
    """Assert that the only finding that contains a text is as expected."""
    finding = find_finding(report, text)
    assert (finding.severity, finding.count, finding.examples) == (severity, count, examples)


def test_report_without_findings(tmp_path: Path) -> None:
    names = write_names(tmp_path, Alpha=["Ali", "Ami", "Asa"], Beta=["Bob", "Bert", "Bill"])
    report = audit(names)
    expected_categories = []
    for category in ("Alpha", "Beta"):
        expected_categories.append(
            CategorySummary(category, lines=3, changed=0.0, distinct=3, train=3, val=0, test=0)
        )
    assert report == AuditReport(
        guessed=[],
        lines=6,
        names=6,
        pairs=6,
        ceiling=1.0,
        symbols=57,
        letters=20,
        findings=[],
        categories=expected_categories,
        doubted=[],
    )
    assert report.to_dict()["categories"][1] == {
        "category": "Beta",
        "lines": 3,
        "changed": 0.0,
        "distinct": 3,
        "train": 3,
        "val": 0,
        "test": 0,
    }


def test_all_rejected_lines_are_counted(tmp_path: Path) -> None:
    # These are numbers, a name with a tab, and a name with more than 200 letters.
    rejected = [str(number) for number in range(23)] + ["a\tb", "x" * 201]
    report = audit(write_names(tmp_path, Alpha=["Ali"] + rejected, Beta=["Bob"]))
    finding = find_finding(report, "25 lines without a valid name: a name must have ")
    # A finding lists at most 20 examples.
    assert (finding.severity, finding.count, len(finding.examples)) == ("error", 25, 20)
    assert finding.examples[0] == f"{tmp_path}/Alpha.txt:2: '0'"
    assert report.lines == 2
    assert report.findings[0].count == 25  # The most serious finding is the first one.


def test_missing_names_unusual_categories_and_ignored_files(tmp_path: Path) -> None:
    (tmp_path / "people.csv").touch()
    (tmp_path / ".hidden.txt").touch()
    # `Nan` in any case is what pandas writes for a missing value.
    names = ["Ali", "N/A", "none", "Surname", "Nan"]
    report = audit(write_names(tmp_path, README=names, TRAIN=["Bob"], **{"New York": ["Cy"]}))
    finding = find_finding(report, "4 names look like placeholders or headers")
    assert (finding.severity, finding.count) == ("warning", 4)
    assert finding.examples[0] == f"{tmp_path}/README.txt:2: N/A"
    text = "2 categories look like file or column names"
    check_finding(report, text, "warning", 2, ["README", "TRAIN"])
    text = "2 files are ignored (to read a table, use data_file=)"
    check_finding(report, text, "info", 2, [".hidden.txt", "people.csv"])


def test_categories_with_several_spellings(tmp_path: Path) -> None:
    files = {"Male": ["Ali"], "male": ["Bob"], "New York": ["Cy"], "newyork": ["Di"], "x": ["E"]}
    report = audit(write_names(tmp_path, **files))
    examples = ["'Male' = 'male'", "'New York' = 'newyork'"]
    check_finding(report, "2 categories are written in several ways", "warning", 2, examples)


def test_names_that_normalization_changes_or_merges(tmp_path: Path) -> None:
    names = write_names(tmp_path, A=["Müller", "Muller", "O-Neil", "SMITH"], B=["Иван", "Smith"])
    report = audit(names)
    # These are a third of the lines. Changes of case and of hyphens do not count.
    examples = ["Müller → Muller", "Иван → Ivan"]
    text = "2 names are changed by letters=ascii (letters=corpus keeps all writing systems)"
    check_finding(report, text, "suspect", 2, examples)
    assert [row.changed for row in report.categories] == [1 / 4, 1 / 2]
    examples = ["Müller = Muller", "SMITH = Smith"]
    text = "2 spellings are normalized to the same name as another one"
    check_finding(report, text, "info", 2, examples)
    # With this alphabet, only the case and the hyphens are changed.
    report = audit(names._replace(letters="corpus"))
    assert [row.changed for row in report.categories] == [0, 0]
    text = "1 spelling is normalized to the same name as another one"
    check_finding(report, text, "info", 1, ["SMITH = Smith"])


def test_ambiguous_names_and_the_accuracy_ceiling(tmp_path: Path) -> None:
    files = {"A": ["Ali", "Lee", "lee"], "B": ["Lee", "Ali", "Bob"], "C": ["Lee"]}
    report = audit(write_names(tmp_path, **files))
    # Three names have three, two and one categories, so three of six pairs can be correct.
    assert (report.names, report.pairs, report.ceiling) == (3, 6, 0.5)
    examples = ["Ali: A, B", "Lee: A, B, C"]
    text = "2 names have several categories, so the accuracy cannot exceed 0.500"
    check_finding(report, text, "suspect", 2, examples)


def test_counts_and_splits_of_a_table(tmp_path: Path) -> None:
    table = ["name,label,split,n"]
    table += ["Anna,f,train,5", "Annab,f,test,1", "ANNA,f,test,1", "Hans,m,train,1", "Otto,m,val,2"]
    file = tmp_path / "people.csv"
    file.write_text("\n".join(table))
    source = DataSource(data_file=str(file), count_column="n", split_column="split")
    report = audit(AuditSettings(source))
    # The columns of names and categories were not given.
    assert len(report.guessed) == 1
    assert report.lines == 10
    text = "1 name is in more than one split, so the scores are too optimistic"
    check_finding(report, text, "suspect", 1, ["anna"])
    text = "1 most frequent name"
    check_finding(report, text, "info", 1, ["Anna: 5 of 10 lines"])
    text = "1 of 1 test names with at least 5 letters differs in one letter from a training name"
    check_finding(report, text, "info", 1, ["Annab, Anna (f)"])
    sizes = [(row.lines, row.train, row.val, row.test) for row in report.categories]
    assert sizes == [(7, 1, 0, 2), (3, 1, 1, 0)]


def test_small_categories(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "names")  # 20, 12 and 6 names, one of them in two
    (folder / "Tiny.txt").write_text("Zoe\nZac")
    report = audit(AuditSettings(DataSource(data_dir=str(folder))))
    assert [row.test for row in report.categories] == [2, 1, 1, 0]
    examples = ["Beta (1)", "Gamma (1)", "Alpha (2)"]
    text = "3 categories have fewer than 10 test names, so their scores are unreliable"
    check_finding(report, text, "suspect", 3, examples)
    check_finding(report, "1 category is too small to hold out names", "suspect", 1, ["Tiny"])


def test_training_needs_two_categories(tmp_path: Path) -> None:
    report = audit(write_names(tmp_path / "one", A=["Bob"]))
    check_finding(report, "1 category, but at least two are required", "error", 1, ["A"])


def test_names_that_cannot_be_split(tmp_path: Path) -> None:
    names = write_names(tmp_path, A=["Ali"], B=["Bob"])
    report = audit(names._replace(val_fraction=0.1))
    reason = "val_fraction=0.1: too few names to hold any out; use val_fraction=0"
    check_finding(report, "1 reason why training would fail", "error", 1, [reason])
    assert [row.train for row in report.categories] == [1, 1]


@pytest.mark.parametrize("similar_name", ["anne", "ann", "annan", "xanna", "nna", "ana"])
def test_names_one_letter_apart(similar_name: str) -> None:
    expected = {"anna": similar_name}
    assert find_names_one_letter_apart(["anna"], [similar_name]) == expected


# An equal name is not similar: it would be in the same split.
@pytest.mark.parametrize("different_name", ["anna", "an", "anan", "annabe", "nnax", ""])
def test_names_that_are_not_one_letter_apart(different_name: str) -> None:
    assert find_names_one_letter_apart(["anna"], [different_name]) == {}


def test_doubted_labels_of_two_languages_without_common_letters(tmp_path: Path) -> None:
    names = {}
    for letters in ("abcde", "vwxyz"):
        names[letters] = [
            first + second + third + second for first, second, third in product(letters, repeat=3)
        ]
    # Each language gets a name of the other one.
    names["abcde"].append("wyvxz")
    names["vwxyz"].append("bdace")
    report = audit(write_names(tmp_path, **names))
    doubted = [(label.name, label.category, label.guess) for label in report.doubted]
    # Both labels, and no others, are doubted.
    assert sorted(doubted) == [("bdace", "vwxyz", "abcde"), ("wyvxz", "abcde", "vwxyz")]
    assert all(0.99 < label.probability <= 1 for label in report.doubted)
    assert find_finding(report, "n-grams").count == 2

    names["abcde"].append("bdace")  # a name with both labels, either of which is correct
    report = audit(write_names(tmp_path, **names))
    assert [label.name for label in report.doubted] == ["wyvxz"]


def test_doubted_labels_have_the_scores_of_models_that_were_counted_without_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With these limits, all labels are doubted, and the names are scored in several batches.
    monkeypatch.setattr(labels_module, "MIN_PROBABILITY", 1.1)
    monkeypatch.setattr(labels_module, "MAX_SCORES_PER_BATCH", 30)
    files = {"A": ["aba", "ab", "ba", "caba"], "B": ["aba", "bb", "abb"], "C": ["ba", "cab"]}
    corpus = read_audited_corpus(write_names(tmp_path, **files))
    alphabet = corpus.alphabet
    pairs = []
    for index, names in enumerate(files.values()):
        pairs += [(name, index) for name in names]

    expected = []
    for name, label in pairs:
        # All pairs of the name are left out, and then a new model is counted.
        remaining_pairs = [pair for pair in pairs if pair[0] != name]
        model = build_ngram_models(corpus)
        letters, lengths = alphabet.encode([pair[0] for pair in remaining_pairs])
        model.count_all_names(letters, lengths, torch.tensor([pair[1] for pair in remaining_pairs]))
        letters, lengths = alphabet.encode([name])
        scores = model(letters, lengths)[0]
        # Another label of the same name is correct, too, so it cannot be the guess.
        for paired_name, paired_label in pairs:
            if paired_name == name and paired_label != label:
                scores[paired_label] = -torch.inf
        guess = int(scores.argmax())
        margin = float(scores[label] - scores[guess])
        expected.append((margin, name, "ABC"[label], "ABC"[guess], scores.softmax(0)[guess]))

    doubted = find_improbable_labels(corpus)
    assert len(doubted) == len(pairs)
    by_pair = {(label.name, label.category): label for label in doubted}
    for _, name, category, expected_guess, probability in expected:
        assert by_pair[name, category].guess == expected_guess
        assert by_pair[name, category].probability == pytest.approx(float(probability), rel=1e-4)
    least_probable = [(name, category) for _, name, category, _, _ in sorted(expected)[:3]]
    assert [(label.name, label.category) for label in doubted[:3]] == least_probable


def test_the_models_prior_is_the_share_of_each_category(tmp_path: Path) -> None:
    corpus = read_audited_corpus(write_names(tmp_path, A=["ab", "ba", "bb"], B=["cab"]))
    model = build_ngram_models(corpus)
    assert isinstance(model, LetterNgrams)
    assert model.bias.softmax(dim=0).tolist() == pytest.approx([0.75, 0.25])


def test_report_is_printed_and_written(tmp_path: Path, capsys: Captured) -> None:
    write_names(tmp_path / "names", Alpha=["Ali", "Ami\x1b"], Beta=["Bob", "Bea"])
    keys = [f"data_dir={tmp_path}/names", "val_fraction=0", "test_fraction=0", "iterations=3000"]
    command.main(keys + [f"--out={tmp_path}/audit.json"])
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "audit.json").read_text())
    first_line = "3 lines; 3 distinct names, 3 pairs of a name and a category, 57 symbols"
    assert printed.startswith(f"{first_line}\n\n")
    assert (
        "\nerror     1 line without a valid name: a name must have at least one letter " in printed
    )
    # An escape sequence in a name must not reach the terminal.
    assert "\x1b" not in printed
    assert report["findings"][0]["severity"] == "error"
    assert [row["category"] for row in report["categories"]] == ["Alpha", "Beta"]
    assert printed.splitlines()[-1].split() == ["Beta", "2", "2", "2", "0", "0", "0.0%"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data_fil=x.csv"], "data_fil: unknown key; did you mean data_file? See --help"),
        (["letters=latin"], "letters=latin: must be ascii, tutorial or corpus"),
        (["data_dir=nowhere"], "data_dir="),
    ],
)
def test_invalid_arguments(arguments: list[str], message: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as exit_info:
        command.main(arguments)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_worst_findings_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = write_names(tmp_path, README=["Ali", "None"], Beta=["Bob", "Ali"])
    with caplog.at_level(logging.WARNING):
        audit_and_log_worst_findings(names)
        audit_and_log_worst_findings(names)
    assert caplog.messages == [
        f"warning   1 name looks like a placeholder or a header: {tmp_path}/README.txt:2: None",
        "warning   1 category looks like a file or column name: README",
        "suspect   1 name has several categories, so the accuracy cannot exceed 0.750: "
        "Ali: Beta, README",
    ]


def test_warnings_before_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_names(tmp_path, README=["Ali", "Bo"], Beta=["Bob", "Cy"])
    own_names: Any = [f"data_dir={tmp_path}", "val_fraction=0", "test_fraction=0"]
    with caplog.at_level(logging.WARNING):
        monkeypatch.setenv("LOCAL_RANK", "1")
        # Only the first process of DDP warns.
        warn_about_user_names(settings(own_names))
        monkeypatch.delenv("LOCAL_RANK")
        # Users do not need warnings about the included names, which they cannot change.
        warn_about_user_names(settings([]))
        assert caplog.messages == []
        # The runs of a sweep have the same names, so only the first of them warns.
        for seed in (0, 1):
            warn_about_user_names(settings(own_names + [f"seed={seed}"]))
    assert caplog.messages == ["warning   1 category looks like a file or column name: README"]


def test_only_a_sample_of_many_names_is_audited_before_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["".join(letters) + "ov" for letters in product("BDGK", "aeiou", "lmr")]
    files = {"A": names + ["None"], "B": names + ["Bob"], "README": ["Cy"]}
    audit_settings = write_names(tmp_path, **files)
    n_bytes = sum(file.stat().st_size for file in tmp_path.iterdir())
    # At half of the size, one name in three is audited, which a hash of the name selects.
    monkeypatch.setattr(audit_module, "MAX_FULLY_AUDITED_BYTES", n_bytes // 2)
    n_ambiguous = sum(zlib.crc32(name.lower().encode()) % 3 == 0 for name in names)
    assert 10 < n_ambiguous < 30
    with caplog.at_level(logging.INFO):
        audit_and_log_worst_findings(audit_settings._replace(test_fraction=0.1))
    # Missing names and categories are checked in all rows.
    assert caplog.messages[:2] == [
        f"warning   1 name looks like a placeholder or a header: {tmp_path}/A.txt:61: None",
        "warning   1 category looks like a file or column name: README",
    ]
    messages = "".join(caplog.messages)
    assert f"{n_ambiguous} names have several categories, so the accuracy " in messages
    assert "have fewer than" not in messages
    assert "too small" not in messages
    assert caplog.messages[-2:] == [
        "These findings are from a sample of one in 3 names.",
        "To check all names, run python -m src.audit.",
    ]
