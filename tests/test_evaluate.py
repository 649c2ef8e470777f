import json
import math
import re
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from src import evaluate
from src.data.readers.source import INCLUDED_CORPUS
from src.errors import UserError
from src.inference.scores import (
    N_CALIBRATION_BINS,
    REPORTED_COVERAGES,
    EvaluatedNames,
    build_report,
    compute_scores,
    format_report,
)
from src.inference.trained_model import load_model
from src.train import train
from tests.helpers import read_corpus, settings

Captured = pytest.CaptureFixture[str]


def make_evaluated_names(n_pairs: int = 400) -> EvaluatedNames:
    """Return random predictions for five categories, which are often correct."""
    rng = np.random.default_rng(0)
    targets = torch.from_numpy(rng.integers(5, size=n_pairs))
    logits = rng.normal(size=(n_pairs, 5)) + 1.5 * np.eye(5)[targets]
    probabilities = torch.from_numpy(logits).softmax(dim=1)
    # Each name occurs twice, because intervals are computed from samples of names, not of pairs.
    names = [f"n{i // 2}" for i in range(n_pairs)]
    return EvaluatedNames(names, targets, probabilities, list("ABCDE"))


def compute_unweighted_scores(evaluated: EvaluatedNames) -> dict[str, float]:
    """Return the scores with a weight of 1 for each pair."""
    weights = torch.ones(1, len(evaluated.names), dtype=torch.float64)
    return {name: value.item() for name, value in compute_scores(evaluated, weights).items()}


def test_scores_against_torchmetrics() -> None:
    evaluated = make_evaluated_names()
    p = evaluated.probabilities
    y = evaluated.targets
    expected = {
        "accuracy": multiclass_accuracy(p, y, 5, average="micro"),
        "balanced_accuracy": multiclass_accuracy(p, y, 5, average="macro"),
        "macro_f1": multiclass_f1_score(p, y, 5, average="macro"),
        "top3_accuracy": multiclass_accuracy(p, y, 5, average="micro", top_k=3),
        "log_loss": torch.nn.functional.nll_loss(p.log(), y),
        "ece": multiclass_calibration_error(p, y, 5, n_bins=N_CALIBRATION_BINS),
    }
    scores = compute_unweighted_scores(evaluated)
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value.item()), name


def test_weights_count_as_repetitions_of_the_pairs() -> None:
    evaluated = make_evaluated_names(n_pairs=30)
    weights = torch.from_numpy(np.random.default_rng(1).integers(3, size=30))
    # A pair with a weight of 2 is in the list twice, and one with 0 is not.
    indices = torch.arange(30).repeat_interleave(weights)
    repeated = EvaluatedNames(
        [evaluated.names[i] for i in indices],
        evaluated.targets[indices],
        evaluated.probabilities[indices],
        evaluated.categories,
    )
    weighted_scores = compute_scores(evaluated, weights[None].double())
    actual = {name: value.item() for name, value in weighted_scores.items()}
    assert actual == pytest.approx(compute_unweighted_scores(repeated))


def test_the_interval_of_the_accuracy_is_that_of_the_binomial_distribution() -> None:
    report = build_report(make_evaluated_names(n_pairs=1000))
    value = report["accuracy"]["value"]
    # 95 % of a normal distribution are within 1.96 standard deviations.
    half_width = 1.96 * (value * (1 - value) / 1000) ** 0.5
    assert report["accuracy"]["low"] == pytest.approx(value - half_width, abs=0.15 * half_width)
    assert report["accuracy"]["high"] == pytest.approx(value + half_width, abs=0.15 * half_width)


