import csv
import json
import os
import re
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from src import command_line
from src.command_line import completed
from src.errors import UserError
from src.experiment import run_experiment
from src.sweeps.leaderboard import Run, ranked, swept_keys, table
from src.sweeps.sweep import finish_sweep
from tests.conftest import ROOT, make_corpus, run_train, settings, start_train

TINY = ["iterations=200", "log_every=50", "print_every=100", "val_every=100"]
SCORE = "val/balanced_accuracy"


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def metrics_of(run: Path) -> dict[str, float]:
    metrics: dict[str, float] = json.loads((run / "metrics.json").read_text())
    return {k: v for k, v in metrics.items() if k not in ("seconds", "names_per_second")}


class Swept:
    """A sweep of 3 × 1 settings and two seeds, one setting exploding."""

    def __init__(self, folder: Path) -> None:
        self.cwd = folder
        self.words = [*TINY, f"data_dir={make_corpus(folder / 'names')}", "hidden=8"]
        self.words += ["lr=0.01,0.2,900", "seed=range(2)"]
        self.ran = run_train("-m", *self.words, cwd=folder)
        (self.folder,) = folder.glob("outputs/sweeps/*/*")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    return Swept(tmp_path_factory.mktemp("swept"))


def test_the_leaderboard_is_what_the_runs_measured(swept: Swept) -> None:
    rows = rows_of(swept.folder / "leaderboard.csv")
    assert len(rows) == 3
    expected = []
    for first in (0, 2):  # the runs of one lr, seeds 0 and 1
        metrics = [metrics_of(swept.folder / str(n)) for n in (first, first + 1)]
        expected.append((statistics.mean(m[SCORE] for m in metrics), first, metrics))
    expected.sort(key=lambda entry: (-entry[0], entry[1]))
    for rank, (row, (score, first, metrics)) in enumerate(
        zip(rows[:2], expected, strict=True), start=1
    ):
        assert int(row["rank"]) == rank
        assert float(row[SCORE]) == pytest.approx(score)
        assert row["folders"] == f"{first} {first + 1}"
        assert float(row["lr"]) == {0: 0.01, 2: 0.2}[first]
        for name in ("test/balanced_accuracy", "test/loss"):
            values = [m[name] for m in metrics]
            assert float(row[name]) == pytest.approx(statistics.mean(values))
            assert float(row[f"{name}_std"]) == pytest.approx(statistics.stdev(values))
    assert (rows[2]["rank"], rows[2]["lr"], rows[2]["failed"]) == ("", "900", "2")
    assert rows[2]["reason"].startswith("lr=900.0: the loss is no longer finite")

    runs = {row["run"]: row for row in rows_of(swept.folder / "runs.csv")}
    assert sorted(runs) == ["0", "1", "2", "3", "4", "5"]
    assert float(runs["3"][SCORE]) == pytest.approx(metrics_of(swept.folder / "3")[SCORE])
    assert (runs["3"]["seed"], runs["3"]["lr"], runs["3"]["failed"]) == ("1", "0.2", "")
    assert (swept.folder / "leaderboard.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_sweep_prints(swept: Swept) -> None:
    assert swept.ran.returncode == 1  # as something failed
    assert swept.ran.stderr == ""
    lines = swept.ran.stdout.splitlines()
    assert not any("CORRECT" in line or "WRONG" in line for line in lines)  # these are in the logs
    assert "CORRECT" in (swept.folder / "0/train.log").read_text()
    header = next(i for i, line in enumerate(lines) if line.split()[:2] == ["lr", "val"])
    best = rows_of(swept.folder / "leaderboard.csv")[0]
    first = lines[header + 1].split()
    assert first[:3] == ["1", best["lr"], f"{float(best[SCORE]):.3f}"]
    assert lines[header + 3].split()[:3] == ["900", "failed:", "4"]
    assert "Runs failed: 2 of 6" in lines
    assert lines[-1].endswith(f"resume_sweep={swept.folder.relative_to(swept.cwd)}")

    (command,) = (line for line in lines if line.startswith("Best settings"))
    words = shlex.split(command.removeprefix("Best settings"))
    assert words[:3] == ["python", "-m", "src.train"]
    config = settings(*words[3:])
    assert (config.lr, config.hidden, config.iterations) == (float(best["lr"]), 8, 200)


def test_a_run_of_a_sweep_is_the_run_alone(swept: Swept, tmp_path: Path) -> None:
    config = settings(*swept.words[:-2], "lr=0.2", "seed=1")
    run_experiment(config, tmp_path)
    alone, together = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in (tmp_path, swept.folder / "3")
    )
    assert all(torch.equal(alone[name], together[name]) for name in alone)
    assert metrics_of(tmp_path) == metrics_of(swept.folder / "3")


