"""Single runs of `python -m src.train`: their files, logs, messages and errors."""

import csv
import json
import re
import signal
import threading
from pathlib import Path

import matplotlib.image
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.data.alphabet import Alphabet
from src.data.datamodule import NamesDataModule
from src.data.normalize import ASCII_SYMBOLS
from src.errors import UserError
from src.inference.trained_model import load_model
from src.models.rnn import RNN, read_name
from src.run.run_folder import read_result_or_empty
from src.run.signals import STOP_HANDLER
from src.train import main, train
from tests.helpers import ROOT, load_checkpoint, make_corpus, settings, timeless_metrics
from tests.processes import Programs

PRIOR_SCORES = {
    "test/uniform/accuracy",
    "test/uniform/balanced_accuracy",
    "test/uniform/macro_f1",
    "test/corpus/accuracy",
    "test/corpus/balanced_accuracy",
    "test/corpus/macro_f1",
    "test/tempered/accuracy",
    "test/tempered/balanced_accuracy",
    "test/tempered/macro_f1",
}
SETTINGS_TAG = "settings/text_summary"
SCORES = ["loss", "accuracy", "balanced_accuracy", "macro_f1", "top3_accuracy"]
QUICK_RUN = [
    "hidden=16",
    "lr=0.05",
    "iterations=250",
    "log_every=50",
    "print_every=100",
    "val_every=100",
]


def find_newest_run(folder: Path) -> Path:
    return max(folder.glob("outputs/*/*"), key=lambda path: path.stat().st_mtime)


