"""Everything around one training run: Hydra jobs, repeated seeds, signals and the exit status."""

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from src.config import Config
from src.errors import UserError
from src.models.registry import SCORE
from src.run.compose import build_config
from src.run.messages import error_message
from src.run.run_folder import Status, read_result_or_empty
from src.run.signals import STOP_HANDLER
from src.streams import redirect_stdout_to_devnull, replace_closed_streams

log = logging.getLogger(__name__)

TrainFunction = Callable[[Config, Path], float | None]
"""A function that trains with some settings, writes its files to a folder and returns a score."""

SHOW_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"
"""Whether to show full tracebacks instead of one-line errors. Read at import, because `run_cli`
overwrites the variable."""


def run_hydra_job(train: TrainFunction, cfg: DictConfig) -> float | None:
    """Execute one Hydra job, a single run or one run of a sweep, and return its score.

    If a run of a sweep fails, this is recorded and the sweep continues.

    Raises:
        SystemExit: with a message, if a single run fails for a reason that the user can fix.
    """
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    overrides = hydra_config.overrides.task
    train_if_needed = partial(train_all_seeds_unless_finished, train)
    with STOP_HANDLER.installed():
        if hydra_config.mode == RunMode.MULTIRUN:
            from src.sweep.runs import train_run_of_sweep_unless_finished

            # The settings are read within the run, so that invalid ones are recorded as well.
            read_config = partial(build_config, cfg, overrides)
            return train_run_of_sweep_unless_finished(
                train_if_needed, read_config, folder, hydra_config.job.num, list(overrides)
            )
        try:
            return train_if_needed(build_config(cfg, overrides), folder)
        except (UserError, OSError) as error:
            if SHOW_TRACEBACKS:
                raise
            raise SystemExit(error_message(error)) from None


def train_all_seeds_unless_finished(
    train: TrainFunction, config: Config, folder: Path
) -> float | None:
    """Return the score of the finished run in a folder; if there is none, train first.

    With `seeds=` above 1, the run consists of one training per seed, and its score is their mean.
    """
    result = read_result_or_empty(folder)
    can_be_extended = config.passes is None
    is_shorter = result.metrics.get("iterations", 0) < config.iterations
    if result.status == Status.FINISHED and not (can_be_extended and is_shorter):
        log.info(f"{folder}: already finished; set a larger iterations= to train further")
        return result.metrics.get(SCORE)
    import_lightning()
    if config.seeds > 1:
        from src.sweep.seeds import train_each_seed

        # Each seed is a run with seeds=1, which may be finished already.
        return train_each_seed(partial(train_all_seeds_unless_finished, train), config, folder)
    return train(config, folder)


def import_lightning() -> None:
    """Import torch and Lightning, which takes seconds.

    If a signal handler raises an exception within this import, the program can crash or the
    exception can be ignored. Nothing can be lost yet, so signals end the program at once.
    """
    with STOP_HANDLER.suspended():
        import lightning.pytorch  # noqa: F401


def run_cli_and_exit(main: Callable[[], object]) -> NoReturn:
    """Run the command line and exit with its status; see `run_cli`."""
    gc.disable()  # until training starts: collecting garbage makes importing torch slower
    status = run_cli(main)
    gc.freeze()  # skips the garbage collection at exit, which takes a second with torch loaded
    sys.exit(status)


def run_cli(main: Callable[[], object]) -> int:
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
    with STOP_HANDLER.installed(), reset_hydra_config():
        try:
            status = run_main(main)
        except Exception:
            write_leaderboard_if_sweep(1)
            raise
        return write_leaderboard_if_sweep(status)


@contextmanager
def reset_hydra_config() -> Iterator[None]:
    """Start and end a `with` block without Hydra's global configuration.

    An earlier command of this process may have set it, and later ones should not find it.
    """
    HydraConfig.instance().cfg = None
    try:
        yield
    finally:
        HydraConfig.instance().cfg = None


def run_main(main: Callable[[], object]) -> int:
    """Call the main function, report errors that the user can fix, and return the exit status.

    Raises:
        SystemExit: with a message, if a single run fails for a reason that the user can fix.
        Exception: if the program has a bug, or the user asked for tracebacks.
    """
    try:
        main()
    except KeyboardInterrupt:
        return 128 + (STOP_HANDLER.signum or signal.SIGINT)
    except BrokenPipeError:  # stdout was closed: `--help | head`
        redirect_stdout_to_devnull()
    except SystemExit as exit_request:
        if not isinstance(exit_request.code, int):
            raise  # Python prints the message and exits with status 1
        return exit_request.code
    except Exception as error:
        # Before Hydra has started, any error is a mistake in the command line.
        is_user_error = isinstance(error, HydraException | UserError | OSError)
        if SHOW_TRACEBACKS or (HydraConfig.initialized() and not is_user_error):
            raise
        print(error_message(error), file=sys.stderr)
        return 1
    return 0


def write_leaderboard_if_sweep(status: int) -> int:
    """Write the leaderboard if this command ran a sweep.

    Args:
        status: the exit status of the command so far.

    Returns:
        The exit status of the command: `status`, or 1 if it is 0 and a run of the sweep failed.
    """
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        from src.sweep.finish import finish_sweep

        return finish_sweep(Path(HydraConfig.get().sweep.dir), status)
    return status
