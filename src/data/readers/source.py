"""The source of the names, and the rows that readers yield."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from src.errors import UserError

INCLUDED_CORPUS = Path(__file__).parents[3] / "data/names"
"""The corpus that comes with the program."""
TABLE_FILE = re.compile(r"(?i)\.((csv|tsv|jsonl)(\.gz)?|parquet)$")
"""Suffixes of the tables that can be read."""
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
}
"""Accepted names of splits, in lower case, and the names that this program uses for them."""


class DataSource(NamedTuple):
    """A folder of text files or a table; without either, the corpus that comes with the program."""

    data_dir: str | None = None
    data_file: str | None = None
    name_column: str | None = None
    label_column: str | None = None
    count_column: str | None = None
    split_column: str | None = None

    @property
    def path(self) -> Path:
        """The folder or the table."""
        # An empty string counts as not set.
        return Path(self.data_file or self.data_dir or INCLUDED_CORPUS)

    @property
    def columns(self) -> dict[str, str | None]:
        """The column settings by key; None if not set."""
        keys = ("name_column", "label_column", "count_column", "split_column")
        return {key: getattr(self, key) for key in keys}

    def __str__(self) -> str:
        key = "data_file" if self.data_file else "data_dir"
        return f"{key}={self.path}"

    def check_settings(self) -> None:
        """Check the settings against each other. No file is read.

        Raises:
            UserError: if there is both a folder and a table, a table in an unsupported format, or
                a column without a table.
        """
        # Each message starts with the setting that it is about.
        if self.data_dir and self.data_file:
            raise UserError(f"{self} data_dir={self.data_dir}: set only one of the two")
        if self.data_file and not TABLE_FILE.search(self.data_file):
            formats = ".csv, .tsv, .jsonl (each also as .gz) or .parquet"
            raise UserError(f"{self}: unsupported format; save it as {formats}")
        if any(self.columns.values()) and not self.data_file:
            raise UserError(f"{self}: a folder has no columns; set data_file= instead")


@dataclass(slots=True)
class Row:
    """A name and its category."""

    name: str
    """The name as it is written in the file."""
    category: str
    """The category; see `normalize_label`."""
    count: int
    """Number of lines that the row stands for."""
    split: str
    """`train`, `val` or `test` if the source is split already; else empty."""
    location: str
    """The file and the line number. Parquet files have row numbers instead."""


def normalize_label(text: str) -> str:
    """Return a category in Unicode form NFC, without spaces around it."""
    # Macs write `é` in file names as `e` and an accent, which would be another category.
    return unicodedata.normalize("NFC", text).strip()