def test_the_rest_of_the_report_by_hand() -> None:
    p = torch.tensor([[0.7, 0.3, 0], [0.6, 0.4, 0], [0.2, 0.8, 0], [0.9, 0.1, 0]]).double()
    targets = torch.tensor([0, 0, 1, 1])
    report = build_report(EvaluatedNames(["a", "b", "c", "a"], targets, p, list("ABC")))
    assert report["pairs"] == 4
    # The name `a` belongs to A and B, and only one prediction is made for it.
    assert report["ceiling"] == 3 / 4
    assert report["majority"] == {"category": "A", "accuracy": 0.5}
    assert report["categories"] == [
        {"category": "A", "precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2},
        {"category": "B", "precision": 1.0, "recall": 0.5, "f1": 2 / 3, "support": 2},
        {"category": "C", "precision": None, "recall": None, "f1": None, "support": 0},
    ]
    assert report["confused"] == [{"category": "B", "guess": "A", "count": 1, "examples": ["a"]}]
    assert report["accuracy"]["value"] == 0.75
    # The confidences are 0.9, where the prediction is wrong, 0.8, 0.7 and 0.6.
    coverage = [list(row.values()) for row in report["coverage"]]
    expected_coverage = [
        [0.3, 3 / 4, 1],
        [0.3, 3 / 4, 1],
        [0.65, 2 / 3, 0.75],
        [0.75, 1 / 2, 0.5],
        [0.85, 0, 0.25],
    ]
    assert len(coverage) == len(expected_coverage)
    for row, expected_row in zip(coverage, expected_coverage, strict=True):
        assert row == pytest.approx(expected_row)


def test_macro_averages_include_only_categories_that_have_names() -> None:
    """C has no names and is predicted once, which lowers only the recall of B."""
    p = torch.tensor([[0.7, 0.3, 0], [0.6, 0.4, 0], [0.2, 0.8, 0], [0.1, 0, 0.9]]).double()
    evaluated = EvaluatedNames(list("abcd"), torch.tensor([0, 0, 1, 1]), p, list("ABC"))
    scores = compute_unweighted_scores(evaluated)
    assert scores["balanced_accuracy"] == (1 + 1 / 2) / 2
    assert scores["macro_f1"] == pytest.approx((1 + 2 * 1 / (2 + 1)) / 2)


def test_categories_with_few_names_are_marked() -> None:
    targets = torch.tensor([0] * 20 + [1] * 19)
    p = torch.eye(3).double()[targets]
    evaluated = EvaluatedNames([str(i) for i in range(39)], targets, p, list("ABC"))
    text = format_report(build_report(evaluated))
    rows = re.findall(r"^([ABC]) .* (\d+)( \*)?$", text, re.MULTILINE)
    # A row ends with the number of names. C has no scores that could be unreliable.
    assert rows == [
        ("A", "20", ""),
        ("B", "19", " *"),
        ("C", "0", ""),
    ]
    note = "* fewer than 20 names; the margin of error of the recall can be 0.2 or more"
    assert f"\n{note}\n" in text
    only_a = EvaluatedNames(["a"] * 20, targets[:20], p[:20], list("ABC"))
    # Categories without names are not marked.
    assert "*" not in format_report(build_report(only_a))


def train_run(folder: Path, overrides: list[str], **values: Any) -> Path:
    """Train without loggers and return the folder of the run."""
    config = settings(overrides)
    vars(config).update(values, logger={})
    folder.mkdir()
    train(config, folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run in `run` and its corpus in `names`."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "names").mkdir()
    for category, vowel in (("A", "a"), ("B", "e"), ("C", "o")):
        names = ["".join(letters) for letters in product("bdg", vowel, "lmn", "aei")]
        # A name of all categories makes the accuracy ceiling lower than 1.
        (folder / "names" / f"{category}.txt").write_text("\n".join(names + ["shared"]))
    overrides = ["hidden=16", "lr=0.05", "iterations=300", "log_every=100", "seed=3"]
    train_run(folder / "run", overrides, data_dir=str(folder / "names"))
    return folder


def run_evaluate(run: Path, arguments: list[str]) -> int:
    """Run the program with a checkpoint of the fixture `run`, and return its exit status."""
    try:
        evaluate.main([f"--checkpoint={run}/run"] + arguments)
    except SystemExit as exit_request:
        return int(exit_request.code or 0)
    return 0


def read_report(file: Path) -> dict[str, Any]:
    """Return the report in a JSON file."""
    report: dict[str, Any] = json.loads(file.read_text())
    return report


@pytest.mark.parametrize("split", ["test", "val"])
def test_scores_equal_the_metrics_of_the_run(
    run: Path, tmp_path: Path, capsys: Captured, split: str
) -> None:
    """The run was trained under the uniform prior."""
    outputs = [f"--out={tmp_path}/e.json", f"--plot={tmp_path}/e.png"]
    if split == "test":
        prior = "corpus"
        tags = "test/corpus"
    else:
        prior = "uniform"
        tags = "val"
    assert run_evaluate(run, [f"--split={split}", f"--prior={prior}"] + outputs) == 0
    metrics = json.loads((run / "run/metrics.json").read_text())
    report = read_report(tmp_path / "e.json")
    stdout = capsys.readouterr().out
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert report[name]["value"] == pytest.approx(metrics[f"{tags}/{name}"], abs=1e-6)
        assert report[name]["low"] <= report[name]["value"] <= report[name]["high"]
        assert f"{report[name]['value']:.3f}" in stdout
    assert report["split"] == split
    assert matplotlib.image.imread(tmp_path / "e.png").std() > 0.01
    assert run_evaluate(run, [f"--out={tmp_path}/e.json"]) == 2
    assert "e.json: the file already exists; use --force to replace it\n" in capsys.readouterr().err


def test_evaluation_under_a_prior(run: Path, tmp_path: Path, capsys: Captured) -> None:
    """Under a prior that favors A, all names are classified as A."""
    checkpoint = torch.load(run / "run/checkpoints/last.ckpt", weights_only=True)
    # A high temperature makes all likelihoods nearly equal, so the prior decides.
    checkpoint["calibration"] = {
        "trained_prior": [1 / 3] * 3,
        "corpus_prior": [1 - 2e-6, 1e-6, 1e-6],
        "temperature": 20.0,
        "strength": 0.0,
        "curves": {},
    }
    torch.save(checkpoint, tmp_path / "a.ckpt")
    reports = {}
    for prior in ("uniform", "corpus", "tempered"):
        options = [f"--checkpoint={tmp_path}/a.ckpt", "--split=all", f"--prior={prior}"]
        evaluate.main(options + [f"--out={tmp_path}/{prior}.json"])
        assert f"\nClass prior: {prior}\n\n" in capsys.readouterr().out
        reports[prior] = read_report(tmp_path / f"{prior}.json")
        assert reports[prior].pop("prior") == prior
    # With a strength of 0, the tempered prior is uniform.
    assert reports["tempered"] == reports["uniform"]
    assert reports["corpus"]["balanced_accuracy"]["value"] == pytest.approx(1 / 3)
    assert [row["recall"] for row in reports["corpus"]["categories"]] == [1, 0, 0]

    # With this strength and equal trained priors, the predictions are those of the network.
    del checkpoint["calibration"]
    torch.save(checkpoint, tmp_path / "b.ckpt")
    evaluate.main(
        [f"--checkpoint={tmp_path}/b.ckpt", "--split=all", f"--out={tmp_path}/trained.json"]
    )
    assert "\nClass prior: as trained\n\n" in capsys.readouterr().out
    report = read_report(tmp_path / "trained.json")
    assert report["prior"] == "as trained"
    assert report["accuracy"] == reports["uniform"]["accuracy"]
    with pytest.raises(SystemExit):
        evaluate.main([f"--checkpoint={tmp_path}/b.ckpt", "--prior=uniform"])
    assert "--prior uniform: " in capsys.readouterr().err


def test_the_splits_are_those_of_the_run(run: Path, tmp_path: Path) -> None:
    n_pairs = {}
    for split in ("train", "val", "test", "all"):
        assert run_evaluate(run, [f"--split={split}", f"--out={tmp_path}/{split}.json"]) == 0
        n_pairs[split] = read_report(tmp_path / f"{split}.json")["pairs"]
    # Each of the three categories has 28 names.
    assert n_pairs["all"] == 3 * 28
    assert n_pairs["train"] + n_pairs["val"] + n_pairs["test"] == 3 * 28


def test_a_changed_corpus_is_refused(run: Path, tmp_path: Path, capsys: Captured) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in (run / "names").iterdir():
        (changed / file.name).write_text(file.read_text())
    # A copy is the same corpus, because only names and categories are compared.
    assert run_evaluate(run, [f"--data-dir={changed}"]) == 0
    (changed / "A.txt").write_text((run / "names/A.txt").read_text() + "\nnewname")
    capsys.readouterr()
    for split in ("test", "val", "train"):
        assert run_evaluate(run, [f"--data-dir={changed}", f"--split={split}"]) == 2
        stdout, stderr = capsys.readouterr()
        assert stdout == ""
        assert stderr.endswith(
            f"{changed}: not the names of the run, or they have changed since training; "
            "use --split all\n"
        )
        assert stderr.count("\n") == 1
    assert run_evaluate(run, [f"--data-dir={changed}", "--split=all"]) == 0
    assert f"\nNames: {changed}, all names\n" in capsys.readouterr().out
    # A category that the model does not know cannot be predicted.
    (changed / "D.txt").write_text("dodo\n")
    assert run_evaluate(run, [f"--data-dir={changed}", "--split=all"]) == 2
    assert capsys.readouterr().err.endswith(
        f"{changed}: the model does not know 1 of 4 categories ('D'); "
        "use --unknown skip to leave them out, or --unknown wrong to count them as wrong\n"
    )


@pytest.fixture
def other_names(run: Path, tmp_path: Path) -> Path:
    """A folder without the category B and with two categories that the model does not know."""
    folder = tmp_path / "others"
    folder.mkdir()
    for category in "AC":
        (folder / f"{category}.txt").write_text((run / f"names/{category}.txt").read_text())
    (folder / "D.txt").write_text("dodo\ndada\n")
    (folder / "E, F.txt").write_text("efe\n")
    return folder


def test_categories_that_the_model_does_not_know(
    run: Path, other_names: Path, tmp_path: Path, capsys: Captured
) -> None:
    options = [f"--data-dir={other_names}", "--split=all", "--prior=uniform", "--force"]
    options += [f"--out={tmp_path}/e.json", f"--plot={tmp_path}/e.png"]
    reports = {}
    capsys.readouterr()
    for mode, description in (("skip", "left out"), ("wrong", "counted as wrong predictions")):
        assert run_evaluate(run, options + [f"--unknown={mode}"]) == 0
        reports[mode] = read_report(tmp_path / "e.json")
        assert reports[mode]["unknown"] == mode
        assert reports[mode]["unknown_categories"] == ["D", "E, F"]
        line = f"Unknown: 2 of 4 categories ('D', 'E, F'), {description}"
        assert f"\n{line}\n" in capsys.readouterr().out
    skip = reports["skip"]
    wrong = reports["wrong"]
    # The unknown categories have three names.
    assert (skip["pairs"], wrong["pairs"]) == (56, 59)
    assert [row["support"] for row in skip["categories"]] == [28, 0, 28]
    assert [row["support"] for row in wrong["categories"]] == [28, 0, 28, 2, 1]
    assert [row["recall"] for row in wrong["categories"][3:]] == [0, 0]
    n_correct = 56 * skip["accuracy"]["value"]
    assert wrong["accuracy"]["value"] == pytest.approx(n_correct / 59)
    assert wrong["coverage"][0]["precision"] == pytest.approx(n_correct / 59)
    assert wrong["top3_accuracy"]["value"] == pytest.approx(56 / 59)
    recalls = [skip["categories"][i]["recall"] for i in (0, 2)]
    assert skip["balanced_accuracy"]["value"] == pytest.approx(sum(recalls) / 2)
    assert wrong["balanced_accuracy"]["value"] == pytest.approx(sum(recalls) / 4)
    for report in (skip, wrong):
        # Categories without names have no part in the mean.
        f1 = [row["f1"] or 0 for row in report["categories"] if row["support"]]
        assert report["macro_f1"]["value"] == pytest.approx(sum(f1) / len(f1))


def test_one_category_or_none(
    run: Path, other_names: Path, tmp_path: Path, capsys: Captured
) -> None:
    (other_names / "A.txt").unlink()
    (other_names / "C.txt").unlink()
    options = [f"--data-dir={other_names}", "--split=all"]
    assert run_evaluate(run, options + ["--unknown=skip"]) == 2
    message = "there are no names of these categories: 'A', 'B', 'C'\n"
    assert capsys.readouterr().err.endswith(message)
    assert run_evaluate(run, options + ["--unknown=wrong", f"--out={tmp_path}/wrong.json"]) == 0
    assert read_report(tmp_path / "wrong.json")["accuracy"]["value"] == 0
    for category in ("D", "E, F"):
        (other_names / f"{category}.txt").unlink()
    (other_names / "B.txt").write_text((run / "names/B.txt").read_text())
    assert run_evaluate(run, options + [f"--out={tmp_path}/one.json"]) == 0
    report = read_report(tmp_path / "one.json")
    assert report["pairs"] == 28
    assert report["balanced_accuracy"] == report["accuracy"]
    with pytest.raises(
        UserError, match=r"there is only one category \(B\); at least two are required$"
    ):
        read_corpus(other_names)


def test_among_some_categories(run: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run_evaluate(run, ["--among=C,A"]) == 2
    assert (
        "the model does not know 1 of 3 categories ('B'); use --unknown skip to"
        in capsys.readouterr().err
    )
    out = f"--out={tmp_path}/e.json"
    assert run_evaluate(run, ["--among=C,A", "--unknown=skip", out]) == 0
    report = read_report(tmp_path / "e.json")
    assert report["among"] == ["C", "A"]
    assert [row["category"] for row in report["categories"]] == ["C", "A"]
    assert run_evaluate(run, ["--among=C,A", "--unknown=skip", "--split=all", out, "--force"]) == 0
    report = read_report(tmp_path / "e.json")
    model = load_model(run / "run/checkpoints/last.ckpt")
    is_correct: list[bool] = []
    for category in "AC":
        names = (run / f"names/{category}.txt").read_text().split()
        probabilities = model.predict_probabilities(names)
        is_predicted_as_a = probabilities[:, 0] > probabilities[:, 2]
        is_correct += (is_predicted_as_a == (category == "A")).tolist()
    assert report["accuracy"]["value"] == pytest.approx(np.mean(is_correct))


def test_coverage_and_plot(run: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run_evaluate(run, ["--split=all", f"--out={tmp_path}/e.json"]) == 0
    rows = read_report(tmp_path / "e.json")["coverage"]
    assert len(rows) == len(REPORTED_COVERAGES)
    for row, min_coverage in zip(rows, REPORTED_COVERAGES, strict=True):
        assert row["coverage"] >= min_coverage
    stdout = capsys.readouterr().out
    for row in rows:
        line = "{coverage:>10.3f}{precision:>12.3f}{threshold:>12.6f}".format(**row)
        assert f"\n{line}\n" in stdout
    plot = f"--plot={tmp_path}/c.png"
    assert run_evaluate(run, [plot]) == 0
    assert matplotlib.image.imread(tmp_path / "c.png").std() > 0.01
    assert run_evaluate(run, [plot]) == 2
    assert "c.png: the file already exists; use --force to replace it\n" in capsys.readouterr().err


def test_another_split_is_refused(run: Path, tmp_path: Path, capsys: Captured) -> None:
    checkpoint = torch.load(run / "run/checkpoints/last.ckpt", weights_only=True)
    checkpoint["NamesDataModule"]["seed"] = 4
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(SystemExit) as exit_request:
        evaluate.main([f"--checkpoint={tmp_path}/other.ckpt"])
    assert exit_request.value.code == 2
    assert capsys.readouterr().err.endswith(
        "other.ckpt: the split differs from that of the run; use --split all\n"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("val_fraction", math.nan),
        ("val_fraction", math.inf),
        ("val_fraction", -1.0),
        ("val_fraction", 2),
        # These integers are too large for a float.
        ("val_fraction", 10**400),
        ("test_fraction", math.nan),
        # Together with the fraction of validation names, nothing is left to train on.
        ("test_fraction", 0.95),
        ("test_fraction", -0.1),
        ("seed", -1),
        ("seed", 10**5000),
        ("data_dir", ""),
        ("data_dir", "no\0where"),
        ("data_dir", "no\nwhere"),
        ("data_dir", "x" * 5000),
    ],
    ids=lambda part: part if isinstance(part, str) and len(part) < 20 else "number",
)
def test_an_invalid_split_is_refused(
    run: Path, tmp_path: Path, capsys: Captured, key: str, value: object
) -> None:
    checkpoint = torch.load(run / "run/checkpoints/last.ckpt", weights_only=True)
    checkpoint["NamesDataModule"][key] = value
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(SystemExit) as exit_request:
        evaluate.main([f"--checkpoint={tmp_path}/other.ckpt", "--split=val"])
    assert exit_request.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_included_corpus_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """The checkpoint contains no path, because the corpus comes with the program."""
    train_run(tmp_path / "run", ["hidden=4", "iterations=10", "test_fraction=0.01"])
    # The corpus is found from any folder.
    monkeypatch.chdir(tmp_path)
    evaluate.main(["--checkpoint=run"])
    stdout = capsys.readouterr().out
    assert f"\nNames: {INCLUDED_CORPUS}, test set\n" in stdout


def test_a_run_without_test_names(run: Path, tmp_path: Path, capsys: Captured) -> None:
    overrides = ["hidden=4", "iterations=10", "experiment=tutorial"]
    train_run(tmp_path / "tutorial", overrides, data_dir=str(run / "names"))
    with pytest.raises(SystemExit):
        evaluate.main([f"--checkpoint={tmp_path}/tutorial"])
    assert capsys.readouterr().err.endswith(
        "--split test: the run has no test set; use --split all\n"
    )
    assert run_evaluate(run, ["--data-dir=nowhere"]) == 2
    assert "nowhere: contains no <Category>.txt files" in capsys.readouterr().err
