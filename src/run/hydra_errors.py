"""One-line messages for errors of Hydra and OmegaConf that mistakes in the command line cause."""

import re
from dataclasses import fields
from difflib import get_close_matches

from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from src.config import ALL_TRAINER_ARGUMENTS, CONFIG_FOLDER, KEYS, Config

ALLOWED_VALUES = {field.name: field.metadata.get("allowed") for field in fields(Config)}
"""For each key, a description of its allowed values."""


def reword_hydra_error(error: Exception) -> str | None:
    """Return a message in one line for an error of Hydra, or None for any other error."""
    text = str(error)
    unknown_key = re.match(r"Could not override '(.+?)'", text)
    if unknown_key:
        return unknown_key_message(find_unknown_key(error, unknown_key[1]))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return missing_option_message(error.missing_cfg_file, list(error.options or ()))
    if isinstance(error, OverrideParseException):
        return unparsable_override_message(error.override)
    invalid_value = re.match(r"Error merging override (.*)", text)
    if invalid_value and isinstance(error.__cause__, OmegaConfBaseException):
        return invalid_value_message(invalid_value[1], error.__cause__)
    if text.startswith("Ambiguous value for argument"):
        # The text is `Ambiguous value for argument 'lr=1,2'`, followed by a line with advice.
        after_first_quote = text.partition("'")[2]
        override = after_first_quote.partition("'\n")[0]
        return several_values_message(override)
    if text.startswith("Config group override must be"):
        return (
            "the value of a configuration group cannot be empty or a dictionary; use for example "
            "trainer=cpu, logger=[tensorboard,csv], logger=[] for no logger, or cluster=cores"
        )
    existing_key = re.match(
        r"Could not append to config\. An item is already at '(.+?)'|Multiple values for (\S+?)\. ",
        text,
    )
    if existing_key:
        key = existing_key[1] or existing_key[2]
        return f"+{key}: already has a value; use {key}= without the plus sign to replace it"
    if isinstance(error, ConfigCompositionException):
        return text.partition("\n")[0]
    if isinstance(error, OmegaConfBaseException):
        return omegaconf_error_message(error)
    return None


def find_unknown_key(error: Exception, overridden_key: str) -> str:
    """Return the key that does not exist if an override fails.

    Args:
        error: Hydra's error.
        overridden_key: the key of the override. If its value is a dictionary, such as
            `trainer={speed: 1}`, this key exists, and the unknown key is below it.
    """
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return cause.full_key
    return overridden_key


def several_values_message(override: str) -> str:
    """Return the error message for a single run with an override that has several values."""
    key, _, value = override.partition("=")
    if key in ("logger", "callbacks"):
        return f"{override}: a list must be in brackets; use {key}=[{value}]"
    return f"{override}: has several values; use -m to start a sweep over them"


def unknown_key_message(key: str) -> str:
    """Return the error message for a key that does not exist; it names the most similar key."""
    # `trainer.precision` has the prefix `trainer.` and the name `precision`.
    name = key.rpartition(".")[2]
    prefix = key.removesuffix(name)
    candidates = ALL_TRAINER_ARGUMENTS if prefix == "trainer." else KEYS
    similar_names = get_close_matches(name, candidates, n=1)
    if similar_names:
        return f"{key}: unknown key; did you mean {prefix}{similar_names[0]}? See --help"
    return f"{key}: unknown key; --help lists all keys"


def missing_option_message(config_file: str, options: list[str]) -> str:
    """Return the error message for an option of a configuration group that does not exist.

    Args:
        config_file: the group and the option: `experiment/bset`.
        options: the existing options, if Hydra lists them.
    """
    group, _, option = config_file.rpartition("/")
    if not group:
        return f"--config-name {option}: there is no such file in {CONFIG_FOLDER}"
    if not options:
        options = sorted(path.stem for path in (CONFIG_FOLDER / group).glob("*.yaml"))
    available = ", ".join(options)
    similar_options = get_close_matches(option, options, n=1)
    if similar_options:
        suggestion = f"did you mean {group}={similar_options[0]}?"
        return f"{group}={option}: unknown option; {suggestion} Available: {available}"
    return f"{group}={option}: unknown option; available: {available}"


def unparsable_override_message(override: str) -> str:
    """Return the error message for an argument that is not a valid override of Hydra."""
    key, equals_sign, value = override.partition("=")
    if not equals_sign:
        return f"{override}: overrides have the form key=value, for example hidden=64"
    quoted = f"{key}='{value}'"
    return f'{override}: the value must be quoted: "{quoted}"'


def invalid_value_message(override: str, cause: OmegaConfBaseException) -> str:
    """Return the error message for a value of the wrong type.

    Args:
        override: the override, `key=value`.
        cause: OmegaConf's error.
    """
    key = override.lstrip("+").partition("=")[0]
    allowed = ALLOWED_VALUES.get(key)
    if allowed:
        return f"{override}: must be {allowed}"
    reason = str(cause).partition("\n")[0]
    return f"{override}: {reason}"


def omegaconf_error_message(error: OmegaConfBaseException) -> str:
    """Return a message in one line for an error of OmegaConf."""
    key = error.full_key
    # The other lines of the message name internal types of this program.
    reason = str(error.msg or error).partition("\n")[0]
    if not key:
        return reason
    if isinstance(error, ConfigKeyError):
        return unknown_key_message(key)
    if "missing mandatory value" in reason.lower():
        return f"{key}: has no value; use {key}=VALUE"
    return f"{key}: {reason}"
