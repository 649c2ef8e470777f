"""Searches with the Optuna sweeper."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.models.registry import SCORE
from tests.helpers import (
    QUICK_RUN,
    find_run,
    read_csv,
    without_times,
)
from tests.processes import Programs

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")


@pytest.mark.slow
def test_search_reports_the_best_run_of_the_leaderboard(
    corpus_dir: Path, tmp_path: Path, programs: Programs
) -> None:
    overrides = ["experiment=search", "hydra.sweeper.n_trials=4", "hydra.sweep.dir=search"]
    overrides.append("hydra/launcher=basic")
    space = "hidden=choice(4,8)"
    storage = ["hydra.sweeper.storage=sqlite:///trials.db", "hydra.sweeper.study_name=mine"]
    overrides += [space] + QUICK_RUN + [f"data_dir={corpus_dir}"]
    result = programs.train(overrides + storage, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    best_trial = OmegaConf.load(tmp_path / "search/optimization_results.yaml")
    best = read_csv(tmp_path / "search/leaderboard.csv")[0]
    assert float(best[SCORE]) == pytest.approx(best_trial.best_value)
    # The storage keeps the trials, so that another command can add more.
    with closing(sqlite3.connect(tmp_path / "trials.db")) as trials:
        ((n_complete,),) = trials.execute("select count(*) from trials where state = 'COMPLETE'")
    runs = read_csv(tmp_path / "search/runs.csv")
    assert len(runs) == n_complete == 4
    # The given space replaces that of the experiment.
    assert {run["hidden"] for run in runs} <= {"4", "8"}
    # The learning rate is a real number, so equal ones are not to be expected.
    assert len({run["lr"] for run in runs}) == 4
    assert all(0.0005 <= float(run["lr"]) <= 0.02 for run in runs)

    # Without its result, the last run counts as interrupted.
    (find_run(tmp_path / "search", 3) / "metrics.json").unlink()
    again = programs.train(overrides, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already finished") == 3
    assert without_times(read_csv(tmp_path / "search/runs.csv")) == without_times(runs)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("experiment=search bogus=choice(1,2)", "bogus: unknown key; --help lists all keys"),
        (
            "experiment=search +hydra.sweeper.params.bogus='choice(1,2)'",
            "bogus: unknown key; --help lists all keys",
        ),
        (
            "experiment=search val_fraction=0",
            "val_fraction=0: a search requires validation names; use a larger val_fraction",
        ),
        (
            "hydra/sweeper=optuna lr=choice(0.1,0.2)",
            "hydra.sweeper.direction: must be maximize",
        ),
        (
            "experiment=search seed=1,2",
            "seed: cannot be a parameter of a search; use seeds=3 to repeat each run",
        ),
        (
            "experiment=search +hydra.sweeper.params.seed='range(2)'",
            "seed: cannot be a parameter of a search; use seeds=3 to repeat each run",
        ),
    ],
)
def test_invalid_search_is_refused(
    tmp_path: Path, programs: Programs, command: str, message: str
) -> None:
    result = programs.train(["-m", "hydra/launcher=basic"] + command.split(), cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 1
    assert "bogus" in command or result.stdout == ""
    assert not list(tmp_path.glob("outputs/sweeps/*/*/*/"))
