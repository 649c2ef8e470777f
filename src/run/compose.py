"""Builds the settings of a run from the configuration that Hydra composes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config import ALWAYS_DISPLAYED, KEYS, RUN_KEYS, Config
from src.errors import UserError
from src.run import resolvers  # noqa: F401  # registers the resolvers of the YAML files
from src.run.hydra_errors import omegaconf_error_message, unknown_key_message
from src.run.run_folder import CONFIG_FILE, read_settings

PATH_KEYS = ("data_dir", "data_file", "init_from", "resume")
"""The keys whose values are paths of files or folders."""


def build_config(cfg: DictConfig, overrides: Sequence[str] = ()) -> Config:
    """Return the validated settings of a run.

    With `resume=`, these are the settings of the run to resume.

    Args:
        cfg: the composed configuration.
        overrides: the overrides of the command line, `key=value`.

    Raises:
        UserError: if a key does not exist or a value is invalid.
    """
    check_keys_exist(cfg)
    try:
        settings = resolve_interpolations_and_paths(cfg)
        if settings["resume"]:
            settings = check_and_merge_resumed_settings(settings, get_override_keys(overrides))
        config = convert_to_validated_config(settings)
        for group in ("logger", "callbacks"):
            # Hydra resolves the values of a group later, when it builds the objects.
            setattr(config, group, OmegaConf.to_container(cfg[group]))
    except OmegaConfBaseException as error:
        raise UserError(omegaconf_error_message(error)) from None
    config.overrides = tuple(overrides)
    return config


def check_keys_exist(cfg: DictConfig) -> None:
    """Check that the configuration has no other keys than those of `Config` and Hydra's own.

    Raises:
        UserError: if a key does not exist.
    """
    # The schema would report such a key as well, but could not suggest a similar one.
    for key in map(str, cfg):
        if key not in KEYS and key != "hydra":
            raise UserError(unknown_key_message(key))


def resolve_interpolations_and_paths(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings as plain values, without the loggers and callbacks.

    Interpolations are resolved, and relative paths are made absolute, relative to the folder in
    which the command was started.
    """
    # The loggers can refer to the folder of the run, which Hydra only sets when the job starts.
    selected = OmegaConf.masked_copy(cfg, [*RUN_KEYS, "resume", "trainer"])
    settings: Any = OmegaConf.to_container(selected, resolve=True, throw_on_missing=True)
    # Hydra can change the current folder of a job.
    for key in PATH_KEYS:
        if settings.get(key):
            settings[key] = to_absolute_path(settings[key])
    return cast(dict[str, Any], settings)


def convert_to_validated_config(settings: dict[str, Any]) -> Config:
    """Convert plain values to a `Config`, which checks their types and ranges."""
    # With a structured schema, OmegaConf converts and checks the types: `lr=x` is an error.
    schema = OmegaConf.structured(Config)
    merged = OmegaConf.merge(schema, settings)
    return cast(Config, OmegaConf.to_object(merged))


def get_override_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys that the overrides of a command line set."""
    return {override.lstrip("+").partition("=")[0] for override in overrides}


def check_and_merge_resumed_settings(
    settings: dict[str, Any], override_keys: set[str]
) -> dict[str, Any]:
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
    # A file that is truncated or has the keys of another program is treated as missing. A run of an
    # older version may lack some keys, but not those in `ALWAYS_DISPLAYED`.
    if saved is None or not set(ALWAYS_DISPLAYED) <= set(saved) <= set(RUN_KEYS):
        raise UserError(
            f"resume={folder}: not the folder of a run; {CONFIG_FILE} is missing or damaged"
        )
    for key in list_keys_that_may_have_changed(override_keys):
        # A run of an older version may lack a key.
        old_value = saved.get(key)
        new_value = settings[key]
        if new_value == old_value:
            continue
        # The cosine schedule depends on the number of iterations.
        can_be_extended = saved.get("schedule") == "constant"
        is_extension = key == "iterations" and new_value > old_value
        if not (is_extension and can_be_extended):
            raise UserError(
                f"{key}={new_value}: the run in {folder} has {key}={old_value}; "
                "only iterations can be increased, and only if schedule=constant"
            )
    resumed = dict(settings)
    # Only `resume` and `trainer`, which are not saved, remain from this command.
    resumed.update(saved)
    if "iterations" in override_keys:
        resumed["iterations"] = settings["iterations"]
    return resumed


def list_keys_that_may_have_changed(override_keys: set[str]) -> list[str]:
    """Return the keys of a run that the overrides can change, in the order of `RUN_KEYS`."""
    if "experiment" in override_keys:  # it can set any key
        return RUN_KEYS
    return [key for key in RUN_KEYS if key in override_keys]
