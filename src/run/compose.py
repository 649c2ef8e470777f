"""Builds the settings of a run from the configuration that Hydra composes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config import KEYS, RUN_KEYS, Config
from src.errors import UserError
from src.run import resolvers as resolvers  # registers what the YAML files refer to
from src.run.messages import unknown_key_message
from src.run.run_folder import CONFIG_FILE, read_settings

PATH_KEYS = ("data_dir", "data_file", "init_from", "resume")


def build_config(cfg: DictConfig, overrides: Sequence[str] = ()) -> Config:
    """Return the validated settings of a run.

    With `resume=`, these are the settings of the run to resume.

    Args:
        cfg: the composed configuration.
        overrides: the overrides of the command line, `key=value`.

    Raises:
        UserError: if a key does not exist or a value is invalid.
    """
    for key in map(str, cfg):
        if key not in (*KEYS, "hydra"):
            raise UserError(unknown_key_message(key))
    try:
        # Without the loggers, whose values may refer to the folder of the run.
        selected = OmegaConf.masked_copy(cfg, [*RUN_KEYS, "resume", "trainer"])
        settings: Any = OmegaConf.to_container(selected, resolve=True, throw_on_missing=True)
        for key in PATH_KEYS:
            if settings.get(key):
                settings[key] = to_absolute_path(settings[key])
        if settings["resume"]:
            settings = merge_resumed_settings(settings, get_override_keys(overrides))
        schema = OmegaConf.structured(Config)  # converts and checks the types
        config: Any = OmegaConf.to_object(OmegaConf.merge(schema, settings))
        for group in ("logger", "callbacks"):
            if group in cfg:
                setattr(config, group, OmegaConf.to_container(cfg[group]))
        config.overrides = tuple(overrides)
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).partition("\n")[0]
        message = f"{error.full_key}: {reason}" if error.full_key else reason
        raise UserError(message) from None
    return cast(Config, config)


def get_override_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys that the overrides of a command line set."""
    return {override.lstrip("+").partition("=")[0] for override in overrides}


def merge_resumed_settings(settings: dict[str, Any], override_keys: set[str]) -> dict[str, Any]:
    """Return the saved settings of the run to resume; the command may only raise `iterations`.

    Args:
        settings: the settings of this command; `resume` is the folder of the run.
        override_keys: the keys that the command line sets.

    Raises:
        UserError: if the folder is not that of a run, or the command line changes a setting that
            cannot be changed.
    """
    folder = Path(settings["resume"])
    saved = read_settings(folder)
    if not saved or saved.keys() - set(RUN_KEYS):  # empty, or with unknown keys
        raise UserError(f"resume={folder}: no run's folder with a whole {CONFIG_FILE} in it")
    candidate_keys = override_keys & set(RUN_KEYS)
    if "experiment" in override_keys:  # it can set any key
        candidate_keys = set(RUN_KEYS)
    for key in sorted(candidate_keys, key=RUN_KEYS.index):
        old_value = saved.get(key)
        new_value = settings[key]
        if new_value == old_value:
            continue
        # The cosine schedule depends on the number of iterations.
        is_constant = saved.get("schedule") == "constant"
        is_extension = key == "iterations" and is_constant and new_value > old_value
        if not is_extension:
            raise UserError(
                f"{key}={new_value}: the run in {folder} has {key}={old_value}; "
                "only iterations can be raised, if the schedule is constant"
            )
    # Only `resume` and `trainer`, which are not saved, remain from this command.
    resumed = {**settings, **saved}
    if "iterations" in override_keys:
        resumed["iterations"] = settings["iterations"]
    return resumed
