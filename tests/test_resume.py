import json
import signal
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.errors import UserError
from src.experiment import run_experiment
from src.models.classifier import NameClassifier
from src.runs.checkpoints import LastCheckpoint
from src.runs.interruption import Interrupted
from tests.conftest import ROOT, run_train, settings, start_train

TINY = ["hidden=8", "lr=0.05", "iterations=600", "log_every=50", "print_every=100", "val_every=200"]


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    log = EventAccumulator(str(run), size_guidance={"scalars": 0})
    log.Reload()
    return {tag: [(e.step, e.value) for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}


def metrics_of(run: Path) -> dict[str, float | str]:
    metrics: dict[str, float | str] = json.loads((run / "metrics.json").read_text())
    return {k: v for k, v in metrics.items() if k not in ("seconds", "names_per_second")}


def assert_equal_runs(one: Path, other: Path) -> None:
    weights = [
        torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("last", "best")
        for run in (one, other)
    ]
    for mine, theirs in (weights[:2], weights[2:]):
        torch.testing.assert_close(dict(mine), dict(theirs), atol=0, rtol=0)
    assert metrics_of(one) == metrics_of(other)
    assert points(one) == points(other)


BATCHED = [
    *(
        "cell=gru",
        "bidirectional=true",
        "pooling=all",
        "embedding=4",
        "ngrams=2",
        "backend=autograd",
    ),
    *("dropout=0.5", "recurrent_dropout=0.3", "sampling=natural", "batch_size=7", "iterations=60"),
    *("optimizer=adamw", "schedule=cosine", "log_every=5", "val_every=20", "print_every=10"),
]


@pytest.mark.parametrize(
    ("words", "stop"),
    [
        *(([*TINY, "checkpoint_every=100"], stop) for stop in (50, 200, 250, 600)),
        *(([*TINY, *BATCHED, "checkpoint_every=7"], stop) for stop in (5, 27, 60)),
    ],
)
def test_a_run_that_stopped_goes_on_as_if_it_had_not(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], stop: int
) -> None:
    words = [*words, f"data_dir={corpus_dir}"]
    run_experiment(settings(*words), tmp_path / "whole")

    save_if_due = LastCheckpoint._save_if_due

    def stops(self: LastCheckpoint, trainer: Trainer) -> None:
        save_if_due(self, trainer)
        if sum(steps) >= stop:
            raise Interrupted(signal.SIGTERM)

    steps: list[int] = []
    trained_on = NameClassifier.trained_on

    def counted(self: NameClassifier, losses: torch.Tensor) -> None:
        trained_on(self, losses)
        steps.append(len(losses))

    with monkeypatch.context() as patched:
        patched.setattr(NameClassifier, "trained_on", counted)
        patched.setattr(LastCheckpoint, "_save_if_due", stops)
        with pytest.raises(Interrupted):
            run_experiment(settings(*words), tmp_path / "parts")
    assert sum(steps) == stop
    assert metrics_of(tmp_path / "parts")["status"] == "interrupted"
    assert metrics_of(tmp_path / "parts")["iterations"] == stop
    (tmp_path / "parts/.0123.part").touch()  # what a killed run leaves
    run_experiment(settings(*words), tmp_path / "parts")
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert not list(tmp_path.rglob("*.part"))


def test_a_run_that_had_only_its_report_to_write_goes_on_the_same(
    corpus_dir: Path, tmp_path: Path
) -> None:
    words = [*TINY, *BATCHED, "schedule=constant", f"data_dir={corpus_dir}"]
    for _ in range(2):
        run_experiment(settings(*words), tmp_path / "parts")
        (tmp_path / "parts/metrics.json").unlink()
    longer = settings(*words, "iterations=80")
    run_experiment(longer, tmp_path / "parts")
    run_experiment(longer, tmp_path / "whole")
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_changed_corpus_is_refused(corpus_dir: Path, tmp_path: Path) -> None:
    words = [*TINY, f"data_dir={corpus_dir}"]
    run_experiment(settings(*words), tmp_path)
    (tmp_path / "metrics.json").unlink()
    with (corpus_dir / "Alpha.txt").open("a") as file:
        file.write("alone\n")
    with pytest.raises(UserError, match=r"last\.ckpt: the names or their split have changed"):
        run_experiment(settings(*words), tmp_path)


def test_other_settings_are_refused(corpus_dir: Path, tmp_path: Path) -> None:
    words = [*TINY, f"data_dir={corpus_dir}"]
    run_experiment(settings(*words), tmp_path)
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"last\.ckpt: is of a run with other settings"):
        run_experiment(settings(*words, "lr=0.04"), tmp_path)


def test_a_signal_ends_a_run_that_can_go_on(tmp_path: Path) -> None:
    words = ["iterations=100000000", "hidden=16", f"data_dir={ROOT}/data/names"]
    process = start_train(*words, cwd=tmp_path, until="outputs/*/*/checkpoints/last.ckpt")
    process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    printed, complained = process.communicate(timeout=30)
    assert time.monotonic() - start < 10
    assert (process.returncode, complained) == (143, "")
    *_, said, command = printed.splitlines()
    (run,) = tmp_path.glob("outputs/*/*")
    done = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["iteration"]
    assert said == f"Interrupted at iteration {done:,}. To go on:"
    assert command == f"python -m src.train resume={run}"

    again = run_train(command.split()[-1], f"iterations={done + 1000}", cwd=tmp_path)
    assert again.returncode == 1  # it was to do 100,000,000
    assert "iterations was 100000000 and is" in again.stderr


def test_resume(corpus_dir: Path, tmp_path: Path) -> None:
    words = [*TINY, f"data_dir={corpus_dir}"]
    first = run_train(*words, "hydra.run.dir='a, b'", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    again = run_train("resume=a, b", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert "finished after 600 iterations; a larger iterations= trains on" in again.stdout
    longer = run_train("resume=a, b/checkpoints/last.ckpt", "iterations=800", cwd=tmp_path)
    assert (longer.returncode, longer.stderr) == (0, "")
    assert "Going on from iteration 600" in longer.stdout
    run_experiment(settings(*words, "iterations=800"), tmp_path / "alone")
    assert_equal_runs(tmp_path / "a, b", tmp_path / "alone")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resume=nowhere"], "resume=nowhere: holds no run that can be read"),
        (["resume=run", "hidden=9"], "hidden=9: a run goes on with the settings it has; only"),
        (["resume=run", "iterations=9"], "resume=run: iterations was 600 and is 9 now; start anew"),
        (["hydra.run.dir=run"], "hydra.run.dir=run: holds a run already; choose another, or go on"),
    ],
)
def test_bad_resumes(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "run/.hydra").mkdir(parents=True)
    (tmp_path / "run/checkpoints").mkdir()
    note = "hydra:\n  overrides:\n    task: [iterations=600]\n    hydra: []\n"
    (tmp_path / "run/.hydra/hydra.yaml").write_text(note)
    saved = (ROOT / "configs/train.yaml").read_text().partition("\nhydra:")[0]
    plain = saved.partition("lr:")[2].replace("iterations: 100000", "iterations: 600")
    (tmp_path / "run/.hydra/config.yaml").write_text(f"lr:{plain}")
    (tmp_path / "data").symlink_to(ROOT / "data")
    ran = run_train(*words, cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.startswith(message)
    assert len(ran.stderr.splitlines()) == 1
