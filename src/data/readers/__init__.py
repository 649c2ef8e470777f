"""Readers of labeled names in folders of text files and in tables."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from src.data.readers.folder import find_name_files, read_folder_rows
from src.data.readers.source import DataSource, Row
from src.data.readers.table import read_table_rows
from src.errors import UserError

__all__ = ["DataSource", "Row", "list_files", "read_rows"]

log = logging.getLogger(__name__)


def list_files(source: DataSource) -> list[Path]:
    """Return the files that a source is read from.

    Raises:
        UserError: if the settings of the source are invalid; see `DataSource.check_settings`.
    """
    source.check_settings()
    if source.data_file:
        return [source.path]
    return [file.path for file in find_name_files(source)]


def read_rows(source: DataSource, report: Callable[[str], None] = log.info) -> Iterator[Row]:
    """Yield the names of a folder or a table one by one; blank lines are skipped.

    Args:
        source: where the names are.
        report: receives a message, before the first row, about the delimiter, header and columns
            that were guessed.

    Raises:
        UserError: if the names cannot be read; the message gives the file and the line.
        OSError: if a file cannot be opened.
    """
    read = read_table_rows if source.data_file else read_folder_rows
    try:
        yield from read(source, report)
    except UserError:
        raise
    except OSError as error:
        # gzip reports a damaged file by an OSError without a file name.
        if error.filename:
            raise
        raise damaged_file_error(source, error) from None
    except Exception as error:  # damaged files make libraries raise all kinds of errors
        raise damaged_file_error(source, error) from None


def damaged_file_error(source: DataSource, error: Exception) -> UserError:
    """Return the error to raise for a file that a library cannot read."""
    reason = "the file may be damaged or still being written"
    return UserError(f"{source}: cannot be read ({error}); {reason}")
