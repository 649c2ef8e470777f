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
        UserError: if the source is not one that can be read; see `DataSource.check_settings`.
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
    except Exception as error:  # damaged files make libraries raise all kinds of errors
        # An OSError without a file name is gzip's way to report damaged files.
        has_file_name = isinstance(error, OSError) and bool(error.filename)
        if isinstance(error, UserError) or has_file_name:
            raise
        raise UserError(f"{source}: {error}; is it damaged, or still being written?") from None
