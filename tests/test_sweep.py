import csv
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import warnings
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from src.answer.model import find_checkpoint
from src.config import Config, read_settings
from src.errors import UserError
from src.run.files import SCORE, lock, read_metrics
from src.run.launch import train_all_seeds_unless_finished
from src.sweep.leaderboard import Run, ranked, swept_keys, table
from src.sweep.runs import finish_sweep, read_runs
from src.sweep.seeds import train_each_seed
from src.train import train as train_once
from tests.conftest import (
    ROOT,
    assert_equal_runs,
    make_corpus,
    metrics_of,
    run_train,
    settings,
    start_train,
)

train = partial(train_all_seeds_unless_finished, train_once)

TINY = ["iterations=200", "log_every=50", "print_every=100", "val_every=100"]


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def run_of(sweep: Path, number: int) -> Path:
    (folder,) = sweep.glob(f"{number}-*")
    return folder


def numbers_of(run: Path) -> dict[str, float]:
    return read_metrics(run)[1]


def many(*commands: list[str], cwd: Path) -> list[subprocess.CompletedProcess[str]]:
    """Run `python -m src.train -m` with each of some command lines; one process imports for all."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EACH, json.dumps(commands)],  # torch has threads
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return [
        subprocess.CompletedProcess(words, *ended)
        for words, ended in zip(commands, json.loads(ran.stdout), strict=True)
    ]


EACH = """
import gc, json, os, sys, tempfile
from src.run import preflight, report  # what takes seconds to import
from src.run.launch import run_cli
from src.train import main
gc.freeze()
ended = []
for words in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if not pid:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            serial = [] if any("cluster=" in word for word in words) else ["hydra/launcher=basic"]
            sys.argv[1:] = ["-m", *serial, *words]
            sys.exit(run_cli(main))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        ended.append([status, out.read(), err.read()])
