"""Error messages and commands that the program prints."""

import re
import shlex
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from src.errors import describe_os_error
from src.run.hydra_errors import reword_hydra_error
from src.run.run_folder import OUTPUTS

UNQUOTED_VALUE = re.compile(r"[\w./+-]+", re.ASCII)
"""Values that neither the shell nor Hydra needs quotes for."""


def error_message(error: Exception) -> str:
    """Return the message that is shown for an error.

    Messages of Hydra, OmegaConf and the operating system are shortened or reworded.
    """
    if isinstance(error, OSError) and error.strerror:
        # An error without a file name, such as a full disk, most likely occurred while writing to
        # the folder of the outputs.
        prefix = "" if error.filename else f"{OUTPUTS}: "
        return prefix + describe_os_error(error)
    reworded = reword_hydra_error(error)
    if reworded is not None:
        return reworded
    # OmegaConf adds lines with the types of its objects.
    lines = [line for line in str(error).splitlines() if "_type=" not in line]
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
    # OmegaConf would replace `${key}` by the value of another key, unless a backslash precedes it:
    # `${key}` becomes `\${key}`. A backslash that already precedes it is doubled, so that it is
    # kept: `\${key}` becomes `\\\${key}`.
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return QuotedString(escaped, Quote.single).with_quotes()
