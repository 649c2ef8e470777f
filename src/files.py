"""Writes files atomically: afterwards, a file has either its new or its previous content."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import IO, Any

from src.errors import UserError

TEMP_SUFFIX = ".part"
"""Suffix of a file that is still being written."""


@contextmanager
def atomic_open(file: Path, mode: str, **open_arguments: Any) -> Iterator[IO[Any]]:
    """Open a temporary file for writing, which replaces `file` if the `with` block succeeds.

    If the block raises an exception, the temporary file is deleted and `file` is unchanged.

    Args:
        file: the file to create or replace. If it is a symbolic link, its target is replaced.
        mode: see `open`.
        open_arguments: the other arguments of `open`.

    Raises:
        UserError: if the file cannot be written, or the text cannot be encoded.
    """
    # Replacing a link itself would leave its target unchanged.
    file = file.resolve()
    # The name is random because two processes may write the same file. The folder is the same
    # because renaming a file is atomic only within a file system.
    temporary = file.with_name(f".{token_hex(8)}{TEMP_SUFFIX}")
    try:
        with temporary.open(mode, **open_arguments) as out:
            yield out
            # If the system crashes after the renaming, the content must be on the disk already.
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        message = f"{file}: {character!r} cannot be encoded in {error.encoding}"
        raise UserError(f"{message}; use another encoding, such as utf-8") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    finally:
        # This has no effect after a successful `replace`.
        temporary.unlink(missing_ok=True)


def write_bytes_atomically(file: Path, content: bytes) -> None:
    """Write a file atomically; see `atomic_open`."""
    with atomic_open(file, "wb") as out:
        out.write(content)


def remove_temp_files(folder: Path) -> None:
    """Delete temporary files that killed programs have left in a folder and its subfolders.

    No other process may be writing to the folder, so the caller must hold its lock.
    """
    for path in folder.glob(f"**/.*{TEMP_SUFFIX}"):
        path.unlink()


def check_output_files(*files: Path | None, force: bool) -> None:
    """Check that files can be written without overwriting others.

    Args:
        files: the files to be written; None is ignored.
        force: whether existing files may be replaced.

    Raises:
        UserError: if a file exists and `force` is False, or if it is a folder or a device.
    """
    for file in files:
        if file is None or not file.exists():
            continue
        if not file.is_file():
            raise UserError(f"{file}: not a regular file")
        if not force:
            raise UserError(f"{file}: the file already exists; use --force to replace it")


def relative_to_current_folder(path: Path) -> Path:
    """Return a path relative to the current folder, which is shorter, if it is in this folder."""
    if Path.cwd() in path.parents:
        return path.relative_to(Path.cwd())
    return path
