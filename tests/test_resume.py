"""Runs that are interrupted, killed, moved or damaged, and then resumed."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from src.errors import UserError
from src.models.classifier import NameClassifier
from src.run.callbacks import StopOnSignal
from src.run.run_folder import read_settings
from src.run.signals import STOP_HANDLER
from src.train import train
from tests.helpers import (
    ROOT,
    assert_equal_runs,
    load_checkpoint,
    make_corpus,
    read_curves,
    settings,
    timeless_metrics,
    with_old_names,
)
from tests.processes import Programs

pytestmark = pytest.mark.usefixtures("blank_pictures")

QUICK_RUN = [
    "hidden=8",
    "lr=0.05",
    "iterations=600",
    "log_every=50",
    "print_every=100",
    "val_every=200",
]
BATCHED_RUN = [
    "cell=gru",
    "bidirectional=true",
    "pooling=all",
    "embedding=4",
    "ngrams=2",
    "dropout=0.5",
    "recurrent_dropout=0.3",
    "sampling=natural",
    "batch_size=7",
    "iterations=60",
    "optimizer=adamw",
    "schedule=cosine",
    "log_every=5",
    "val_every=20",
    "print_every=10",
    "backend=autograd",
]


def interrupt_at(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """Simulate SIGTERM at the start of the first batch from an iteration on."""
    original_hook = StopOnSignal.on_train_batch_start

    def interrupting_hook(self: StopOnSignal, trainer: Trainer, module: Any, *args: Any) -> None:
        if module.iteration >= iteration:
            STOP_HANDLER.signum = signal.SIGTERM
        original_hook(self, trainer, module, *args)

    monkeypatch.setattr(StopOnSignal, "on_train_batch_start", interrupting_hook)


@pytest.fixture(autouse=True)
def no_pending_signal() -> Any:
    """Reset the signal that a test has simulated."""
    yield
    STOP_HANDLER.signum = 0


@pytest.fixture(scope="module")
def uninterrupted_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for uninterrupted runs. Tests with the same settings share a run."""
    return tmp_path_factory.mktemp("uninterrupted")