print(json.dumps(ended))
"""


class Swept:
    """A sweep of 3 × 1 settings and two seeds, one setting exploding."""

    def __init__(self, folder: Path) -> None:
        self.cwd = folder
        self.one = [*TINY, f"data_dir={make_corpus(folder / 'names')}", "hidden=8", "clip=0"]
        self.words = ["lr=0.01,0.2,900", "seed=range(2)", *self.one]
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
        of = [run_of(swept.folder, number) for number in (first, first + 1)]
        metrics = [numbers_of(run) for run in of]
        expected.append((statistics.mean(m[SCORE] for m in metrics), first, of, metrics))
    expected.sort(key=lambda entry: (-entry[0], entry[1]))
    for rank, (row, (score, first, of, metrics)) in enumerate(
        zip(rows[:2], expected, strict=True), start=1
    ):
        assert int(row["rank"]) == rank
        assert float(row[SCORE]) == pytest.approx(score)
        assert row["folders"] == " ".join(run.name for run in of)
        assert float(row["lr"]) == {0: 0.01, 2: 0.2}[first]
        for name in ("test/balanced_accuracy", "test/loss"):
            values = [m[name] for m in metrics]
            assert float(row[name]) == pytest.approx(statistics.mean(values))
            assert float(row[f"{name}_std"]) == pytest.approx(statistics.stdev(values))
    assert (rows[2]["rank"], rows[2]["lr"], rows[2]["failed"]) == ("", "900", "2")
    assert rows[2]["reason"].startswith("lr=900.0 clip=0: the loss is no longer finite")

    runs = {row["run"]: row for row in rows_of(swept.folder / "runs.csv")}
    assert sorted(runs) == [run_of(swept.folder, number).name for number in range(6)]
    third = run_of(swept.folder, 3)
    told = runs[third.name]
    assert third.name.startswith("3-lr_0.2-seed_1-iterations_200-")
    assert len(third.name) <= len("3") + 60
    assert float(told[SCORE]) == pytest.approx(numbers_of(third)[SCORE])
    assert (told["seed"], told["lr"], told["failed"]) == ("1", "0.2", "")
    assert (swept.folder / "leaderboard.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_sweep_prints(swept: Swept) -> None:
    assert swept.ran.returncode == 1  # as something failed
    assert swept.ran.stderr == ""
    lines = swept.ran.stdout.splitlines()
    assert not any("CORRECT" in line or "WRONG" in line for line in lines)  # these are in the logs
    assert "CORRECT" in (run_of(swept.folder, 0) / "train.log").read_text()
    ends = [line.split()[0] for line in lines if line.startswith("\t#")]
    assert sorted(ends) == [f"#{number}" for number in range(6)]
    assert "Joblib" not in swept.ran.stdout
    header = next(i for i, line in enumerate(lines) if line.split()[:2] == ["lr", "val"])
    best = rows_of(swept.folder / "leaderboard.csv")[0]
    first = lines[header + 1].split()
    assert first[:3] == ["1", best["lr"], f"{float(best[SCORE]):.3f}"]
    assert lines[header + 3].split()[:3] == ["900", "failed:", "4"]
    assert "Runs failed: 2 of 6" in lines
    again = shlex.split(lines[-1].removeprefix("To go on"))
    folder = swept.folder.relative_to(swept.cwd)
    assert again == [*"python -m src.train -m".split(), *swept.words, f"hydra.sweep.dir={folder}"]

    (command,) = (line for line in lines if line.startswith("Best settings"))
    words = shlex.split(command.removeprefix("Best settings"))
    assert words[:3] == ["python", "-m", "src.train"]
    assert words[-2:] == ["-m", "seed=0,1"]  # the listed score is a mean
    config = settings(*words[3:-2])
    assert (config.lr, config.hidden, config.iterations) == (float(best["lr"]), 8, 200)

    (command,) = (line for line in lines if line.startswith("Best run"))
    *words, sweep = shlex.split(command.removeprefix("Best run"))
    assert words == ["python", "-m", "src.predict", "--checkpoint"]
    ended = [run_of(swept.folder, number) for number in range(4)]  # the last two have failed
    run = max(ended, key=lambda run: numbers_of(run)[SCORE])
    assert find_checkpoint(swept.cwd / sweep) == run / "checkpoints/last.ckpt"


def test_a_run_of_a_sweep_is_the_run_alone(swept: Swept, tmp_path: Path) -> None:
    train(settings(*swept.one, "lr=0.2", "seed=1"), tmp_path)
    alone, together = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in (tmp_path, run_of(swept.folder, 3))
    )
    assert all(torch.equal(alone[name], together[name]) for name in alone)
    assert metrics_of(tmp_path) == metrics_of(run_of(swept.folder, 3))


def test_seeds_are_runs_and_their_mean_is_the_score(corpus_dir: Path, tmp_path: Path) -> None:
    one = [*TINY, f"data_dir={corpus_dir}", "hidden=8"]
    train(settings(*one, "seed=6"), tmp_path / "alone")
    for iterations in ("iterations=200", "iterations=300"):  # the second goes on with the first
        score = train(settings(*one, "seed=5", "seeds=2", iterations), tmp_path / "both")
    train(settings(*one, "seed=6", "iterations=300"), tmp_path / "alone")
    parts = [tmp_path / "both" / name for name in ("seed_5", "seed_6")]
    assert_equal_runs(tmp_path / "alone", parts[1])
    assert read_settings(parts[1]) == read_settings(tmp_path / "alone")
    both, *numbers = (numbers_of(run) for run in (tmp_path / "both", *parts))
    assert score == both[SCORE] == pytest.approx(statistics.mean(n[SCORE] for n in numbers))
    losses = [n["test/loss"] for n in numbers]
    assert both["test/loss_std"] == pytest.approx(statistics.stdev(losses))
    assert both["seconds"] == pytest.approx(sum(n["seconds"] for n in numbers))
    best = max(parts, key=lambda run: numbers_of(run)[SCORE])
    assert find_checkpoint(tmp_path / "both") == best / "checkpoints/last.ckpt"
    assert find_checkpoint(parts[0]) == parts[0] / "checkpoints/last.ckpt"
    with pytest.raises(UserError, match=r"must be 1 with .* seeds=2"):
        settings("experiment=best", "seeds=2", "trainer.devices=2")


def test_seeds_end_and_go_on_together(
    corpus_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(config: Config, folder: Path) -> float | None:
        if config.seed == 1:
            raise KeyboardInterrupt
        return train(config, folder)

    caplog.set_level("INFO")
    config, folder = settings(*TINY, f"data_dir={corpus_dir}", "seeds=2"), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_each_seed(interrupted, config, folder)
    (again,) = caplog.messages[-1].splitlines()[1:]
    words = shlex.split(again)[3:]
    assert words == [f"resume={folder}"]
    first = (folder / "seed_0/metrics.json").stat().st_mtime_ns
    assert train(settings(*words), folder) == numbers_of(folder)[SCORE]
    assert (folder / "seed_0/metrics.json").stat().st_mtime_ns == first
    assert numbers_of(folder)["iterations"] == 200
    with pytest.raises(UserError, match=r"^seed=1: the run in .* has seed=0"):
        settings(*words, "seed=1")


def test_a_sweep_of_seeds(corpus_dir: Path, tmp_path: Path) -> None:
    words = [*TINY, f"data_dir={corpus_dir}", "hidden=8", "clip=0", "lr=0.01,0.2,900", "seeds=2"]
    ran, again = many(*[[*words, "hydra.sweep.dir=s"]] * 2, cwd=tmp_path)
    assert (ran.returncode, ran.stderr, again.returncode, again.stderr) == (1, "", 1, "")
    assert again.stdout.count("done before") == 2
    runs = [run_of(tmp_path / "s", number) for number in range(3)]
    *rows, failed = rows_of(tmp_path / "s/leaderboard.csv")
    for row in rows:
        run = runs[["0.01", "0.2"].index(row["lr"])]
        assert row["folders"] == f"{run.name}/seed_0 {run.name}/seed_1"
        for name in (SCORE, f"{SCORE}_std", "test/loss", "test/loss_std"):
            assert float(row[name]) == pytest.approx(numbers_of(run)[name])
    assert (failed["lr"], failed["failed"], failed["rank"]) == ("900", "2", "")
    assert "\t#2 : failed: seeds failed: 2 of 2: lr=900.0 clip=0: the loss is" in ran.stdout
    assert "Runs failed: 2 of 6" in ran.stdout
    (command,) = (line for line in ran.stdout.splitlines() if line.startswith("Best settings"))
    best = settings(*shlex.split(command)[5:])
    assert (best.lr, best.seeds) == (float(rows[0]["lr"]), 2)


def test_runs_leave_no_file_open(corpus_dir: Path, tmp_path: Path) -> None:
    def run(name: str) -> int:
        train(settings(*TINY, f"data_dir={corpus_dir}", "hidden=8"), tmp_path / name)
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


def tensorboard(folder: Path) -> str:
    """Start TensorBoard, for as long as this process lives; return where its data is."""
    where = ["--logdir", str(folder), "--host", "127.0.0.1", "--port", "0", "--load_fast", "false"]
    once = ["--reload_interval", "0", "--reload_task", "blocking"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # html5lib, which it imports, has deprecated a part of it
        board = program.TensorBoard()
        board.configure(["", *where, *once])
    return f"{board.launch()}data"


def sessions(url: str) -> list[dict[str, Any]]:
    """Return the rows of TensorBoard's HParams tab, as its page asks for them."""
    statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    columns = [{"metric": {"tag": SCORE, "group": ""}, "order": "ORDER_DESC"}]
    body: dict[str, Any] = {"experimentName": "", "startIndex": 0, "sliceSize": 100}
    body |= {"allowedStatuses": statuses, "colParams": columns}
    groups = ask(f"{url}/plugin/hparams/session_groups", body)["sessionGroups"]
    return [
        group | {"metrics": {each["name"]["tag"]: each["value"] for each in group["metricValues"]}}
        for group in groups
    ]


