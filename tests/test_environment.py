"""Difficult environments: full disks, closed streams, other processes, unusual folders, clocks."""

import gc
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from src.inference.trained_model import load_model
from src.run.environment import training_environment
from src.run.run_folder import Status, read_result_or_empty
from src.train import train
from tests.helpers import ROOT, assert_equal_runs, settings, timeless_metrics
from tests.processes import Programs, Result, wait_until

RUN = [
    "hidden=8",
    "lr=0.05",
    "iterations=600",
    "log_every=50",
    "print_every=100",
    "val_every=200",
    f"data_dir={ROOT}/data/names",
]
NEW_INTERPRETER = [sys.executable, "-m", "src.train"]


def can_mount() -> bool:
    """Return whether this user may create a mount namespace."""
    if shutil.which("unshare") is None:
        return False
    # Some distributions and containers do not allow this to ordinary users.
    command = ["unshare", "--map-root-user", "--mount", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="needs mount namespaces (Linux)")


def train_on_small_disk(programs: Programs, overrides: list[str], size: str, cwd: Path) -> Result:
    """Train with the folder `small` on a disk of a given size, which is copied to `copy`."""
    mount_script = f"mkdir small; mount -t tmpfs -o size={size} tmpfs small"
    return programs.train(
        overrides, cwd=cwd, mount_script=mount_script, unmount_script="cp -r small copy"
    )


