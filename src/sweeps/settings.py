"""Whether all of a sweep can be run."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config import check_keys
from src.data.corpus import read_corpus
from src.errors import UserError


def check_sweep(config: DictConfig) -> None:
    """Check that something is swept, over values that its key can take.

    Raises:
        UserError: if not, or if the sweeper cannot do what is asked of it.
    """
    sweeper, swept = config.hydra.sweeper, list(swept_overrides(config))
    choices = config.hydra.runtime.choices
    for override in swept:
        interval = override.value()
        if isinstance(interval, IntervalSweep):
            if choices["hydra/sweeper"] == "basic":
                raise UserError(f"{override.input_line}: needs a search; add hydra/sweeper=optuna")
            values: list[Any] = [interval.start, interval.end]
        else:
            values = list(override.sweep_iterator())
        if not values:
            raise UserError(f"{override.input_line}: holds no values")
        for value in values:
            check_value(config, override, value)
    if not swept and choices["hydra/launcher"] == "basic":
        raise UserError("-m: nothing to sweep; give a key several values, as in lr=0.001,0.005")
    if choices["hydra/sweeper"] != "basic":
        if str(OmegaConf.select(sweeper, "direction")).rpartition(".")[2] != "maximize":
            raise UserError(
                "hydra.sweeper.direction: must be maximize, as the score is an accuracy; "
                "experiment=search sets it"
            )
        if config.val_fraction == 0:
            raise UserError("val_fraction=0: a search needs validation names to score by")
    written: Any = OmegaConf.to_container(config.hydra.sweep)
    if not any(name in written["subdir"] for name in ("hydra.job.num", "override_dirname")):
        raise UserError(
            f"hydra.sweep.subdir={written['subdir']}: runs would share it; "
            "must hold ${hydra.job.num}"
        )
    if "data_dir" not in {override.key_or_group for override in swept}:
        read_corpus(Path(config.data_dir))


def check_launcher(config: DictConfig) -> None:
    """Check that the cluster is there, as far as this machine can tell.

    Raises:
        UserError: if not.
    """
    target = str(config.hydra.launcher.get("_target_"))
    if target.endswith("SlurmLauncher") and shutil.which("sbatch") is None:
        raise UserError("hydra/launcher=submitit_slurm: SLURM's sbatch is not on this machine")
    if target.endswith("RayLauncher"):
        import ray  # an extra, and slow

        HydraConfig.instance().set_config(config)  # the arguments may hold ${hydra:…}
        if not Path(config.hydra.sweep.dir).is_absolute():
            raise UserError(f"hydra.sweep.dir={config.hydra.sweep.dir}: must be absolute with Ray")
        arguments: Any = OmegaConf.to_container(config.hydra.launcher.ray.init, resolve=True)
        host, _, port = str(arguments.get("address")).rpartition("/")[2].rpartition(":")
        try:
            if host and port.isdigit():  # where nobody answers, Ray would wait for ever
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(**arguments)  # for good: the launcher uses it
        except Exception as error:  # whatever the arguments provoke
            raise UserError(
                f"hydra.launcher.ray.init: {str(error).partition(chr(10))[0]}"
            ) from None


def swept_overrides(config: DictConfig) -> Iterator[Override]:
    """Yield what the sweeper's own settings and the command line give several values."""
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    lines = [f"{key}={value}" for key, value in params.items()]
    lines += config.hydra.overrides.task  # these win
    try:
        loader = GlobalHydra.instance().config_loader()  # which glob() asks
        overrides = OverridesParser.create(loader).parse_overrides(lines)
    except HydraException as error:
        raise UserError(f"hydra.sweeper.params: {error}") from None
    last = {override.get_key_element(): override for override in overrides}
    return (override for override in last.values() if override.is_sweep_override())


def check_value(config: DictConfig, override: Override, value: Any) -> None:
    """Check that a key exists and can take a value; its range is the run's to check.

    Raises:
        UserError: naming both.
    """
    key, value = override.key_or_group, getattr(value, "text", value)  # a quoted string
    if key in config.hydra.runtime.choices:
        options = GlobalHydra.instance().config_loader().get_group_options(key)
        if value is not None and value not in options:
            raise UserError(f"{key}={value}: must be one of {', '.join(options)}")
        return
    probe = config.copy()
    try:
        OmegaConf.update(probe, key, value, merge=True, force_add=override.is_add())
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{key}={value}: {reason}") from None
    check_keys(probe)
