"""Error messages and commands that the program prints."""

import re
import shlex
from difflib import get_close_matches
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf.errors import OmegaConfBaseException

from src.config import KEYS, TRAINER_ARGUMENTS, USE_INSTEAD

SAFE_VALUE = re.compile(r"[\w./+-]+", re.ASCII)
"""Values that neither the shell nor Hydra needs quotes for."""


def unknown_key_message(key: str) -> str:
    """Return the error message for a key that does not exist; it names the most similar key."""
    group, dot, name = key.rpartition(".")
    candidates = [*TRAINER_ARGUMENTS, *USE_INSTEAD] if group == "trainer" else KEYS
    similar_keys = get_close_matches(name, candidates, n=1)
    if similar_keys:
        return f"{key}: no such key; did you mean {group}{dot}{similar_keys[0]}? --help lists them"
    return f"{key}: no such key. --help lists them"


def error_message(error: Exception) -> str:
    """Return the message that is shown for an error.

    Messages of Hydra, OmegaConf and the operating system are shortened or reworded.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'outputs'}: {error.strerror}"
    unknown_key = re.match(r"Could not override '(.+?)'", text)
    if unknown_key:
        return unknown_key_message(unknown_key[1])
    if text.startswith("Config group override must be"):
        return (
            f"{text}: trainer=cpu, logger=[tensorboard,csv], no logger: logger=[]; "
            "cluster=cores, ray or slurm, or one run after the other: hydra/launcher=basic"
        )
    if isinstance(error.__cause__, OmegaConfBaseException):
        text += f"\n{error.__cause__}"
    text = re.sub(", set env var .*", "", text)  # advice to set HYDRA_FULL_ERROR
    # OmegaConf adds the types of the objects to its messages.
    return "\n".join(line for line in text.splitlines() if "_type=" not in line)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def shell_override(key: str, folder: Path) -> str:
    """Return `key=folder`, quoted for Hydra and the shell."""
    # Without a slash, Hydra would read a folder called 007 as a number, and null as None.
    value = str(folder) if "/" in str(folder) else f"./{folder}"
    if not SAFE_VALUE.fullmatch(value):
        # OmegaConf would replace `${…}` by the value of another key. A backslash before it prevents
        # that; other backslashes before it are doubled.
        escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
        value = QuotedString(escaped, Quote.single).with_quotes()
    return shlex.quote(f"{key}={value}")