@pytest.mark.parametrize("first", ["0-tutorial", "9-tutorial"])  # whose word is taken, or not
def test_a_sweep_and_a_run_without_validation_side_by_side(
    corpus_dir: Path, tmp_path: Path, first: str
) -> None:
    folder, common = tmp_path / "logs", [*TINY, f"data_dir={corpus_dir}"]
    pairs = [(lr, hidden) for lr in ("0.01", "0.05") for hidden in ("4", "8")]
    for number, (lr, hidden) in enumerate(pairs, start=1):
        words = f"lr={lr}", f"hidden={hidden}"
        train(settings(*words, *common), folder / f"{number}-lr_{lr}-hidden_{hidden}")
    train(settings("experiment=tutorial", *common), folder / first)
    url = tensorboard(folder)
    experiment = ask(f"{url}/plugin/hparams/experiment", {"experimentName": ""})
    shown = [info["name"] for info in experiment["hparamInfos"] if info["differs"]]
    assert {"lr", "hidden", "seed", "iterations"} <= set(shown)
    assert [info["name"] for info in experiment["hparamInfos"][: len(shown)]] == shown
    assert len(shown) <= 5  # columns, before somebody chooses others
    metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert metrics[0] == SCORE
    assert len(metrics) == 11
    rows = {row["sessions"][0]["name"]: row for row in sessions(url)}
    assert len(rows) == 5
    assert rows[first]["metrics"].keys() == {"train/loss"}
    for number, (lr, hidden) in enumerate(pairs, start=1):
        row = rows[f"{number}-lr_{lr}-hidden_{hidden}"]
        assert (row["hparams"]["lr"], row["hparams"]["hidden"]) == (float(lr), int(hidden))
        assert row["hparams"]["bidirectional"] == "false"
        assert row["metrics"].keys() == set(metrics)
    layout = ask(f"{url}/plugin/custom_scalars/layout")
    (chart,) = layout["category"][0]["chart"]
    assert chart["multiline"]["tag"] == ["train/loss", "val/loss"]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["seed=3"], ["hidden", "iterations", "lr", "seed"]),
        (["cell=gru", "backend=autograd"], ["backend", "cell", "hidden", "lr", "seed"]),
    ],
)
def test_what_was_set_is_what_hparams_show(
    corpus_dir: Path, tmp_path: Path, words: list[str], shown: list[str]
) -> None:
    words = [*words, "print_every=100", "trainer.benchmark=false"]
    config = settings(*words, "experiment=debug")
    config.iterations, config.data_dir = 50, str(corpus_dir)
    train(config, tmp_path)
    torch.use_deterministic_algorithms(False)
    log = EventAccumulator(str(tmp_path))
    log.Reload()
    content = log.SummaryMetadata("_hparams_/experiment").plugin_data.content
    infos = HParamsPluginData.FromString(content).experiment.hparam_infos
    assert sorted(info.name for info in infos if info.differs) == shown


