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
from tests.helpers import load_checkpoint, settings, timeless_metrics
from tests.processes import Programs

TWO_PROCESSES = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
BATCHED_RUN = [
    "cell=gru",
    "bidirectional=true",
    "pooling=all",
    "embedding=4",
    "hidden=8",
    "ngrams=2",
]
BATCHED_RUN += ["sampling=natural", "batch_size=7", "backend=autograd", "lr=0.2"]
BATCHED_RUN += ["iterations=400", "log_every=20", "print_every=40", "val_every=80"]


def assert_close_runs(actual_run: Path, expected_run: Path, atol: float) -> None:
    """Assert that two runs have nearly the same weights, metrics and curves."""
    actual = load_checkpoint(actual_run)
    expected = load_checkpoint(expected_run)
    torch.testing.assert_close(
        dict(actual["state_dict"]), dict(expected["state_dict"]), atol=atol, rtol=0
    )
    assert timeless_metrics(actual_run) == pytest.approx(timeless_metrics(expected_run), abs=atol)
    for point, expected_point in zip(actual["history"], expected["history"], strict=True):
        iteration, scalars = point
        expected_iteration, expected_scalars = expected_point
        assert iteration == expected_iteration
        assert scalars == pytest.approx(expected_scalars, abs=atol)


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_each_name_is_in_the_batch_of_one_process(corpus_dir: Path, sampling: Sampling) -> None:
    def load_batches(rank: int, world_size: int) -> list[Batch]:
        data = NamesDataModule(
            corpus_dir, 0.1, 0.1, 0, 30, 5, 30, batch_size=5, chunk_size=1, sampling=sampling
        )
        # The data module reads only these attributes.
        trainer: Any = SimpleNamespace(
            lightning_module=None, global_rank=rank, world_size=world_size
        )
        data.trainer = trainer
        return list(data.train_dataloader())

    def decode_pairs(batch: Batch) -> list[tuple[bytes, int]]:
        encoded_names = torch.split(batch.letters, batch.lengths.tolist())
        pairs = []
        for letters, category in zip(encoded_names, batch.targets, strict=True):
            pairs.append((bytes(letters.tolist()), int(category)))
        return pairs

    batches = load_batches(rank=0, world_size=1)
    batches_by_rank = [load_batches(rank, world_size=3) for rank in range(3)]
    assert len(batches) == 30
    for number, batch in enumerate(batches):
        parts = [rank_batches[number] for rank_batches in batches_by_rank]
        # The work of the processes is as equal as possible.
        sizes = [len(part.lengths) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        pairs = []
        for part in parts:
            pairs += decode_pairs(part)
        assert sorted(pairs) == sorted(decode_pairs(batch))
    assert [len(rank_batches) for rank_batches in batches_by_rank] == [30, 30, 30]


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(
    corpus_dir: Path, tmp_path: Path, programs: Programs
) -> None:
    # With plain SGD, a wrong gradient changes the weights. There are 29 names in batches of 7, of
    # which the processes get 4 and 3. The last batch of a pass has one name, so one process has no
    # name in it. The run is long enough for the signal to come during training, even on a busy
    # machine.
    overrides = BATCHED_RUN + [f"data_dir={corpus_dir}"]
    one = tmp_path / "one"
    two = tmp_path / "two"
    one.mkdir()
    train(settings(overrides + ["logger=[]"]), one)
    checkpoint = "two/checkpoints/last.ckpt"
    process = programs.start_training(
        overrides + TWO_PROCESSES + [f"hydra.run.dir={two}"], cwd=tmp_path, until=checkpoint
    )
    # SLURM sends this signal to one of the processes.
    process.send_signal(signal.SIGUSR1)
    interrupted = process.result()
    assert (interrupted.returncode, interrupted.stderr) == (128 + signal.SIGUSR1, "")
    # Only the first process prints.
    assert interrupted.stdout.count("Resume  ") == 1
    assert 0 < int(timeless_metrics(two)["iterations"]) < 400
    resumed = programs.train(["resume=two"] + TWO_PROCESSES, cwd=tmp_path)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert_close_runs(two, one, atol=1e-5)
    # Only the first process writes files, and loggers add some of their own.
    files = {}
    for folder in (one, two):
        names = {path.name for path in folder.iterdir()}
        files[folder] = {name for name in names if not name.startswith(("events", "hparams"))}
    assert files[two] == files[one] | {".hydra", ".lock", "train.log"}


def test_child_processes_are_killed_after_an_interruption() -> None:
    child = subprocess.Popen(["sleep", "600"])
    children = [child]
    observer = _ChildProcessObserver(os.getpid(), children)
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(launcher=SimpleNamespace(procs=children))
    )
    kill_ddp_processes(trainer)
    assert child.returncode == -signal.SIGKILL
    # Lightning's observer of child processes has finished, and has not killed this process.
    assert observer._run()


@pytest.mark.slow
def test_divergence_of_two_processes_is_reported_once(
    corpus_dir: Path, tmp_path: Path, programs: Programs
) -> None:
    overrides = BATCHED_RUN + TWO_PROCESSES
    overrides += ["cell=tutorial", "bidirectional=false", "pooling=last", "embedding=0"]
    overrides += ["batch_size=5", "lr=100", "clip=0", f"data_dir={corpus_dir}"]
    # A process without a name in the batch must print nothing, even if every iteration is printed.
    overrides += ["print_every=1"]
    result = programs.train(overrides + ["hydra.run.dir=run"], cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("the loss or a weight is no longer finite") == 1
    assert "Traceback" not in result.stderr
    assert timeless_metrics(tmp_path / "run")["status"] == "diverged"


def test_sweep_of_runs_with_two_processes_is_refused(tmp_path: Path, programs: Programs) -> None:
    result = programs.train(["-m", "seed=1,2"] + BATCHED_RUN + TWO_PROCESSES, cwd=tmp_path)
    message = "trainer.devices: must be 1 in a sweep, because each run has one process"
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"{message}\n"
    assert not list(tmp_path.iterdir())
