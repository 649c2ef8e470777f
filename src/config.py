"""The typed contract of train.yaml: every key, what it means and what it may be.

Imports neither torch nor Lightning, so that a wrong value is answered at once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from secrets import token_hex
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import MISSING, DictConfig, OmegaConf

from src.errors import UserError


def _key(explained: str, allowed: str, ok: Callable[[Any], bool]) -> Any:
    metadata = {"explained": explained, "allowed": allowed, "ok": ok}
    return field(default=MISSING, metadata=metadata)


def _whole(explained: str, least: int, most: int) -> Any:
    return _key(explained, f"{least} to {most:,}", lambda value: least <= value <= most)


def _fraction(explained: str) -> Any:
    return _key(explained, "at least 0, below 1", lambda value: 0 <= value < 1)


@dataclass
class Config:
    """The settings of one run; train.yaml holds their values.

    Raises:
        UserError: if a value is out of its range, or two values do not go together.
    """

    lr: float = _key(
        "learning rate of plain SGD", "a finite number above 0", lambda lr: 0 < lr < math.inf
    )
    hidden: int = _whole("size of the hidden state", 1, 4096)
    iterations: int = _whole("training steps, one random name each", 1, 10**9)
    seed: int = _whole("moves initial weights, random examples and split", 0, 2**32 - 1)
    log_every: int = _whole("iterations per point of the loss curve", 1, 10**6)
    print_every: int = _whole("iterations between printed examples", 1, 10**9)
    val_every: int = _whole("iterations between validations and checkpoints", 1, 10**9)
    val_fraction: float = _fraction("share of the names held out for validation")
    test_fraction: float = _fraction("share of the names held out for the test")
    data_dir: str = _key("folder of <Category>.txt files, one name a line", "a folder", bool)
    backend: str = _key(
        "what takes the steps: compiled is fast, autograd runs on any device",
        "compiled or autograd",
        lambda backend: backend in ("compiled", "autograd"),
    )
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.metadata and not each.metadata["ok"](value):
                raise UserError(f"{each.name}={value}: must be {each.metadata['allowed']}")
        if self.val_fraction + self.test_fraction >= 1:
            raise UserError(
                f"val_fraction={self.val_fraction} test_fraction={self.test_fraction}: "
                "must add up to less than 1, or nothing is left to train on"
            )
        accelerator, devices = (self.trainer.get(name) for name in ("accelerator", "devices"))
        if self.backend == "compiled" and (accelerator, devices) != ("cpu", 1):
            raise UserError(
                f"backend=compiled trainer.accelerator={accelerator} trainer.devices={devices}: "
                "the compiled backend runs on one CPU; use backend=autograd or trainer=cpu"
            )

    @property
    def epoch_size(self) -> int:
        """Iterations from one validation to the next: `val_every`, in whole points of the curve."""
        return -(-self.val_every // self.log_every) * self.log_every

    def hyperparameters(self) -> dict[str, int | float | str]:
        """Return the flat keys that can change a result, and their values."""
        names = [each.name for each in fields(self) if each.metadata]
        return {name: getattr(self, name) for name in names if not name.endswith("_every")}


def from_hydra(cfg: DictConfig) -> Config:
    """Return the checked settings of a composed configuration.

    Raises:
        UserError: see Config.
    """
    settings = OmegaConf.masked_copy(cfg, [each.name for each in fields(Config)])
    return Config(**OmegaConf.to_container(settings, resolve=True))  # type: ignore[arg-type] # str keys


def explain(_root_: DictConfig) -> str:
    """Return a line or two for each key and its present value, for `--help`."""
    lines = []
    for each in fields(Config):
        if each.metadata:
            value = OmegaConf.select(_root_, each.name)
            about = f"{each.metadata['explained']}; {each.metadata['allowed']}"
            lines.append(f"  {f'{each.name}={value}':<22} {about}")
    return "\n".join(lines)


class Preflight(Callback):
    """Refuses a run before Hydra writes anything for it: a wrong value, an unwritable folder.

    Ends the program, as Hydra turns any exception of a callback into a warning. Hydra calls this
    once per command, never for the jobs of a multirun: those check their settings themselves.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run."""
        self._check(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check what all jobs of a multirun share."""
        self._check(config, "hydra.sweep.dir")

    @staticmethod
    def _check(config: DictConfig, folder_key: str) -> None:
        HydraConfig.instance().set_config(config)  # a folder's name may hold ${hydra:…}
        folder = OmegaConf.select(config, folder_key)
        try:
            from_hydra(config)
            Path(folder).mkdir(parents=True, exist_ok=True)
        except UserError as error:
            raise SystemExit(str(error)) from None
        except OSError as error:
            raise SystemExit(f"{folder_key}={folder}: {error.strerror}; choose another") from None


def register() -> None:
    """Make the contract and the resolvers of train.yaml known to Hydra."""
    ConfigStore.instance().store(name="contract", node=Config)
    # Two runs never share a folder, were they started in the same millisecond.
    OmegaConf.register_new_resolver("unique", lambda: token_hex(4), use_cache=True, replace=True)
    OmegaConf.register_new_resolver("explain", explain, replace=True)