@pytest.mark.usefixtures("few_ngram_steps")
@pytest.mark.parametrize(
    ("overrides", "stop"),
    [
        # A run may stop before the first iteration, and at or between validations.
        (QUICK_RUN, 0),
        (QUICK_RUN, 50),
        (QUICK_RUN, 200),
        (QUICK_RUN, 250),
        # At 35, the mean loss of 70 iterations is half computed.
        (QUICK_RUN + ["log_every=70"], 35),
        (QUICK_RUN + ["log_every=70"], 300),
        (QUICK_RUN + BATCHED_RUN, 1),
        (QUICK_RUN + BATCHED_RUN, 27),
        (QUICK_RUN + BATCHED_RUN, 40),
    ],
)
def test_resumed_run_equals_an_uninterrupted_run(
    corpus_dir: Path,
    tmp_path: Path,
    uninterrupted_runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    stop: int,
) -> None:
    overrides = overrides + [f"data_dir={corpus_dir}"]
    uninterrupted = uninterrupted_runs / str(hash(tuple(overrides)))
    # Tests with the same settings share this run.
    if not uninterrupted.exists():
        train(settings(overrides), uninterrupted)
    with monkeypatch.context() as patched:
        interrupt_at(patched, stop)
        if stop == 35:  # between two points of the curve
            patched.setattr("src.config.Config.chunk_size", 35)
        with pytest.raises(KeyboardInterrupt):
            train(settings(overrides), tmp_path / "parts")
    STOP_HANDLER.signum = 0
    metrics = timeless_metrics(tmp_path / "parts")
    assert metrics["status"] == "interrupted"
    assert stop <= int(metrics["iterations"]) < stop + 70
    # There is no loss curve to draw before the first point.
    has_picture = (tmp_path / "parts/loss.png").exists()
    assert has_picture == ("train/loss" in metrics)
    (tmp_path / "parts/.0123.part").touch()  # a killed run leaves such files
    train(settings(overrides), tmp_path / "parts")
    assert_equal_runs(uninterrupted, tmp_path / "parts")
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.usefixtures("few_ngram_steps")
def test_run_of_an_older_version_is_resumed(corpus_dir: Path, tmp_path: Path) -> None:
    """Its checkpoints have other names for the same values."""
    overrides = QUICK_RUN + BATCHED_RUN + ["schedule=constant", f"data_dir={corpus_dir}"]
    train(settings(overrides + ["iterations=40"]), tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    for file in (tmp_path / "old/checkpoints").iterdir():
        checkpoint = torch.load(file, weights_only=True)
        # The best checkpoint is written before the calibration is fitted.
        if "calibration" in checkpoint:
            torch.save(with_old_names(checkpoint), file)
    assert "decision" in load_checkpoint(tmp_path / "old")
    # Both runs are resumed from the same iteration.
    for name in ("new", "old"):
        train(settings(overrides), tmp_path / name)
    assert_equal_runs(tmp_path / "old", tmp_path / "new")


def test_killed_run_is_resumed_from_its_last_validation(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(QUICK_RUN + [f"data_dir={corpus_dir}"])
    train(config, tmp_path / "uninterrupted")

    original_hook = NameClassifier.on_validation_epoch_end

    def failing_hook(self: NameClassifier) -> None:
        if self.iteration == 400:
            # The program does not handle this error, just as it cannot handle SIGKILL.
            raise ZeroDivisionError
        original_hook(self)

    with monkeypatch.context() as patched:
        patched.setattr(NameClassifier, "on_validation_epoch_end", failing_hook)
        with pytest.raises(ZeroDivisionError):
            train(config, tmp_path / "parts")
    last = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)
    assert (last["iteration"], "loops" in last) == (200, False)
    train(config, tmp_path / "parts")
    assert_equal_runs(tmp_path / "uninterrupted", tmp_path / "parts")


@pytest.mark.parametrize("first_end", [600, 530, 290])
def test_extended_run_equals_a_long_run(corpus_dir: Path, tmp_path: Path, first_end: int) -> None:
    """The curves have no points at the iteration at which the run first ended."""
    overrides = QUICK_RUN + [f"data_dir={corpus_dir}"]
    train(settings(overrides + [f"iterations={first_end}"]), tmp_path / "parts")
    assert read_curves(tmp_path / "parts")["val/loss"][-1][0] == first_end
    extended_settings = settings(overrides + ["iterations=850"])
    train(extended_settings, tmp_path / "parts")
    train(extended_settings, tmp_path / "uninterrupted")
    for tag, curve in read_curves(tmp_path / "uninterrupted").items():
        assert read_curves(tmp_path / "parts")[tag] == curve, tag
    weights = load_checkpoint(tmp_path / "parts")["state_dict"]
    expected_weights = load_checkpoint(tmp_path / "uninterrupted")["state_dict"]
    for name, expected in expected_weights.items():
        assert torch.equal(weights[name], expected), name


@pytest.mark.usefixtures("few_ngram_steps")
def test_run_killed_before_its_report_is_resumed(corpus_dir: Path, tmp_path: Path) -> None:
    config = settings(QUICK_RUN + BATCHED_RUN + [f"data_dir={corpus_dir}"])
    train(config, tmp_path / "uninterrupted")
    train(config, tmp_path / "parts")
    # Without this file, the run has trained all iterations but not written its report.
    (tmp_path / "parts/metrics.json").unlink()
    train(config, tmp_path / "parts")
    assert_equal_runs(tmp_path / "uninterrupted", tmp_path / "parts")


def test_resuming_with_a_changed_corpus_is_refused(own_corpus_dir: Path, tmp_path: Path) -> None:
    overrides = QUICK_RUN + [f"data_dir={own_corpus_dir}"]
    train(settings(overrides), tmp_path)
    (tmp_path / "metrics.json").unlink()
    # A new name changes the split and the draws of all later iterations.
    with (own_corpus_dir / "Alpha.txt").open("a") as file:
        file.write("alone\n")
    with pytest.raises(UserError, match="the names or their split have changed"):
        train(settings(overrides), tmp_path)


def test_moved_run_keeps_its_best_score(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the score is read from a checkpoint, and none of the paths that it may contain."""
    overrides = QUICK_RUN + [f"data_dir={corpus_dir}"]
    train(settings(overrides + ["iterations=400"]), tmp_path / "old")
    best = (tmp_path / "old/checkpoints/best.ckpt").read_bytes()
    last = tmp_path / "new/checkpoints/last.ckpt"
    (tmp_path / "old").rename(tmp_path / "new")
    checkpoint = torch.load(last, weights_only=True)
    states = checkpoint["callbacks"]
    assert sorted(map(len, states.values())) == [0, 1] or all(
        state.keys() <= {"score"} for state in states.values()
    )
    (score_key,) = [key for key, state in states.items() if state]
    states[score_key]["score"] = 2.0  # higher than any score
    # Lightning deletes checkpoints at paths that its callback has stored.
    unrelated = tmp_path / "unrelated"
    unrelated.mkdir()
    for key in ("best_model_path", "dirpath", "kth_best_model_path", "last_model_path"):
        states[score_key][key] = str(unrelated)
    torch.save(checkpoint, last)
    train(settings(overrides), tmp_path / "new")
    assert (tmp_path / "new/checkpoints/best.ckpt").read_bytes() == best
    assert unrelated.is_dir()
    assert {path.name for path in last.parent.iterdir()} == {"best.ckpt", "last.ckpt"}

    (tmp_path / "new/checkpoints/best.ckpt").unlink()
    train(settings(overrides + ["iterations=800"]), tmp_path / "new")
    assert (tmp_path / "new/checkpoints/best.ckpt").exists()  # the score was forgotten


def damage(checkpoint: dict[str, Any], change: str) -> dict[str, Any]:
    """Change an entry of a checkpoint.

    Args:
        checkpoint: the content of the checkpoint, which is changed.
        change: a key to delete, or `key=value` with the kind of the new value.
    """
    key, _, value = change.partition("=")
    if not value:
        del checkpoint[key]
    else:
        checkpoint[key] = {"null": None, "list": [], "dict": {}, "text": "x"}[value]
    return checkpoint


@pytest.mark.parametrize(
    "change",
    [
        "state_dict", "state_dict=null", "state_dict=list", "state_dict=dict", "state_dict=text",
        "NamesDataModule", "NamesDataModule=null", "NamesDataModule=dict", "NamesDataModule=text",
        "iteration", "iteration=null", "iteration=list", "iteration=text",
        "history", "history=null", "history=text", "losses", "losses=null", "losses=text",
        "callbacks=text", "optimizer_states", "optimizer_states=null", "lr_schedulers",
        "version", "version=null", "version=text",
    ],
)  # fmt: skip
def test_resuming_from_a_malformed_checkpoint_is_refused(
    finished_run: Path, tmp_path: Path, change: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    last = run / "checkpoints/last.ckpt"
    torch.save(damage(torch.load(last, weights_only=True), change), last)
    # The refused checkpoint must remain as it is.
    content = last.read_bytes()
    overrides = QUICK_RUN + ["iterations=800", f"data_dir={finished_run.parent / 'names'}"]
    with pytest.raises(UserError) as caught:
        train(settings(overrides), run)
    assert "\n" not in str(caught.value)
    assert last.read_bytes() == content


@pytest.mark.parametrize("size", [0, 10, 3000, -1])
def test_resuming_from_a_truncated_checkpoint_is_refused(
    finished_run: Path, tmp_path: Path, size: int
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    last = run / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:size])
    overrides = QUICK_RUN + ["iterations=800", f"data_dir={finished_run.parent / 'names'}"]
    with pytest.raises(UserError, match=r"last\.ckpt: not a checkpoint, or a damaged one$"):
        train(settings(overrides), run)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, whose iterations can be raised."""
    folder = tmp_path_factory.mktemp("finished_run")
    corpus = make_corpus(folder / "names")
    train(settings(QUICK_RUN + [f"data_dir={corpus}"]), folder / "run")
    return folder / "run"


def test_interrupted_run_can_be_resumed(
    corpus_dir: Path, tmp_path: Path, programs: Programs
) -> None:
    overrides = ["iterations=100000000", "hidden=16", f"data_dir={corpus_dir}"]
    process = programs.start_training(
        overrides, cwd=tmp_path, until="outputs/*/*/checkpoints/last.ckpt"
    )
    (run,) = tmp_path.glob("outputs/*/*")
    # The name of the folder begins with the time.
    assert run.name.split("-", 3)[3].startswith("iterations_100000000-hidden_16-")
    refused = programs.train([f"resume={run}"], cwd=tmp_path)  # the run has not ended
    assert (refused.returncode, refused.stderr) == (
        1,
        f"{run}: another process is using this folder\n",
    )
    process.send_signal(signal.SIGTERM)
    result = process.result()
    assert (result.returncode, result.stderr) == (143, "")
    message, command = result.stdout.splitlines()[-2:]
    iteration = load_checkpoint(run)["iteration"]
    assert message == f"Interrupted at iteration {iteration:,}"
    assert command == f"Resume       python -m src.train resume={run.relative_to(tmp_path)}"
    assert (run / "loss.png").exists()

    # A run cannot be shortened when it is resumed.
    override = f"iterations={iteration + 1000}"
    shortened = programs.train([command.split()[-1], override], cwd=tmp_path)
    assert shortened.returncode == 1
    assert f"{override}: the run in {run} has iterations=100000000" in shortened.stderr


def test_finished_run_can_be_extended(corpus_dir: Path, tmp_path: Path, programs: Programs) -> None:
    overrides = QUICK_RUN + [f"data_dir={corpus_dir}"]
    folder = tmp_path / "a, b"
    train(settings(overrides), folder)
    (folder / ".hydra").mkdir()
    before = (folder / "config.yaml").read_text()
    result = programs.train(
        ["resume='a, b'", "iterations=800", "logger=[tensorboard,csv]"], cwd=tmp_path
    )
    assert (result.returncode, result.stderr) == (0, "")
    train(settings(overrides + ["iterations=800"]), tmp_path / "uninterrupted")
    assert_equal_runs(folder, tmp_path / "uninterrupted")
    assert not list((folder / ".hydra").iterdir())  # Hydra's files are neither read nor written
    assert (folder / "config.yaml").read_text() == before.replace("600", "800")
    rows = (folder / "metrics.csv").read_text().splitlines()
    # A header is followed by the 16 points of the loss, 4 of the validation and one of the test.
    assert len(rows) == 1 + 16 + 4 + 1


def test_invalid_resume_is_refused(
    tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run, "run")
    cosine = Path("cosine")
    cosine.mkdir()
    saved = (finished_run / "config.yaml").read_text()
    (cosine / "config.yaml").write_text(saved.replace("schedule: constant", "schedule: cosine"))
    damaged_contents = {"cut": saved[:10], "empty": "", "list": "- 1\n- {", "nested": "a: [1]"}
    for name, content in damaged_contents.items():
        Path(name).mkdir()
        Path(name, "config.yaml").write_text(content)
    Path("other").mkdir()
    Path("other/config.yaml").write_text(saved + "colour: red\n")
    Path("wrong").mkdir()
    Path("wrong/config.yaml").write_text(saved.replace("lr: 0.05", "lr: high"))
    not_a_run = "not the folder of a run; config.yaml is missing or damaged"
    messages = {
        "resume=nowhere": not_a_run,
        "resume=run/checkpoints/last.ckpt": not_a_run,
        "resume=run/checkpoints/none.ckpt": not_a_run,
        "resume=cut": not_a_run,
        "resume=empty": not_a_run,
        "resume=list": not_a_run,
        "resume=nested": not_a_run,
        "resume=other": not_a_run,
        "resume=wrong": "lr: Value 'high'",
        "resume=run hidden=9": f"hidden=9: the run in {tmp_path}/run has hidden=8",
        "resume=run experiment=best": "the run in",
        "resume=run iterations=9": "iterations=9: the run in",
        "resume=cosine iterations=900": "iterations=900: the run in",
    }
    for overrides, message in messages.items():
        with pytest.raises(UserError) as caught:
            settings(overrides.split())
        assert message in str(caught.value), overrides
    # The number of iterations may be raised, and the trainer and the loggers may be changed.
    config = settings(["resume=run", "iterations=700", "trainer.num_nodes=1", "logger=csv"])
    assert config.iterations == 700
    # An override with the value of the run changes nothing.
    assert settings(["resume=run", "hidden=8"]).lr == 0.05
    assert read_settings(Path("run")) == json.loads(json.dumps(read_settings(finished_run)))


def test_signal_handlers_are_restored_after_a_run(corpus_dir: Path, tmp_path: Path) -> None:
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(signum) for signum in signals]
    train(settings(QUICK_RUN + [f"data_dir={corpus_dir}"]), tmp_path)
    assert [signal.getsignal(signum) for signum in signals] == handlers


def test_missing_signals_of_windows_are_not_needed() -> None:
    """Windows has neither SIGUSR1 nor SIGALRM nor setitimer."""
    # An attribute that is missing on Windows would fail only there.
    for file in (ROOT / "src").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "SIGALRM" not in text
        assert "setitimer" not in text
        assert "signal.SIGUSR1" not in text
    assert os.name == "nt" or hasattr(signal, "SIGUSR1")
