"""What is refused before Hydra writes anything: wrong settings, folders, names."""

import shutil
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config import check_keys, checked_settings, from_hydra
from src.errors import UserError
from src.sweep import SWEEP

EXTRAS = {
    "hydra/launcher=joblib": ("hydra_joblib_launcher", "sweep"),
    "hydra/sweeper=optuna": ("hydra_optuna_sweeper", "sweep"),
    "experiment=search": ("hydra_optuna_sweeper", "sweep"),
    "hydra/launcher=ray": ("hydra_ray_launcher", "cluster"),
    "cluster=ray": ("hydra_ray_launcher", "cluster"),
    "hydra/launcher=submitit_local": ("hydra_submitit_launcher", "cluster"),
    "hydra/launcher=submitit_slurm": ("hydra_submitit_launcher", "cluster"),
    "cluster=slurm": ("hydra_submitit_launcher", "cluster"),
}
"""Words of the command line, the Hydra plugin each needs, and the extra that brings it."""


def completed(words: list[str]) -> list[str]:
    """Return the command line as Hydra is to see it: `resume_sweep=` replaced by what it means.

    Raises:
        UserError: if a word asks for an extra that is not installed, or there is no such sweep.
    """
    for word in words:
        plugin, extra = EXTRAS.get(word, ("", ""))
        if plugin and find_spec(f"hydra_plugins.{plugin}") is None:
            raise UserError(f"{word}: is not installed; pip install -e '.[{extra}]'")
    folders = [word.partition("=")[2] for word in words if word.startswith("resume_sweep=")]
    if not folders:
        return words
    folder = Path(folders[-1])
    try:
        saved = OmegaConf.load(folder / SWEEP).hydra.overrides
        before = [*saved.task, *saved.hydra]
    except (OSError, OmegaConfBaseException) as error:
        raise UserError(f"resume_sweep={folder}: holds no sweep that can be read") from error
    for word in words:
        known = word in before or word in ("-m", "--multirun") or "resume_sweep=" in word
        if not known and not word.startswith(("hydra/launcher=", "hydra.launcher.")):
            raise UserError(f"{word}: is not what the sweep in {folder} was started with")
    own = ("hydra.sweep.dir=", "hydra.callbacks.preflight.", "hydra/launcher=", "hydra.launcher.")
    launcher = [word for word in words if word.startswith("hydra/launcher=")]
    launched = words if launcher else before  # with its settings
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return [
        "--multirun",
        *(word for word in before if not word.startswith(own)),
        *(word for word in launched if word.startswith(own[2:])),
        f"hydra.sweep.dir='{quoted}'",
        "hydra.callbacks.preflight.resumes=true",
    ]


class Preflight(Callback):
    """Hydra calls this once per command, before it makes a folder.

    It ends the program itself, as Hydra turns an exception of a callback into a warning. The runs
    of a sweep check how their settings go together when they start.

    Args:
        resumes: a sweep's folder may hold this sweep already.
    """

    def __init__(self, resumes: bool) -> None:
        self.resumes = resumes

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
        """Check what the runs of a sweep have in common, and each swept value for itself."""
        try:
            checked_settings(config)
            check_sweep(config)
            check_launcher(config)
            folder = writable_folder(config, "hydra.sweep.dir")
            if (folder / SWEEP).exists():
                self._check_same(config, folder)
            OmegaConf.save(config, folder / SWEEP)  # some sweepers do, some do not
        except UserError as error:
            raise SystemExit(str(error)) from None

    def _check_same(self, config: DictConfig, folder: Path) -> None:
        if not self.resumes:
            raise UserError(
                f"hydra.sweep.dir={folder}: holds a sweep already; choose another, "
                f"or go on with that one: resume_sweep={folder}"
            )
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
        overrides = OverridesParser.create().parse_overrides(lines)
    except HydraException as error:
        raise UserError(f"hydra.sweeper.params: {error}") from None
    last = {override.get_key_element(): override for override in overrides}
    return (override for override in last.values() if override.is_sweep_override())


def check_value(config: DictConfig, override: Override, value: Any) -> None:
    """Check that a key exists and can take a value; its range is the run's to check.

    Raises:
        UserError: naming both.
    """
    key = override.key_or_group
    if key in config.hydra.runtime.choices:
        options = GlobalHydra.instance().config_loader().get_group_options(key)
        if value not in options:
            raise UserError(f"{key}={value}: must be one of {', '.join(options)}")
        return
    probe = config.copy()
    try:
        OmegaConf.update(probe, key, value, merge=True, force_add=override.is_add())
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{key}={value}: {reason}") from None
    check_keys(probe)


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
