"""Sweeps whose runs are trained by worker processes of joblib on this machine."""

import os
import signal
from pathlib import Path

import pytest

from src.errors import UserError
from src.models.registry import SCORE
from src.run.run_folder import create_and_lock_folder, read_result_or_empty
from tests.helpers import (
    Sweep,
    find_run,
    read_csv,
    timeless_metrics,
)
from tests.processes import Programs, running_processes, wait_until

pytest.importorskip("hydra_plugins.hydra_joblib_launcher")

TWO_WORKERS = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


@pytest.mark.slow
def test_two_workers_train_the_same_runs_as_one_process(sweep: Sweep, programs: Programs) -> None:
    overrides = sweep.overrides + TWO_WORKERS + ["hydra.sweep.dir=parallel"]
    result = programs.train(["-m"] + overrides, cwd=sweep.cwd)
    assert (result.returncode, result.stderr) == (1, "")
    # The messages of the launcher would be mixed with those of the runs.
    assert "Joblib" not in result.stdout
    parallel = sweep.cwd / "parallel"
    for number in range(4):  # the last two fail
        run = find_run(sweep.folder, number)
        assert timeless_metrics(parallel / run.name) == timeless_metrics(run)
    rows = read_csv(parallel / "leaderboard.csv")
    for row, expected in zip(rows, read_csv(sweep.folder / "leaderboard.csv"), strict=True):
        assert row["folders"] == expected["folders"]
        assert row[SCORE] == expected[SCORE]


def is_free(folder: Path) -> bool:
    """Return whether no process has locked a folder."""
    try:
        create_and_lock_folder(folder).release()
    except UserError:
        return False
    return True


@pytest.mark.slow
def test_killed_sweep_ends_its_workers_and_releases_its_locks(
    corpus_dir: Path, tmp_path: Path, programs: Programs
) -> None:
    overrides = ["hidden=8,16", "iterations=100000000", f"data_dir={corpus_dir}"] + TWO_WORKERS
    overrides.append("hydra.sweep.dir=sweep")
    process = programs.start_training(
        ["-m"] + overrides, cwd=tmp_path, until="sweep/1-*/checkpoints/last.ckpt"
    )
    # Another sweep must not write into the same folder.
    second = programs.train(
        ["-m", "hydra/launcher=basic", "lr=0.1,0.2", "hydra.sweep.dir=sweep"], cwd=tmp_path
    )
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == "sweep: another process is using this folder\n"
    runs = [find_run(tmp_path / "sweep", number) for number in range(2)]
    for run in runs:
        with pytest.raises(UserError, match="another process is using this folder"):
            create_and_lock_folder(run)
    # The process cannot react to this signal, so the workers themselves must notice its end.
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: all(read_result_or_empty(run).status == "interrupted" for run in runs))
    wait_until(lambda: all(is_free(run) for run in runs))
    for run in runs:
        assert (run / "checkpoints/last.ckpt").exists()
    create_and_lock_folder(tmp_path / "sweep").release()


@pytest.mark.slow
def test_interrupt_ends_the_runs_of_all_workers(
    corpus_dir: Path, tmp_path: Path, programs: Programs
) -> None:
    overrides = ["hidden=8,9,10", "iterations=100000000", "print_every=1000", "val_every=10000"]
    overrides += TWO_WORKERS + [f"data_dir={corpus_dir}", "hydra.sweep.dir=sweep"]
    process = programs.start_training(
        ["-m"] + overrides, cwd=tmp_path, until="sweep/1-*/checkpoints/last.ckpt"
    )
    process.send_signal(signal.SIGINT)
    result = process.result()
    assert (result.returncode, result.stderr) == (130, "")
    assert "Interrupted. Finished runs: 0\n" in result.stdout
    runs = [find_run(tmp_path / "sweep", number) for number in range(2)]
    assert [read_result_or_empty(run).status for run in runs] == ["interrupted"] * 2
    assert all((run / "checkpoints/last.ckpt").exists() for run in runs)


@pytest.mark.slow
def test_leaderboard_is_written_if_the_workers_are_killed(
    corpus_dir: Path, tmp_path: Path, programs: Programs
) -> None:
    """The operating system kills processes when it runs out of memory."""
    overrides = ["iterations=20,100000000"] + TWO_WORKERS + [f"data_dir={corpus_dir}"]
    process = programs.start_training(
        ["-m"] + overrides + ["hydra.sweep.dir=sweep"], cwd=tmp_path, until="sweep/0-*/metrics.json"
    )
    # The name of the package is part of the command of its workers.
    for pid in running_processes(session=process.pid):
        if b"LokyProcess" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    result = process.result()
    assert result.returncode == 1
    assert "TerminatedWorkerError: " in result.stderr
    last_line = result.stdout.splitlines()[-1]
    assert last_line.startswith("Resume         python -m src.train -m iterations=")
    (row,) = read_csv(tmp_path / "sweep/leaderboard.csv")
    assert (row["iterations"], row["failed"]) == ("20", "0")
