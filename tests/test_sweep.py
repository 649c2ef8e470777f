"""Sweeps with `-m`: runs, leaderboards, printed output, invalid settings and interruptions."""

import os
import re
import shlex
import shutil
import signal
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src.models.registry import SCORE
from src.run.run_folder import find_checkpoint, read_result_or_empty, read_settings
from tests.helpers import (
    QUICK_RUN,
    ROOT,
    Sweep,
    find_run,
    load_checkpoint,
    read_csv,
    read_metrics_values,
    settings,
    timeless_metrics,
    train_unless_finished,
    without_times,
)
from tests.processes import Programs, Result


def test_leaderboard_contains_the_scores_of_the_runs(sweep: Sweep) -> None:
    rows = read_csv(sweep.folder / "leaderboard.csv")
    assert len(rows) == 3
    # Runs 0 and 1 have the first learning rate and the seeds 0 and 1, runs 2 and 3 the second.
    runs_by_lr = {
        0.01: [find_run(sweep.folder, 0), find_run(sweep.folder, 1)],
        0.2: [find_run(sweep.folder, 2), find_run(sweep.folder, 3)],
    }
    mean_scores = {}
    for lr, runs in runs_by_lr.items():
        mean_scores[lr] = statistics.mean(read_metrics_values(run)[SCORE] for run in runs)
    # The best score is the first; of equal ones, that of the first runs.
    ranked = sorted(mean_scores, key=lambda lr: -mean_scores[lr])
    for i, lr in enumerate(ranked):
        row = rows[i]
        assert int(row["rank"]) == i + 1
        assert float(row[SCORE]) == pytest.approx(mean_scores[lr])
        assert row["folders"] == " ".join(run.name for run in runs_by_lr[lr])
        assert float(row["lr"]) == lr
        for name in ("test/balanced_accuracy", "test/loss"):
            values = [read_metrics_values(run)[name] for run in runs_by_lr[lr]]
            assert float(row[name]) == pytest.approx(statistics.mean(values))
            assert float(row[f"{name}_std"]) == pytest.approx(statistics.stdev(values))
    assert (rows[2]["rank"], rows[2]["lr"], rows[2]["failed"]) == ("", "900", "2")
    assert rows[2]["reason"].startswith("lr=900.0 clip=0: the loss or a weight is no longer finite")

    run_rows = {row["run"]: row for row in read_csv(sweep.folder / "runs.csv")}
    assert sorted(run_rows) == [find_run(sweep.folder, number).name for number in range(6)]
    third = find_run(sweep.folder, 3)
    third_row = run_rows[third.name]
    assert third.name.startswith("3-lr_0.2-seed_1-iterations_200-")
    # Long lists of overrides are shortened, because file systems limit the length of names.
    assert len(third.name) <= len("3") + 60
    assert float(third_row[SCORE]) == pytest.approx(read_metrics_values(third)[SCORE])
    assert (third_row["seed"], third_row["lr"], third_row["failed"]) == ("1", "0.2", "")
    assert (sweep.folder / "leaderboard.png").read_bytes().startswith(b"\x89PNG")


