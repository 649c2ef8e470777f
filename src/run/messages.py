"""Error messages and commands that the program prints."""

import re
import shlex
from difflib import get_close_matches
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf.errors import OmegaConfBaseException

from src.config import ALL_TRAINER_ARGUMENTS, KEYS

UNQUOTED_VALUE = re.compile(r"[\w./+-]+", re.ASCII)
"""Values that neither the shell nor Hydra needs quotes for."""


def unknown_key_message(key: str) -> str:
    """Return the error message for a key that does not exist; it names the most similar key."""
    # `trainer.precision` has the prefix `trainer.` and the name `precision`.
    name = key.rpartition(".")[2]
    prefix = key.removesuffix(name)
    candidates = ALL_TRAINER_ARGUMENTS if prefix == "trainer." else KEYS
    similar_names = get_close_matches(name, candidates, n=1)
    if similar_names:
        return f"{key}: no such key; did you mean {prefix}{similar_names[0]}? --help lists them"
    return f"{key}: no such key. --help lists them"


def error_message(error: Exception) -> str:
    """Return the message that is shown for an error.

    Messages of Hydra, OmegaConf and the operating system are shortened or reworded.
    """
    if isinstance(error, OSError) and error.strerror:
        # An error without a file name, such as that of a full disk, concerns the output.
        file = error.filename or "outputs"
        return f"{file}: {error.strerror}"
    text = str(error)
    unknown_key = re.match(r"Could not override '(.+?)'", text)
    if unknown_key:
        return unknown_key_message(unknown_key[1])
    if text.startswith("Config group override must be"):
        return (
            f"{text}: trainer=cpu, logger=[tensorboard,csv], no logger: logger=[]; "
            "cluster=cores, ray or slurm, or one run after the other: hydra/launcher=basic"
        )
    # Hydra's own message says which file it was reading, and that of OmegaConf what is wrong in it.
    if isinstance(error.__cause__, OmegaConfBaseException):
        text += f"\n{error.__cause__}"
    # Hydra advises setting HYDRA_FULL_ERROR, which is of no use to users who made a mistake.
    text = re.sub(", set env var .*", "", text)
    # OmegaConf adds lines with the types of its objects.
    lines = [line for line in text.splitlines() if "_type=" not in line]
    return "\n".join(lines)


def first_line_of_message(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def format_folder_override(key: str, folder: Path) -> str:
    """Return the override `key=folder`, quoted for Hydra and the shell."""
    value = str(folder)
    if "/" not in value:
        # Without a slash, Hydra would read a folder called 007 as a number, and null as None.
        value = f"./{value}"
    if not UNQUOTED_VALUE.fullmatch(value):
        value = quote_for_hydra(value)
    return shlex.quote(f"{key}={value}")


def quote_for_hydra(value: str) -> str:
    """Return a text in quotes, so that Hydra and OmegaConf read it as exactly this text."""
    # OmegaConf would replace `${key}` by the value of another key, unless a backslash precedes it.
    # Backslashes that precede it already are doubled: `\${key}` becomes `\\\${key}`.
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return QuotedString(escaped, Quote.single).with_quotes()
