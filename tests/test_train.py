import csv
import json
import re
import signal
from pathlib import Path

import matplotlib.image
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from src.data.alphabet import ALPHABET
from src.data.datamodule import NamesDataModule
from src.errors import UserError
from src.experiment import run_experiment
from src.metrics import read_metrics
from src.models.online_sgd import autograd_steps
from src.models.rnn import RNN
from src.runs.interruption import Interrupted
from src.trained import load_model
from tests.conftest import ROOT, run_train, settings, start_train

DECIDED = {
    f"test/{prior}/{score}"
    for prior in ("uniform", "corpus", "tempered")
    for score in ("accuracy", "balanced_accuracy", "macro_f1")
}
SCORES = ["loss", "accuracy", "balanced_accuracy", "macro_f1", "top3_accuracy"]
TINY = [
    "hidden=16",
    "lr=0.05",
    "iterations=250",
    "log_every=50",
    "print_every=100",
    "val_every=100",
]


def newest_run(folder: Path) -> Path:
    return max(folder.glob("outputs/*/*"), key=lambda path: path.stat().st_mtime)


def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One tiny run on the shipped corpus: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    ran = run_train(*TINY, f"data_dir={ROOT}/data/names", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""  # no warning, no tip, no bar where there is no terminal
    return newest_run(folder), ran.stdout


def test_run_folder(finished: tuple[Path, str]) -> None:
    run, _ = finished
    names = {path.name for path in run.iterdir() if "tfevents" not in path.name}
    assert names == {
        ".hydra",
        "checkpoints",
        "confusion_matrix.png",
        "loss.png",
        "metrics.json",
        "train.log",
        "hparams.yaml",
    }
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    for picture in ("confusion_matrix.png", "loss.png"):
        pixels = matplotlib.image.imread(run / picture)
        assert min(pixels.shape[:2]) > 400
        assert pixels.std() > 0.01  # something is drawn


def test_metrics_json(finished: tuple[Path, str]) -> None:
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    assert set(metrics) == {
        "train/loss",
        *(f"{stage}/{score}" for stage in ("val", "test") for score in SCORES),
        *DECIDED,
        *("status", "iterations", "seconds", "names_per_second"),
    }
    assert metrics["status"] == "finished"
    assert metrics["iterations"] == 250
    assert metrics["seconds"] > 250 / metrics["names_per_second"]
    assert all(0 <= metrics[f"test/{score}"] <= 1 for score in SCORES[1:])


def test_tensorboard(finished: tuple[Path, str]) -> None:
    run, _ = finished
    metrics = json.loads((run / "metrics.json").read_text())
    log = events(run)
    points = {tag: [(e.step, e.value) for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
    logged = {"train/loss"} | {f"{s}/{m}" for s in ("val", "test") for m in SCORES}
    assert set(points) == logged | DECIDED
    assert [step for step, _ in points["train/loss"]] == [50, 100, 150, 200, 250]
    for score in SCORES:
        assert [step for step, _ in points[f"val/{score}"]] == [100, 200, 250]
        assert [step for step, _ in points[f"test/{score}"]] == [250]
    for tag, series in points.items():  # final numbers are the curves' last points
        assert series[-1][1] == pytest.approx(metrics[tag], abs=1e-6)

    (image,) = log.Images("confusion_matrix")
    assert image.step == 250
    assert image.width > 400

    summary = log.SummaryMetadata("_hparams_/session_start_info")
    row = HParamsPluginData.FromString(summary.plugin_data.content).session_start_info.hparams
    assert row["lr"].number_value == 0.05
    assert row["hidden"].number_value == 16
    assert row["backend"].string_value == "compiled"
    experiment = log.SummaryMetadata("_hparams_/experiment")
    infos = HParamsPluginData.FromString(experiment.plugin_data.content).experiment.metric_infos
    assert {info.name.tag for info in infos} == logged


def test_train_loss_is_the_mean_of_the_autograd_loops(finished: tuple[Path, str]) -> None:
    data = NamesDataModule(ROOT / "data/names", 0.1, 0.1, 0, 250, log_every=50, epoch_size=250)
    torch.manual_seed(0)
    rnn = RNN(57, 16, 18)
    means = [autograd_steps(rnn, batch, 0.05)[0].mean().item() for batch in data.train_dataloader()]
    logged = [event.value for event in events(finished[0]).Scalars("train/loss")]
    assert logged == pytest.approx(means, abs=1e-5)


def test_checkpoint_is_plain_values_and_predicts_without_the_corpus(
    finished: tuple[Path, str],
) -> None:
    checkpoint = torch.load(finished[0] / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["iteration"] == 250
    hyperparameters = checkpoint["hyper_parameters"]
    assert hyperparameters["alphabet"] == ALPHABET
    assert hyperparameters["categories"][:2] == ["Arabic", "Chinese"]
    assert len(hyperparameters["categories"]) == 18
    rnn = RNN(57, hyperparameters["hidden"], 18)
    weights = {k.removeprefix("rnn."): v for k, v in checkpoint["state_dict"].items()}
    rnn.load_state_dict(weights)


def test_what_is_printed(finished: tuple[Path, str]) -> None:
    run, printed = finished
    lines = printed.splitlines()
    assert lines[0].startswith("18 categories, 16,0")
    assert [line.split()[:2] for line in lines[1:3]] == [["100", "40%"], ["200", "80%"]]
    for line in lines[1:3]:
        assert line.endswith("CORRECT") or line.rstrip(")").split("WRONG (")[1] != ""
        assert " / " in line
    metrics = json.loads((run / "metrics.json").read_text())
    (accuracy,) = (line for line in lines if line.startswith("balanced accuracy"))
    shown = [float(value) for value in accuracy.split()[2:]]
    columns = ["val", "test", "test/uniform", "test/corpus", "test/tempered"]
    expected = [metrics[f"{column}/balanced_accuracy"] for column in columns]
    assert shown == pytest.approx(expected, abs=5e-5)
    assert f"Run          {run}" in lines
    assert (run / "train.log").read_text() == printed


def test_the_printed_example_is_the_draw_of_its_iteration(finished: tuple[Path, str]) -> None:
    data = NamesDataModule(ROOT / "data/names", 0.1, 0.1, 0, 250, log_every=50, epoch_size=250)
    line = data.examples.take(99, 1)[0]
    letters = data.train[line][0].argmax(dim=2).flatten()
    name = "".join(ALPHABET[i] for i in letters)
    assert f"  {name} / " in finished[1].splitlines()[1]


def test_the_tutorial_recipe(tmp_path: Path) -> None:
    ran = run_train(
        *TINY, "experiment=tutorial", "logger=csv", f"data_dir={ROOT}/data/names", cwd=tmp_path
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    run = newest_run(tmp_path)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics) == {"status", "train/loss", "iterations", "seconds", "names_per_second"}
    assert (run / "confusion_matrix.png").exists()
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [50, 100, 150, 200, 250]
    assert float(rows[-1]["train/loss"]) == pytest.approx(metrics["train/loss"])


@pytest.mark.parametrize("recipe", ["best", "pytorch_tutorial_2024"])
def test_the_batched_recipes(tmp_path: Path, recipe: str) -> None:
    words = [f"experiment={recipe}", "iterations=20", "log_every=10", "val_every=10", "ngrams=2"]
    run_experiment(settings(*words, "hidden=8", f"data_dir={ROOT}/data/names"), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["status"], metrics["iterations"]) == ("finished", 20)
    model = load_model(tmp_path / "checkpoints/last.ckpt")
    assert model.probabilities(["Jones"]).sum() == pytest.approx(1, abs=1e-5)


def test_two_runs_share_no_folder_and_a_multirun_has_one_of_its_own(
    corpus_dir: Path, tmp_path: Path
) -> None:
    ran = run_train(
        "-m", "seed=1,1", *TINY, "backend=autograd", f"data_dir={corpus_dir}", cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    (first, second) = sorted(tmp_path.glob("outputs/sweeps/*/*/*/metrics.json"))
    one, two = json.loads(first.read_text()), json.loads(second.read_text())
    assert one["test/loss"] == two["test/loss"]  # nothing leaks from job to job
    assert one["train/loss"] == two["train/loss"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data_dir=nowhere"], "data_dir=nowhere: no such folder"),
        (["data_dir=empty"], "data_dir=empty: holds no <Category>.txt files"),
        (["data_dir=one"], "data_dir=one: holds one category only, Only.txt; needs two"),
        (["data_dir=latin"], "latin/Bad.txt:1: not UTF-8; save the file as UTF-8"),
        (["data_dir=blank"], "blank/Bad.txt: holds no names; delete the file"),
        (["data_dir=digits"], "digits/Bad.txt:2: '123' has no letter to read"),
        (["trainer=gpu", "backend=autograd"], "trainer: "),
        (["logger._target_=lightning.pytorch.loggers.os"], "logger._target_=lightning.pytorch.log"),
        (["+logger.speed=9"], "logger: "),
        (["logger.name=mine"], "logger.name=mine: must be empty"),
        (["logger=csv", "+logger.flush_logs_every_n_steps=0"], "logger.flush_logs_every_n_steps=0"),
    ],
)
def test_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], message: str
) -> None:
    if torch.cuda.is_available() and "trainer=gpu" in overrides:
        pytest.skip("there is a GPU, so nothing is wrong with asking for it")
    files = {
        "one/Only.txt": b"Jones\n",
        "latin/Bad.txt": b"M\xfcller\n",
        "latin/Good.txt": b"Jones\n",
        "blank/Bad.txt": b"\n",
        "blank/Good.txt": b"Jones\n",
        "digits/Bad.txt": b"Jones\n123\n",
        "digits/Good.txt": b"Jones\n",
    }
    (tmp_path / "empty").mkdir()
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    config = settings(*TINY, f"data_dir={ROOT}/data/names", *overrides)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    with pytest.raises(UserError) as caught:
        run_experiment(config, run)
    assert str(caught.value).startswith(message)
    assert not list(run.glob("checkpoints"))


def test_the_last_good_checkpoint_outlives_divergence(tmp_path: Path) -> None:
    """At lr=0.2 the linear recurrence explodes within a few hundred names."""
    config = settings(
        *("hidden=16", "lr=0.2", "iterations=5000", "log_every=100", "val_every=100"),
        f"data_dir={ROOT}/data/names",
    )
    with pytest.raises(UserError, match=r"lr=0\.2: the loss is no longer finite") as caught:
        run_experiment(config, tmp_path)
    (iteration,) = re.findall(r"iteration ([\d,]+);", str(caught.value))
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["iteration"] == (int(iteration.replace(",", "")) - 1) // 100 * 100 > 0
    assert all(weight.isfinite().all() for weight in checkpoint["state_dict"].values())
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["status"], metrics["iterations"]) == ("diverged", checkpoint["iteration"])
    assert metrics["train/loss"] == checkpoint["history"][-2][1]["train/loss"]
    assert metrics["val/loss"] == checkpoint["history"][-1][1]["val/loss"]
    assert read_metrics(tmp_path) == {}


def test_ctrl_c_at_the_end(
    corpus_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("src.models.classifier.NameClassifier.on_test_epoch_end", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    with caplog.at_level("INFO"), pytest.raises(Interrupted) as caught:
        run_experiment(settings(*TINY, f"data_dir={corpus_dir}"), tmp_path)
    assert caught.value.status == 130
    assert signal.getsignal(signal.SIGINT) == handler
    assert caplog.messages[-1] == (
        f"Interrupted at iteration 250. To go on:\npython -m src.train resume={tmp_path}"
    )


def test_ctrl_c(tmp_path: Path) -> None:
    words = ["iterations=100000000", f"data_dir={ROOT}/data/names"]
    process = start_train(*words, cwd=tmp_path, until="outputs/*/*/checkpoints/last.ckpt")
    process.send_signal(signal.SIGINT)
    printed, complained = process.communicate(timeout=30)
    assert process.returncode == 130
    assert printed.splitlines()[-2].startswith("Interrupted at iteration ")
    assert complained == ""
