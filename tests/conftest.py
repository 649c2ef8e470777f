"""What several rooms' tests need: a small corpus, and the program run as a user runs it."""

import json
import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the workers share few cores

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import hypothesis
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.config import Config, from_hydra
from src.data import corpus
from src.data.corpus import NamesByCategory
from src.data.normalize import AlphabetKind
from src.data.readers import DataSource

ROOT = Path(__file__).parent.parent

FUZZ = "fuzz"
"""The profile that tries test_fuzz.py's properties often, on other inputs every time."""
TRIED: Counter[str] = Counter()
"""How often each of the properties was tried, and held."""

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.register_profile(FUZZ, deadline=None, print_blob=True)
hypothesis.settings.load_profile("suite")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many inputs were tried."""
    if TRIED:
        terminalreporter.write_line(
            f"{sum(TRIED.values()):,} inputs tried on {len(TRIED)} properties"
        )


def make_corpus(folder: Path) -> Path:
    """Write three categories of 20, 12 and 6 distinct names; one name in two, one line repeated."""
    folder.mkdir()
    vowels = "aeiou"
    files = {
        "Alpha": [f"{a}l{b}" for a in vowels for b in vowels[:4]],
        "Beta": [f"b{a}t{b}" for a in vowels[:4] for b in vowels[:3]] + ["bata"],
        "Gamma": [f"g{a}mm" for a in vowels] + ["bata"],
    }
    for category, names in files.items():
        (folder / f"{category}.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def read_corpus(folder: Path, kind: AlphabetKind = "ascii") -> NamesByCategory:
    """Return all names of a folder, folded to letters of a kind."""
    return corpus.read_corpus(DataSource(str(folder)), kind).all_names


@pytest.fixture(autouse=True)
def loggers_heard() -> None:
    """Undo what `hydra/job_logging=disabled` in an earlier test has done to the loggers."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("src") and isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture
def corpus_dir(tmp_path: Path) -> Path:
    """The small corpus, in a folder of its own."""
    return make_corpus(tmp_path / "names")


def settings(*overrides: str) -> Config:
    """Return the settings that `python -m src.train` would run with."""
    HydraConfig.instance().cfg = None  # of a command that this process ran
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return from_hydra(compose("train", list(overrides)), overrides)


def start_train(*overrides: str, cwd: Path, until: str) -> subprocess.Popen[str]:
    """Start `python -m src.train`; return when a file named like `until` is below `cwd`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "src.train", *overrides],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(cwd.glob(until)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def run_train(*overrides: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `python -m src.train` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "src.train", *overrides],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the curves in a run's TensorBoard log."""
    log = EventAccumulator(str(run), size_guidance={"scalars": 0})
    log.Reload()
    return {tag: [(e.step, e.value) for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}


def metrics_of(run: Path) -> dict[str, float | str]:
    """Return what a run's metrics.json holds, but for what depends on the machine."""
    metrics: dict[str, float | str] = json.loads((run / "metrics.json").read_text())
    return {k: v for k, v in metrics.items() if k not in ("seconds", "names_per_second")}


def assert_equal_runs(one: Path, other: Path) -> None:
    """Assert that two runs have the same weights, bit for bit, the same metrics and curves."""
    weights = [
        torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("last", "best")
        for run in (one, other)
    ]
    for mine, theirs in (weights[:2], weights[2:]):
        torch.testing.assert_close(dict(mine), dict(theirs), atol=0, rtol=0)
    assert metrics_of(one) == metrics_of(other)
    assert points(one) == points(other)
