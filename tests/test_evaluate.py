import json
import math
import re
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
from src.data.readers.source import NAMES
from src.errors import UserError
from src.inference.scores import BINS, COVERAGES, Evaluated, as_text, make_report, scores
from src.inference.trained_model import load_model
from src.train import train
from tests.helpers import read_corpus, settings

Captured = pytest.CaptureFixture[str]


def random_evaluated(n: int = 400, c: int = 5) -> Evaluated:
    rng = np.random.default_rng(0)
    targets = torch.from_numpy(rng.integers(c, size=n))
    logits = rng.normal(size=(n, c)) + 1.5 * np.eye(c)[targets]
    probabilities = torch.from_numpy(logits).softmax(dim=1)
    return Evaluated([f"n{i // 2}" for i in range(n)], targets, probabilities, list("ABCDE"))


def plain(n: int) -> torch.Tensor:
    """Return the weighting that counts each of n pairs once."""
    return torch.ones(1, n, dtype=torch.float64)


def test_scores_against_torchmetrics() -> None:
    evaluated = random_evaluated()
    p, y = evaluated.probabilities, evaluated.targets
    ours = {k: v.item() for k, v in scores(evaluated, plain(400)).items()}
    assert ours == {
        "accuracy": pytest.approx(multiclass_accuracy(p, y, 5, average="micro").item()),
        "balanced_accuracy": pytest.approx(multiclass_accuracy(p, y, 5, average="macro").item()),
        "macro_f1": pytest.approx(multiclass_f1_score(p, y, 5, average="macro").item()),
        "top3_accuracy": pytest.approx(
            multiclass_accuracy(p, y, 5, average="micro", top_k=3).item()
        ),
        "log_loss": pytest.approx(torch.nn.functional.nll_loss(p.log(), y).item()),
        "ece": pytest.approx(multiclass_calibration_error(p, y, 5, n_bins=BINS).item(), abs=1e-6),
    }


def test_a_weighting_is_the_pairs_repeated() -> None:
    evaluated = random_evaluated(n=30)
    weights = torch.from_numpy(np.random.default_rng(1).integers(3, size=30))
    repeated = torch.arange(30).repeat_interleave(weights)
    again = Evaluated(
        [evaluated.names[i] for i in repeated],
        evaluated.targets[repeated],
        evaluated.probabilities[repeated],
        evaluated.categories,
    )
    weighted = scores(evaluated, weights[None].double())
    expected = scores(again, plain(len(repeated)))
    assert {k: v.item() for k, v in weighted.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}
    )


def test_the_accuracys_interval_is_the_binomials() -> None:
    report = make_report(random_evaluated(n=1000))
    value = report["accuracy"]["value"]
    half = 1.96 * (value * (1 - value) / 1000) ** 0.5
    assert report["accuracy"]["low"] == pytest.approx(value - half, abs=0.15 * half)
    assert report["accuracy"]["high"] == pytest.approx(value + half, abs=0.15 * half)