@pytest.fixture(scope="module")
def expected_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the settings `RUN` in an ordinary environment."""
    run = tmp_path_factory.mktemp("expected")
    train(settings(RUN), run)
    return run


@pytest.mark.slow
def test_three_runs_at_the_same_time(
    tmp_path: Path, expected_run: Path, programs: Programs
) -> None:
    processes = [programs.start(["src.train"] + RUN, cwd=tmp_path) for _ in range(3)]
    assert [process.result().stderr for process in processes] == [""] * 3
    # The runs start in the same second, and each of them needs its own folder.
    runs = list(tmp_path.glob("outputs/*/*"))
    assert len(runs) == 3
    for run in runs:
        assert_equal_runs(run, expected_run)


@pytest.mark.slow
def test_eight_processes_fill_the_kernel_cache_at_the_same_time(
    tmp_path: Path, programs: Programs
) -> None:
    code = (
        "import os\n"
        "import numpy as np\n"
        "from src.models.online_sgd import _add_scaled\n"
        "for number in range(8):\n"
        "    if not os.fork():\n"
        "        y = np.ones(3, np.float32)\n"
        "        _add_scaled(y, np.float32(number), y.copy())\n"
        "        os.write(1, b'%d ' % y[2])\n"
        "        os._exit(0)\n"
        "assert [os.wait()[1] for _ in range(8)] == [0] * 8"
    )
    # torch starts threads, and Python warns of forking a process with threads.
    command = [sys.executable, "-W", "ignore", "-c", code]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    result = programs.run(command, cwd=ROOT, env=environment, is_forked=False)
    assert (result.returncode, result.stderr) == (0, "")
    # Each process adds its number to ones, so a damaged cache would change a result.
    assert sorted(result.stdout.split()) == list("12345678")
    assert list(tmp_path.rglob("*._add_scaled-*.nbi"))


@pytest.mark.slow
@needs_mounts
def test_read_only_source_and_cache_and_no_home(
    tmp_path: Path, expected_run: Path, programs: Programs
) -> None:
    """The kernel is compiled again, because the result cannot be cached."""
    cache = ROOT / "src/models/__pycache__"
    cache.mkdir(exist_ok=True)
    root = shlex.quote(str(ROOT))
    cache_folder = shlex.quote(str(cache))
    mount = (
        f"mount --bind {root} {root}; mount -o remount,ro,bind {root}\n"
        f"mount -t tmpfs -o ro tmpfs {cache_folder}"
    )
    # Some libraries have folders for caches in the home folder.
    environment = os.environ | {"HOME": "/nowhere/at/all"}
    # These variables would offer another folder for a cache.
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "NUMBA_CACHE_DIR"):
        environment.pop(name, None)
    result = programs.run(
        NEW_INTERPRETER + RUN + ["hydra.run.dir=run"],
        cwd=tmp_path,
        env=environment,
        is_forked=False,
        mount_script=mount,
    )
    assert result.returncode == 0, result.stderr
    assert_equal_runs(tmp_path / "run", expected_run)


@needs_mounts
@pytest.mark.parametrize(
    ("size", "checkpoint", "network"),
    [
        # This disk is full before the first checkpoint is written.
        ("16k", None, []),
        # This disk is full after some validations.
        ("120k", "last.ckpt", []),
        pytest.param(
            "2200k",
            "last.ckpt",
            ["cell=gru", "hidden=256", "backend=autograd"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_full_disk(
    tmp_path: Path,
    programs: Programs,
    size: str,
    checkpoint: str | None,
    network: list[str],
) -> None:
    overrides = RUN + ["iterations=100000", "val_every=50", "hydra.run.dir=small/run"] + network
    result = train_on_small_disk(programs, overrides, size=size, cwd=tmp_path)
    assert result.returncode == 1
    assert "small/run" in result.stderr
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("copy/run/**/*.part"))
    # A checkpoint is replaced only by a complete one, so the last one can be loaded.
    if checkpoint:
        load_model(tmp_path / "copy/run/checkpoints" / checkpoint)
    else:
        assert not list(tmp_path.glob("copy/run/checkpoints"))


@needs_mounts
@pytest.mark.parametrize(
    "size",
    [
        "16k",
        pytest.param("120k", marks=pytest.mark.slow),
        pytest.param("200k", marks=pytest.mark.slow),
    ],
)
def test_sweep_on_full_disk(tmp_path: Path, programs: Programs, size: str) -> None:
    """The disk is full before, during and after the first run."""
    overrides = RUN + ["lr=0.01", "seed=0,1,2", "iterations=2000", "hydra.sweep.dir=small/sweep"]
    overrides.append("hydra/launcher=basic")
    result = train_on_small_disk(programs, ["-m"] + overrides, size=size, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert "No space left on device" in result.stdout + result.stderr
    # An error message has a single line.
    assert len(result.stderr.splitlines()) <= 1
    assert not list(tmp_path.glob("copy/**/*.part"))
    for run in tmp_path.glob("copy/sweep/*/"):
        if (run / "checkpoints/last.ckpt").exists():
            load_model(run / "checkpoints/last.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>&-"])
def test_closed_streams(
    tmp_path: Path, expected_run: Path, programs: Programs, closed: str
) -> None:
    """This requires a new interpreter, because Python replaces closed streams when it starts."""
    script = f"exec {shlex.join(NEW_INTERPRETER + RUN)} {closed}"
    result = programs.run(["sh", "-c", script], cwd=tmp_path, is_forked=False)
    assert result.returncode == 0
    (run,) = tmp_path.glob("outputs/*/*")
    assert read_result_or_empty(run).status == Status.FINISHED
    assert_equal_runs(run, expected_run)
    log = (run / "train.log").read_text()
    assert "18 categories" in log
    assert result.stdout == ("" if ">&- " in closed else log)


def test_second_run_in_the_folder_of_a_running_one(tmp_path: Path, programs: Programs) -> None:
    overrides = RUN + ["iterations=100000000", "val_every=100000000", "hydra.run.dir=run"]
    first = programs.start_training(overrides, cwd=tmp_path, until="run/.lock")
    second = programs.train(overrides, cwd=tmp_path)
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == "run: another process is using this folder\n"
    # The second process must not have changed the log of the first.
    log = tmp_path / "run/train.log"
    wait_until(lambda: log.exists() and "CORRECT" in log.read_text(), first)
    first.send_signal(signal.SIGTERM)
    result = first.result()
    assert (result.returncode, result.stderr) == (143, "")
    assert result.stdout == log.read_text()
    status, metrics, _ = read_result_or_empty(tmp_path / "run")
    assert status == "interrupted"
    assert load_model(tmp_path / "run/checkpoints/last.ckpt")
    assert metrics["iterations"] >= 100


@pytest.mark.slow
def test_unusual_folder_in_the_c_locale(
    tmp_path: Path, expected_run: Path, programs: Programs
) -> None:
    """This requires a new interpreter, because its encoding depends on the locale.

    The output is not a terminal, so it has no control characters except for line ends.
    """
    folder = tmp_path / "a b, 'ü' 王"
    folder.mkdir()
    environment = {"LANG": "C"}
    for name, value in os.environ.items():
        # The variables of single categories, such as LC_CTYPE, would replace LANG.
        if not name.startswith(("LC_", "LANG")):
            environment[name] = value
    result = programs.run(NEW_INTERPRETER + RUN, cwd=folder, env=environment, is_forked=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.replace("\n", "").isprintable()
    (run,) = folder.glob("outputs/*/*")
    assert_equal_runs(run, expected_run)
    assert f"Run          {run.relative_to(folder)}" in result.stdout
    resumed = programs.train([f"resume={run.relative_to(folder)}", "iterations=650"], cwd=folder)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert timeless_metrics(run)["iterations"] == 650


@pytest.fixture
def clock_that_jumps_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], float]]:
    """Replace `time.time` by a clock that goes back by 1,000 s whenever it is read."""
    times = iter(range(2_000_000_000, 0, -1000))

    def read_clock() -> float:
        return float(next(times))

    with monkeypatch.context() as patched:
        patched.setattr(time, "time", read_clock)
        yield read_clock


def test_clock_that_jumps_back(
    tmp_path: Path, expected_run: Path, clock_that_jumps_back: Callable[[], float]
) -> None:
    train(settings(RUN), tmp_path / "run")
    # The clock was read more than ten times.
    assert clock_that_jumps_back() < 1_999_990_000
    assert_equal_runs(tmp_path / "run", expected_run)


def test_garbage_of_earlier_runs_is_collected() -> None:
    """The trainer of a run takes 12 MB and is part of a reference cycle."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self

    with training_environment():
        reference = weakref.ref(Cycle())
    with training_environment():
        gc.collect()
        # The object is part of a cycle, so only the garbage collector frees it.
        assert reference() is None
