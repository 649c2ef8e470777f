"""A sweep's command line: what it means, and whether all of it can be run."""

import shutil
import socket
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
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
from src.sweep import SWEEP

EXTRAS = {
    "hydra/launcher=joblib": ("hydra-joblib-launcher", "sweep"),
    "hydra/sweeper=optuna": ("hydra-optuna-sweeper", "sweep"),
    "experiment=search": ("hydra-optuna-sweeper", "sweep"),
    "hydra/launcher=ray": ("hydra-ray-launcher", "cluster"),
    "cluster=ray": ("hydra-ray-launcher", "cluster"),
    "hydra/launcher=submitit_local": ("hydra-submitit-launcher", "cluster"),
    "hydra/launcher=submitit_slurm": ("hydra-submitit-launcher", "cluster"),
    "cluster=slurm": ("hydra-submitit-launcher", "cluster"),
}
"""Words of the command line, the package each needs, and the extra that brings it."""


LAUNCHER = ("hydra/launcher=", "hydra.launcher.")
OWN = ("hydra.sweep.dir=", "hydra.callbacks.preflight.")


def completed(words: list[str]) -> list[str]:
    """Return the command line as Hydra is to see it: `resume_sweep=` replaced by what it means.

    Raises:
        UserError: if a word asks for an extra that is not installed, or there is no such sweep.
    """
    for word in set(words) & set(EXTRAS):
        package, extra = EXTRAS[word]
        try:
            distribution(package)
        except PackageNotFoundError:
            raise UserError(f"{word}: is not installed; pip install -e '.[{extra}]'") from None
    folders = [word.partition("=")[2] for word in words if word.startswith("resume_sweep=")]
    if not folders:
        return words
    folder = Path(folders[-1])
    try:
        saved = OmegaConf.load(folder / SWEEP).hydra.overrides
        before = [*saved.task, *saved.hydra]
    except Exception:  # whatever a file that is none provokes
        raise UserError(f"resume_sweep={folder}: holds no sweep that can be read") from None
    for word in words:
        known = (*before, "-m", "--multirun")
        if word not in known and not word.startswith(("resume_sweep=", *LAUNCHER)):
            raise UserError(f"{word}: is not what the sweep in {folder} was started with")
    launched = [word for word in words if word.startswith(LAUNCHER)]
    if not any(word.startswith(LAUNCHER[0]) for word in launched):  # settings of the same one
        launched = [*(word for word in before if word.startswith(LAUNCHER)), *launched]
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return [
        "--multirun",
        *(word for word in before if not word.startswith((*OWN, *LAUNCHER))),
        *launched,
        f"hydra.sweep.dir='{quoted}'",
        "hydra.callbacks.preflight.resumes=true",
    ]


def check_same(config: DictConfig, folder: Path) -> None:
    """Check that the settings are those a sweep was started with.

    Raises:
        UserError: naming the first that is not; train.yaml has changed, say.
    """
    before = OmegaConf.load(folder / SWEEP)
    for key in map(str, config):
        was, now = OmegaConf.select(before, key), OmegaConf.select(config, key)
        if key != "hydra" and was != now:
            raise UserError(
                f"resume_sweep={folder}: {key} was {was} and is {now} now; start a new sweep"
            )


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
