"""Fixtures for all tests, and the settings of pytest and Hypothesis.

This file imports neither torch nor Lightning: pytest's main process does not need them.
"""

import json
import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; tests run in parallel

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from filelock import FileLock

from tests.processes import ForkServer, Programs, Result

if TYPE_CHECKING:
    from tests.helpers import Sweep

FUZZ_PROFILE = "fuzz"
"""The Hypothesis profile that tries many random inputs, others in every run."""

N_TRIED_INPUTS: Counter[str] = Counter()
"""The number of inputs that each property was tried with."""

FORK_SERVER = pytest.StashKey[ForkServer]()
"""Where pytest's main process keeps the fork server."""

# Tests must not depend on chance, so the suite tries the same inputs in every run.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.register_profile(FUZZ_PROFILE, deadline=None, print_blob=True)
hypothesis.settings.load_profile("suite")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of inputs that were tried."""
    if N_TRIED_INPUTS:
        terminalreporter.write_line(
            f"{sum(N_TRIED_INPUTS.values()):,} inputs tried on {len(N_TRIED_INPUTS)} properties"
        )


@pytest.fixture(autouse=True)
def enabled_loggers() -> None:
    """Enable the loggers that `hydra/job_logging=disabled` has disabled in an earlier test."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("src") and isinstance(logger, logging.Logger):
            logger.disabled = False


def pytest_configure(config: pytest.Config) -> None:
    """Start one fork server for all test workers, while these import the tests."""
    if config.getoption("numprocesses", None) and not config.getoption("collectonly"):
        config.stash[FORK_SERVER] = ForkServer()


def pytest_configure_node(node: Any) -> None:
    """Tell a test worker the address of the server."""
    node.workerinput["fork_server"] = node.config.stash[FORK_SERVER].address


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the server, after all test workers."""
    if server := config.stash.get(FORK_SERVER, None):
        server.close()


@pytest.fixture(scope="session")
def all_programs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Programs]:
    """Starts programs, for fixtures that outlive a test.

    Its end fails if a process of the tests is still running.
    """
    folder = tmp_path_factory.mktemp("programs")
    worker_input = getattr(request.config, "workerinput", None)
    if worker_input is not None:
        programs = Programs(worker_input["fork_server"], folder)
        yield programs
        programs.close()
        return
    server = ForkServer()
    programs = Programs(server.address, folder)
    yield programs
    programs.close()
    server.close()


@pytest.fixture
def programs(all_programs: Programs) -> Iterator[Programs]:
    """Starts programs; whatever is running when the test ends is killed."""
    yield all_programs
    all_programs.kill_all()


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small corpus, see `make_corpus`. Tests do not change it."""
    from tests.helpers import make_corpus

    return make_corpus(tmp_path_factory.mktemp("corpus") / "names")


@pytest.fixture
def own_corpus_dir(tmp_path: Path) -> Path:
    """The folder `names` with the small corpus, which the test may change."""
    from tests.helpers import make_corpus

    return make_corpus(tmp_path / "names")


@pytest.fixture(scope="session")
def sweep(all_programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> "Sweep":
    """A sweep over three learning rates and two seeds; training diverges with the last rate.

    All test workers share it: the first one that needs it runs it.
    """
    from tests.helpers import QUICK_RUN, Sweep, make_corpus

    # Each worker of pytest-xdist has a folder of its own below a common one.
    shared_folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared_folder = shared_folder.parent
    cwd = shared_folder / "sweep"
    common = QUICK_RUN + [f"data_dir={cwd}/names", "hidden=8", "clip=0"]
    overrides = ["lr=0.01,0.2,900", "seed=range(2)"] + common + ["hydra/launcher=basic"]
    result_file = cwd / "result.json"
    with FileLock(shared_folder / "sweep.lock"):
        if not result_file.exists():
            cwd.mkdir()
            make_corpus(cwd / "names")
            result = all_programs.train(["-m"] + overrides, cwd=cwd)
            result_file.write_text(json.dumps(result))
    (folder,) = cwd.glob("outputs/sweeps/*/*")
    return Sweep(cwd, folder, overrides, common, Result(*json.loads(result_file.read_text())))


@pytest.fixture
def train_in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """A function that runs `python -m src.train` with some arguments, but in this process."""

    def run(overrides: list[str]) -> Result:
        import src.train
        from src.launch import run_cli

        message = ""
        with monkeypatch.context() as patch:
            patch.setattr("sys.argv", ["train.py"] + overrides)
            # The variable decides whether errors are shown as messages or as tracebacks.
            patch.setitem(os.environ, "HYDRA_FULL_ERROR", "0")
            try:
                status = run_cli(src.train.main)
            except SystemExit as exit_request:
                status = 1
                message = f"{exit_request.code}\n"
        captured = capsys.readouterr()
        return Result(status, captured.out, message + captured.err)

    return run


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no pictures at the end of a run: they take half of the time of a short run.

    The files are written all the same, with an empty picture.
    """
    from matplotlib.figure import Figure

    from src.run import figures

    empty_picture = figures.render_png(Figure((1, 1)))
    stand_in = SimpleNamespace(
        render_png=lambda figure: empty_picture,
        draw_loss_curves=lambda *args, **kwargs: None,
        draw_clustered_confusion_matrix=lambda *args, **kwargs: None,
    )
    monkeypatch.setattr("src.run.report.figures", stand_in)


@pytest.fixture
def few_ngram_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit n-gram models in few optimizer steps, for tests in which their scores do not matter."""
    monkeypatch.setattr("src.ngrams.letter_ngrams.N_STEPS", 20)
    monkeypatch.setattr("src.ngrams.tfidf.MIN_STEPS", 20)
    monkeypatch.setattr("src.ngrams.tfidf.MAX_STEPS", 20)