def read_events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def finished_run(
    all_programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The folder of a short run on the included corpus, and its output."""
    folder = tmp_path_factory.mktemp("finished")
    result = all_programs.train(QUICK_RUN, cwd=folder)
    # There are no warnings and no tips, and no progress bar, as this is not a terminal.
    assert (result.returncode, result.stderr) == (0, "")
    return find_newest_run(folder), result.stdout


def test_run_folder(finished_run: tuple[Path, str]) -> None:
    run, _ = finished_run
    names = {path.name for path in run.iterdir() if "tfevents" not in path.name}
    assert names == {
        ".hydra",
        "checkpoints",
        "confusion_matrix.png",
        "loss.png",
        "metrics.json",
        "train.log",
        "config.yaml",
        ".lock",
    }
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    for picture in ("confusion_matrix.png", "loss.png"):
        pixels = matplotlib.image.imread(run / picture)
        assert min(pixels.shape[:2]) > 400
        assert pixels.std() > 0.01  # something is drawn


def test_metrics_json(finished_run: tuple[Path, str]) -> None:
    metrics = json.loads((finished_run[0] / "metrics.json").read_text())
    expected_keys = {"train/loss", "train/hidden_norm"} | PRIOR_SCORES
    expected_keys |= {"status", "iterations", "seconds", "names_per_second"}
    for stage in ("val", "test"):
        expected_keys.update(f"{stage}/{score}" for score in SCORES)
    assert set(metrics) == expected_keys
    assert metrics["status"] == "finished"
    assert metrics["iterations"] == 250
    # The seconds include the time before and after the training.
    assert metrics["seconds"] > 250 / metrics["names_per_second"]
    assert all(0 <= metrics[f"test/{score}"] <= 1 for score in SCORES[1:])


def test_tensorboard(finished_run: tuple[Path, str]) -> None:
    run, _ = finished_run
    metrics = json.loads((run / "metrics.json").read_text())
    log = read_events(run)
    steps: dict[str, list[int]] = {}
    last_values: dict[str, float] = {}
    for tag in log.Tags()["scalars"]:
        events = log.Scalars(tag)
        steps[tag] = [event.step for event in events]
        last_values[tag] = events[-1].value
    expected_tags = {"train/loss", "train/hidden_norm"}
    # With the prefix `z_`, TensorBoard shows test metrics last.
    for stage in ("val", "z_test"):
        expected_tags.update(f"{stage}/{score}" for score in SCORES)
    assert set(steps) == expected_tags
    assert steps["train/loss"] == [50, 100, 150, 200, 250]
    for score in SCORES:
        assert steps[f"val/{score}"] == [100, 200, 250]
        assert steps[f"z_test/{score}"] == [250]
    # The metrics are the last points of the curves.
    for tag, value in last_values.items():
        assert value == pytest.approx(metrics[tag.removeprefix("z_")], abs=1e-6)

    assert log.Tags()["images"] == ["visualization/confusion_matrix", "visualization/loss"]
    for tag in log.Tags()["images"]:
        (image,) = log.Images(tag)
        assert image.step == 250
        assert image.width > 400

    (event,) = log.Tensors(SETTINGS_TAG)
    text = bytes(event.tensor_proto.string_val[0]).decode()
    assert "    lr: 0.05\n" in text
    assert "custom_scalars__config__" not in log.Tags()["tensors"]


def test_hidden_norm_after_twenty_letters(finished_run: tuple[Path, str]) -> None:
    run, _ = finished_run
    last = read_events(run).Scalars("train/hidden_norm")[-1]
    weights = {}
    for name, weight in load_checkpoint(run)["state_dict"].items():
        weights[name.rpartition("rnn.")[2]] = weight
    rnn = RNN(57, 16, 18)
    rnn.load_state_dict(weights)
    hidden = rnn.init_hidden()
    # The norm is that of the state after the first twenty letters of the alphabet.
    for letter in torch.eye(57)[:20]:
        _, hidden = rnn(letter[None], hidden)
    assert last.value == pytest.approx(hidden.norm().item(), rel=1e-5)


def test_train_loss_is_the_mean_loss_of_the_tutorial_loop(finished_run: tuple[Path, str]) -> None:
    data = NamesDataModule()
    torch.manual_seed(0)
    rnn = RNN(57, 16, 18)
    criterion = torch.nn.NLLLoss()
    losses = []
    for line in data.sampler.take(0, 250):
        name, category = data.train_dataset[line]
        loss = criterion(read_name(rnn, name), category)
        rnn.zero_grad()
        loss.backward()
        with torch.no_grad():
            for weight in rnn.parameters():
                if weight.grad is not None:  # a name of one letter never reaches i2h
                    weight.sub_(weight.grad, alpha=0.05)
        losses.append(loss.item())
    means = torch.tensor(losses).reshape(5, 50).mean(dim=1).tolist()
    logged = [event.value for event in read_events(finished_run[0]).Scalars("train/loss")]
    assert logged == pytest.approx(means, abs=1e-5)
    checkpoint = torch.load(finished_run[0] / "checkpoints/last.ckpt", weights_only=True)
    for key, value in rnn.state_dict().items():
        trained = checkpoint["state_dict"][f"network.recurrent.rnn.{key}"]
        torch.testing.assert_close(trained, value, atol=1e-5, rtol=0)


def test_checkpoint_is_plain_values_and_predicts_without_the_corpus(
    finished_run: tuple[Path, str],
) -> None:
    checkpoint = torch.load(finished_run[0] / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["iteration"] == 250
    network = checkpoint["hyper_parameters"]["network"]
    assert network["alphabet"] == Alphabet(case_style="capitalised").to_dict()
    assert network["categories"][:2] == ["Arabic", "Chinese"]
    assert len(network["categories"]) == 18
    assert load_model(finished_run[0] / "checkpoints/last.ckpt").predict_probabilities(
        ["Ng"]
    ).shape == (
        1,
        18,
    )


def test_printed_output_of_a_run(finished_run: tuple[Path, str]) -> None:
    run, output = finished_run
    lines = output.splitlines()
    n_names = "16,034 training examples, 1,783 validation and 1,799 test names"
    assert lines[0] == f"18 categories; {n_names}"
    assert [line.split()[:2] for line in lines[1:3]] == [["100", "40%"], ["200", "80%"]]
    for line in lines[1:3]:
        assert line.endswith("CORRECT") or line.rstrip(")").split("WRONG (")[1] != ""
        assert " / " in line
    metrics = json.loads((run / "metrics.json").read_text())
    (accuracy_line,) = [line for line in lines if line.startswith("balanced accuracy")]
    # The values are printed with three digits.
    printed_values = [float(value) for value in accuracy_line.split()[2:]]
    columns = ["val", "test", "test/uniform", "test/corpus", "test/tempered"]
    assert lines[4].split() == ["val", "test", "uniform", "corpus", "tempered"]
    expected = [metrics[f"{column}/balanced_accuracy"] for column in columns]
    assert printed_values == pytest.approx(expected, abs=5e-4)
    speed = f"{metrics['names_per_second']:,.0f} names/s"
    duration = re.fullmatch(rf"Done in (\d+\.\d) s \(training \d+\.\d s, {speed}\)", lines[-4])
    # After this line, the loss curves are drawn.
    assert duration
    assert 0 < float(duration[1]) <= metrics["seconds"] + 0.05
    assert lines[-3:] == [
        f"Run          {run.relative_to(run.parents[2])}",
        "TensorBoard  tensorboard --logdir outputs",
        "Predict      python -m src.predict NAME",
    ]
    assert max(len(line) for line in lines if not line.startswith("Run  ")) <= 80
    assert (run / "train.log").read_text() == output


def test_printed_example_is_the_draw_of_its_iteration(finished_run: tuple[Path, str]) -> None:
    data = NamesDataModule()
    line = data.sampler.take(99, 1)[0]
    letters = data.train_dataset[line][0].argmax(dim=2).flatten()
    name = "".join(ASCII_SYMBOLS[i] for i in letters)
    assert f"  {name} / " in finished_run[1].splitlines()[1]


def test_tutorial_experiment(tmp_path: Path, programs: Programs) -> None:
    result = programs.train(QUICK_RUN + ["experiment=tutorial", "logger=csv"], cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    run = find_newest_run(tmp_path)
    # Without validation names, no checkpoint is the best.
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    metrics = json.loads((run / "metrics.json").read_text())
    run_keys = {"status", "iterations", "seconds", "names_per_second"}
    assert set(metrics) == run_keys | {"train/loss", "train/hidden_norm"}
    assert (run / "confusion_matrix.png").exists()
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [50, 100, 150, 200, 250]
    assert float(rows[-1]["train/loss"]) == pytest.approx(metrics["train/loss"])


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.usefixtures("few_ngram_steps")
@pytest.mark.parametrize(
    "experiment", [file.stem for file in (ROOT / "configs/experiment").iterdir()]
)
def test_included_experiments(tmp_path: Path, experiment: str) -> None:
    overrides = [
        f"experiment={experiment}",
        "iterations=20",
        "log_every=10",
        "val_every=10",
        "hidden=8",
    ]
    has_ngrams = experiment in ("best", "names")
    if has_ngrams:
        overrides.append("ngrams=2")
    if experiment == "names":
        overrides.append("passes=0.17")  # 20 of its 113 batches
    train(settings(overrides), tmp_path)
    torch.use_deterministic_algorithms(False)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["status"], metrics["iterations"]) == ("finished", 20)
    assert ("train/lr" in metrics) == has_ngrams  # these have a learning-rate schedule
    model = load_model(tmp_path / "checkpoints/last.ckpt")
    assert model.predict_probabilities(["Jones"]).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data_dir=nowhere"], "data_dir={}/nowhere: must be an existing folder, or null"),
        (["data_dir=empty"], "data_dir={}/empty: contains no <Category>.txt files"),
        (
            ["data_dir=one"],
            "data_dir={}/one: there is only one category (Only); at least two are required",
        ),
        (["data_dir=latin"], "{}/latin/Bad.txt:1: not UTF-8; save the file as UTF-8"),
        (
            ["data_dir=blank"],
            "{}/blank/Bad.txt: contains no names; delete the file, or add one name per line",
        ),
        (
            ["data_dir=digits"],
            "{}/digits: 1 line without a valid name: a name must have at least one letter",
        ),
        (["trainer=gpu", "backend=autograd", "batch_size=2"], "trainer: "),
        (["trainer.profiler=none"], "trainer: When passing string value for the `profiler`"),
        (["logger.tensorboard._target_=os.nothing"], "logger.tensorboard: "),
        (["+logger.tensorboard.speed=9"], "logger.tensorboard: "),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping._target_=os.nothing"],
            "callbacks.early_stopping: ",
        ),
        (
            ["callbacks=early_stopping", "+callbacks.early_stopping.speed=9"],
            "callbacks.early_stopping: ",
        ),
    ],
)
def test_invalid_input_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], message: str
) -> None:
    # The case expects the error of a machine without a GPU.
    if torch.cuda.is_available() and "trainer=gpu" in overrides:
        pytest.skip("a GPU can be selected where there is one")
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
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    with pytest.raises(UserError) as caught:
        train(settings(QUICK_RUN + overrides), run)
    assert str(caught.value).startswith(message.format(tmp_path))
    assert not list(run.glob("checkpoints"))


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize(
    "overrides", [["backend=compiled"], ["backend=autograd"], ["backend=autograd", "batch_size=4"]]
)
def test_gradient_is_clipped_once(corpus_dir: Path, tmp_path: Path, overrides: list[str]) -> None:
    """A step has the length lr · clip, whether OnlineSGD or Lightning clips the gradient."""
    overrides = overrides + ["hidden=8", "iterations=1", "log_every=1", f"data_dir={corpus_dir}"]
    overrides += ["val_fraction=0", "test_fraction=0"]
    weights = {}
    # With lr=1e-30, the weights do not change, so they are those before the step.
    overrides_by_name = {"unchanged": ["lr=1e-30"], "clipped": ["lr=0.5", "clip=0.01"]}
    for name, step_overrides in overrides_by_name.items():
        train(settings(overrides + step_overrides), tmp_path / name)
        state = load_checkpoint(tmp_path / name)["state_dict"]
        weights[name] = torch.cat([weight.flatten() for weight in state.values()]).double()
    step_length = (weights["clipped"] - weights["unchanged"]).norm().item()
    assert step_length == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_diverged_run_keeps_its_last_checkpoint_and_curve(tmp_path: Path) -> None:
    """At lr=0.2 the linear recurrence explodes within a few hundred names."""
    overrides = [
        "hidden=16",
        "lr=0.2",
        "clip=0",
        "iterations=5000",
        "log_every=100",
        "val_every=200",
    ]
    with pytest.raises(
        UserError, match=r"lr=0\.2 clip=0: the loss or a weight is no longer finite"
    ) as caught:
        train(settings(overrides), tmp_path)
    (iteration,) = re.findall(r"iteration ([\d,]+);", str(caught.value))
    n_iterations = int(iteration.replace(",", "")) - 1
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    # The last checkpoint is that of the last validation, and the curve ends at the last log point.
    assert checkpoint["iteration"] == n_iterations // 200 * 200 > 0
    assert all(weight.isfinite().all() for weight in checkpoint["state_dict"].values())
    status, metrics, _ = read_result_or_empty(tmp_path)
    assert (status, metrics["iterations"]) == ("diverged", n_iterations // 100 * 100)
    assert metrics["val/loss"] == checkpoint["history"][-1][1]["val/loss"]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_signal_after_training(
    corpus_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A signal during the test ends the run at once, and the run can be resumed."""

    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("src.models.classifier.NameClassifier.on_test_epoch_end", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    config = settings(QUICK_RUN + [f"data_dir={corpus_dir}"])
    with caplog.at_level("INFO"), pytest.raises(KeyboardInterrupt), STOP_HANDLER.installed():
        train(config, tmp_path)
    assert (STOP_HANDLER.signum, STOP_HANDLER.is_training) == (signal.SIGINT, False)
    # The handler belongs to the process and is used by other tests.
    STOP_HANDLER.signum = 0
    assert signal.getsignal(signal.SIGINT) == handler
    command = f"Resume       python -m src.train resume={tmp_path}"
    assert caplog.messages[-1] == f"Interrupted at iteration 250\n{command}"
    assert timeless_metrics(tmp_path)["status"] == "interrupted"


@pytest.mark.usefixtures("blank_pictures")
def test_run_stopped_by_the_trainer_can_be_resumed(corpus_dir: Path, tmp_path: Path) -> None:
    overrides = QUICK_RUN + [f"data_dir={corpus_dir}"]
    score = train(settings(overrides + ["trainer.max_time=00:00:00:00"]), tmp_path / "none")
    status, metrics, _ = read_result_or_empty(tmp_path / "none")
    assert (status, metrics["iterations"], score) == ("stopped", 0, None)
    stopped_settings = settings(
        overrides + ["trainer.max_time=00:00:00:00", "trainer.limit_train_batches=1"]
    )
    train(stopped_settings, tmp_path / "run")
    # Without the limits, the same folder trains the rest of the iterations.
    train(settings(overrides), tmp_path / "run")
    train(settings(overrides), tmp_path / "uninterrupted")
    assert timeless_metrics(tmp_path / "run") == timeless_metrics(tmp_path / "uninterrupted")
    fast_score = train(settings(overrides + ["trainer.fast_dev_run=2"]), tmp_path / "fast")
    assert read_result_or_empty(tmp_path / "fast")[:1] == ("stopped",)
    assert fast_score is not None
    assert not (tmp_path / "fast/checkpoints").exists()


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize(
    "argument",
    [
        "precision=64-true",
        "precision=bf16-mixed",
        "precision=16-true",
        "devices=auto",
        "limit_val_batches=0",
        "limit_test_batches=0",
        "limit_train_batches=2",
        "enable_progress_bar=true",
        "profiler=simple",
        "enable_autolog_hparams=true",
        "deterministic=warn",
        "detect_anomaly=true",
        "inference_mode=false",
    ],
)
def test_trainer_arguments_are_passed(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.chdir(tmp_path)
    # Some of the arguments, such as other precisions, are only allowed with backend=autograd.
    batched_overrides = [
        "cell=gru",
        "sampling=natural",
        "batch_size=7",
        "backend=autograd",
        "hidden=8",
    ]
    overrides = ["iterations=40", "log_every=5", "val_every=20", f"data_dir={corpus_dir}"]
    train(settings(batched_overrides + overrides + [f"trainer.{argument}"]), tmp_path)
    torch.use_deterministic_algorithms(False)
    status, metrics, _ = read_result_or_empty(tmp_path)
    assert (status, metrics["iterations"]) == ("finished", 40)
    assert ("val/loss" in metrics) == (argument != "limit_val_batches=0")
    assert ("test/loss" in metrics) == (argument != "limit_test_batches=0")
    assert metrics["test/uniform/accuracy"] <= 1
    probabilities = load_model(tmp_path / "checkpoints/last.ckpt").predict_probabilities(["bata"])
    assert probabilities.sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.usefixtures("blank_pictures")
def test_several_loggers_and_no_logger(corpus_dir: Path, tmp_path: Path) -> None:
    overrides = QUICK_RUN + [f"data_dir={corpus_dir}"]
    train(settings(overrides + ["logger=[tensorboard,csv]"]), tmp_path / "two")
    assert list((tmp_path / "two").glob("events.out.tfevents.*"))
    with (tmp_path / "two/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [50, 100, 100, 150, 200, 200, 250, 250, 250]
    assert "lr: 0.05" in (tmp_path / "two/hparams.yaml").read_text()
    train(settings(overrides + ["logger=[]"]), tmp_path / "none")
    assert not list((tmp_path / "none").glob("events.out.tfevents.*"))
    assert timeless_metrics(tmp_path / "none") == timeless_metrics(tmp_path / "two")


def test_run_in_a_thread(tmp_path: Path) -> None:
    """A run in a thread restores the signal handlers and the hook for errors of threads."""
    hook = threading.excepthook
    handler = signal.getsignal(signal.SIGTERM)
    corpus = make_corpus(tmp_path / "names")
    config = settings(QUICK_RUN + [f"data_dir={corpus}"])
    results: list[object] = []
    worker = threading.Thread(target=lambda: results.append(train(config, tmp_path / "run")))
    worker.start()
    worker.join()
    assert results == [timeless_metrics(tmp_path / "run")["val/balanced_accuracy"]]
    assert (threading.excepthook, signal.getsignal(signal.SIGTERM)) == (hook, handler)

    def train_on_an_invalid_folder() -> None:
        try:
            train(settings(QUICK_RUN + [f"data_dir={tmp_path / 'run'}"]), tmp_path / "other")
        except UserError as error:
            results.append(error)

    # An error in a thread must reach the caller as well.
    worker = threading.Thread(target=train_on_an_invalid_folder)
    worker.start()
    worker.join()
    assert "contains no <Category>.txt files" in str(results[1])


def test_main_from_another_folder(
    own_corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths start at the folder of the command, even if Hydra changes the folder."""
    monkeypatch.chdir(tmp_path)
    overrides = QUICK_RUN + ["data_dir=names", "hydra.job.chdir=true", "hydra.output_subdir=null"]
    overrides += ["hydra/job_logging=disabled", "hydra.run.dir=here"]
    monkeypatch.setattr("sys.argv", ["train.py"] + overrides)
    assert main() is None  # hydra.main returns nothing
    assert read_result_or_empty(tmp_path / "here")[0] == "finished"
    assert not (tmp_path / "here/.hydra").exists()
    assert Path.cwd() == tmp_path


@pytest.mark.usefixtures("blank_pictures")
def test_early_stopping_stops_a_run_that_no_longer_improves(
    corpus_dir: Path, tmp_path: Path
) -> None:
    overrides = QUICK_RUN + [
        f"data_dir={corpus_dir}",
        "iterations=1000",
        "callbacks=early_stopping",
    ]
    overrides.append("callbacks.early_stopping.patience=1")
    # No improvement is that large.
    overrides.append("+callbacks.early_stopping.min_delta=100")
    train(settings(overrides), tmp_path)
    result = read_result_or_empty(tmp_path)
    # The first validation is the best so far, and the second is no improvement.
    assert (result.status, result.metrics["iterations"]) == ("stopped", 200)
