"""Runs that stop, are killed, moved or damaged, and go on."""

import json
import os
import shutil
import signal
from collections.abc import Callable
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
)
from tests.processes import Programs

pytestmark = pytest.mark.usefixtures("blank_pictures")

TINY = ["hidden=8", "lr=0.05", "iterations=600", "log_every=50", "print_every=100", "val_every=200"]
BATCHED = [
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
    """Send SIGTERM, as it were, at the start of the first batch from an iteration on."""
    start = StopOnSignal.on_train_batch_start

    def stops(self: StopOnSignal, trainer: Trainer, module: Any, *others: Any) -> None:
        if module.iteration >= iteration:
            STOP_HANDLER.signum = signal.SIGTERM
        start(self, trainer, module, *others)

    monkeypatch.setattr(StopOnSignal, "on_train_batch_start", stops)


@pytest.fixture(autouse=True)
def no_wish() -> Any:
    yield
    STOP_HANDLER.signum = 0


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with uninterrupted runs, one for the settings of several tests."""
    return tmp_path_factory.mktemp("whole")


@pytest.mark.usefixtures("few_ngram_steps")
@pytest.mark.parametrize(
    ("words", "stop"),
    [
        *((TINY, stop) for stop in (0, 50, 200, 250)),
        *(([*TINY, "log_every=70"], stop) for stop in (35, 300)),
        *(([*TINY, *BATCHED], stop) for stop in (1, 27, 40)),
    ],
)
def test_resumed_run_equals_an_uninterrupted_run(
    corpus_dir: Path,
    tmp_path: Path,
    whole_runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    stop: int,
) -> None:
    words = [*words, f"data_dir={corpus_dir}"]
    whole = whole_runs / str(hash(tuple(words)))
    if not whole.exists():
        train(settings(*words), whole)
    with monkeypatch.context() as patched:
        interrupt_at(patched, stop)
        if stop == 35:  # amid a point of the curve
            patched.setattr("src.config.Config.chunk_size", 35)
        with pytest.raises(KeyboardInterrupt):
            train(settings(*words), tmp_path / "parts")
    STOP_HANDLER.signum = 0
    told = timeless_metrics(tmp_path / "parts")
    assert told["status"] == "interrupted"
    assert stop <= int(told["iterations"]) < stop + 70
    if has_curve := (tmp_path / "parts/loss.png").exists():
        assert "train/loss" in told
    assert has_curve == ("train/loss" in told)
    (tmp_path / "parts/.0123.part").touch()  # what a killed run leaves
    train(settings(*words), tmp_path / "parts")
    assert_equal_runs(whole, tmp_path / "parts")
    assert not list(tmp_path.rglob("*.part"))


def test_killed_run_is_resumed_from_its_last_validation(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(*TINY, f"data_dir={corpus_dir}")
    train(config, tmp_path / "whole")

    validated = NameClassifier.on_validation_epoch_end

    def dies(self: NameClassifier) -> None:
        if self.iteration == 400:
            raise ZeroDivisionError  # as good as SIGKILL: nothing of ours handles it
        validated(self)

    with monkeypatch.context() as patched:
        patched.setattr(NameClassifier, "on_validation_epoch_end", dies)
        with pytest.raises(ZeroDivisionError):
            train(config, tmp_path / "parts")
    last = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)
    assert (last["iteration"], "loops" in last) == (200, False)
    train(config, tmp_path / "parts")
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("first", [600, 530, 290])
def test_extended_run_equals_a_long_run(corpus_dir: Path, tmp_path: Path, first: int) -> None:
    """Its points are the whole run's, too: none is left of where it ended first."""
    words = [*TINY, f"data_dir={corpus_dir}"]
    train(settings(*words, f"iterations={first}"), tmp_path / "parts")
    assert read_curves(tmp_path / "parts")["val/loss"][-1][0] == first
    longer = settings(*words, "iterations=850")
    train(longer, tmp_path / "parts")
    train(longer, tmp_path / "whole")
    for tag, series in read_curves(tmp_path / "whole").items():
        assert read_curves(tmp_path / "parts")[tag] == series, tag
    last = [torch.load(tmp_path / f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
            for run in ("whole", "parts")]  # fmt: skip
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


@pytest.mark.usefixtures("few_ngram_steps")
def test_run_killed_before_its_report_is_resumed(corpus_dir: Path, tmp_path: Path) -> None:
    config = settings(*TINY, *BATCHED, f"data_dir={corpus_dir}")
    train(config, tmp_path / "whole")
    train(config, tmp_path / "parts")
    (tmp_path / "parts/metrics.json").unlink()
    train(config, tmp_path / "parts")
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_resuming_with_a_changed_corpus_is_refused(own_corpus_dir: Path, tmp_path: Path) -> None:
    words = [*TINY, f"data_dir={own_corpus_dir}"]
    train(settings(*words), tmp_path)
    (tmp_path / "metrics.json").unlink()
    with (own_corpus_dir / "Alpha.txt").open("a") as file:
        file.write("alone\n")
    with pytest.raises(UserError, match="the names or their split have changed"):
        train(settings(*words), tmp_path)


def test_moved_run_keeps_its_best_score(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the score is taken from a checkpoint: no path, no file that another state may name."""
    words = [*TINY, f"data_dir={corpus_dir}"]
    train(settings(*words, "iterations=400"), tmp_path / "old")
    best = (tmp_path / "old/checkpoints/best.ckpt").read_bytes()
    last = tmp_path / "new/checkpoints/last.ckpt"
    (tmp_path / "old").rename(tmp_path / "new")
    checkpoint = torch.load(last, weights_only=True)
    states = checkpoint["callbacks"]
    assert sorted(map(len, states.values())) == [0, 1] or all(
        state.keys() <= {"score"} for state in states.values()
    )
    (score_key,) = (key for key, state in states.items() if state)
    states[score_key]["score"] = 2.0  # better than any
    precious = tmp_path / "precious"
    precious.mkdir()
    states[score_key] |= {"best_model_path": str(precious), "dirpath": str(precious)}
    states[score_key] |= {"kth_best_model_path": str(precious), "last_model_path": str(precious)}
    torch.save(checkpoint, last)
    train(settings(*words), tmp_path / "new")
    assert (tmp_path / "new/checkpoints/best.ckpt").read_bytes() == best
    assert precious.is_dir()
    assert {path.name for path in last.parent.iterdir()} == {"best.ckpt", "last.ckpt"}

    (tmp_path / "new/checkpoints/best.ckpt").unlink()
    train(settings(*words, "iterations=800"), tmp_path / "new")
    assert (tmp_path / "new/checkpoints/best.ckpt").exists()  # the score was forgotten


def damage(what: str) -> Callable[[dict[str, Any]], Any]:
    def changed(checkpoint: dict[str, Any]) -> Any:
        key, _, value = what.partition("=")
        if not value:
            del checkpoint[key]
        else:
            checkpoint[key] = {"null": None, "list": [], "dict": {}, "text": "x"}[value]
        return checkpoint

    return changed


@pytest.mark.parametrize(
    "what",
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
    started: Path, tmp_path: Path, what: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(started, run)
    last = run / "checkpoints/last.ckpt"
    torch.save(damage(what)(torch.load(last, weights_only=True)), last)
    written = last.read_bytes()
    words = [*TINY, "iterations=800", f"data_dir={started.parent / 'names'}"]
    with pytest.raises(UserError) as caught:
        train(settings(*words), run)
    assert "\n" not in str(caught.value)
    assert last.read_bytes() == written


@pytest.mark.parametrize("cut", [0, 10, 3000, -1])
def test_resuming_from_a_truncated_checkpoint_is_refused(
    started: Path, tmp_path: Path, cut: int
) -> None:
    run = tmp_path / "run"
    shutil.copytree(started, run)
    last = run / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:cut])
    words = [*TINY, "iterations=800", f"data_dir={started.parent / 'names'}"]
    with pytest.raises(UserError, match=r"last\.ckpt: not a checkpoint, or a damaged or unsafe"):
        train(settings(*words), run)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, whose iterations can be raised."""
    folder = tmp_path_factory.mktemp("started")
    corpus = make_corpus(folder / "names")
    train(settings(*TINY, f"data_dir={corpus}"), folder / "run")
    return folder / "run"


def test_interrupted_run_can_be_resumed(
    corpus_dir: Path, tmp_path: Path, programs: Programs
) -> None:
    overrides = ["iterations=100000000", "hidden=16", f"data_dir={corpus_dir}"]
    process = programs.start_training(
        *overrides, cwd=tmp_path, until="outputs/*/*/checkpoints/last.ckpt"
    )
    (run,) = tmp_path.glob("outputs/*/*")
    assert run.name.split("-", 3)[3].startswith("iterations_100000000-hidden_16-")
    second = programs.train(f"resume={run}", cwd=tmp_path)  # the run is still going on
    assert (second.returncode, second.stderr) == (1, f"{run}: is in use by another process\n")
    process.send_signal(signal.SIGTERM)
    result = process.result()
    assert (result.returncode, result.stderr) == (143, "")
    *_, message, command = result.stdout.splitlines()
    iteration = load_checkpoint(run)["iteration"]
    assert message == f"Interrupted at iteration {iteration:,}. To go on:"
    assert command == f"python -m src.train resume={run}"
    assert (run / "loss.png").exists()

    override = f"iterations={iteration + 1000}"
    shortened = programs.train(command.split()[-1], override, cwd=tmp_path)
    assert shortened.returncode == 1
    assert f"{override}: the run in {run} has iterations=100000000" in shortened.stderr


def test_finished_run_can_be_extended(corpus_dir: Path, tmp_path: Path, programs: Programs) -> None:
    words = [*TINY, f"data_dir={corpus_dir}"]
    folder = tmp_path / "a, b"
    train(settings(*words), folder)
    (folder / ".hydra").mkdir()
    before = (folder / "config.yaml").read_text()
    longer = programs.train(
        "resume='a, b'", "iterations=800", "logger=[tensorboard,csv]", cwd=tmp_path
    )
    assert (longer.returncode, longer.stderr) == (0, "")
    train(settings(*words, "iterations=800"), tmp_path / "alone")
    assert_equal_runs(folder, tmp_path / "alone")
    assert not list((folder / ".hydra").iterdir())  # no word of Hydra's is taken or left
    assert (folder / "config.yaml").read_text() == before.replace("600", "800")
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 16 + 4 + 1  # all of the run so far, again


def test_invalid_resume_is_refused(
    tmp_path: Path, started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(started, "run")
    cosine = Path("cosine")
    cosine.mkdir()
    saved = (started / "config.yaml").read_text()
    (cosine / "config.yaml").write_text(saved.replace("schedule: constant", "schedule: cosine"))
    for name, content in {
        "cut": saved[:10],
        "empty": "",
        "odd": "- 1\n- {",
        "deep": "a: [1]",
    }.items():
        Path(name).mkdir()
        Path(name, "config.yaml").write_text(content)
    Path("other").mkdir()
    Path("other/config.yaml").write_text(saved + "colour: red\n")
    Path("wrong").mkdir()
    Path("wrong/config.yaml").write_text(saved.replace("lr: 0.05", "lr: high"))
    refused = {
        "resume=nowhere": "no run's folder with a whole config.yaml in it",
        "resume=run/checkpoints/last.ckpt": "no run's folder",
        "resume=run/checkpoints/none.ckpt": "no run's folder",
        "resume=cut": "no run's folder",
        "resume=empty": "no run's folder",
        "resume=odd": "no run's folder",
        "resume=deep": "no run's folder",
        "resume=other": "no run's folder",
        "resume=wrong": "lr: Value 'high'",
        "resume=run hidden=9": f"hidden=9: the run in {tmp_path}/run has hidden=8",
        "resume=run experiment=best": "the run in",
        "resume=run iterations=9": "iterations=9: the run in",
        "resume=cosine iterations=900": "iterations=900: the run in",
    }
    for words, message in refused.items():
        with pytest.raises(UserError) as caught:
            settings(*words.split())
        assert message in str(caught.value), words
    assert (
        settings("resume=run", "iterations=700", "trainer.num_nodes=1", "logger=csv").iterations
        == 700
    )
    assert settings("resume=run", "hidden=8").lr == 0.05  # typed again, the same
    assert read_settings(Path("run")) == json.loads(json.dumps(read_settings(started)))


def test_signal_handlers_are_restored_after_a_run(corpus_dir: Path, tmp_path: Path) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    train(settings(*TINY, f"data_dir={corpus_dir}"), tmp_path)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_missing_signals_of_windows_are_not_needed() -> None:
    """Import, training and prediction: SIGUSR1, SIGALRM, setitimer are asked for nowhere else."""
    for file in (ROOT / "src").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "SIGALRM" not in text
        assert "setitimer" not in text
        assert "signal.SIGUSR1" not in text
    assert os.name == "nt" or hasattr(signal, "SIGUSR1")
