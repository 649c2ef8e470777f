"""Reading and writing files so that nothing is half there."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import IO, Any

from src.errors import UserError


def without_mark(encoding: str) -> str:
    """Return the encoding to read with, so that UTF-8's byte-order mark is not taken for text."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


@contextmanager
def written_whole(file: Path, mode: str, **how: Any) -> Iterator[IO[Any]]:
    """Open a file to write that appears under its name only when it is complete."""
    beside = file.with_name(f".{file.name}.{token_hex(4)}")
    try:
        with beside.open(mode, **how) as out:
            yield out
        beside.replace(file)
    except UnicodeEncodeError as error:
        letter = error.object[error.start]
        raise UserError(f"{file}: {letter!r} does not exist in {error.encoding}") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