def test_runs_leave_no_file_open(corpus_dir: Path, tmp_path: Path) -> None:
    def run(name: str) -> int:
        run_experiment(settings(*TINY, f"data_dir={corpus_dir}", "hidden=8"), tmp_path / name)
        return len(list(Path("/proc/self/fd").iterdir()))

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    opened = run("first")
    assert [run("second"), run("third")] == [opened, opened]


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def tensorboard(swept: Swept) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--logdir", str(swept.folder), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *where, "--load_fast=false"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/data"
    try:
        deadline = time.monotonic() + 60
        runs: list[str] = []
        while len(runs) < 6:
            assert time.monotonic() < deadline, runs
            time.sleep(0.2)
            try:
                runs = ask(f"{url}/runs")
            except OSError:
                continue
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)


def test_tensorboard_shows_the_sweep(swept: Swept, tensorboard: str) -> None:
    runs = [str(number) for number in range(6)]
    assert set(runs) <= set(ask(f"{tensorboard}/runs"))
    tags = ask(f"{tensorboard}/plugin/scalars/tags")
    assert {"train/loss", SCORE, "test/balanced_accuracy"} <= set(tags["0"])
    points = ask(f"{tensorboard}/plugin/scalars/scalars?run=0&tag=val%2Fbalanced_accuracy")
    assert [step for _, step, _ in points] == [100, 200]
    assert points[-1][2] == pytest.approx(metrics_of(swept.folder / "0")[SCORE])

    columns = [{"metric": {"tag": SCORE, "group": ""}, "order": "ORDER_DESC"}]
    body = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": columns,
        "startIndex": 0,
        "sliceSize": 100,
    }
    groups = ask(f"{tensorboard}/plugin/hparams/session_groups", body)["sessionGroups"]
    shown = {
        (group["hparams"]["lr"], group["hparams"]["seed"]): {
            value["name"]["tag"]: value["value"] for value in group["metricValues"]
        }
        for group in groups
    }
    numbers = {(0.01, 0): 0, (0.01, 1): 1, (0.2, 0): 2, (0.2, 1): 3}
    for key, number in numbers.items():
        metrics = metrics_of(swept.folder / str(number))
        for name in (SCORE, "test/macro_f1", "train/loss"):
            assert shown[key][name] == pytest.approx(metrics[name], abs=1e-6)


