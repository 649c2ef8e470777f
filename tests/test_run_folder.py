import json
import os
from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.models.registry import SCORE
from src.run.run_folder import find_checkpoint
from tests.helpers import write_checkpoint


def test_the_newest_finished_run_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"^no finished run in outputs/; train a model first, or use --checkpoint$"
    ):
        find_checkpoint(None)
    for i, run in enumerate(["2026-01-01/b", "sweeps/2026-01-02/x/0", "2026-01-03/a"]):
        folder = Path("outputs") / run
        write_checkpoint(folder / "checkpoints/last.ckpt")
        # The run of the third day has not finished.
        if "03" not in run:
            (folder / "metrics.json").write_text('{"status": "finished", "test/loss": 1.0}')
            os.utime(folder / "metrics.json", (i, i))
    newest = Path("outputs/sweeps/2026-01-02/x/0/checkpoints/last.ckpt")
    assert find_checkpoint(None) == newest
    assert find_checkpoint(Path("outputs/2026-01-03/a")).parts[2] == "a"
    assert find_checkpoint(newest) == newest


def test_the_best_run_of_a_sweep_is_found(tmp_path: Path) -> None:
    results: dict[str, dict[str, Any]] = {
        "0": {"status": "finished", SCORE: 0.4, "test/accuracy": 0.9},
        "1-lr_0.1": {"status": "finished", SCORE: 0.6},
        "2": {"status": "stopped", SCORE: 0.5},
        "3": {"status": "diverged", SCORE: 0.8},
        "4": {"status": "finished"},
        "5": {"status": "interrupted", SCORE: 0.7},
    }
    for run, content in results.items():
        write_checkpoint(tmp_path / run / "checkpoints/last.ckpt")
        (tmp_path / run / "metrics.json").write_text(json.dumps(content))
    # The best run is not the newest one.
    os.utime(tmp_path / "1-lr_0.1/metrics.json", (1, 1))
    assert find_checkpoint(tmp_path) == tmp_path / "1-lr_0.1/checkpoints/last.ckpt"
    assert find_checkpoint(tmp_path / "4") == tmp_path / "4/checkpoints/last.ckpt"
    # Only these runs have a result that can be compared.
    for run in ("0", "1-lr_0.1", "2"):
        (tmp_path / run / "metrics.json").write_text("{")
    with pytest.raises(UserError) as error:
        find_checkpoint(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: no finished run with a {SCORE}; use the folder of a run, or a checkpoint"
    )


@pytest.mark.parametrize("seed_folder", ["", "seed_1"])
def test_the_newest_run_of_a_sweep_is_replaced_by_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed_folder: str
) -> None:
    """The last run of a sweep is a random one, so the best run of the sweep is used."""
    monkeypatch.chdir(tmp_path)
    sweep = Path("outputs/sweeps/2026-01-02/12-00")
    for number, score in enumerate([0.4, 0.6, 0.5]):
        folder = sweep / str(number) / seed_folder
        write_checkpoint(folder / "checkpoints/last.ckpt")
        content = json.dumps({"status": "finished", SCORE: score})
        (folder / "metrics.json").write_text(content)
        os.utime(folder / "metrics.json", (number, number))
    last_run = sweep / "2" / seed_folder / "checkpoints/last.ckpt"
    # Without multirun.yaml, the folder is not that of a sweep.
    assert find_checkpoint(None) == last_run
    (sweep / "multirun.yaml").touch()
    assert find_checkpoint(None) == sweep / "1" / seed_folder / "checkpoints/last.ckpt"
    # Without scores, no run of the sweep is the best.
    for file in sweep.glob("**/metrics.json"):
        status = file.stat()
        file.write_text('{"status": "finished"}')
        os.utime(file, (status.st_atime, status.st_mtime))
    assert find_checkpoint(None) == last_run


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "5",
        '"finished"',
        # The parser raises a RecursionError for deeply nested values.
        "[" * 100_000,
        '{"a":' * 100_000,
        "\xff",
        '{"status": ["finished"]}',
        '{"status": "finished", "a": "b"}',
        '{"status": null}',
        '{"status": "finished", "a": {}}',
        '{"status": "finished", "a": null}',
        # These integers are too large for a float, and the second one is too long for Python.
        f'{{"status": "finished", "a": 1{"0" * 400}}}',
        f'{{"status": "finished", "a": 1{"0" * 5000}}}',
        '{"a": 1.0}',
        '{"status": "finished"',
        "a folder",
        "a link to nothing",
    ],
    ids=lambda content: content[:40],
)
def test_a_malformed_metrics_file_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    valid = write_checkpoint(Path("outputs/2026-01-01/a/checkpoints/last.ckpt"))
    (valid.parents[1] / "metrics.json").write_text('{"status": "finished"}')
    # The malformed file belongs to the newest run.
    os.utime(valid.parents[1] / "metrics.json", (1, 1))
    newer = Path("outputs/2026-01-02/b/metrics.json")
    newer.parent.mkdir(parents=True)
    if content == "a folder":
        newer.mkdir()
    elif content == "a link to nothing":
        newer.symlink_to("nothing")
    else:
        newer.write_bytes(content.encode("latin-1"))
    assert find_checkpoint(None) == valid
