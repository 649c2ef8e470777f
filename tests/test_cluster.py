"""Sweeps on a Ray cluster and with SLURM, which `make test-cluster` runs in its own environment."""

import os
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest

from src.models.registry import SCORE
from src.run.run_folder import read_result_or_empty
from tests.helpers import (
    QUICK_RUN,
    find_run,
    read_csv,
    read_metrics_values,
)
from tests.processes import Programs, wait_until

pytestmark = pytest.mark.cluster


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_sweep_on_a_ray_cluster(corpus_dir: Path, tmp_path: Path, programs: Programs) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        # The operating system chooses a free port.
        port = free.getsockname()[1]
    ray = str(Path(sys.executable).with_name("ray"))
    options = ["--head", "--block", f"--port={port}", "--num-cpus=1"]
    options += ["--include-dashboard=false", "--disable-usage-stats"]
    # Ray creates sockets in its folder, and the length of their paths is limited.
    with tempfile.TemporaryDirectory(prefix="ray") as short_folder:
        cluster = programs.start(
            [ray, "start"] + options + [f"--temp-dir={short_folder}"], cwd=tmp_path, is_forked=False
        )
        wait_until(lambda: is_listening(port), cluster)
        # The port is open some time before the cluster accepts jobs.
        time.sleep(2)
        overrides = QUICK_RUN + [
            "cluster=ray",
            f"hydra.launcher.ray.init.address=127.0.0.1:{port}",
            "lr=0.05,900",
            "hidden=8",
            "backend=autograd",  # The workers have no cache of compiled code.
            "clip=0",
            f"data_dir={corpus_dir}",
        ]
        result = programs.train(["-m"] + overrides, cwd=tmp_path)
        cluster.kill_group()
    assert result.returncode == 1, result.stderr
    (folder,) = tmp_path.glob("outputs/sweeps/*/*")
    rows = read_csv(folder / "leaderboard.csv")
    assert [(row["lr"], row["failed"]) for row in rows] == [("0.05", "0"), ("900", "1")]
    assert float(rows[0][SCORE]) == read_metrics_values(find_run(folder, 0))[SCORE]


def test_missing_cluster_is_refused(tmp_path: Path, programs: Programs) -> None:
    no_cluster = ["cluster=ray", "hydra.launcher.ray.init.address=127.0.0.1:1"]
    ray = programs.train(["-m", "lr=0.1,0.2"] + no_cluster, cwd=tmp_path)
    slurm = programs.train(["-m", "lr=0.1,0.2", "cluster=slurm"], cwd=tmp_path)
    for result, message in (
        (ray, "hydra.launcher.ray.init: "),
        (slurm, "cluster=slurm: the command sbatch was not found"),
    ):
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.splitlines()[-1].startswith(message)
        assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_sweep_with_submitit_on_this_machine(
    corpus_dir: Path, tmp_path: Path, programs: Programs
) -> None:
    """Its local executor takes SLURM's place: same launcher, same job files."""
    overrides = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "lr=0.05,0.2"]
    result = programs.train(
        ["-m"] + overrides + ["hidden=8"] + QUICK_RUN + [f"data_dir={corpus_dir}"], cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    (folder,) = tmp_path.glob("outputs/sweeps/*/*")
    assert len(read_csv(folder / "leaderboard.csv")) == 2


SLURM = {
    # It answers at once, and then runs the tasks of the array one after the other.
    "sbatch": """#!/bin/bash
ended=$(dirname "$0")/ended
touch "$ended"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
export SLURM_ARRAY_JOB_ID=$$ SLURM_JOB_NAME=train SLURM_JOB_NODELIST=node SLURM_JOB_NUM_NODES=1
export SLURM_NNODES=1 SLURM_NODEID=0 SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0
for task in $(seq 0 "$last"); do
  SLURM_JOB_ID=$(($$ + task)) SLURM_ARRAY_TASK_ID=$task bash "$1"
  echo "$$_$task|COMPLETED|node" >> "$ended"
done > /dev/null 2>&1 &
echo "Submitted batch job $$"
""",
    # Its arguments are --unbuffered --output FILE --error FILE COMMAND.
    "srun": """#!/bin/bash
log=${3//%A/$SLURM_ARRAY_JOB_ID}
log=${log//%a/$SLURM_ARRAY_TASK_ID}
mkdir -p "$(dirname "$log")"
exec "${@:6}" > "${log//%t/$SLURM_PROCID}" 2>&1
""",
    "sacct": """#!/bin/bash
echo "JobID|State|NodeList"
cat "$(dirname "$0")/ended"
""",
}


def test_sweep_as_a_slurm_job_array(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Programs
) -> None:
    """SLURM is a few scripts that do, on this machine, what submitit asks of it."""
    (tmp_path / "bin").mkdir()
    for name, script in SLURM.items():
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    overrides = ["lr=0.1,0.2", "iterations=20", f"data_dir={corpus_dir}", "cluster=slurm"]
    # The second time, the runs have finished, and nothing is trained.
    for outcome in ("validation balanced accuracy", "already finished"):
        result = programs.train(["-m"] + overrides + ["hydra.sweep.dir=sweep"], cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        logs = [log.read_text() for log in tmp_path.glob("sweep/.submitit/*/*_0_log.out")]
        for number, lr in enumerate(("0.1", "0.2")):
            assert sum(f"Run {number}: {outcome}" in log for log in logs) == 1
            run = find_run(tmp_path / "sweep", number)
            assert run.name == f"{number}-lr_{lr}-iterations_20-data_dir_names"
            assert read_result_or_empty(run)[0] == "finished"
        rows = {row["lr"]: row for row in read_csv(tmp_path / "sweep/leaderboard.csv")}
        assert sorted(rows) == ["0.1", "0.2"]
        assert float(rows["0.2"][SCORE]) == read_metrics_values(run)[SCORE]
        (tmp_path / "sweep/leaderboard.csv").unlink()
