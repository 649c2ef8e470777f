"""How a training command runs and stops: everything between the command line and `src.train.train`.

The calls of a command are nested like this:

    run_cli_and_exit                        the process: start, and exit status
      run_cli                               signals, errors, and the leaderboard of a sweep
        main                                in src/train.py; `hydra.main` calls it for each job
          run_hydra_job                     a single run, or a run of a sweep
            train_all_seeds_unless_finished     one training for each seed of `seeds=`
              train                         in src/train.py: one training

With `-m`, Hydra can call `main` in worker processes or on other machines.

What happens after Ctrl-C (SIGINT), SIGTERM or SIGUSR1 depends on what the program does:

- While Python starts and torch is imported, no handler is installed. The program ends at once.
- During training (`STOP_HANDLER.is_training`), the signal is only recorded. At the start of the
  next batch, the callback `StopOnSignal` writes a checkpoint and raises KeyboardInterrupt.
- At any other time, and if it is the second signal, the handler raises KeyboardInterrupt at once.

KeyboardInterrupt passes through `Report`, which writes the result of the run, and ends in
`call_main_and_print_command_line_errors`, which turns it into the exit status 130 or 143.
"""

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn, cast

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from src.config import Config
from src.console import announce_if_slow
from src.data.corpus import read_corpus
from src.data.normalize import AlphabetKind
from src.errors import UserError
from src.models.registry import SCORE
from src.run.compose import build_config
from src.run.messages import error_message
from src.run.run_folder import Status, read_result_or_empty
from src.run.signals import STOP_HANDLER, is_sweep_worker
from src.streams import redirect_stdout_to_devnull, replace_closed_streams
from src.sweep.finish import ExitStatus, write_and_print_leaderboard
from src.sweep.runs import TrainFunction, train_run_of_sweep_unless_finished
from src.sweep.seeds import train_each_seed_and_average

log = logging.getLogger(__name__)

# Read at import, because `run_cli` overwrites the variable.
SHOW_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"
"""Whether the user wants full tracebacks instead of one-line errors."""


def run_hydra_job(train: TrainFunction, cfg: DictConfig) -> float | None:
    """Execute one Hydra job, which is a single run or one run of a sweep, and return its score.

    If a run of a sweep fails, this is recorded and the sweep continues.

    Args:
        train: the function that trains one model.
        cfg: the configuration that Hydra has composed for the job.

    Raises:
        SystemExit: with a message, if a single run fails for a reason that the user can fix.
        KeyboardInterrupt: if a signal ended the run.
    """
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    overrides = list(hydra_config.overrides.task)
    # A worker process of a sweep calls only this function, and not `run_cli`.
    with STOP_HANDLER.installed():
        if hydra_config.mode != RunMode.MULTIRUN:
            return run_single_job(train, cfg, folder, overrides)
        return train_run_of_sweep_unless_finished(
            train=partial(train_all_seeds_unless_finished, train),
            # The settings are read within the run, so that an invalid setting counts as a failure
            # of this run.
            read_config=partial(build_config, cfg, overrides),
            folder=folder,
            number=hydra_config.job.num,
            overrides=overrides,
        )


def run_single_job(
    train: TrainFunction, cfg: DictConfig, folder: Path, overrides: list[str]
) -> float | None:
    """Execute a Hydra job that is not part of a sweep, and return its score.

    Raises:
        SystemExit: with a message, if the run fails for a reason that the user can fix.
        KeyboardInterrupt: if a signal ended the run.
    """
    try:
        return train_all_seeds_unless_finished(train, build_config(cfg, overrides), folder)
    except (UserError, OSError) as error:
        if SHOW_TRACEBACKS:
            raise
        # Hydra would print a traceback for every other exception.
        raise SystemExit(error_message(error)) from None


def train_all_seeds_unless_finished(
    train: TrainFunction, config: Config, folder: Path
) -> float | None:
    """Return the score of the finished run in a folder; if there is none, train first.

    If `seeds` is greater than 1, the run consists of one training per seed, and its score is the
    mean of their scores.
    """
    if has_finished_run(config, folder):
        message = f"{folder}: the run has already finished"
        if is_extendable(config):
            message += "; increase iterations to continue it"
        log.info(message)
        return read_result_or_empty(folder).metrics.get(SCORE)
    # The names are read before the slow import of Lightning, so that an unreadable list is reported
    # at once. The result is cached for the data module.
    with announce_if_slow("Reading the names …"):
        read_corpus(config.data_source, cast(AlphabetKind, config.letters))
    import_lightning_without_stop_handler()
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        # The duration excludes the import of Lightning, which only the first run of a process pays
        # for, so that the durations of the runs of a sweep are comparable.
        config.start_time = time.perf_counter()
    if config.seeds == 1:
        return train(config, folder)

    def train_one_seed(seed_config: Config, seed_folder: Path) -> float | None:
        # The run of one seed may be finished already. It has seeds=1, so the recursion ends there.
        return train_all_seeds_unless_finished(train, seed_config, seed_folder)

    return train_each_seed_and_average(train_one_seed, config, folder)