def test_tensorboard_shows_the_sweep(swept: Swept) -> None:
    url = tensorboard(swept.folder)
    runs = [run_of(swept.folder, number) for number in range(6)]
    assert {run.name for run in runs} <= set(ask(f"{url}/runs"))
    assert [len(list(run.glob("events.out.tfevents.*"))) for run in runs] == [1] * 6
    assert not list(swept.folder.glob("**/hparams.yaml"))
    tags = ask(f"{url}/plugin/scalars/tags")
    assert {"train/loss", SCORE, "test/balanced_accuracy"} <= set(tags[runs[0].name])
    assert not any("uniform" in tag for tag in tags[runs[0].name])
    query = urllib.parse.urlencode({"run": runs[0].name, "tag": SCORE})
    points = ask(f"{url}/plugin/scalars/scalars?{query}")
    assert [step for _, step, _ in points] == [100, 200]
    assert points[-1][2] == pytest.approx(numbers_of(runs[0])[SCORE])

    shown = {
        (row["hparams"]["lr"], row["hparams"]["seed"]): row["metrics"] for row in sessions(url)
    }
    numbers = {(0.01, 0): 0, (0.01, 1): 1, (0.2, 0): 2, (0.2, 1): 3}
    for key, number in numbers.items():
        metrics = numbers_of(runs[number])
        for name in (SCORE, "test/macro_f1", "train/loss"):
            assert shown[key][name] == pytest.approx(metrics[name], abs=1e-6)


