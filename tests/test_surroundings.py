"""Crowded and hostile surroundings: each works, or ends in one clear message."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from src.answer.model import load_model
from src.run import process
from src.run.files import FINISHED, read_metrics
from src.train import train
from tests.conftest import (
    ROOT,
    assert_equal_runs,
    metrics_of,
    run_train,
    settings,
    start_train,
)

TINY = ["hidden=8", "lr=0.05", "iterations=600", "log_every=50", "print_every=100", "val_every=200"]
WORDS = [*TINY, f"data_dir={ROOT}/data/names"]
UNSHARE = ["unshare", "--map-root-user", "--mount"]


def can_mount() -> bool:
    """Whether this user may mount folders, in a namespace that nobody else sees."""
    return (
        shutil.which("unshare") is not None
        and subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    )


needs_mounts = pytest.mark.skipif(not can_mount(), reason="needs mount namespaces (Linux)")


def mounted(script: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script that mounts something, then `python -m src.train` there."""
    return subprocess.run(
        [*UNSHARE, "sh", "-ec", f'{script}\n"$@"', "sh", sys.executable, "-m", "src.train", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run where nothing is in the way."""
    run = tmp_path_factory.mktemp("ordinary")
    train(settings(*WORDS), run)
    return run


def test_three_runs_at_the_same_instant(tmp_path: Path, ordinary: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "src.train", *WORDS],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    assert [process.communicate()[1] for process in started] == [b""] * 3
    runs = list(tmp_path.glob("outputs/*/*"))
    assert len(runs) == 3
    for run in runs:
        assert_equal_runs(run, ordinary)


def test_eight_processes_fill_the_kernel_cache_at_the_same_instant(tmp_path: Path) -> None:
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
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],  # torch has threads; forking warns of them
        env=os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert sorted(ran.stdout.split()) == list("12345678")
    assert list(tmp_path.rglob("*._add_scaled-*.nbi"))


@needs_mounts
def test_read_only_source_and_cache_and_no_home(tmp_path: Path, ordinary: Path) -> None:
    """The kernel can be cached nowhere: it is compiled anew."""
    cache = ROOT / "src/models/__pycache__"
    cache.mkdir(exist_ok=True)
    script = (
        f"mount --bind '{ROOT}' '{ROOT}' && mount -o remount,ro,bind '{ROOT}'\n"
        f"mount -t tmpfs -o ro tmpfs '{cache}'\n"
        "export HOME=/nowhere/at/all; unset XDG_CACHE_HOME XDG_CONFIG_HOME NUMBA_CACHE_DIR"
    )
    ran = mounted(script, *WORDS, "hydra.run.dir=run", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert_equal_runs(tmp_path / "run", ordinary)


@needs_mounts
@pytest.mark.parametrize(
    ("size", "holds", "network"),
    [
        ("16k", None, []),
        ("120k", "last.ckpt", []),
        ("2200k", "last.ckpt", ["cell=gru", "hidden=256", "backend=autograd"]),
    ],
)
def test_a_full_disk(tmp_path: Path, size: str, holds: str | None, network: list[str]) -> None:
    words = [*WORDS, "iterations=100000", "val_every=50", "hydra.run.dir=small/run", *network]
    full = mounted(SMALL.format(size), *words, cwd=tmp_path)
    assert full.returncode == 1
    assert "small/run" in full.stderr
    assert "No space left on device" in full.stderr
    assert "Traceback" not in full.stderr
    assert not list(tmp_path.glob("copy/run/**/*.part"))
    if holds:
        load_model(tmp_path / "copy/run/checkpoints" / holds)
    else:
        assert not list(tmp_path.glob("copy/run/checkpoints"))


SMALL = """
mkdir small
mount -t tmpfs -o size={} tmpfs small
trap "cp -r small copy" EXIT # nobody else sees the mounted folder
"""


@needs_mounts
@pytest.mark.parametrize("size", ["16k", "120k", "200k"])
def test_a_sweep_on_a_full_disk(tmp_path: Path, size: str) -> None:
    """It is full before the first run, amid it, and amid the second; each is told in a line."""
    words = [*WORDS, "lr=0.01", "seed=0,1,2", "iterations=10000", "hydra.sweep.dir=small/sweep"]
    full = mounted(SMALL.format(size), "-m", *words, cwd=tmp_path)
    assert full.returncode == 1
    assert "Traceback" not in full.stdout + full.stderr
    assert "No space left on device" in full.stdout + full.stderr
    assert len(full.stderr.splitlines()) <= 1
    assert not list(tmp_path.glob("copy/**/*.part"))
    for run in tmp_path.glob("copy/sweep/*/"):
        if (run / "checkpoints/last.ckpt").exists():
            load_model(run / "checkpoints/last.ckpt")


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path: Path, ordinary: Path, closed: str) -> None:
    ran = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "src.train", *WORDS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0
    (run,) = tmp_path.glob("outputs/*/*")
    assert read_metrics(run)[0] == FINISHED
    assert_equal_runs(run, ordinary)
    log = (run / "train.log").read_text()
    assert "18 categories" in log
    assert ran.stdout == ("" if ">&- " in closed else log)


def test_a_second_run_in_the_folder_of_one_that_goes_on(tmp_path: Path) -> None:
    words = [*WORDS, "iterations=100000000", "val_every=100000000", "hydra.run.dir=run"]
    first = start_train(*words, cwd=tmp_path, until="run/.lock")
    second = run_train(*words, cwd=tmp_path)
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == "run: is in use by another process\n"
    deadline = time.monotonic() + 60
    log = tmp_path / "run/train.log"
    while not log.exists() or "CORRECT" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    printed, complained = first.communicate(timeout=60)
    assert (first.returncode, complained) == (143, "")
    assert printed == log.read_text()
    status, numbers, _ = read_metrics(tmp_path / "run")
    assert status == "interrupted"
    assert load_model(tmp_path / "run/checkpoints/last.ckpt")
    assert numbers["iterations"] >= 100


def test_odd_folder_in_the_c_locale_through_a_pipe(tmp_path: Path, ordinary: Path) -> None:
    """No terminal: what is printed holds no control characters but line ends."""
    folder = tmp_path / "a b, 'ü' 王"
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    ran = subprocess.run(
        [sys.executable, "-m", "src.train", *WORDS],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT), "LANG": "C"},
        capture_output=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout.replace(b"\n", b"").decode().isprintable()
    (run,) = folder.glob("outputs/*/*")
    assert_equal_runs(run, ordinary)
    assert f"Run          {run.relative_to(folder)}" in ran.stdout.decode()
    again = run_train(f"resume={run.relative_to(folder)}", "iterations=650", cwd=folder)
    assert (again.returncode, again.stderr) == (0, "")
    assert metrics_of(run)["iterations"] == 650


@pytest.fixture
def clock_that_jumps_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], float]]:
    times = iter(range(2_000_000_000, 0, -1000))

    def earlier() -> float:
        return float(next(times))

    with monkeypatch.context() as patched:
        patched.setattr(time, "time", earlier)
        yield earlier


def test_a_clock_that_jumps_back(
    tmp_path: Path, ordinary: Path, clock_that_jumps_back: Callable[[], float]
) -> None:
    train(settings(*WORDS), tmp_path / "run")
    assert clock_that_jumps_back() < 1_999_990_000  # it was asked
    assert_equal_runs(tmp_path / "run", ordinary)


def test_the_garbage_of_a_sweeps_runs_is_collected() -> None:
    """A run's trainer refers to itself: 12 MB a run, were it kept."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self

    with process.training_environment():
        gone = weakref.ref(Cycle())
    with process.training_environment():
        gc.collect()
        assert gone() is None
