"""The names on disk, read and checked.

A corpus is a folder of `<Category>.txt` files, UTF-8, one name a line. In memory it is a
dictionary from category, in sorted order, to the folded names of its lines, in file order.
"""

import unicodedata
from functools import lru_cache
from pathlib import Path

from src.data.letters import LONGEST, fold_name
from src.errors import UserError

Corpus = dict[str, list[str]]

NAMES = Path(__file__).parents[2] / "data/names"
"""The corpus as shipped."""


def read_corpus(folder: Path) -> Corpus:
    """Read every `<Category>.txt` of `folder`.

    Blank lines, blanks around a name and carriage returns are ignored.

    Raises:
        UserError: if the folder is missing or holds fewer than two categories, or a file is
            not UTF-8, empty, or has a line without any letter.
        OSError: if a file cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"data_dir={folder}: no such folder")
    # A hidden file is no category: archives made on a Mac bring along `._Arabic.txt`.
    files = [path for path in folder.glob("*.txt") if not path.name.startswith(".")]
    if not files:
        raise UserError(f"data_dir={folder}: holds no <Category>.txt files")
    if len(files) == 1:
        raise UserError(f"data_dir={folder}: holds one category only, {files[0].name}; needs two")
    for path in files:
        if not path.stem.isprintable():
            raise UserError(f"data_dir={folder}: {path.name!r} is no name that can be shown")
    states = ((path, path.stat()) for path in sorted(files, key=lambda path: path.stem))
    return {path.stem: [*_names_in(path, it.st_size, it.st_mtime_ns)] for path, it in states}


@lru_cache(maxsize=1024)  # the runs of a sweep read the same files
def _names_in(path: Path, _size: int, _modified: int) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # a byte-order mark is no letter
    except UnicodeDecodeError as error:
        number = len((error.object[: error.start] + b"x").splitlines())
        raise UserError(f"{path}:{number}: not UTF-8; save the file as UTF-8") from None
    names = []
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line:
            continue
        name = fold_name(line)
        if not name:
            raise UserError(f"{path}:{number}: {line[:40]!r} has no letter to read")
        control = not line.isprintable() and any(unicodedata.category(c) == "Cc" for c in line)
        if len(line) > LONGEST or control:
            what = f"at most {LONGEST} letters a line, no tabs or other control characters"
            raise UserError(f"{path}:{number}: {line[:40]!r} is no name; {what}")
        names.append(name)
    if not names:
        raise UserError(f"{path}: holds no names; delete the file or add one name a line")
    return names
