"""Several processes that train together, on CPUs, with gloo."""

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

from src.data.batch import Batch
from src.data.datamodule import NamesDataModule, Sampling
from src.run.report import kill_ddp_processes
from src.train import train
from tests.helpers import settings, timeless_metrics
from tests.processes import Programs

TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
WORDS = ["cell=gru", "bidirectional=true", "pooling=all", "embedding=4", "hidden=8", "ngrams=2"]
WORDS += ["sampling=natural", "batch_size=7", "backend=autograd", "lr=0.2"]
WORDS += ["iterations=400", "log_every=20", "print_every=40", "val_every=80"]


def assert_close(one: Path, two: Path, atol: float) -> None:
    alone, together = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (one, two)
    )
    torch.testing.assert_close(
        dict(together["state_dict"]), dict(alone["state_dict"]), atol=atol, rtol=0
    )
    assert timeless_metrics(two) == pytest.approx(timeless_metrics(one), abs=atol)
    for point, expected_point in zip(together["history"], alone["history"], strict=True):
        iteration, scalars = point
        expected_iteration, expected_scalars = expected_point
        assert iteration == expected_iteration
        assert scalars == pytest.approx(expected_scalars, abs=atol)


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_each_name_is_in_the_batch_of_one_process(corpus_dir: Path, sampling: Sampling) -> None:
    def batches(process: int, n_processes: int) -> list[Batch]:
        data = NamesDataModule(
            corpus_dir, 0.1, 0.1, 0, 30, 5, 30, batch_size=5, chunk_size=1, sampling=sampling
        )
        place = {"global_rank": process, "world_size": n_processes}
        data.trainer = SimpleNamespace(lightning_module=None, **place)  # type: ignore[assignment] # all that is asked of it
        return list(data.train_dataloader())

    def names(batch: Batch) -> list[tuple[bytes, int]]:
        letters = torch.split(batch.letters, batch.lengths.tolist())
        return [
            (bytes(name.tolist()), int(category))
            for name, category in zip(letters, batch.targets, strict=True)
        ]

    whole = batches(0, 1)
    parts = [batches(process, 3) for process in range(3)]
    assert len(whole) == 30
    for batch, *shared in zip(whole, *parts, strict=True):
        sizes = [len(part.lengths) for part in shared]
        assert max(sizes) - min(sizes) <= 1
        assert sorted(name for part in shared for name in names(part)) == sorted(names(batch))


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(
    corpus_dir: Path, tmp_path: Path, programs: Programs
) -> None:
    # Plain SGD, so that a wrong gradient changes the weights; no dropout; interrupted and resumed.
    # There are 29 names in batches of 7, of which the processes take 4 and 3. The last batch of a
    # pass has one name, and one process then has none. The run is long enough for the signal to
    # come while it trains, even on a busy machine.
    words = [*WORDS, f"data_dir={corpus_dir}"]
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    train(settings(*words, "logger=[]"), one)
    checkpoint = "two/checkpoints/last.ckpt"
    process = programs.start_training(
        *words, *TWO, f"hydra.run.dir={two}", cwd=tmp_path, until=checkpoint
    )
    process.send_signal(signal.SIGUSR1)  # SLURM sends it to one of the processes
    interrupted = process.result()
    assert (interrupted.returncode, interrupted.stderr) == (128 + signal.SIGUSR1, "")
    assert interrupted.stdout.count("To go on") == 1
    assert 0 < int(timeless_metrics(two)["iterations"]) < 400
    resumed = programs.train("resume=two", *TWO, cwd=tmp_path)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert_close(one, two, atol=1e-5)
    left, alone = (
        {p.name for p in folder.iterdir() if not p.name.startswith(("events", "hparams"))}
        for folder in (two, one)
    )
    assert left == alone | {".hydra", ".lock", "train.log"}


def test_child_processes_are_killed_after_an_interruption() -> None:
    child = subprocess.Popen(["sleep", "600"])
    children = [child]
    observer = _ChildProcessObserver(os.getpid(), children)
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(launcher=SimpleNamespace(procs=children))
    )
    kill_ddp_processes(trainer)
    assert child.returncode == -signal.SIGKILL
    assert observer._run()  # it has finished, and this process is still alive


@pytest.mark.slow
def test_divergence_of_two_processes_is_reported_once(
    corpus_dir: Path, tmp_path: Path, programs: Programs
) -> None:
    words = [*WORDS, *TWO, "cell=tutorial", "bidirectional=false", "pooling=last", "embedding=0"]
    words += ["batch_size=5", "lr=100", "clip=0", f"data_dir={corpus_dir}"]
    words += ["print_every=1"]  # a process without a name in the batch prints nothing
    result = programs.train(*words, "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("the loss is no longer finite") == 1
    assert "Traceback" not in result.stderr
    assert timeless_metrics(tmp_path / "run")["status"] == "diverged"


def test_sweep_of_runs_with_two_processes_is_refused(tmp_path: Path, programs: Programs) -> None:
    result = programs.train("-m", "seed=1,2", *WORDS, *TWO, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert "a sweep's runs have one process each" in result.stderr
    assert not list(tmp_path.iterdir())
