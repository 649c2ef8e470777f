"""Lines of text files, with clear errors for whatever is not text."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src.errors import UserError

LONGEST_LINE = 10**6
"""Maximum length of a line in characters. A file with longer lines is not a list of names."""


def read_decompressed_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, gzipped or not, without the byte-order mark."""
    open_text: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with open_text(path, "rt", encoding="UTF-8", errors="surrogateescape", newline="") as file:
        lines = check_lines(file, str(path))
        yield next(lines, "").removeprefix("\ufeff")
        yield from lines


def check_lines(
    file: Any, where: str, remedy: str = "save the file as UTF-8", max_length: int = LONGEST_LINE
) -> Iterator[str]:
    """Yield the lines of a text file unchanged, line ends included.

    Args:
        file: opened with `errors="surrogateescape"`.
        where: the file, for error messages.
        remedy: what the user can do about a wrong encoding, for error messages.
        max_length: length from which a line is refused.

    Raises:
        UserError: if a line is too long or cannot be decoded; the message gives its number.
    """
    number = 0
    try:
        while line := file.readline(max_length):
            number += 1
            if len(line) == max_length:
                raise UserError(f"{where}:{number}: a line of {max_length:,} letters or more")
            check_decoded(line, f"{where}:{number}", file.encoding, remedy)
            yield line
    except UnicodeError:  # some encodings cannot defer their errors with surrogateescape
        raise UserError(f"{where}: not {file.encoding} after line {number}; {remedy}") from None


def check_decoded(line: str, where: str, encoding: str, remedy: str) -> None:
    """Refuse a line with bytes that could not be decoded, which `surrogateescape` has marked."""
    if not line.isascii() and re.search("[\udc80-\udcff]", line):
        raise UserError(f"{where}: not {encoding}; {remedy}")
