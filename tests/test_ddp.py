"""Several processes that train together, on CPUs, with gloo."""

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from src.data.datamodule import NamesDataModule
from src.data.tensors import Batch
from src.experiment import run_experiment
from tests.conftest import run_train, settings, start_train
from tests.test_resume import BATCHED, TINY, metrics_of, points

TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


def assert_close(one: Path, two: Path, atol: float) -> None:
    alone, together = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in (one, two)
    )
    torch.testing.assert_close(dict(together), dict(alone), atol=atol, rtol=0)
    assert metrics_of(two) == pytest.approx(metrics_of(one), abs=atol)
    curves = points(one)
    assert points(two).keys() == curves.keys()
    for tag, curve in points(two).items():
        assert dict(curve) == pytest.approx(dict(curves[tag]), abs=atol)


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_each_name_is_seen_once(corpus_dir: Path, sampling: str) -> None:
    def batches(process: int, n_processes: int) -> list[Batch]:
        data = NamesDataModule(corpus_dir, 0.1, 0.1, 0, 30, 5, 30, batch_size=5, sampling=sampling)
        place = {"current_epoch": 0, "global_rank": process, "world_size": n_processes}
        data.trainer = SimpleNamespace(**place)  # type: ignore[assignment] # all that is asked of it
        return list(data.train_dataloader())

    def names(batch: Batch) -> list[tuple[bytes, int]]:
        letters = torch.split(batch.letters, batch.lengths.tolist())
        return [
            (bytes(name.tolist()), int(category))
            for name, category in zip(letters, batch.categories, strict=True)
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
    words = [*TINY, *BATCHED, "dropout=0", "recurrent_dropout=0", "optimizer=sgd", "lr=0.2"]
    words += ["schedule=constant", "iterations=100", "checkpoint_every=7", f"data_dir={corpus_dir}"]
    one, two = tmp_path / "one", tmp_path / "two"
    run_experiment(settings(*words), one)
    place = f"hydra.run.dir={two}"
    run = start_train(*words, *TWO, place, cwd=tmp_path, until="two/checkpoints/last.ckpt")
    run.send_signal(signal.SIGUSR1)  # SLURM's, to one of them
    said, errors = run.communicate(timeout=60)
    assert (run.returncode, errors) == (128 + signal.SIGUSR1, "")
    assert said.count("To go on") == 1
    assert 0 < int(metrics_of(two)["iterations"]) < 100
    ended = run_train("resume=two", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("Going on from iteration") == 1
    assert_close(one, two, atol=1e-5)
    left, alone = (
        {p.name for p in folder.iterdir() if "events" not in p.name} for folder in (two, one)
    )
    assert left == alone | {".hydra", "train.log"}


def test_two_processes_that_diverge_say_so_once(corpus_dir: Path, tmp_path: Path) -> None:
    words = [*TINY, *TWO, "backend=autograd", "batch_size=5", "sampling=natural", "lr=100"]
    words += ["print_every=1"]  # whoever has none of a batch's names is silent
    ended = run_train(*words, f"data_dir={corpus_dir}", "hydra.run.dir=run", cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.count("the loss is no longer finite") == 1
    assert "Traceback" not in ended.stderr
    assert metrics_of(tmp_path / "run")["status"] == "diverged"


def test_a_sweep_has_no_runs_of_two_processes(corpus_dir: Path, tmp_path: Path) -> None:
    words = [*TINY, *BATCHED, *TWO, f"data_dir={corpus_dir}"]
    ended = run_train("-m", "seed=1,2", *words, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stdout.count("trainer.strategy=ddp: a sweep's runs have one process") >= 2
    assert "Runs failed: 2 of 2" in ended.stdout