def test_the_rest_of_the_report_by_hand() -> None:
    p = torch.tensor([[0.7, 0.3, 0], [0.6, 0.4, 0], [0.2, 0.8, 0], [0.9, 0.1, 0]]).double()
    targets = torch.tensor([0, 0, 1, 1])
    report = make_report(Evaluated(["a", "b", "c", "a"], targets, p, list("ABC")))
    assert report["pairs"] == 4
    assert report["ceiling"] == 3 / 4  # a is A and B
    assert report["majority"] == {"category": "A", "accuracy": 0.5}
    assert report["categories"] == [
        {"category": "A", "precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2},
        {"category": "B", "precision": 1.0, "recall": 0.5, "f1": 2 / 3, "support": 2},
        {"category": "C", "precision": None, "recall": None, "f1": None, "support": 0},
    ]
    assert report["confused"] == [{"category": "B", "guess": "A", "count": 1, "examples": ["a"]}]
    assert report["accuracy"]["value"] == 0.75
    # Surest first: 0.9, which is wrong, then 0.8, 0.7 and 0.6; a quarter of the names each.
    assert [tuple(row.values()) for row in report["coverage"]] == [
        pytest.approx((threshold, precision, coverage))
        for threshold, precision, coverage in (
            *((0.3, 3 / 4, 1), (0.3, 3 / 4, 1), (0.65, 2 / 3, 0.75)),
            *((0.75, 1 / 2, 0.5), (0.85, 0, 0.25)),
        )
    ]


def test_macro_scores_are_of_the_categories_that_are_there() -> None:
    """C is guessed once and never true: it takes from B's recall, and is no category of its own."""
    p = torch.tensor([[0.7, 0.3, 0], [0.6, 0.4, 0], [0.2, 0.8, 0], [0.1, 0, 0.9]]).double()
    evaluated = Evaluated(list("abcd"), torch.tensor([0, 0, 1, 1]), p, list("ABC"))
    found = {name: value.item() for name, value in scores(evaluated, plain(4)).items()}
    assert found["balanced_accuracy"] == (1 + 1 / 2) / 2
    assert found["macro_f1"] == pytest.approx((1 + 2 * 1 / (2 + 1)) / 2)


def test_few_names_are_marked() -> None:
    targets = torch.tensor([0] * 20 + [1] * 19)
    p = torch.eye(3).double()[targets]
    evaluated = Evaluated([str(i) for i in range(39)], targets, p, list("ABC"))
    text = as_text(make_report(evaluated))
    assert re.findall(r"^([ABC]) .* (\d+)( \*)?$", text, re.MULTILINE) == [
        *(("A", "20", ""), ("B", "19", " *"), ("C", "0", "")),
    ]
    assert "\n* fewer than 20 names: " in text
    alone = Evaluated(["a"] * 20, targets[:20], p[:20], list("ABC"))
    assert "*" not in as_text(make_report(alone))


def trained(folder: Path, *words: str, **others: Any) -> Path:
    """Do a run; return its folder."""
    config = settings(*words)
    vars(config).update(others, logger={})
    folder.mkdir()
    train(config, folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run in a folder of its own, beside its corpus `names`."""
    here = tmp_path_factory.mktemp("evaluate")
    (here / "names").mkdir()
    for category, vowel in (("A", "a"), ("B", "e"), ("C", "o")):
        names = [f"{x}{vowel}{y}{z}" for x in "bdg" for y in "lmn" for z in "aei"]
        (here / "names" / f"{category}.txt").write_text("\n".join([*names, "shared"]))
    words = ("hidden=16", "lr=0.05", "iterations=300", "log_every=100", "seed=3")
    trained(here / "run", *words, data_dir=str(here / "names"))
    return here


def ask(run: Path, *arguments: str) -> int:
    try:
        evaluate.main([f"--checkpoint={run}/run", *arguments])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize("split", ["test", "val"])
def test_evaluation_is_the_runs_own(
    run: Path, tmp_path: Path, capsys: Captured, split: str
) -> None:
    out = (f"--out={tmp_path}/e.json", f"--plot={tmp_path}/e.png")
    prior, tags = ("corpus", "test/corpus") if split == "test" else ("uniform", "val")  # as trained
    assert ask(run, f"--split={split}", f"--prior={prior}", *out) == 0
    metrics = json.loads((run / "run/metrics.json").read_text())
    report = json.loads((tmp_path / "e.json").read_text())
    printed = capsys.readouterr().out
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert report[name]["value"] == pytest.approx(metrics[f"{tags}/{name}"], abs=1e-6)
        assert report[name]["low"] <= report[name]["value"] <= report[name]["high"]
        assert f"{report[name]['value']:.4f}" in printed
    assert report["split"] == split
    assert matplotlib.image.imread(tmp_path / "e.png").std() > 0.01
    assert ask(run, f"--out={tmp_path}/e.json") == 2
    assert "e.json: exists; --force" in capsys.readouterr().err


def test_evaluation_under_a_prior(run: Path, tmp_path: Path, capsys: Captured) -> None:
    """Were nearly all names A's, everything would be taken for A: one category in three right."""
    checkpoint = torch.load(run / "run/checkpoints/last.ckpt", weights_only=True)
    checkpoint["decision"] = {
        **{"trained_prior": [1 / 3] * 3, "corpus_prior": [1 - 2e-6, 1e-6, 1e-6]},
        **{"temperature": 20.0, "strength": 0.0, "curves": {}},
    }
    torch.save(checkpoint, tmp_path / "a.ckpt")
    reports = {}
    for prior in ("uniform", "corpus", "tempered"):
        asked = [f"--checkpoint={tmp_path}/a.ckpt", "--split=all", f"--prior={prior}"]
        evaluate.main([*asked, f"--out={tmp_path}/{prior}.json"])
        assert f"\nprior: {prior}\n\n" in capsys.readouterr().out
        reports[prior] = json.loads((tmp_path / f"{prior}.json").read_text())
        assert reports[prior].pop("prior") == prior
    assert reports["tempered"] == reports["uniform"]  # of strength 0
    assert reports["corpus"]["balanced_accuracy"]["value"] == pytest.approx(1 / 3)
    assert [row["recall"] for row in reports["corpus"]["categories"]] == [1, 0, 0]

    # At strength 0 and these equal shares the guesses are those of the network.
    del checkpoint["decision"]
    torch.save(checkpoint, tmp_path / "b.ckpt")
    evaluate.main(
        [f"--checkpoint={tmp_path}/b.ckpt", "--split=all", f"--out={tmp_path}/trained.json"]
    )
    assert "\nprior: as trained\n\n" in capsys.readouterr().out
    trained = json.loads((tmp_path / "trained.json").read_text())
    assert trained["prior"] == "as trained"
    assert trained["accuracy"] == reports["uniform"]["accuracy"]
    with pytest.raises(SystemExit):
        evaluate.main([f"--checkpoint={tmp_path}/b.ckpt", "--prior=uniform"])
    assert "--prior uniform: " in capsys.readouterr().err


def test_the_sides_are_the_runs(run: Path, tmp_path: Path) -> None:
    pairs = {}
    for split in ("train", "val", "test", "all"):
        assert ask(run, f"--split={split}", f"--out={tmp_path}/{split}.json") == 0
        pairs[split] = json.loads((tmp_path / f"{split}.json").read_text())["pairs"]
    assert pairs["all"] == 3 * 28 == pairs["train"] + pairs["val"] + pairs["test"]


def test_a_changed_corpus_is_refused(run: Path, tmp_path: Path, capsys: Captured) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in (run / "names").iterdir():
        (changed / file.name).write_text(file.read_text())
    assert ask(run, f"--data-dir={changed}") == 0  # a copy is the same corpus
    (changed / "A.txt").write_text((run / "names/A.txt").read_text() + "\nnewname")
    capsys.readouterr()
    for split in ("test", "val", "train"):
        assert ask(run, f"--data-dir={changed}", f"--split={split}") == 2
        printed, told = capsys.readouterr()
        assert printed == ""
        assert "not the corpus of the run, or changed since" in told
        assert told.count("\n") == 1
    assert ask(run, f"--data-dir={changed}", "--split=all") == 0
    assert "names: " in capsys.readouterr().out
    (changed / "D.txt").write_text("dodo\n")
    assert ask(run, f"--data-dir={changed}", "--split=all") == 2
    told = capsys.readouterr().err
    assert "the model never answers 1 of 4 categories, 'D'; --unknown skip leaves" in told


@pytest.fixture
def others(run: Path, tmp_path: Path) -> Path:
    """A folder without B, and with two categories that the model does not know."""
    folder = tmp_path / "others"
    folder.mkdir()
    for category in "AC":
        (folder / f"{category}.txt").write_text((run / f"names/{category}.txt").read_text())
    (folder / "D.txt").write_text("dodo\ndada\n")
    (folder / "E, F.txt").write_text("efe\n")
    return folder


def test_categories_that_the_model_does_not_know(
    run: Path, others: Path, tmp_path: Path, capsys: Captured
) -> None:
    asked, reports = ("--split=all", "--prior=uniform", "--force"), {}
    capsys.readouterr()
    for how in ("skip", "wrong"):
        out = (f"--out={tmp_path}/e.json", f"--plot={tmp_path}/e.png", f"--unknown={how}")
        assert ask(run, f"--data-dir={others}", *asked, *out) == 0
        reports[how] = json.loads((tmp_path / "e.json").read_text())
        assert reports[how]["unknown"] == how
        assert reports[how]["unknown_categories"] == ["D", "E, F"]
        said = {"skip": "left out", "wrong": "counted as guessed wrong"}[how]
        assert f"\nunknown: 2 of 4 categories, 'D', 'E, F': {said}\n" in capsys.readouterr().out
    skip, wrong = reports["skip"], reports["wrong"]
    assert (skip["pairs"], wrong["pairs"]) == (56, 59)
    assert [row["support"] for row in skip["categories"]] == [28, 0, 28]
    assert [row["support"] for row in wrong["categories"]] == [28, 0, 28, 2, 1]
    assert [row["recall"] for row in wrong["categories"][3:]] == [0, 0]
    right = 56 * skip["accuracy"]["value"]
    assert wrong["accuracy"]["value"] == pytest.approx(right / 59)
    assert wrong["coverage"][0]["precision"] == pytest.approx(right / 59)
    assert wrong["top3_accuracy"]["value"] == pytest.approx(56 / 59)
    recalls = [skip["categories"][i]["recall"] for i in (0, 2)]
    assert skip["balanced_accuracy"]["value"] == pytest.approx(sum(recalls) / 2)
    assert wrong["balanced_accuracy"]["value"] == pytest.approx(sum(recalls) / 4)
    for report in (skip, wrong):
        f1 = [row["f1"] or 0 for row in report["categories"] if row["support"]]
        assert report["macro_f1"]["value"] == pytest.approx(sum(f1) / len(f1))


def test_one_category_or_none(run: Path, others: Path, tmp_path: Path, capsys: Captured) -> None:
    (others / "A.txt").unlink()
    (others / "C.txt").unlink()
    told = f"--data-dir={others}", "--split=all"
    assert ask(run, *told, "--unknown=skip") == 2
    assert "no names of any category that is asked about: 'A', 'B', 'C'" in capsys.readouterr().err
    assert ask(run, *told, "--unknown=wrong", f"--out={tmp_path}/wrong.json") == 0
    assert json.loads((tmp_path / "wrong.json").read_text())["accuracy"]["value"] == 0
    for name in ("D", "E, F"):
        (others / f"{name}.txt").unlink()
    (others / "B.txt").write_text((run / "names/B.txt").read_text())
    assert ask(run, *told, f"--out={tmp_path}/one.json") == 0
    report = json.loads((tmp_path / "one.json").read_text())
    assert report["pairs"] == 28
    assert report["balanced_accuracy"] == report["accuracy"]
    with pytest.raises(UserError, match="has only one category, B; needs two"):
        read_corpus(others)


def test_among_some_categories(run: Path, tmp_path: Path, capsys: Captured) -> None:
    assert ask(run, "--among=C,A") == 2
    assert "1 of 3 categories, 'B'; --unknown" in capsys.readouterr().err
    out = f"--out={tmp_path}/e.json"
    assert ask(run, "--among=C,A", "--unknown=skip", out) == 0
    report = json.loads((tmp_path / "e.json").read_text())
    assert report["among"] == ["C", "A"]
    assert [row["category"] for row in report["categories"]] == ["C", "A"]
    whole = load_model(run / "run/checkpoints/last.ckpt")
    sides = {c: (run / f"names/{c}.txt").read_text().split() for c in "AC"}
    pairs = [(n, c) for c, names in sides.items() for n in names]
    assert ask(run, "--among=C,A", "--unknown=skip", "--split=all", out, "--force") == 0
    p = whole.probabilities([name for name, _ in pairs])
    right = [(p[i, 0] > p[i, 2]).item() == (c == "A") for i, (_, c) in enumerate(pairs)]
    report = json.loads((tmp_path / "e.json").read_text())
    assert report["accuracy"]["value"] == pytest.approx(np.mean(right))


def test_precision_over_coverage(run: Path, tmp_path: Path, capsys: Captured) -> None:
    assert ask(run, "--split=all", f"--out={tmp_path}/e.json") == 0
    rows = json.loads((tmp_path / "e.json").read_text())["coverage"]
    assert len(rows) == len(COVERAGES)
    for row, minimum_coverage in zip(rows, COVERAGES, strict=True):
        assert row["coverage"] >= minimum_coverage
    printed = capsys.readouterr().out
    for row in rows:
        line = "{coverage:>10.3f}{precision:>12.3f}{threshold:>12.6f}".format(**row)
        assert f"\n{line}\n" in printed
    picture = f"--plot={tmp_path}/c.png"
    assert ask(run, picture) == 0
    assert matplotlib.image.imread(tmp_path / "c.png").std() > 0.01
    assert ask(run, picture) == 2
    assert "c.png: exists; --force" in capsys.readouterr().err


def test_another_split_is_refused(run: Path, tmp_path: Path, capsys: Captured) -> None:
    checkpoint = torch.load(run / "run/checkpoints/last.ckpt", weights_only=True)
    checkpoint["NamesDataModule"]["seed"] = 4
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(SystemExit) as ended:
        evaluate.main([f"--checkpoint={tmp_path}/other.ckpt"])
    assert ended.value.code == 2
    assert "split the corpus in another way" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("val_fraction", value) for value in (math.nan, math.inf, -1.0, 2, 10**400)),
        *(("test_fraction", value) for value in (math.nan, 0.95, -0.1)),
        *(("seed", value) for value in (-1, 10**5000)),
        *(("data_dir", value) for value in ("", "no\0where", "no\nwhere", "x" * 5000)),
    ],
    ids=lambda part: part if isinstance(part, str) and len(part) < 20 else "number",
)
def test_a_split_that_cannot_be_is_refused(
    run: Path, tmp_path: Path, capsys: Captured, key: str, value: object
) -> None:
    checkpoint = torch.load(run / "run/checkpoints/last.ckpt", weights_only=True)
    checkpoint["NamesDataModule"][key] = value
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(SystemExit) as ended:
        evaluate.main([f"--checkpoint={tmp_path}/other.ckpt", "--split=val"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_shipped_corpus_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """A checkpoint names no folder then: the corpus is where this program is."""
    trained(tmp_path / "run", "hidden=4", "iterations=10", "test_fraction=0.01")
    monkeypatch.chdir(tmp_path)
    evaluate.main(["--checkpoint=run"])
    printed = capsys.readouterr().out
    assert f"\nnames: {NAMES}, test: names the run never saw\n" in printed


def test_nothing_held_out(run: Path, tmp_path: Path, capsys: Captured) -> None:
    words = ("hidden=4", "iterations=10", "experiment=tutorial")
    trained(tmp_path / "tutorial", *words, data_dir=str(run / "names"))
    with pytest.raises(SystemExit):
        evaluate.main([f"--checkpoint={tmp_path}/tutorial"])
    assert "--split test: the run held no names out" in capsys.readouterr().err
    assert ask(run, "--data-dir=nowhere") == 2
    assert "nowhere: contains no <Category>.txt files" in capsys.readouterr().err
