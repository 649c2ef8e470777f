"""The leaderboard of a sweep, from the folders of its runs."""

import json
import re
from pathlib import Path

import pytest

from src.models.registry import SCORE
from src.run.preflight import N_RUNS_VARIABLE
from src.run.run_folder import read_settings
from src.sweep.finish import write_and_print_leaderboard
from src.sweep.leaderboard import EndedRun, find_swept_keys, group_and_rank_runs
from src.sweep.leaderboard_files import format_leaderboard_table
from src.sweep.runs import print_outcome_of_run_and_runs_left, read_ended_runs
from tests.helpers import read_csv

MALFORMED_CONTENTS = [
    b"",
    b"{",
    b"\xff",
    b"null",
    b"3",
    b"[1]",
    b"[{}]",
    b'{"a": {}}',
    b"[" * 100_000,
    b'["="]',
    b'["lr=["]',
    b'["lr=1,2"]',
    b'[["lr=1"]]',
    b"- 1\n- {",
    b"a: 1\0",
    b"a: !!bool x",
    b"? [a]\n: 1",
    b"a: 2020-99-99",
    b"a: !!int ''",
    b'{"status": 3}',
    b'{"status": []}',
    b'{"status": "finished", "seconds": [1]}',
    b'{"status": "finished", "seconds": 1%0400d}' % 0,
]


@pytest.mark.parametrize("name", ["overrides.json", "config.yaml", "metrics.json"])
def test_malformed_file_of_a_run_is_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for number in range(2):
        run = tmp_path / f"{number}-lr_{number}"
        run.mkdir()
        (run / "overrides.json").write_text(json.dumps([f"lr={number}"]))
        metrics = {"status": "finished", SCORE: 0.25 * number, "seconds": 1.0}
        (run / "metrics.json").write_text(json.dumps(metrics))
    for content in MALFORMED_CONTENTS:
        (run / name).write_bytes(content)
        read_settings(run)
        ended_runs = read_ended_runs(tmp_path)
        # A run without metrics has not ended, but settings are not necessary.
        assert len(ended_runs) == (1 if name == "metrics.json" else 2)
        assert (ended_runs[0].id, ended_runs[0].settings) == ("0", {"lr": "0"})
    (run / name).unlink()
    (run / name).mkdir()
    assert write_and_print_leaderboard(tmp_path, 0) == 0
    assert capsys.readouterr().err == ""
    assert read_csv(tmp_path / "leaderboard.csv")[-1]["lr"] == "0"


def test_leaderboard_that_cannot_be_written_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        run = tmp_path / str(number)
        run.mkdir()
        (run / "overrides.json").write_text(json.dumps([f"lr={number}"]))
        metrics = {"status": "finished", SCORE: 0.25 * number, "seconds": 1.0}
        (run / "metrics.json").write_text(json.dumps(metrics))
    # A folder of this name cannot be replaced by a file.
    (tmp_path / "leaderboard.csv").mkdir()
    assert write_and_print_leaderboard(tmp_path, 0) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].split() == ["1", "1", "0.250", "1.0", "1"]
    assert any(line.startswith("The leaderboard was not written: ") for line in printed)


@pytest.mark.parametrize(
    ("number", "n_left"),
    [(0, 4), (1, 3), (2, 3), (3, 2)],  # run 3 failed in an earlier command and is repeated last
)
def test_number_of_runs_that_are_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    n_left: int,
) -> None:
    monkeypatch.setenv(N_RUNS_VARIABLE, "5")
    statuses = {"0": "finished", "1-lr_1": "failed", "2": None, "3": "diverged", "other": None}
    for name, status in statuses.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "overrides.json").write_text("[]")
        if status:
            (tmp_path / name / "metrics.json").write_text(json.dumps({"status": status}))
    print_outcome_of_run_and_runs_left(tmp_path / "any", number, "done")
    assert capsys.readouterr().out == f"Run {number}: done; {n_left} left\n"


def make_run(name: str, score: float | None, failed: str = "", **settings: str) -> EndedRun:
    metrics = {}
    if score is not None:
        metrics = {SCORE: score, "test/balanced_accuracy": 1 - score}
    if not failed:
        metrics["seconds"] = 1.0
    return EndedRun(name, settings, metrics, failed)


def test_rank_by_mean_validation_score_with_failed_settings_last() -> None:
    runs = [
        make_run("0", 0.5, lr="1", seed="0"),
        make_run("1", 0.3, lr="1", seed="1"),
        make_run("2", 0.9, lr="2", seed="0"),
        # A failure of one seed puts its settings behind all that succeeded.
        make_run("3", None, failed="it exploded", lr="2", seed="1"),
        make_run("4", 0.45, lr="3", seed="0"),
        make_run("5", 0.45, lr="3", seed="1"),
        make_run("6", None, failed="no", lr="4", seed="0"),
    ]
    assert find_swept_keys(runs) == ["lr", "seed"]
    rows = group_and_rank_runs(runs)
    assert [row.settings["lr"] for row in rows] == ["3", "1", "2", "4"]
    # The mean of the scores 0.5 and 0.3 is printed with its standard deviation.
    assert rows[1].score == pytest.approx(0.4)
    assert [len(row.failures) for row in rows] == [0, 0, 1, 1]
    lines = format_leaderboard_table(rows, ["lr"])
    assert lines[2].split()[:5] == ["2", "1", "0.400", "±", "0.141"]
    assert lines[3].endswith("2, failed: 3 (it exploded)")
    assert lines[4].split() == ["4", "failed:", "6", "(no)"]


def test_runs_without_validation_have_no_rank() -> None:
    runs = [
        EndedRun("0", {"lr": "0"}, {"train/loss": 3.0, "seconds": 1.0}, ""),
        EndedRun("1", {"lr": "1"}, {"train/loss": 2.0, "seconds": 1.0}, ""),
    ]
    lines = format_leaderboard_table(group_and_rank_runs(runs), ["lr"])
    assert lines[0].split() == ["lr", "seconds", "run"]
    # Lines begin with the learning rate, because there is no rank.
    assert [line.split()[0] for line in lines[1:]] == ["0", "1"]


def test_sweep_without_finished_runs_has_no_leaderboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write_and_print_leaderboard(tmp_path, 130) == 130
    assert re.match(
        r"Interrupted\. Finished runs: 0\nResume         python -m src\.train ",
        capsys.readouterr().out,
    )
    assert not list(tmp_path.iterdir())
