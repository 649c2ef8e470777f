"""What is refused before Hydra writes anything: wrong settings, folders, names."""

import os
import shutil
import socket
import time
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
from src.run.run_folder import SEED_FOLDERS, lock_folder


class Preflight(Callback):
    """Hydra calls this once per command, before it makes a folder.

    It ends the program itself, as Hydra turns an exception of a callback into a warning. The runs
    of a sweep check how their settings go together when they start.
    """

    _lock: ClassVar[FileLock | None] = None  # the class's: a callback travels to a sweep's workers

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check all of a single run; its folder is this process's own from now on."""
        with refusing(config):
            settings = build_config(config, config.hydra.overrides.task)
            if "LOCAL_RANK" in os.environ:  # a run's other process, checked already
                return
            folder = Path(config.hydra.run.dir)
            Preflight._lock = lock_folder(folder)
            made = [*folder.glob("checkpoints"), *folder.glob(f"{SEED_FOLDERS}/checkpoints")]
            if made and not settings.resume:
                resume = shell_override("resume", folder)
                raise UserError(f"{folder}: holds a run; go on with it: {resume}")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check what the runs of a sweep have in common."""
        with refusing(config):
            if any(word.startswith("resume=") for word in config.hydra.overrides.task):
                raise UserError("resume: is of a single run; a sweep goes on with hydra.sweep.dir=")
            if config.trainer.strategy == "ddp" or config.trainer.devices not in (None, 1):
                raise UserError("trainer: a sweep's runs have one process each: trainer.devices=1")
            check_engine(config)
            share_out(config)
            Preflight._lock = lock_folder(Path(config.hydra.sweep.dir))


@contextmanager
def refusing(config: DictConfig) -> Iterator[None]:
    """End the program with a message instead of an error."""
    try:
        HydraConfig.instance().set_config(config)  # a folder's name may hold ${hydra:…}
        yield
    except Exception as error:  # any other would only be a warning, too
        raise SystemExit(error_message(error).partition("\n")[0] or repr(error)) from None


def swept(config: DictConfig) -> dict[str, Override]:
    """Return the overrides of a sweep that have more than one value, by their keys."""
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    words = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # for a glob's options
    parsed = {each.key_or_group: each for each in parser.parse_overrides(words)}
    return {key: each for key, each in parsed.items() if each.is_sweep_override()}


def share_out(config: DictConfig) -> None:
    """Note how many runs there will be; give each core one of them at a time, unless told how many.

    A single worker is this process itself.
    """
    choices, sweeper = config.hydra.runtime.choices, config.hydra.sweeper
    runs = sweeper.get("n_trials") or 0
    if choices["hydra/sweeper"] == "basic":
        runs = prod(len(list(each.sweep_iterator())) for each in swept(config).values())
    from src.sweep.runs import PLAN

    os.environ[PLAN] = f"{runs} {time.time()}"
    if choices["hydra/launcher"] == "joblib" and config.hydra.launcher.n_jobs == -1:
        from joblib import cpu_count  # an extra

        cores = cpu_count() if config.trainer.accelerator == "cpu" else 1  # devices are shared
        with read_write(config.hydra):
            workers = min(cores, runs or cores, sweeper.get("n_jobs") or cores)
            config.hydra.launcher.n_jobs = workers
            config.hydra.launcher.pre_dispatch = str(workers)  # no run waits beside one that ends


def check_engine(config: DictConfig) -> None:
    """Check what a search or a cluster would fail on late, or without a word.

    Raises:
        UserError: naming what is missing.
    """
    choices, launcher = config.hydra.runtime.choices, config.hydra.launcher
    if choices["hydra/sweeper"] != "basic":
        if "maximize" not in str(OmegaConf.select(config, "hydra.sweeper.direction")):
            raise UserError("hydra.sweeper.direction: must be maximize: the score is an accuracy")
        if config.val_fraction == 0:
            raise UserError("val_fraction=0: a search needs validation names to score by")
        if "seed" in swept(config):
            raise UserError("seed: is no parameter of a search; seeds=3 repeats each run")
    if choices["hydra/launcher"] == "submitit_slurm" and shutil.which("sbatch") is None:
        raise UserError("hydra/launcher=submitit_slurm: SLURM's sbatch is not on this machine")
    if choices["hydra/launcher"] == "ray":
        import ray  # an extra, and slow

        arguments: Any = OmegaConf.to_container(launcher.ray.init, resolve=True)
        host, _, port = str(arguments.get("address")).rpartition("/")[2].rpartition(":")
        try:
            if host and port.isdigit():  # where nobody answers, Ray would wait for ever
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(**arguments)  # for good: the launcher uses it
        except Exception as error:  # whatever the arguments provoke
            raise UserError(f"hydra.launcher.ray.init: {error}") from None
