"""Several processes that train together, on CPUs, with gloo."""

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from src.data.batch import Batch
from src.data.datamodule import NamesDataModule, Sampling
from src.train import train
from tests.conftest import metrics_of, run_train, settings, start_train

TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
WORDS = ["cell=gru", "bidirectional=true", "pooling=all", "embedding=4", "hidden=8", "ngrams=2"]
WORDS += ["sampling=natural", "batch_size=7", "backend=autograd", "lr=0.2"]
WORDS += ["iterations=100", "log_every=5", "print_every=10", "val_every=20"]


def assert_close(one: Path, two: Path, atol: float) -> None:
    alone, together = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (one, two)
    )
    torch.testing.assert_close(
        dict(together["state_dict"]), dict(alone["state_dict"]), atol=atol, rtol=0
    )
    assert metrics_of(two) == pytest.approx(metrics_of(one), abs=atol)
    for (at, mine), (same, theirs) in zip(together["history"], alone["history"], strict=True):
        assert (at, mine) == (same, pytest.approx(theirs, abs=atol))


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_each_name_is_seen_once(corpus_dir: Path, sampling: Sampling) -> None:
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


def test_two_processes_take_the_steps_of_one_with_the_whole_batch(
    corpus_dir: Path, tmp_path: Path
) -> None:
    # Steps of plain SGD, whose size is the gradient's; dropout off; ended and taken up again.
    # 29 names in batches of 7, 4 and 3 a process: the last of a pass has one, and one process none.
    words = [*WORDS, f"data_dir={corpus_dir}"]
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    train(settings(*words, "logger=[]"), one)
    place = f"hydra.run.dir={two}"
    run = start_train(*words, *TWO, place, cwd=tmp_path, until="two/checkpoints/last.ckpt")
    run.send_signal(signal.SIGUSR1)  # SLURM's, to one of them
    said, errors = run.communicate(timeout=60)
    assert (run.returncode, errors) == (128 + signal.SIGUSR1, "")
    assert said.count("To go on") == 1
    assert 0 < int(metrics_of(two)["iterations"]) < 100
    ended = run_train("resume=two", *TWO, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert_close(one, two, atol=1e-5)
    left, alone = (
        {p.name for p in folder.iterdir() if not p.name.startswith(("events", "hparams"))}
        for folder in (two, one)
    )
    assert left == alone | {".hydra", ".lock", "train.log"}


def test_two_processes_that_diverge_say_so_once(corpus_dir: Path, tmp_path: Path) -> None:
    words = [*WORDS, *TWO, "cell=tutorial", "bidirectional=false", "pooling=last", "embedding=0"]
    words += ["batch_size=5", "lr=100", "clip=0", f"data_dir={corpus_dir}"]
    words += ["print_every=1"]  # whoever has none of a batch's names is silent
    ended = run_train(*words, "hydra.run.dir=run", cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.count("the loss is no longer finite") == 1
    assert "Traceback" not in ended.stderr
    assert metrics_of(tmp_path / "run")["status"] == "diverged"


def test_a_sweep_has_no_runs_of_two_processes(tmp_path: Path) -> None:
    ended = run_train("-m", "seed=1,2", *WORDS, *TWO, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "a sweep's runs have one process each" in ended.stderr
    assert not list(tmp_path.iterdir())