def test_printed_output(sweep: Sweep) -> None:
    assert sweep.result.returncode == 1  # two runs have failed
    assert sweep.result.stderr == ""
    lines = sweep.result.stdout.splitlines()
    # The examples are printed to the logs of the runs only.
    assert not any("CORRECT" in line or "WRONG" in line for line in lines)
    assert "CORRECT" in (find_run(sweep.folder, 0) / "train.log").read_text()
    outcomes = [line.partition(":")[0] for line in lines if line.startswith("Run ")]
    assert sorted(outcomes) == [f"Run {number}" for number in range(6)]
    # The row below the header is that of the best learning rate.
    header = next(i for i, line in enumerate(lines) if line.split()[:2] == ["lr", "val"])
    best = read_csv(sweep.folder / "leaderboard.csv")[0]
    first = lines[header + 1].split()
    assert first[:3] == ["1", best["lr"], f"{float(best[SCORE]):.3f}"]
    assert lines[header + 3].split()[:3] == ["900", "failed:", "4"]
    assert "Failed: 2 of 6 runs" in lines
    resume_command = shlex.split(lines[-1].removeprefix("Resume"))
    folder = sweep.folder.relative_to(sweep.cwd)
    expected_command = ["python", "-m", "src.train", "-m"] + sweep.overrides
    expected_command.append(f"hydra.sweep.dir={folder}")
    assert resume_command == expected_command

    (line,) = (line for line in lines if line.startswith("Best settings"))
    command = shlex.split(line.removeprefix("Best settings"))
    # The command can be pasted into a shell.
    assert command[:3] == ["python", "-m", "src.train"]
    assert command[-2:] == ["-m", "seed=0,1"]  # the listed score is a mean
    config = settings(command[3:-2])
    assert (config.lr, config.hidden, config.iterations) == (float(best["lr"]), 8, 200)

    (line,) = (line for line in lines if line.startswith("Best run"))
    command = shlex.split(line.removeprefix("Best run"))
    sweep_folder = command.pop()
    assert command == ["python", "-m", "src.predict", "--checkpoint"]
    finished = [find_run(sweep.folder, number) for number in range(4)]  # the last two have failed
    run = max(finished, key=lambda run: read_metrics_values(run)[SCORE])
    assert find_checkpoint(sweep.cwd / sweep_folder) == run / "checkpoints/last.ckpt"


@pytest.mark.usefixtures("blank_pictures")
def test_run_of_a_sweep_equals_the_single_run(sweep: Sweep, tmp_path: Path) -> None:
    train_unless_finished(settings(sweep.common_overrides + ["lr=0.2", "seed=1"]), tmp_path)
    run = find_run(sweep.folder, 3)
    weights = load_checkpoint(run)["state_dict"]
    for name, expected in load_checkpoint(tmp_path)["state_dict"].items():
        assert torch.equal(weights[name], expected)
    assert timeless_metrics(run) == timeless_metrics(tmp_path)


@pytest.mark.usefixtures("blank_pictures")
def test_runs_leave_no_file_open(corpus_dir: Path, tmp_path: Path) -> None:
    def count_open_files_after_run(name: str) -> int:
        train_unless_finished(
            settings(QUICK_RUN + [f"data_dir={corpus_dir}", "hidden=8"]), tmp_path / name
        )
        return len(list(Path("/proc/self/fd").iterdir()))

    # Other operating systems than Linux do not list open files there.
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    n_open = count_open_files_after_run("first")
    assert count_open_files_after_run("second") == n_open
    assert count_open_files_after_run("third") == n_open


