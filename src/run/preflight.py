"""Checks a command before Hydra creates a folder for it."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
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
from src.run.messages import error_message, format_folder_override
from src.run.run_folder import LAST_CHECKPOINT, SEED_FOLDER_PATTERN, create_and_lock_folder

CONNECTION_TIMEOUT_SECONDS = 10
"""Time that a Ray cluster has to answer."""
N_RUNS_VARIABLE = "NAMES_RNN_N_RUNS"
"""Environment variable with the number of runs of a sweep, for its worker processes."""


class Preflight(Callback):
    """A Hydra callback that checks the settings of a command and locks its folder.

    Hydra turns an exception of a callback into a warning, so errors end the program here. In a
    sweep, only the settings that all runs share are checked. Those of a single run are checked when
    the run starts.
    """

    # An attribute of the class, because Hydra pickles callbacks for the worker processes of a
    # sweep, and a lock cannot be pickled. The lock is held until the process ends.
    _lock: ClassVar[FileLock | None] = None

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check the settings of a single run, and lock its folder."""
        with exit_with_message_on_error():
            set_hydra_config(config)
            settings = build_config(config, config.hydra.overrides.task)
            # Lightning sets this variable in the processes that it starts for DDP. The process that
            # started them holds the lock.
            if "LOCAL_RANK" in os.environ:
                return
            folder = Path(config.hydra.run.dir)
            Preflight._lock = create_and_lock_folder(folder)
            # Training would resume from the checkpoints, although the user wants a new run.
            if has_checkpoints(folder) and not settings.resume:
                resume = format_folder_override("resume", folder)
                raise UserError(
                    f"{folder}: already contains a run; use another folder, or {resume}"
                )

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check the settings that all runs of a sweep share, and lock the folder of the sweep."""
        with exit_with_message_on_error():
            set_hydra_config(config)
            check_no_forbidden_settings(config)
            check_search_settings(config)
            check_or_connect_to_cluster(config)
            n_runs = count_sweep_runs(config)
            os.environ[N_RUNS_VARIABLE] = str(n_runs or 0)
            limit_joblib_workers(config, n_runs)
            Preflight._lock = create_and_lock_folder(Path(config.hydra.sweep.dir))
            announce_sweep(config, n_runs)


@contextmanager
def exit_with_message_on_error() -> Iterator[None]:
    """End the program with the first line of the message if an error occurs in a `with` block."""
    try:
        yield
    except Exception as error:
        message = error_message(error).partition("\n")[0] or repr(error)
        raise SystemExit(message) from None


def set_hydra_config(config: DictConfig) -> None:
    """Set Hydra's global configuration, which resolves `${hydra:…}` in the name of a folder."""
    # Hydra itself sets it only after the callbacks.
    HydraConfig.instance().set_config(config)


def has_checkpoints(folder: Path) -> bool:
    """Return whether a folder contains the checkpoints of a run or of the runs of its seeds."""
    checkpoint_folder = LAST_CHECKPOINT.parent
    if (folder / checkpoint_folder).exists():
        return True
    return any(folder.glob(f"{SEED_FOLDER_PATTERN}/{checkpoint_folder}"))


def check_no_forbidden_settings(config: DictConfig) -> None:
    """Check that settings which cannot be used in a sweep are not set.

    Raises:
        UserError: if such a setting is set.
    """
    overrides = list(config.hydra.overrides.task)
    if any(override.startswith("resume=") for override in overrides):
        raise UserError("resume: cannot be used with -m; to resume a sweep, set hydra.sweep.dir")
    # Null is not allowed either, because Lightning would use all devices.
    if config.trainer.strategy == "ddp" or config.trainer.devices != 1:
        raise UserError("trainer.devices: must be 1 in a sweep, because each run has one process")


def find_sweep_overrides(config: DictConfig) -> dict[str, Override]:
    """Return the overrides that have more than one value, by key."""
    # A configuration file, such as an experiment, defines the values of its sweep in this key.
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    overrides = [f"{key}={value}" for key, value in params.items()]
    overrides += list(config.hydra.overrides.task)
    # The config loader finds the options of a group for `group=glob(*)`.
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    sweep_overrides: dict[str, Override] = {}
    for override in parser.parse_overrides(overrides):
        # A later override of the same key takes precedence, even if it has a single value.
        sweep_overrides.pop(override.key_or_group, None)
        if override.is_sweep_override():
            sweep_overrides[override.key_or_group] = override
    return sweep_overrides


