"""Checks a command before Hydra creates a folder for it."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from src.errors import UserError
from src.run.compose import build_config
from src.run.messages import error_message, shell_override
from src.run.run_folder import LAST_CHECKPOINT, SEED_FOLDERS, lock_folder

CONNECTION_TIMEOUT_SECONDS = 10
N_RUNS_VARIABLE = "NAMES_RNN_N_RUNS"
"""Environment variable with the number of runs of a sweep, for its worker processes."""


class Preflight(Callback):
    """A Hydra callback that checks the settings of a command and locks its folder.

    Hydra turns an exception of a callback into a warning, so errors end the program here. Whether
    the settings of each run of a sweep go together is checked when the run starts.
    """

    # An attribute of the class, because Hydra pickles callbacks for the worker processes of a
    # sweep, and a lock cannot be pickled. The lock is held until the process ends.
    _lock: ClassVar[FileLock | None] = None

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check the settings of a single run, and lock its folder."""
        with exit_on_error():
            set_hydra_config(config)
            settings = build_config(config, config.hydra.overrides.task)
            if "LOCAL_RANK" in os.environ:  # another process of the run, which holds the lock
                return
            folder = Path(config.hydra.run.dir)
            Preflight._lock = lock_folder(folder)
            if has_checkpoints(folder) and not settings.resume:
                resume = shell_override("resume", folder)
                raise UserError(f"{folder}: holds a run; go on with it: {resume}")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check what the runs of a sweep have in common, and lock the folder of the sweep."""
        with exit_on_error():
            set_hydra_config(config)
            if any(word.startswith("resume=") for word in config.hydra.overrides.task):
                raise UserError("resume: is of a single run; a sweep goes on with hydra.sweep.dir=")
            if config.trainer.strategy == "ddp" or config.trainer.devices not in (None, 1):
                raise UserError("trainer: a sweep's runs have one process each: trainer.devices=1")
            check_sweeper(config)
            check_launcher(config)
            n_runs = count_sweep_runs(config)
            os.environ[N_RUNS_VARIABLE] = str(n_runs or 0)
            set_number_of_workers(config, n_runs)
            Preflight._lock = lock_folder(Path(config.hydra.sweep.dir))


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End the program with a message if there is any error in a `with` block."""
    try:
        yield
    except Exception as error:
        message = error_message(error).partition("\n")[0] or repr(error)
        raise SystemExit(message) from None


def set_hydra_config(config: DictConfig) -> None:
    """Set Hydra's global configuration, which resolves `${hydra:…}` in the name of a folder."""
    HydraConfig.instance().set_config(config)


def has_checkpoints(folder: Path) -> bool:
    """Return whether a folder contains the checkpoints of a run or of the runs of its seeds."""
    checkpoint_folder = LAST_CHECKPOINT.parent
    if (folder / checkpoint_folder).exists():
        return True
    return any(folder.glob(f"{SEED_FOLDERS}/{checkpoint_folder}"))


def find_sweep_overrides(config: DictConfig) -> dict[str, Override]:
    """Return the overrides that have more than one value, by key."""
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    overrides = [f"{key}={value}" for key, value in params.items()]
    overrides += list(config.hydra.overrides.task)  # the command line takes precedence
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # for `glob(*)`
    sweep_overrides: dict[str, Override] = {}
    for override in parser.parse_overrides(overrides):
        sweep_overrides.pop(override.key_or_group, None)
        if override.is_sweep_override():
            sweep_overrides[override.key_or_group] = override
    return sweep_overrides


def count_sweep_runs(config: DictConfig) -> int | None:
    """Return the number of runs of a sweep, or None if it is unknown."""
    if config.hydra.runtime.choices["hydra/sweeper"] != "basic":
        n_trials: int | None = config.hydra.sweeper.get("n_trials")
        return n_trials
    overrides = find_sweep_overrides(config).values()
    return prod(len(list(override.sweep_iterator())) for override in overrides)


def set_number_of_workers(config: DictConfig, n_runs: int | None) -> None:
    """Give each core a worker process with one run at a time, unless the user has set a number.

    If there is a single worker, the runs are executed in this process.
    """
    launcher = config.hydra.launcher
    if config.hydra.runtime.choices["hydra/launcher"] != "joblib":
        return
    is_set_by_user = launcher.n_jobs != -1  # the default of joblib
    if is_set_by_user:
        return
    from joblib import cpu_count  # optional dependency

    # Runs on the same accelerator would slow each other down.
    n_workers = cpu_count() if config.trainer.accelerator == "cpu" else 1
    for limit in (n_runs, config.hydra.sweeper.get("n_jobs")):
        if limit:
            n_workers = min(n_workers, limit)
    with read_write(config.hydra):
        launcher.n_jobs = n_workers
        launcher.pre_dispatch = str(n_workers)  # no run waits for a worker that is still busy


def check_sweeper(config: DictConfig) -> None:
    """Check the settings of a hyperparameter search, which would otherwise fail late or silently.

    Raises:
        UserError: if a setting is wrong.
    """
    if config.hydra.runtime.choices["hydra/sweeper"] == "basic":
        return
    if "maximize" not in str(OmegaConf.select(config, "hydra.sweeper.direction")):
        raise UserError("hydra.sweeper.direction: must be maximize: the score is an accuracy")
    if config.val_fraction == 0:
        raise UserError("val_fraction=0: a search needs validation names to score by")
    if "seed" in find_sweep_overrides(config):
        raise UserError("seed: is no parameter of a search; seeds=3 repeats each run")


def check_launcher(config: DictConfig) -> None:
    """Check that the cluster on which a sweep is to run is available.

    Raises:
        UserError: if it is not.
    """
    launcher_name = config.hydra.runtime.choices["hydra/launcher"]
    if launcher_name == "submitit_slurm" and shutil.which("sbatch") is None:
        raise UserError("hydra/launcher=submitit_slurm: SLURM's sbatch is not on this machine")
    if launcher_name == "ray":
        arguments: Any = OmegaConf.to_container(config.hydra.launcher.ray.init, resolve=True)
        connect_to_ray(arguments)


def connect_to_ray(arguments: dict[str, Any]) -> None:
    """Connect to a Ray cluster, or start one. The launcher uses the connection.

    Args:
        arguments: the arguments of `ray.init`.

    Raises:
        UserError: if that is not possible.
    """
    import ray  # optional dependency, and slow

    # ray://host:port, or host:port
    address = str(arguments.get("address"))
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():
            # Ray would wait forever for an address at which nothing answers.
            timeout = CONNECTION_TIMEOUT_SECONDS
            socket.create_connection((host, int(port)), timeout=timeout).close()
        ray.init(**arguments)
    except Exception as error:  # Ray raises many kinds of errors
        raise UserError(f"hydra.launcher.ray.init: {error}") from None