@pytest.mark.slow
def test_interrupted_sweep_keeps_finished_runs_and_can_be_resumed(
    corpus_dir: Path, tmp_path: Path, programs: Programs
) -> None:
    overrides = ["seed=0,1,2", "iterations=20000", "hidden=16", f"data_dir={corpus_dir}"]
    overrides.append("hydra/launcher=basic")
    # When the second run has this file, the first one has finished.
    second_run = "outputs/sweeps/*/*/1-*/overrides.json"
    process = programs.start_training(["-m"] + overrides, cwd=tmp_path, until=second_run)
    process.send_signal(signal.SIGINT)
    result = process.result()
    assert (result.returncode, result.stderr) == (130, "")
    lines = result.stdout.splitlines()
    (folder,) = tmp_path.glob("outputs/sweeps/*/*")
    (row,) = read_csv(folder / "leaderboard.csv")
    finished = row["folders"].split()
    assert finished[0] == find_run(folder, 0).name
    assert f"Interrupted. Finished runs: {len(finished)}" in lines
    command = shlex.split(lines[-1].removeprefix("Resume"))[3:]
    assert command == ["-m"] + overrides + [f"hydra.sweep.dir={folder.relative_to(tmp_path)}"]

    # Finished runs must not be trained again, so their files remain unchanged.
    times = {name: (folder / name / "metrics.json").stat().st_mtime_ns for name in finished}
    event_file = find_run(folder, 1) / "events.out.tfevents.left"
    event_file.touch()  # an interrupted run may leave such a file
    resumed = programs.train(command, cwd=tmp_path)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert resumed.stdout.count("already finished") == len(finished)
    (row,) = read_csv(folder / "leaderboard.csv")
    assert row["folders"].split() == [find_run(folder, number).name for number in range(3)]
    for name, time_ns in times.items():
        assert (folder / name / "metrics.json").stat().st_mtime_ns == time_ns
    assert not event_file.exists()
    assert len(list(tmp_path.glob("outputs/sweeps/*/*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_sweep_whose_output_is_closed(
    corpus_dir: Path, tmp_path: Path, programs: Programs, launcher: str
) -> None:
    """Like `python -m src.train -m … | head -1`. The second time, the runs are finished already."""
    overrides = ["lr=0.05,0.2", "hydra.sweep.dir=s"] + QUICK_RUN + [f"data_dir={corpus_dir}"]
    for launcher_name in (launcher, "basic"):
        reader, writer = os.pipe()
        with os.fdopen(reader) as output:
            with os.fdopen(writer, "w") as target:
                process = programs.start(
                    ["src.train", "-m"] + overrides + [f"hydra/launcher={launcher_name}"],
                    cwd=tmp_path,
                    stdout=target,
                )
            assert output.readline().endswith("\n")
        assert process.result().stderr == ""
        rows = read_csv(tmp_path / "s/leaderboard.csv")
        assert [row["failed"] for row in rows] == ["0", "0"]
        (tmp_path / "s/leaderboard.csv").unlink()


@pytest.mark.slow
def test_failed_changed_and_damaged_runs_are_repeated(sweep: Sweep, programs: Programs) -> None:
    again = sweep.cwd / "again"
    shutil.copytree(sweep.folder, again)
    runs = [find_run(again, number) for number in range(6)]
    # The second run now looks like the run of another seed.
    config_file = runs[1] / "config.yaml"
    config_file.write_text(config_file.read_text().replace("seed: 1", "seed: 7"))
    overrides_file = runs[1] / "overrides.json"
    overrides_file.write_text(overrides_file.read_text().replace("seed=1", "seed=7"))
    # A killed process may leave an incomplete file.
    (runs[2] / "metrics.json").write_text('{"status": "finished", "val/bal')
    (runs[3] / "config.yaml").write_text("- 1\n- {")
    (runs[3] / "overrides.json").write_text("")
    (runs[4] / "hparams.yaml").touch()  # a file of another run
    time_ns = (runs[0] / "metrics.json").stat().st_mtime_ns
    result = programs.train(["-m"] + sweep.overrides + ["hydra.sweep.dir=again"], cwd=sweep.cwd)
    assert (result.returncode, result.stderr) == (1, "")
    # Only the first run is unchanged.
    assert result.stdout.count("already finished") == 1
    assert result.stdout.count(": failed: lr=900.0") == 2
    assert (runs[0] / "metrics.json").stat().st_mtime_ns == time_ns
    for run in runs:
        assert timeless_metrics(run) == timeless_metrics(sweep.folder / run.name)
        assert read_settings(run) == read_settings(sweep.folder / run.name)
    assert "seed=1" in overrides_file.read_text()
    rows = without_times(read_csv(again / "leaderboard.csv"))
    assert rows == without_times(read_csv(sweep.folder / "leaderboard.csv"))


DEVICES = "trainer.devices: must be 1 in a sweep, because each run has one process\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("hiden=16,32", "hiden: unknown key; did you mean hidden? See --help\n"),
        ("lr=0.01,abc,0.1", "lr=abc: must be above 0 and at most 1,000\n"),
        (
            "trainer=cpu,tpu",
            "trainer=tpu: unknown option; did you mean trainer=gpu? Available: cpu, ddp, gpu\n",
        ),
        ("hydra/launcher=jobs", "hydra/launcher=jobs: unknown option; "),
        ("lr=interval(0.1,0.2)", "Can only enumerate CHOICE and RANGE sweeps, type is"),
        ("hydra.sweep.dir=${nowhere} lr=0.1,0.2", "hydra.sweep.dir: Interpolation key 'nowhere'"),
        ("hydra.sweep.dir=full/notes lr=0.1,0.2", "full/notes: File exists"),
        (
            "resume=full seed=1,2",
            "resume: cannot be used with -m; to resume a sweep, set hydra.sweep.dir\n",
        ),
        ("trainer=ddp lr=0.1,0.2", DEVICES),
        ("trainer.devices=2 lr=0.1,0.2", DEVICES),
        ("--cfg job", "Only one of --run, --multirun"),
    ],
)
def test_invalid_sweep_is_refused_before_a_run_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train_in_process: Callable[..., Result],
    command: str,
    message: str,
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").write_text("notes\n")
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    launcher = [] if "launcher" in command else ["hydra/launcher=basic"]
    result = train_in_process(["-m"] + launcher + command.split(" "))
    assert result.returncode == 1
    if command.startswith(("hiden", "lr=0.01,abc", "trainer=cpu,tpu")):
        # Hydra composes the configurations of the runs after the sweep has been announced.
        assert re.fullmatch(r"Sweep: \d runs → outputs/sweeps/\S+\n", result.stdout)
    else:
        assert result.stdout == ""
    assert result.stderr.startswith(message)
    assert "Traceback" not in result.stderr
    # No run has a folder.
    assert not list(tmp_path.glob("outputs/sweeps/*/*/*/"))
    entries = sorted(path.name for path in tmp_path.iterdir() if path.name != "outputs")
    assert entries == ["data", "full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes"]


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=0.2,0", "lr=0.0: must be above 0 and at most 1,000"),
        ("cell=tutorial,gru", "cell=gru: must be tutorial unless backend=autograd"),
        ("+depth=1", "depth: unknown key; --help lists all keys"),
        ("data_dir=nowhere", "data_dir={cwd}/nowhere: "),
        ("trainer=cpu,ddp", "trainer.strategy=ddp: must be auto with backend=compiled"),
    ],
)
def test_invalid_run_of_a_sweep_is_recorded_as_failed(
    corpus_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train_in_process: Callable[..., Result],
    override: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    message = message.format(cwd=tmp_path)
    common = QUICK_RUN + ["hidden=8", f"data_dir={corpus_dir}", "hydra/launcher=basic"]
    result = train_in_process(["-m"] + common + [override, "hydra.sweep.dir=sweep"])
    assert (result.returncode, result.stderr) == (1, "")
    n_valid = override.count(",")  # all values but the last
    assert f"Run {n_valid}: failed: {message}" in result.stdout
    assert f"Failed: 1 of {n_valid + 1} runs" in result.stdout.splitlines()
    rows = read_csv(tmp_path / "sweep/leaderboard.csv")
    assert [row["failed"] for row in rows] == ["0"] * n_valid + ["1"]
    assert rows[-1]["reason"].startswith(message)
    failed_run = read_result_or_empty(find_run(tmp_path / "sweep", n_valid))
    assert (failed_run.status, failed_run.reason) == ("failed", rows[-1]["reason"])


@pytest.mark.usefixtures("blank_pictures")
def test_sweep_of_one_run_in_a_folder_with_other_files(
    corpus_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train_in_process: Callable[..., Result],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").write_text("notes\n")
    overrides = QUICK_RUN + ["hidden=8", f"data_dir={corpus_dir}", "hydra.sweep.dir=full"]
    overrides += ["hydra/launcher=basic", "trainer=glob(c*)"]  # only `cpu` matches
    result = train_in_process(["-m"] + overrides)
    assert (result.returncode, result.stderr) == (0, "")
    assert [row["rank"] for row in read_csv(tmp_path / "full/leaderboard.csv")] == ["1"]
    assert (tmp_path / "full/notes").read_text() == "notes\n"


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["learning_rate", "capacity"])
def test_sweeping_experiments(
    corpus_dir: Path, tmp_path: Path, programs: Programs, experiment: str
) -> None:
    # The options of the experiments are kept, and only the runs are shortened.
    quick = ["iterations=20", "log_every=20", "seed=0", f"data_dir={corpus_dir}"]
    quick.append("hydra/launcher=basic")
    result = programs.train([f"experiment={experiment}"] + quick, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (folder,) = tmp_path.glob("outputs/sweeps/*/*")
    assert len(read_csv(folder / "leaderboard.csv")) == 6
    lines = result.stdout.splitlines()
    (command,) = (line for line in lines if line.startswith("Best settings"))
    config = programs.train(shlex.split(command)[5:] + ["--cfg", "hydra"], cwd=tmp_path)
    assert "  mode: RUN" in config.stdout.splitlines()  # a single run instead of a sweep
