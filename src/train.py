"""`python -m src.train`: the command; what it does is in experiment.py."""

import logging
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from src.config import from_hydra
from src.errors import UserError
from src.preflight import register

log = logging.getLogger(__name__)
register()


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Do one run with the settings of configs/ and the command line; return its score."""
    try:
        config = from_hydra(cfg)
        # Imported now, as torch and Lightning take seconds: a wrong key is answered before that.
        from src.experiment import run_experiment

        return run_experiment(config, Path(HydraConfig.get().runtime.output_dir))
    except (UserError, OSError) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # Hydra shows the first failed job's only
            log.error(error)
        raise CompactHydraException(str(error)) from None  # Hydra shows the message alone


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports a program that Ctrl-C ended