def test_ctrl_c_keeps_what_is_done_and_the_rest_can_follow(tmp_path: Path) -> None:
    words = ["iterations=20000", "hidden=16", f"data_dir={ROOT}/data/names", "seed=0,1,2"]
    begun = "outputs/sweeps/*/*/1/overrides.json"
    process = start_train("-m", *words, cwd=tmp_path, until=begun)
    process.send_signal(signal.SIGINT)
    printed, complained = process.communicate(timeout=30)
    assert (process.returncode, complained) == (130, "")
    lines = printed.splitlines()
    (folder,) = tmp_path.glob("outputs/sweeps/*/*")
    (row,) = rows_of(folder / "leaderboard.csv")
    done = row["folders"].split()
    assert done[0] == "0"
    assert f"Interrupted; runs done: {len(done)}" in lines
    again = lines[-1].split("src.train ")[1]
    assert again == f"resume_sweep={folder.relative_to(tmp_path)}"

    before = {name: (folder / name / "metrics.json").stat().st_mtime_ns for name in done}
    (folder / "1/events.out.tfevents.left").touch()  # what the interrupted run might have left
    ran = run_train("-m", again, "seed=0,1,2", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    (row,) = rows_of(folder / "leaderboard.csv")
    assert row["folders"] == "0 1 2"
    for name, stamp in before.items():
        assert (folder / name / "metrics.json").stat().st_mtime_ns == stamp
    assert not (folder / "1/events.out.tfevents.left").exists()
    assert len(list(tmp_path.glob("outputs/sweeps/*/*"))) == 1


def test_what_failed_or_had_other_settings_is_done_again(swept: Swept) -> None:
    folder = str(swept.folder.relative_to(swept.cwd))
    before = metrics_of(swept.folder / "1")
    ran_with = swept.folder / "1/overrides.json"
    ran_with.write_text(ran_with.read_text().replace("seed=1", "seed=7"))
    stamps = [(swept.folder / n / "metrics.json").stat().st_mtime_ns for n in "023"]
    ran = run_train(f"resume_sweep={folder}", cwd=swept.cwd)
    assert ran.returncode == 1
    assert ran.stdout.count("done before") == 3
    assert ran.stdout.count(": failed: lr=900.0") == 2
    assert [(swept.folder / n / "metrics.json").stat().st_mtime_ns for n in "023"] == stamps
    assert metrics_of(swept.folder / "1") == before
    assert "seed=1" in ran_with.read_text()


def test_a_leaderboard_that_cannot_be_written_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        run = tmp_path / str(number)
        run.mkdir()
        (run / "overrides.json").write_text(json.dumps([f"lr={number}"]))
        metrics = {"status": "finished", SCORE: 0.25 * number, "seconds": 1.0}
        (run / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "leaderboard.csv").mkdir()
    assert finish_sweep(tmp_path, 0) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].split() == ["1", "1", "0.250", "1.0", "1"]
    assert any(line.startswith("Not written    ") for line in printed)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hiden=16,32"], "hiden=16: Key 'hiden' not in 'Config'"),
        (["+depth=1,2"], "depth: no such key; --help lists them"),
        (["lr=0.01,abc,0.1"], "lr=abc: Value 'abc' of type 'str' could not be converted to Float"),
        (["trainer=cpu,tpu"], "trainer=tpu: must be one of cpu, ddp, gpu"),
        ([], "-m: nothing to sweep; give a key several values, as in lr=0.001,0.005"),
        (["seed=range(3,3)"], "seed=range(3,3): holds no values"),
        (
            ["lr=interval(0.1,0.2)"],
            "lr=interval(0.1,0.2): needs a search; add hydra/sweeper=optuna",
        ),
        (["data_dir=nowhere", "lr=0.1,0.2"], "data_dir=nowhere: no such folder"),
        (["hidden=0", "lr=0.1,0.2"], "hidden=0: must be 1 to 4,096"),
        (["hydra.sweep.dir=${nowhere}", "lr=0.1,0.2"], "hydra.sweep.dir: Interpolation key"),
        (
            ["hydra.sweep.subdir=x", "lr=0.1,0.2"],
            "hydra.sweep.subdir=x: runs would share it",
        ),
        (["hydra.sweep.dir=.", "lr=0.1,0.2"], "hydra.sweep.dir=.: is not empty; choose another"),
        (["trainer=glob(x*)", "lr=0.1,0.2"], "trainer=glob(x*): holds no values"),
        (["hydra.sweep.dir=full", "lr=0.1,0.2"], "hydra.sweep.dir=full: holds a sweep already;"),
        (["resume_sweep=nowhere"], "resume_sweep=nowhere: holds no sweep that can be read"),
        (["resume_sweep=odd"], "resume_sweep=odd: holds no sweep that can be read"),
        (["resume_sweep=full", "lr=7"], "lr=7: is not what the sweep in full was started with"),
        (["resume_sweep=full"], "resume_sweep=full: hidden was 99 and is 128 now; start anew"),
    ],
)
def test_bad_sweeps_are_refused_before_anything_is_written(
    tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "full").mkdir()
    overrides = {"task": ["lr=0.1,0.2"], "hydra": []}
    saved = {"lr": 0.005, "hidden": 99, "hydra": {"overrides": overrides}}
    OmegaConf.save(saved, tmp_path / "full/multirun.yaml")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/multirun.yaml").write_text("- 1\n- {")
    (tmp_path / "data").symlink_to(ROOT / "data")
    before_it = sorted(tmp_path.rglob("*"))
    start = time.monotonic()
    ran = run_train("-m", *words, cwd=tmp_path)
    assert time.monotonic() - start < 10
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr.startswith(message)
    assert len(ran.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before_it


def test_flags_that_exclude_each_other(tmp_path: Path) -> None:
    ran = run_train("-m", "--cfg", "job", cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.startswith("Only one of --run, --multirun")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("word", "extra"),
    [
        ("hydra/launcher=joblib", "sweep"),
        ("hydra/sweeper=optuna", "sweep"),
        ("experiment=search", "sweep"),
        ("hydra/launcher=ray", "cluster"),
        ("cluster=ray", "cluster"),
        ("cluster=slurm", "cluster"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, word: str, extra: str) -> None:
    def not_installed(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(command_line, "distribution", not_installed)
    with pytest.raises(UserError) as caught:
        completed(["-m", "lr=0.1,0.2", word])
    assert str(caught.value) == f"{word}: is not installed; pip install -e '.[{extra}]'"


def test_two_workers_measure_what_one_does(swept: Swept) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=parallel"]
    ran = run_train("-m", *swept.words, *parallel, cwd=swept.cwd)
    assert (ran.returncode, ran.stderr) == (1, "")
    for number in "0123":
        assert metrics_of(swept.cwd / "parallel" / number) == metrics_of(swept.folder / number)
    boards = [
        rows_of(folder / "leaderboard.csv") for folder in (swept.folder, swept.cwd / "parallel")
    ]
    for one, other in zip(*boards, strict=True):
        assert one["folders"] == other["folders"]
        assert one[SCORE] == other[SCORE]


def test_a_search_finds_what_its_leaderboard_says(corpus_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["experiment=search", "hydra.sweeper.n_trials=4", "hydra.sweep.dir=search"]
    space = "hidden=choice(4,8)"
    ran = run_train(*words, space, *TINY, f"data_dir={corpus_dir}", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    found = OmegaConf.load(tmp_path / "search/optimization_results.yaml")
    best = rows_of(tmp_path / "search/leaderboard.csv")[0]
    assert float(best[SCORE]) == pytest.approx(found.best_value)
    runs = rows_of(tmp_path / "search/runs.csv")
    assert len(runs) == 4
    assert {run["hidden"] for run in runs} <= {"4", "8"}
    assert len({run["lr"] for run in runs}) == 4
    assert all(0.0005 <= float(run["lr"]) <= 0.02 for run in runs)

    (tmp_path / "search/3/metrics.json").unlink()  # as if it had been interrupted there
    again = run_train("resume_sweep=search", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before") == 3
    timeless = [
        [{k: v for k, v in run.items() if "second" not in k} for run in each]
        for each in (runs, rows_of(tmp_path / "search/runs.csv"))
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=search", "bogus=choice(1,2)"], "bogus=1: Key 'bogus' not in 'Config'"),
        (
            ["experiment=search", "+hydra.sweeper.params.bogus='choice(1,2)'"],
            "bogus=1: Key 'bogus'",
        ),
        (
            ["experiment=search", "val_fraction=0"],
            "val_fraction=0: a search needs validation names",
        ),
        (
            ["hydra/sweeper=optuna", "lr=choice(0.1,0.2)"],
            "hydra.sweeper.direction: must be maximize",
        ),
    ],
)
def test_bad_searches(tmp_path: Path, words: list[str], message: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    ran = run_train("-m", *words, cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("recipe", ["learning_rate", "capacity"])
def test_the_sweeping_recipes_run(corpus_dir: Path, tmp_path: Path, recipe: str) -> None:
    quick = ["iterations=20", "log_every=20", "seed=0", f"data_dir={corpus_dir}"]
    ran = run_train(f"experiment={recipe}", *quick, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    (folder,) = tmp_path.glob("outputs/sweeps/*/*")
    assert len(rows_of(folder / "leaderboard.csv")) == 6
    (command,) = (line for line in ran.stdout.splitlines() if line.startswith("Best settings"))
    shown = run_train(*shlex.split(command)[5:], "--cfg", "hydra", cwd=tmp_path)
    assert "  mode: RUN" in shown.stdout.splitlines()  # one run, no sweep


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_runs_go_to_a_ray_cluster(corpus_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    with tempfile.TemporaryDirectory(prefix="ray") as short:  # it makes sockets: short names
        where = [f"--port={port}", f"--temp-dir={short}", "--num-cpus=1"]
        more = ["--include-dashboard=false", "--disable-usage-stats"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        cluster = subprocess.Popen(
            [*ray, *where, *more],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            while not answers(port):
                assert time.monotonic() < deadline
                time.sleep(0.3)
            time.sleep(2)
            ran = run_train(
                *("-m", "cluster=ray", f"hydra.launcher.ray.init.address=127.0.0.1:{port}"),
                *("lr=0.05,900", "hidden=8", "backend=autograd"),  # its workers have no cache
                *(*TINY, f"data_dir={corpus_dir}"),
                cwd=tmp_path,
            )
        finally:
            os.killpg(cluster.pid, signal.SIGKILL)  # its own way down takes half a minute
            cluster.wait(timeout=60)
    assert ran.returncode == 1, ran.stderr
    (folder,) = tmp_path.glob("outputs/sweeps/*/*")
    rows = rows_of(folder / "leaderboard.csv")
    assert [(row["lr"], row["failed"]) for row in rows] == [("0.05", "0"), ("900", "1")]
    assert float(rows[0][SCORE]) == metrics_of(folder / "0")[SCORE]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.sweep.dir=here"], "hydra.sweep.dir=here: must be absolute with Ray"),
        (["hydra.launcher.ray.init.address=127.0.0.1:1"], "hydra.launcher.ray.init: "),
        (["cluster=slurm"], "hydra/launcher=submitit_slurm: SLURM's sbatch is not on this machine"),
    ],
)
def test_a_cluster_that_is_not_there(words: list[str], message: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    ran = run_train("-m", "lr=0.1,0.2", "cluster=ray", *words)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in ran.stderr


def test_runs_become_jobs_of_submitit(corpus_dir: Path, tmp_path: Path) -> None:
    """Its local executor takes SLURM's place: same launcher, same job files."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "lr=0.05,0.2"]
    ran = run_train("-m", *words, "hidden=8", *TINY, f"data_dir={corpus_dir}", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    (folder,) = tmp_path.glob("outputs/sweeps/*/*")
    assert len(rows_of(folder / "leaderboard.csv")) == 2


def run_named(name: str, score: float | None, failed: str = "", **settings: str) -> Run:
    numbers = {} if score is None else {SCORE: score, "test/balanced_accuracy": 1 - score}
    return Run(name, settings, numbers | ({} if failed else {"seconds": 1.0}), failed)


def test_rank_is_by_validation_and_reliable_settings_first() -> None:
    runs = [
        run_named("0", 0.5, lr="1", seed="0"),
        run_named("1", 0.3, lr="1", seed="1"),
        run_named("2", 0.9, lr="2", seed="0"),
        run_named("3", None, failed="it exploded", lr="2", seed="1"),
        run_named("4", 0.45, lr="3", seed="0"),
        run_named("5", 0.45, lr="3", seed="1"),
        run_named("6", None, failed="no", lr="4", seed="0"),
    ]
    assert swept_keys(runs) == ["lr", "seed"]
    rows = ranked(runs)
    assert [row.settings["lr"] for row in rows] == ["3", "1", "2", "4"]
    assert rows[1].score == pytest.approx(0.4)
    assert [len(row.failures) for row in rows] == [0, 0, 1, 1]
    lines = table(rows, ["lr"])
    assert lines[2].split()[:5] == ["2", "1", "0.400", "±", "0.141"]
    assert lines[3].endswith("2, failed: 3 (it exploded)")
    assert lines[4].split() == ["4", "failed:", "6", "(no)"]


def test_without_validation_nothing_is_ranked() -> None:
    runs = [
        Run(str(n), {"lr": str(n)}, {"train/loss": 3.0 - n, "seconds": 1.0}, "") for n in range(2)
    ]
    lines = table(ranked(runs), ["lr"])
    assert lines[0].split() == ["lr", "seconds", "run"]
    assert [line.split()[0] for line in lines[1:]] == ["0", "1"]  # the lr; there is no rank


def test_a_sweep_without_ended_runs_has_no_leaderboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finish_sweep(tmp_path, 130) == 130
    assert re.match(r"Interrupted; runs done: 0\nTo go on ", capsys.readouterr().out)
    assert not list(tmp_path.iterdir())
