"""Reading and writing files so that nothing is half there."""

import codecs
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import IO, Any

from src.errors import UserError


def without_mark(encoding: str) -> str:
    """Return the encoding to read with, so that UTF-8's byte-order mark is not taken for text."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def refuse_targets(*files: Path | None, force: bool) -> None:
    """Refuse to write what should not be overwritten.

    Raises:
        UserError: if a file exists and `force` is not given, or is no plain file, or stands twice.
    """
    named = [file for file in files if file is not None]
    for file in named:
        if file.exists() and not file.is_file():
            raise UserError(f"{file}: is no plain file")
        if file.exists() and not force:
            raise UserError(f"{file}: exists; --force replaces it")
    if len({file.resolve() for file in named}) < len(named):
        raise UserError(f"{named[-1]}: named for two files")


PART = ".part"
"""How the name of a file ends that is not complete yet."""


def remove_parts(folder: Path) -> None:
    """Delete what a program that was killed had not finished to write."""
    for path in folder.glob(f"**/.*{PART}"):
        path.unlink()


@contextmanager
def written_whole(file: Path, mode: str, **how: Any) -> Iterator[IO[Any]]:
    """Open a file to write that appears under its name only when it is complete."""
    file = file.resolve()  # what a link leads to is replaced, not the link
    beside = file.with_name(f".{token_hex(8)}{PART}")
    try:
        with beside.open(mode, **how) as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        if file.exists():
            shutil.copymode(file, beside)
        beside.replace(file)
    except UnicodeEncodeError as error:
        letter = error.object[error.start]
        raise UserError(f"{file}: {letter!r} does not exist in {error.encoding}") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            beside.unlink()