def test_ctrl_c_keeps_what_is_done_and_the_rest_can_follow(tmp_path: Path) -> None:
    words = ["seed=0,1,2", "iterations=20000", "hidden=16", f"data_dir={ROOT}/data/names"]
    words.append("hydra/launcher=basic")
    begun = "outputs/sweeps/*/*/1-*/overrides.json"
    process = start_train("-m", *words, cwd=tmp_path, until=begun)
    process.send_signal(signal.SIGINT)
    printed, complained = process.communicate(timeout=30)
    assert (process.returncode, complained) == (130, "")
    lines = printed.splitlines()
    (folder,) = tmp_path.glob("outputs/sweeps/*/*")
    (row,) = rows_of(folder / "leaderboard.csv")
    done = row["folders"].split()
    assert done[0] == run_of(folder, 0).name
    assert f"Interrupted; runs done: {len(done)}" in lines
    again = shlex.split(lines[-1].removeprefix("To go on"))[3:]
    assert again == ["-m", *words, f"hydra.sweep.dir={folder.relative_to(tmp_path)}"]

    before = {name: (folder / name / "metrics.json").stat().st_mtime_ns for name in done}
    left = run_of(folder, 1) / "events.out.tfevents.left"
    left.touch()  # what the interrupted run might have left
    ran = run_train(*again, cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count("done before") == len(done)
    (row,) = rows_of(folder / "leaderboard.csv")
    assert row["folders"].split() == [run_of(folder, number).name for number in range(3)]
    for name, stamp in before.items():
        assert (folder / name / "metrics.json").stat().st_mtime_ns == stamp
    assert not left.exists()
    assert len(list(tmp_path.glob("outputs/sweeps/*/*"))) == 1


def test_a_sweep_whose_reader_has_seen_enough(corpus_dir: Path, tmp_path: Path) -> None:
    """`python -m src.train -m … | head -1`, and once more, when its runs are done."""
    words = shlex.join(["lr=0.05,0.2", "hydra.sweep.dir=s", *TINY, f"data_dir={corpus_dir}"])
    for launcher in ("", "hydra/launcher=basic"):
        ran = subprocess.run(
            f"{sys.executable} -m src.train -m {words} {launcher} | head -1",
            shell=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.stdout.count("\n"), ran.stderr) == (1, "")
        assert [row["failed"] for row in rows_of(tmp_path / "s/leaderboard.csv")] == ["0", "0"]
        (tmp_path / "s/leaderboard.csv").unlink()


def test_what_failed_or_had_other_settings_or_is_damaged_is_done_again(swept: Swept) -> None:
    again = swept.cwd / "again"
    shutil.copytree(swept.folder, again)
    runs = [run_of(again, number) for number in range(6)]
    settings_of, ran_with = runs[1] / "config.yaml", runs[1] / "overrides.json"
    settings_of.write_text(settings_of.read_text().replace("seed: 1", "seed: 7"))
    ran_with.write_text(ran_with.read_text().replace("seed=1", "seed=7"))
    (runs[2] / "metrics.json").write_text('{"status": "finished", "val/bal')
    (runs[3] / "config.yaml").write_text("- 1\n- {")
    (runs[3] / "overrides.json").write_text("")
    (runs[4] / "hparams.yaml").touch()  # what is not of this run
    stamp = (runs[0] / "metrics.json").stat().st_mtime_ns
    ran = run_train("-m", *swept.words, "hydra.sweep.dir=again", cwd=swept.cwd)
    assert (ran.returncode, ran.stderr) == (1, "")
    assert ran.stdout.count("done before") == 1
    assert ran.stdout.count(": failed: lr=900.0") == 2
    assert (runs[0] / "metrics.json").stat().st_mtime_ns == stamp
    for run in runs:
        assert metrics_of(run) == metrics_of(swept.folder / run.name)
        assert read_settings(run) == read_settings(swept.folder / run.name)
    assert "seed=1" in ran_with.read_text()
    boards = [rows_of(folder / "leaderboard.csv") for folder in (swept.folder, again)]
    timeless = [
        [{k: v for k, v in row.items() if "second" not in k} for row in board] for board in boards
    ]
    assert timeless[0] == timeless[1]


NONSENSE = [
    *(b"", b"{", b"\xff", b"null", b"3", b"[1]", b"[{}]", b'{"a": {}}', b"[" * 100_000),
    *(b'["="]', b'["lr=["]', b'["lr=1,2"]', b'[["lr=1"]]', b"- 1\n- {", b"a: 1\0", b"a: !!bool x"),
    *(b"? [a]\n: 1", b"a: 2020-99-99", b"a: !!int ''", b'{"status": 3}', b'{"status": []}'),
    *(b'{"status": "finished", "seconds": [1]}', b'{"status": "finished", "seconds": 1%0400d}' % 0),
]


@pytest.mark.parametrize("name", ["overrides.json", "config.yaml", "metrics.json"])
def test_a_malformed_file_of_a_run_does_not_break_the_leaderboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for number in range(2):
        run = tmp_path / f"{number}-lr_{number}"
        run.mkdir()
        (run / "overrides.json").write_text(json.dumps([f"lr={number}"]))
        metrics = {"status": "finished", SCORE: 0.25 * number, "seconds": 1.0}
        (run / "metrics.json").write_text(json.dumps(metrics))
    for content in NONSENSE:
        (run / name).write_bytes(content)
        read_settings(run)
        first, *others = read_runs(tmp_path)
        assert (first.number, first.settings, len(others)) == ("0", {"lr": "0"}, name[0] != "m")
    (run / name).unlink()
    (run / name).mkdir()
    assert finish_sweep(tmp_path, 0) == 0
    assert capsys.readouterr().err == ""
    assert rows_of(tmp_path / "leaderboard.csv")[-1]["lr"] == "0"


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


def test_bad_sweeps_are_refused_before_a_run_begins(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").write_text("mine\n")
    (tmp_path / "data").symlink_to(ROOT / "data")
    devices = "trainer: a sweep's runs have one process each: trainer.devices=1"
    refused = {
        "hiden=16,32": "hiden: no such key; did you mean hidden? --help lists them",
        "lr=0.01,abc,0.1": "Error merging override lr=abc",
        "trainer=cpu,tpu": "In 'train': Could not find 'trainer/tpu'",
        "hydra/launcher=jobs": "In 'hydra/config': Could not find 'hydra/launcher/jobs'",
        "lr=interval(0.1,0.2)": "Can only enumerate CHOICE and RANGE sweeps, type is",
        "hydra.sweep.dir=${nowhere} lr=0.1,0.2": "Interpolation key 'nowhere' not found",
        "hydra.sweep.dir=full/notes lr=0.1,0.2": "full/notes: File exists",
        "resume=full seed=1,2": "resume: is of a single run; a sweep goes on with",
        "trainer=ddp lr=0.1,0.2": devices,
        "trainer.devices=2 lr=0.1,0.2": devices,
        "--cfg job": "Only one of --run, --multirun",
    }
    for ran, message in zip(
        many(*(words.split(" ") for words in refused), cwd=tmp_path), refused.values(), strict=True
    ):
        assert (ran.returncode, ran.stdout) == (1, ""), ran
        assert ran.stderr.startswith(message), ran
        assert "Traceback" not in ran.stderr
    assert not list(tmp_path.glob("outputs/sweeps/*/*/*/"))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "outputs") == [
        "data",
        "full",
    ]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes"]


def test_what_a_run_alone_would_refuse_is_a_run_that_failed(
    corpus_dir: Path, tmp_path: Path
) -> None:
    tiny = [*TINY, "hidden=8"]
    failing = {
        "lr=0.2,0": "lr=0.0: must be above 0, at most 1,000",
        "cell=tutorial,gru": "cell=gru: must be tutorial unless backend=autograd",
        "+depth=1": "depth: no such key",
        "data_dir=nowhere": f"data_dir={tmp_path}/nowhere: ",
        "trainer=cpu,ddp": "trainer.strategy=ddp: must be auto with backend=compiled",
    }
    common = [*tiny, f"data_dir={corpus_dir}"]
    commands = [[*common, each, f"hydra.sweep.dir={n}"] for n, each in enumerate(failing)]
    for n, (ran, (words, message)) in enumerate(
        zip(many(*commands, cwd=tmp_path), failing.items(), strict=True)
    ):
        assert (ran.returncode, ran.stderr) == (1, ""), ran
        good, runs = words.count(","), 1 + words.count(",")
        assert f"\t#{good} : failed: {message}" in ran.stdout
        assert f"Runs failed: 1 of {runs}" in ran.stdout.splitlines()
        rows = rows_of(tmp_path / f"{n}/leaderboard.csv")
        assert [row["failed"] for row in rows] == ["0"] * good + ["1"]
        assert rows[-1]["reason"].startswith(message)
        (failed,) = (tmp_path / str(n)).glob(f"{good}-*")
        assert read_metrics(failed)[::2] == ("failed", rows[-1]["reason"])


def test_a_sweep_of_one_run_in_a_folder_that_holds_things(corpus_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").write_text("mine\n")
    words = [*TINY, "hidden=8", f"data_dir={corpus_dir}", "hydra.sweep.dir=full"]
    words.append("trainer=glob(c*)")  # cpu alone
    (ran,) = many(words, cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [row["rank"] for row in rows_of(tmp_path / "full/leaderboard.csv")] == ["1"]
    assert (tmp_path / "full/notes").read_text() == "mine\n"


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_sweep_has_its_folder_alone_and_its_workers_end_with_it(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep"]
    words = ["hidden=8,16", "iterations=100000000", *parallel]
    process = start_train("-m", *words, cwd=tmp_path, until="sweep/1-*/checkpoints/last.ckpt")
    started = children(process.pid)
    try:
        (second,) = many(["lr=0.1,0.2", "hydra.sweep.dir=sweep"], cwd=tmp_path)
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr == "sweep: is in use by another process\n"
        runs = [run_of(tmp_path / "sweep", number) for number in range(2)]
        for run in runs:
            with pytest.raises(UserError, match="is in use by another process"):
                lock(run)
        process.kill()
        process.wait(timeout=10)
        deadline = time.monotonic() + 10
        while any(read_metrics(run)[0] != "interrupted" for run in runs):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1)
        for run in runs:
            lock(run).release()
            assert (run / "checkpoints/last.ckpt").exists()
        lock(tmp_path / "sweep").release()
    finally:
        process.kill()
        for child in started:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate(timeout=10)


def test_ctrl_c_lets_workers_end_in_order(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["hidden=8,9,10", "iterations=100000000", "print_every=1000", "hydra.launcher.n_jobs=2"]
    begun = "sweep/1-*/checkpoints/last.ckpt"
    process = start_train(
        "-m", *words, "val_every=10000", "hydra.sweep.dir=sweep", cwd=tmp_path, until=begun
    )
    process.send_signal(signal.SIGINT)
    printed, complained = process.communicate(timeout=30)
    assert (process.returncode, complained) == (130, "")
    assert "Interrupted; runs done: 0" in printed
    runs = [run_of(tmp_path / "sweep", number) for number in range(2)]
    assert [read_metrics(run)[0] for run in runs] == ["interrupted"] * 2
    assert all((run / "checkpoints/last.ckpt").exists() for run in runs)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_lost_worker_does_not_cost_the_leaderboard(corpus_dir: Path, tmp_path: Path) -> None:
    """As when the machine runs out of memory."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["iterations=20,100000000", "hydra.launcher.n_jobs=2", f"data_dir={corpus_dir}"]
    done = "sweep/0-*/metrics.json"
    process = start_train("-m", *words, "hydra.sweep.dir=sweep", cwd=tmp_path, until=done)
    for child in children(process.pid):
        if b"LokyProcess" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(child, signal.SIGKILL)
    printed, complained = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "TerminatedWorkerError: " in complained
    assert printed.splitlines()[-1].startswith("To go on       python -m src.train -m iterations=")
    (row,) = rows_of(tmp_path / "sweep/leaderboard.csv")
    assert (row["iterations"], row["failed"]) == ("20", "0")


def test_two_workers_measure_what_one_does(swept: Swept) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=parallel"]
    ran = run_train("-m", *swept.words, *parallel, cwd=swept.cwd)
    assert (ran.returncode, ran.stderr) == (1, "")
    for number in range(4):
        run = run_of(swept.folder, number)
        assert metrics_of(swept.cwd / "parallel" / run.name) == metrics_of(run)
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
    store = ["hydra.sweeper.storage=sqlite:///trials.db", "hydra.sweeper.study_name=mine"]
    ran = run_train(*words, *store, space, *TINY, f"data_dir={corpus_dir}", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    found = OmegaConf.load(tmp_path / "search/optimization_results.yaml")
    best = rows_of(tmp_path / "search/leaderboard.csv")[0]
    assert float(best[SCORE]) == pytest.approx(found.best_value)
    with closing(sqlite3.connect(tmp_path / "trials.db")) as trials:
        ((kept,),) = trials.execute("select count(*) from trials where state = 'COMPLETE'")
    runs = rows_of(tmp_path / "search/runs.csv")
    assert len(runs) == kept == 4
    assert {run["hidden"] for run in runs} <= {"4", "8"}
    assert len({run["lr"] for run in runs}) == 4
    assert all(0.0005 <= float(run["lr"]) <= 0.02 for run in runs)

    # as if it had been interrupted there
    (run_of(tmp_path / "search", 3) / "metrics.json").unlink()
    again = run_train(*words, space, *TINY, f"data_dir={corpus_dir}", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before") == 3
    timeless = [
        [{k: v for k, v in run.items() if "second" not in k} for run in each]
        for each in (runs, rows_of(tmp_path / "search/runs.csv"))
    ]
    assert timeless[0] == timeless[1]


def test_bad_searches(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    refused = {
        "experiment=search bogus=choice(1,2)": "bogus: no such key. --help lists them",
        "experiment=search +hydra.sweeper.params.bogus='choice(1,2)'": "bogus: no such key",
        "experiment=search val_fraction=0": "val_fraction=0: a search needs validation names",
        "hydra/sweeper=optuna lr=choice(0.1,0.2)": "hydra.sweeper.direction: must be maximize",
        "experiment=search seed=1,2": "seed: is no parameter of a search; seeds=3 repeats each",
        "experiment=search +hydra.sweeper.params.seed='range(2)'": "seed: is no parameter of a",
    }
    for ran, (words, message) in zip(
        many(*(words.split() for words in refused), cwd=tmp_path), refused.items(), strict=True
    ):
        assert ran.returncode == 1
        assert ran.stderr.startswith(message)
        assert len(ran.stderr.splitlines()) == 1
        assert "bogus" in words or ran.stdout == ""
    assert not list(tmp_path.glob("outputs/sweeps/*/*/*/"))


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
                *(*TINY, "clip=0", f"data_dir={corpus_dir}"),
                cwd=tmp_path,
            )
        finally:
            os.killpg(cluster.pid, signal.SIGKILL)  # its own way down takes half a minute
            cluster.wait(timeout=60)
    assert ran.returncode == 1, ran.stderr
    (folder,) = tmp_path.glob("outputs/sweeps/*/*")
    rows = rows_of(folder / "leaderboard.csv")
    assert [(row["lr"], row["failed"]) for row in rows] == [("0.05", "0"), ("900", "1")]
    assert float(rows[0][SCORE]) == numbers_of(run_of(folder, 0))[SCORE]


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    nobody = ["cluster=ray", "hydra.launcher.ray.init.address=127.0.0.1:1"]
    ray, slurm = many(["lr=0.1,0.2", *nobody], ["lr=0.1,0.2", "cluster=slurm"], cwd=tmp_path)
    for ran, message in (
        (ray, "hydra.launcher.ray.init: "),
        (slurm, "hydra/launcher=submitit_slurm: SLURM's sbatch is not on this machine"),
    ):
        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr.splitlines()[-1].startswith(message)
        assert "Traceback" not in ran.stderr
    assert not list(tmp_path.iterdir())


def test_runs_become_jobs_of_submitit(corpus_dir: Path, tmp_path: Path) -> None:
    """Its local executor takes SLURM's place: same launcher, same job files."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "lr=0.05,0.2"]
    ran = run_train("-m", *words, "hidden=8", *TINY, f"data_dir={corpus_dir}", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    (folder,) = tmp_path.glob("outputs/sweeps/*/*")
    assert len(rows_of(folder / "leaderboard.csv")) == 2


SLURM = {
    # answers, and runs the tasks of the array then, one after the other
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
    # --unbuffered --output FILE --error FILE COMMAND
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


def test_runs_become_an_array_of_slurm(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM is a few scripts that do, on this machine, what submitit asks of it."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (tmp_path / "bin").mkdir()
    for name, script in SLURM.items():
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    words = ["lr=0.1,0.2", "iterations=20", f"data_dir={corpus_dir}", "cluster=slurm"]
    for how in ("validation balanced accuracy", "done before"):
        ran = run_train("-m", *words, "hydra.sweep.dir=sweep", cwd=tmp_path)
        assert (ran.returncode, ran.stderr) == (0, "")
        told = [log.read_text() for log in tmp_path.glob("sweep/.submitit/*/*_0_log.out")]
        for number, lr in enumerate(("0.1", "0.2")):
            assert sum(f"\t#{number} : {how}" in log for log in told) == 1
            run = run_of(tmp_path / "sweep", number)
            assert run.name == f"{number}-lr_{lr}-iterations_20-data_dir_names"
            assert read_metrics(run)[0] == "finished"
        rows = {row["lr"]: row for row in rows_of(tmp_path / "sweep/leaderboard.csv")}
        assert sorted(rows) == ["0.1", "0.2"]
        assert float(rows["0.2"][SCORE]) == numbers_of(run)[SCORE]
        (tmp_path / "sweep/leaderboard.csv").unlink()


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