def has_finished_run(config: Config, folder: Path) -> bool:
    """Return whether a folder contains a finished run with all iterations that are required.

    A run that cannot be extended has all of its iterations as soon as it is finished.
    """
    result = read_result_or_empty(folder)
    if result.status != Status.FINISHED:
        return False
    has_all_iterations = result.metrics.get("iterations", 0) >= config.iterations
    return has_all_iterations or not is_extendable(config)


def is_extendable(config: Config) -> bool:
    """Return whether a run with these settings can be resumed with more iterations."""
    # The number of passes determines the length of a run, and the cosine schedule depends on it.
    return config.passes is None and config.schedule == "constant"


def import_lightning_without_stop_handler() -> None:
    """Import torch and Lightning, which takes seconds, while signals end the program at once.

    If a signal handler raises an exception within this import, the program can crash or the
    exception can be ignored. Nothing can be lost yet, so ending the program is safe.
    """
    # In a terminal, the program should not seem to hang.
    should_announce = sys.stderr.isatty() and not is_sweep_worker()
    if should_announce and "lightning.pytorch" not in sys.modules:
        print("Loading PyTorch Lightning …", file=sys.stderr, flush=True)
    with STOP_HANDLER.suspended():
        import lightning.pytorch  # noqa: F401 # imported only so that later imports are fast


def run_cli_and_exit(main: Callable[[], object]) -> NoReturn:
    """Run the command line and exit with its status; see `run_cli`."""
    # Collecting garbage makes importing torch slower. `training_environment` enables it again.
    gc.disable()
    exit_status = run_cli(main)
    # Skip the garbage collection at exit, which takes a second with torch loaded.
    gc.freeze()
    sys.exit(exit_status)


def run_cli(main: Callable[[], object]) -> ExitStatus:
    """Run the command line and return its exit status.

    The leaderboard of a sweep is written even if the sweep fails.

    Args:
        main: the function that `hydra.main` decorates.

    Raises:
        SystemExit: with a message, if a single run fails for a reason that the user can fix.
        Exception: if the program has a bug, or the user asked for tracebacks.
    """
    replace_closed_streams()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    logging.raiseExceptions = False  # no logging tracebacks if the output is piped into `head`
    # Jobs install the handler as well. This one covers the time before, between and after them.
    with STOP_HANDLER.installed(), cleared_hydra_config():
        try:
            exit_status = call_main_and_print_command_line_errors(main)
        except Exception:  # a bug, which is raised again
            # The leaderboard ranks the runs that ended before the error.
            write_and_print_leaderboard_if_sweep(exit_status=1)
            raise
        return write_and_print_leaderboard_if_sweep(exit_status)


@contextmanager
def cleared_hydra_config() -> Iterator[None]:
    """Clear Hydra's global configuration before and after a `with` block.

    An earlier command of this process may have set it, and later ones should not find it.
    """
    HydraConfig.instance().cfg = None
    try:
        yield
    finally:
        HydraConfig.instance().cfg = None


def call_main_and_print_command_line_errors(main: Callable[[], object]) -> ExitStatus:
    """Call the main function, print errors of the command line, and return the exit status.

    Errors within a single run arrive as SystemExit; see `run_single_job`.

    Raises:
        SystemExit: with a message, if a single run fails for a reason that the user can fix.
        Exception: if the program has a bug, or the user asked for tracebacks.
    """
    try:
        main()
    except KeyboardInterrupt:
        # No signal is recorded if Ctrl-C arrived while the handler was not installed.
        signum = STOP_HANDLER.signum or signal.SIGINT
        # By convention, the exit status of a program ended by a signal is 128 + the signal.
        return 128 + signum
    except BrokenPipeError:
        # The reader of the output has gone: `python -m src.train --help | head`.
        redirect_stdout_to_devnull()
        return 0
    except SystemExit as exit_request:
        if not isinstance(exit_request.code, int):
            raise  # Python prints the message and exits with status 1
        return exit_request.code
    except Exception as error:  # Hydra and OmegaConf raise many kinds of errors
        # Before Hydra has started, any error is a mistake in the command line.
        is_user_error = isinstance(error, HydraException | UserError | OSError)
        is_bug = HydraConfig.initialized() and not is_user_error
        if SHOW_TRACEBACKS or is_bug:
            raise
        print(error_message(error), file=sys.stderr)
        return 1
    return 0


def write_and_print_leaderboard_if_sweep(exit_status: ExitStatus) -> ExitStatus:
    """Write and print the leaderboard if this command ran a sweep.

    Args:
        exit_status: the exit status of the command so far.

    Returns:
        The exit status of the command: `exit_status` if that is not 0; otherwise 1 if a run failed
        or the leaderboard could not be written.
    """
    is_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if not is_sweep:
        return exit_status
    return write_and_print_leaderboard(Path(HydraConfig.get().sweep.dir), exit_status)