def count_sweep_runs(config: DictConfig) -> int | None:
    """Return the number of runs of a sweep, or None if it is unknown."""
    if config.hydra.runtime.choices["hydra/sweeper"] != "basic":
        # Optuna's sweeper has this key; other sweepers may have another one.
        n_trials: int | None = config.hydra.sweeper.get("n_trials")
        return n_trials
    # The basic sweeper runs all combinations of the values.
    n_runs = 1
    for override in find_sweep_overrides(config).values():
        n_runs *= len(list(override.sweep_iterator()))
    return n_runs


def announce_sweep(config: DictConfig, n_runs: int | None) -> None:
    """Print the number of runs and the folder of a sweep, as the first result may take a while."""
    runs = "runs" if n_runs is None else f"{n_runs:,} runs"
    if config.hydra.runtime.choices["hydra/launcher"] == "joblib":
        n_workers = config.hydra.launcher.n_jobs
        runs += ", one at a time" if n_workers == 1 else f", {n_workers} at a time"
    print(f"Sweep: {runs} → {config.hydra.sweep.dir}", flush=True)


def limit_joblib_workers(config: DictConfig, n_runs: int | None) -> None:
    """Limit the number of joblib's workers to the number of cores, runs and jobs of the sweeper.

    Nothing changes if another launcher is selected, or the user has set the number of workers. With
    a single worker, joblib executes the runs in this process.

    Args:
        config: the configuration, whose `hydra.launcher` is changed in place.
        n_runs: the number of runs of the sweep, if it is known.
    """
    if config.hydra.runtime.choices["hydra/launcher"] != "joblib":
        return
    launcher = config.hydra.launcher
    is_set_by_user = launcher.n_jobs != -1  # joblib's default: all cores
    if is_set_by_user:
        return
    from joblib import cpu_count  # optional dependency

    # Runs on the same accelerator would slow each other down.
    n_workers = cpu_count() if config.trainer.accelerator == "cpu" else 1
    if n_runs:
        n_workers = min(n_workers, n_runs)
    # Optuna's sweeper starts this number of runs at once.
    n_sweeper_jobs = config.hydra.sweeper.get("n_jobs")
    if n_sweeper_jobs:
        n_workers = min(n_workers, n_sweeper_jobs)
    with read_write(config.hydra):
        launcher.n_jobs = n_workers
        # By default, joblib assigns more runs to workers in advance, so a run may wait for a worker
        # that is still busy while another worker is idle.
        launcher.pre_dispatch = str(n_workers)


def check_search_settings(config: DictConfig) -> None:
    """If the sweep is a hyperparameter search, check the settings that it depends on.

    Without these checks, a search would fail late or silently.

    Raises:
        UserError: if a setting is wrong.
    """
    if config.hydra.runtime.choices["hydra/sweeper"] == "basic":
        return
    # By default, Optuna minimizes. The value can be a text or an enum.
    if "maximize" not in str(OmegaConf.select(config, "hydra.sweeper.direction")):
        raise UserError(
            "hydra.sweeper.direction: must be maximize, because the score is an accuracy"
        )
    if config.val_fraction == 0:
        raise UserError(
            "val_fraction=0: a search requires validation names; use a larger val_fraction"
        )
    # A search would look for the best seed instead of repeating runs.
    if "seed" in find_sweep_overrides(config):
        raise UserError("seed: cannot be a parameter of a search; use seeds=3 to repeat each run")


def check_or_connect_to_cluster(config: DictConfig) -> None:
    """Check that SLURM is available, or connect to Ray, if the sweep is to run there.

    Raises:
        UserError: if the cluster is not available.
    """
    launcher_name = config.hydra.runtime.choices["hydra/launcher"]
    if launcher_name == "submitit_slurm" and shutil.which("sbatch") is None:
        raise UserError(
            "cluster=slurm: the command sbatch was not found; start the sweep on a SLURM machine"
        )
    if launcher_name == "ray":
        init_arguments: Any = OmegaConf.to_container(config.hydra.launcher.ray.init, resolve=True)
        connect_to_ray(init_arguments)


def connect_to_ray(init_arguments: dict[str, Any]) -> None:
    """Connect to a Ray cluster, or start one. The launcher uses the connection.

    Args:
        init_arguments: the arguments of `ray.init`.

    Raises:
        UserError: if Ray cannot be reached or started.
    """
    import ray  # optional dependency, and slow

    # The address is ray://host:port, host:port, or null for a new cluster on this machine.
    address = str(init_arguments.get("address")).removeprefix("ray://")
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():
            # Ray would wait forever for an address at which nothing answers.
            timeout = CONNECTION_TIMEOUT_SECONDS
            socket.create_connection((host, int(port)), timeout=timeout).close()
        ray.init(**init_arguments)
    except Exception as error:  # Ray raises many kinds of errors
        raise UserError(f"hydra.launcher.ray.init: {error}") from None
