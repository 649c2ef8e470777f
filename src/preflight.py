"""What is refused before Hydra writes anything: wrong settings, folders, names."""

from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryFile
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config import Config, checked_settings, explain, from_hydra
from src.errors import UserError


def register() -> None:
    """Make the contract and the resolvers of train.yaml known to Hydra."""
    ConfigStore.instance().store(name="contract", node=Config)
    # Two runs never share a folder, were they started in the same millisecond.
    OmegaConf.register_new_resolver("unique", lambda: token_hex(4), use_cache=True, replace=True)
    OmegaConf.register_new_resolver("explain", explain, replace=True)


class Preflight(Callback):
    """Hydra calls this once per command, before it makes a folder.

    It ends the program itself, as Hydra turns an exception of a callback into a warning. The jobs
    of a multirun check their settings when they start.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check all of a single run."""
        try:
            settings = from_hydra(config)
            # Imported now, as it brings torch, which takes seconds.
            from src.data.corpus import read_corpus, split_corpus

            corpus = read_corpus(Path(settings.data_dir))
            split_corpus(corpus, settings.val_fraction, settings.test_fraction, settings.seed)
            folder = writable_folder(config, "hydra.run.dir")
            if (folder / "checkpoints").exists():
                raise UserError(f"hydra.run.dir={folder}: holds a run already; choose another")
        except UserError as error:
            raise SystemExit(str(error)) from None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check what the jobs of a multirun have in common."""
        try:
            checked_settings(config)
            writable_folder(config, "hydra.sweep.dir")
        except UserError as error:
            raise SystemExit(str(error)) from None


def writable_folder(config: DictConfig, key: str) -> Path:
    """Return the output folder of a configuration, made if need be.

    Raises:
        UserError: if nothing can be written there.
    """
    HydraConfig.instance().set_config(config)  # the folder's name may hold ${hydra:…}
    try:
        folder = Path(OmegaConf.select(config, key))
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return folder
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{key}: {reason}") from None
    except OSError as error:
        raise UserError(f"{key}={folder}: {error.strerror}; choose another") from None
