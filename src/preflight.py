"""What is refused before Hydra writes anything: wrong settings, folders, names."""

import shlex
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config import checked_settings, from_hydra
from src.data.corpus import read_corpus, split_corpus
from src.errors import UserError
from src.runs.interruption import take_over_signals
from src.sweeps.settings import check_launcher, check_sweep
from src.sweeps.sweep import SWEEP

ROOM = 50_000
"""Bytes that Hydra's notes of the settings may take."""


class Preflight(Callback):
    """Hydra calls this once per command, before it makes a folder.

    It ends the program itself, as Hydra turns an exception of a callback into a warning. The runs
    of a sweep check how their settings go together when they start.

    Args:
        resumes: the folder holds this run or sweep already.
    """

    def __init__(self, resumes: bool) -> None:
        self.resumes = resumes

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check all of a single run."""
        try:
            settings = from_hydra(config)
            corpus = read_corpus(Path(settings.data_dir))
            split_corpus(corpus, settings.val_fraction, settings.test_fraction, settings.seed)
            run: Any = OmegaConf.to_container(config.hydra.run)  # its ${…} as they are
            if settings.distributed and set('"\\') & set(run["dir"]):  # Lightning only quotes it
                raise UserError(f'hydra.run.dir={run["dir"]}: with trainer=ddp no " or \\ in it')
            folder = writable_folder(config, "hydra.run.dir")
            if self.resumes:
                file = folder / ".hydra/config.yaml"
                grows = "iterations" if settings.schedule == "constant" else ""  # cosine ends there
                check_same(config, file, f"resume={folder}", may_grow=grows)
            elif (folder / "checkpoints").exists():
                raise UserError(
                    f"hydra.run.dir={folder}: holds a run already; choose another, "
                    f"or go on with that one: {shlex.quote(f'resume={folder}')}"
                )
        except Exception as error:  # any other would only be a warning, too
            raise SystemExit(str(error) or repr(error)) from None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check what the runs of a sweep have in common, and each swept value for itself."""
        try:
            checked_settings(config)
            check_sweep(config)
            check_launcher(config)
            folder = writable_folder(config, "hydra.sweep.dir")
            if (folder / SWEEP).exists() and not self.resumes:
                raise UserError(
                    f"hydra.sweep.dir={folder}: holds a sweep already; choose another, "
                    f"or go on with that one: {shlex.quote(f'resume_sweep={folder}')}"
                )
            if any(folder.iterdir()) and not self.resumes:
                raise UserError(f"hydra.sweep.dir={folder}: is not empty; choose another")
            if self.resumes:
                check_same(config, folder / SWEEP, f"resume_sweep={folder}")
            OmegaConf.save(config, folder / SWEEP)  # some sweepers do, some do not
            take_over_signals()  # there will be runs to report
        except Exception as error:  # any other would only be a warning, too
            raise SystemExit(str(error) or repr(error)) from None


def check_same(config: DictConfig, file: Path, what: str, may_grow: str = "") -> None:
    """Check that the settings are those in a file, but for one that may have grown.

    Raises:
        UserError: saying which is not; train.yaml has changed, say.
    """
    try:
        before = OmegaConf.load(file)
    except Exception:  # whatever a file that is none provokes
        raise UserError(f"{what}: {file} cannot be read") from None
    for key in map(str, config):
        was, now = OmegaConf.select(before, key), OmegaConf.select(config, key)
        if key != "hydra" and was != now and not (key == may_grow and was < now):
            raise UserError(f"{what}: {key} was {was} and is {now} now; start anew")


def writable_folder(config: DictConfig, key: str) -> Path:
    """Return the output folder of a configuration, made if need be.

    Raises:
        UserError: if nothing can be written there.
    """
    HydraConfig.instance().set_config(config)  # the folder's name may hold ${hydra:…}
    try:
        folder = Path(OmegaConf.select(config, key))
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(ROOM))
        return folder
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{key}: {reason}") from None
    except OSError as error:
        raise UserError(f"{key}={folder}: {error.strerror}; choose another") from None
