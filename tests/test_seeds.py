"""Runs of several seeds: `seeds=2`."""

import shlex
import statistics
from pathlib import Path

import pytest

from src.config import Config
from src.errors import UserError
from src.models.registry import SCORE
from src.run.run_folder import find_checkpoint, read_settings
from src.sweep.seeds import train_each_seed_and_average
from tests.helpers import (
    QUICK_RUN,
    assert_equal_runs,
    find_run,
    read_csv,
    read_metrics_values,
    settings,
    train_unless_finished,
)
from tests.processes import Programs

pytestmark = pytest.mark.usefixtures("blank_pictures")


def test_run_of_two_seeds_has_the_mean_score_of_both(corpus_dir: Path, tmp_path: Path) -> None:
    overrides = QUICK_RUN + [f"data_dir={corpus_dir}", "hidden=8"]
    train_unless_finished(settings(overrides + ["seed=6"]), tmp_path / "alone")
    # The second command extends the runs of the first.
    for iterations in ("iterations=200", "iterations=300"):
        score = train_unless_finished(
            settings(overrides + ["seed=5", "seeds=2", iterations]), tmp_path / "both"
        )
    train_unless_finished(settings(overrides + ["seed=6", "iterations=300"]), tmp_path / "alone")
    # The seeds of a run are consecutive, and each of them has a folder.
    seed_runs = [tmp_path / "both/seed_5", tmp_path / "both/seed_6"]
    assert_equal_runs(tmp_path / "alone", seed_runs[1])
    assert read_settings(seed_runs[1]) == read_settings(tmp_path / "alone")
    mean_metrics = read_metrics_values(tmp_path / "both")
    seed_metrics = [read_metrics_values(run) for run in seed_runs]
    mean_score = statistics.mean(metrics[SCORE] for metrics in seed_metrics)
    assert score == mean_metrics[SCORE] == pytest.approx(mean_score)
    # Times are added, and all other metrics are averaged.
    losses = [metrics["test/loss"] for metrics in seed_metrics]
    assert mean_metrics["test/loss_std"] == pytest.approx(statistics.stdev(losses))
    seconds = sum(metrics["seconds"] for metrics in seed_metrics)
    assert mean_metrics["seconds"] == pytest.approx(seconds)
    best = max(seed_runs, key=lambda run: read_metrics_values(run)[SCORE])
    assert find_checkpoint(tmp_path / "both") == best / "checkpoints/last.ckpt"
    assert find_checkpoint(seed_runs[0]) == seed_runs[0] / "checkpoints/last.ckpt"
    with pytest.raises(UserError, match=r"must be 1 with .* seeds=2"):
        settings(["experiment=best", "seeds=2", "trainer.devices=2"])


def test_interrupted_run_of_two_seeds_can_be_resumed(
    corpus_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def train_or_interrupt(config: Config, folder: Path) -> float | None:
        if config.seed == 1:
            raise KeyboardInterrupt
        return train_unless_finished(config, folder)

    caplog.set_level("INFO")
    config = settings(QUICK_RUN + [f"data_dir={corpus_dir}", "seeds=2"])
    folder = tmp_path / "run"
    # The second seed is interrupted before it starts.
    with pytest.raises(KeyboardInterrupt):
        train_each_seed_and_average(train_or_interrupt, config, folder)
    resume_command = caplog.messages[-1].removeprefix("Resume       ")
    resume_overrides = shlex.split(resume_command)[3:]
    assert resume_overrides == [f"resume={folder}"]
    end_time = (folder / "seed_0/metrics.json").stat().st_mtime_ns
    score = train_unless_finished(settings(resume_overrides), folder)
    assert score == read_metrics_values(folder)[SCORE]
    # The first seed had finished, so it was not trained again.
    assert (folder / "seed_0/metrics.json").stat().st_mtime_ns == end_time
    assert read_metrics_values(folder)["iterations"] == 200
    with pytest.raises(UserError, match=r"^seed=1: the run in .* has seed=0"):
        settings(resume_overrides + ["seed=1"])


@pytest.mark.slow
def test_sweep_of_runs_with_two_seeds(corpus_dir: Path, tmp_path: Path, programs: Programs) -> None:
    overrides = QUICK_RUN + [f"data_dir={corpus_dir}", "hidden=8", "clip=0", "seeds=2"]
    command = ["-m", "hydra/launcher=basic"] + overrides + ["lr=0.01,0.2,900", "hydra.sweep.dir=s"]
    first = programs.train(command, cwd=tmp_path)
    again = programs.train(command, cwd=tmp_path)
    # A sweep with failed runs has the exit status 1.
    assert (first.returncode, first.stderr) == (1, "")
    assert (again.returncode, again.stderr) == (1, "")
    assert again.stdout.count("already finished") == 2
    runs = [find_run(tmp_path / "s", number) for number in range(3)]
    rows = read_csv(tmp_path / "s/leaderboard.csv")
    failed = rows.pop()  # With lr=900, both seeds diverge.
    runs_by_lr = {"0.01": runs[0], "0.2": runs[1]}
    for row in rows:
        run = runs_by_lr[row["lr"]]
        assert row["folders"] == f"{run.name}/seed_0 {run.name}/seed_1"
        for name in (SCORE, f"{SCORE}_std", "test/loss", "test/loss_std"):
            assert float(row[name]) == pytest.approx(read_metrics_values(run)[name])
    assert (failed["lr"], failed["failed"], failed["rank"]) == ("900", "2", "")
    assert (
        "Run 2: failed: 2 of 2 seeds failed: lr=900.0 clip=0: the loss or a weight is"
        in first.stdout
    )
    assert "Failed: 2 of 6 runs" in first.stdout
    lines = first.stdout.splitlines()
    (best_settings,) = [line for line in lines if line.startswith("Best settings")]
    best = settings(shlex.split(best_settings)[5:])
    assert (best.lr, best.seeds) == (float(rows[0]["lr"]), 2)
