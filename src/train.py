"""`python -m src.train`: the command; what it does is in experiment.py, or sweep.py with `-m`."""

import gc
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from src.command_line import completed
from src.config import from_hydra
from src.errors import UserError
from src.runs.interruption import Interrupted
from src.sweeps.sweep import finish_sweep, run_of_sweep


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Do one run with the settings of configs/ and the command line; return its score."""
    folder = Path(HydraConfig.get().runtime.output_dir)

    sweeps = HydraConfig.get().mode == RunMode.MULTIRUN

    def run() -> float | None:
        config = from_hydra(cfg)
        if sweeps and config.distributed:
            raise UserError("trainer.strategy=ddp: a sweep's runs have one process")
        if config.distributed:  # DDP would say at length what it thinks of its speed
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        # Imported now, as torch and Lightning take seconds: a wrong key is answered before that.
        from src.experiment import run_experiment

        return run_experiment(config, folder)

    if sweeps:
        hydra_cfg = HydraConfig.get()
        return run_of_sweep(run, folder, hydra_cfg.job.num, list(hydra_cfg.overrides.task))
    try:
        return run()
    except UserError as error:
        raise CompactHydraException(str(error)) from None  # Hydra shows the message alone
    except OSError as error:
        reason = f"{error.filename or folder}: {error.strerror}"
        raise CompactHydraException(reason) from None


def command() -> int:
    """Run Hydra; write the leaderboard of a sweep, however it ends. Return the exit status."""
    status = 0
    try:
        sys.argv[1:] = completed(sys.argv[1:])
        main()
    except ValueError as error:  # a UserError, or what Hydra says of flags that exclude each other
        sys.exit(str(error))
    except Interrupted as interrupted:
        status = interrupted.status
    except SystemExit as ended:
        if not isinstance(ended.code, int):  # a message: refused before anything was done
            raise
        status = ended.code
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return finish_sweep(Path(HydraConfig.get().sweep.dir), status)
    return status


if __name__ == "__main__":
    try:
        status = command()
        gc.freeze()  # or Python looks through all of torch before it ends: a second
        sys.exit(status)
    except Interrupted as interrupted:  # while the leaderboard was written
        sys.exit(interrupted.status)
