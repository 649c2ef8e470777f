"""Reader of a folder with a text file for each category, with one name on each line."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from src.data.readers.source import SPLIT_NAMES, DataSource, Row, normalize_label
from src.data.readers.text import read_plain_or_gzip_lines
from src.errors import UserError


@dataclass
class NameFile:
    """A text file with names of one category."""

    path: Path
    label: str
    split: str
    """`train`, `val` or `test` if the file is in a folder of that name; else empty."""


def read_folder_rows(source: DataSource, report: Callable[[str], None]) -> Iterator[Row]:
    """Yield the names of a folder; see `read_rows`."""
    files = find_name_files(source)
    if files[0].split:
        report(f"{source}: using the split given by its subfolders")
    for file in files:
        for number, name in read_name_file(file.path).items():
            yield Row(
                name=name,
                category=file.label,
                count=1,
                split=file.split,
                location=f"{file.path}:{number}",
            )


def find_text_files(folder: Path) -> list[Path]:
    """Return the `.txt` files in a folder and up to two levels below, as sorted relative paths."""
    # The deepest files are, for example, train/French/a.txt: a split, a category and a file.
    paths = []
    for pattern in ("*.[tT][xX][tT]", "*/*.[tT][xX][tT]", "*/*/*.[tT][xX][tT]"):
        for file in folder.glob(pattern):
            path = file.relative_to(folder)
            # Archives made on a Mac bring along hidden files such as `._Arabic.txt`.
            is_hidden = any(part.startswith(".") for part in path.parts)
            if not is_hidden:
                paths.append(path)
    return sorted(paths)


def find_name_files(source: DataSource) -> list[NameFile]:
    """Return the text files of a folder, with their categories and splits.

    A category is a `.txt` file, or a folder of such files. The top folders are splits if one of
    them is `train` and the others are `val` or `test`. Files next to them are then ignored.

    Raises:
        UserError: if the folder contains no text files.
    """
    paths = find_text_files(source.path)
    is_split = are_top_folders_splits(paths)
    files = []
    for path in paths:
        folders = list(path.parts[:-1])  # the last part is the name of the file
        split = ""
        if is_split:
            if not folders:  # next to the folders of the splits
                continue
            split_folder = folders.pop(0)
            split = SPLIT_NAMES[split_folder.casefold()]
        # The category is a folder of files, if there is one, or else a single file.
        category = folders[0] if folders else path.stem
        files.append(NameFile(source.path / path, normalize_label(category), split))
    if not files:
        raise UserError(f"{source}: contains no <Category>.txt files")
    return files


def are_top_folders_splits(paths: list[Path]) -> bool:
    """Return whether `train` is among the top folders and all of them have names of splits.

    Args:
        paths: the paths of all text files, relative to the folder of names.
    """
    split_names = set()
    for path in paths:
        if len(path.parts) > 1:  # the file is in a folder
            top_folder = path.parts[0].casefold()
            if top_folder not in SPLIT_NAMES:
                return False
            split_names.add(SPLIT_NAMES[top_folder])
    return "train" in split_names


def read_name_file(path: Path) -> dict[int, str]:
    """Return the names in a text file by their line numbers.

    Raises:
        UserError: if the file contains no names.
    """
    names = {}
    # The suffix of these files is always `.txt`, so they are never gzipped. Blank lines have
    # numbers, too, so that messages name the right line.
    for number, line in enumerate(read_plain_or_gzip_lines(path), start=1):
        if line.strip():
            names[number] = line.rstrip("\r\n")
    if not names:
        raise UserError(f"{path}: contains no names; delete the file, or add one name per line")
    # The tutorial strips the text of the file as a whole, so spaces are removed only before the
    # first name and after the last name. With `letters=tutorial`, all other spaces are kept.
    first_number = min(names)
    last_number = max(names)
    names[first_number] = names[first_number].lstrip()
    names[last_number] = names[last_number].rstrip()
    return names
