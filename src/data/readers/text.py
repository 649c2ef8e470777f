"""Lines of text files, with clear errors for whatever is not text."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src.errors import UserError

MAX_LINE_LENGTH = 10**6
"""Maximum length of a line in characters. A file with longer lines is not a list of names."""


def read_plain_or_gzip_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, gzipped or not, without the byte-order mark."""
    open_text: Any = gzip.open if path.suffix.lower() == ".gz" else open
    # Bytes that are not UTF-8 become surrogates; `check_lines` reports the lines that contain them.
    with open_text(path, "rt", encoding="UTF-8", errors="surrogateescape", newline="") as file:
        lines = check_lines(file, str(path))
        # An empty file yields one empty line, which all readers skip like a blank line.
        yield next(lines, "").removeprefix("\ufeff")
        yield from lines


def check_lines(
    file: Any,
    location: str,
    remedy: str = "save the file as UTF-8",
    max_length: int = MAX_LINE_LENGTH,
) -> Iterator[str]:
    """Yield the lines of a text file unchanged, line ends included.

    Args:
        file: a text file that was opened with `errors="surrogateescape"`.
        location: the file, for error messages.
        remedy: what the user can do about a wrong encoding, for error messages.
        max_length: lines with this number of characters or more are refused.

    Raises:
        UserError: if a line is too long or cannot be decoded; the message gives its number.
    """
    number = 0
    try:
        # The limit keeps a file without line ends from filling all memory.
        while line := file.readline(max_length):
            number += 1
            if len(line) == max_length:
                raise UserError(
                    f"{location}:{number}: the line has {max_length:,} characters or more"
                )
            check_decoded(line, f"{location}:{number}", file.encoding, remedy)
            yield line
    except UnicodeError:  # some encodings cannot defer their errors with surrogateescape
        # The text is decoded in blocks, so the error may be in any line after the last one.
        raise UserError(
            f"{location}: the text after line {number} is not valid {file.encoding}; {remedy}"
        ) from None


def check_decoded(line: str, location: str, encoding: str, remedy: str) -> None:
    """Check that a line was decoded without errors. Surrogates stand for bytes with errors.

    Raises:
        UserError: if the line contains such surrogates.
    """
    # The first test is much faster, and most lines are in ASCII.
    if not line.isascii() and re.search("[\udc80-\udcff]", line):
        raise UserError(f"{location}: not {encoding}; {remedy}")
