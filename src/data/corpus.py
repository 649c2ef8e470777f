"""The names on disk, read and checked.

A corpus is a folder of `<Category>.txt` files, UTF-8, one name a line. In memory it is a
dictionary from category, in sorted order, to the folded names of its lines, in file order.
"""

import re
from functools import lru_cache
from pathlib import Path

from src.data.letters import LONGEST, fold
from src.errors import UserError

Corpus = dict[str, list[str]]

NAMES = Path(__file__).parents[2] / "data/names"
"""The corpus as shipped."""
SHOWN = 5
"""Of the lines that are no names, at most."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What no list of names has in a line: the file is something else, a table perhaps."""


def read_corpus(folder: Path, kind: str = "ascii") -> Corpus:
    """Read every `<Category>.txt` of `folder`, the names folded to letters of a kind.

    Blank lines, a byte-order mark and the kind of line ends do not matter.

    Raises:
        UserError: if the folder is missing or holds fewer than two categories, or a file is
            not UTF-8, is empty, or has lines that are no names.
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
    corpus, bad = {}, []
    for path in sorted(files, key=lambda path: path.stem):
        names, no_names = _names_in(path, kind, path.stat().st_size, path.stat().st_mtime_ns)
        corpus[path.stem] = list(names)
        bad += [f"{path}:{number}: {line[:40]!r}" for number, line in no_names]
    if bad:
        what = f"{len(bad):,} lines are no names: at least one letter that letters={kind} reads, at"
        what += f" most {LONGEST}, no tab or other control character"
        what += "; letters=corpus reads any script" if kind == "tutorial" else ""
        raise UserError("\n  ".join([f"{folder}: {what}", *bad[:SHOWN]]))
    for category, names in corpus.items():
        if not names:
            path = folder / f"{category}.txt"
            raise UserError(f"{path}: holds no names; delete the file or add one name a line")
    return corpus


@lru_cache(maxsize=1024)  # the runs of a sweep read the same files
def _names_in(
    path: Path, kind: str, _size: int, _modified: int
) -> tuple[list[str], list[tuple[int, str]]]:
    """Return the folded names of a file, and the lines that are none, with their numbers."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = len((error.object[: error.start] + b"x").splitlines())
        raise UserError(f"{path}:{number}: not UTF-8; save the file as UTF-8") from None
    names, bad = [], []
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    body = text.strip()  # as the tutorial does, whose fold leaves the blanks at a line's end
    first = 1 + text[: text.index(body)].count("\n")
    for number, line in enumerate(body.split("\n"), start=first):
        if line.strip():
            name = fold(line, kind)
            is_name = name and len(line) <= LONGEST and not _CONTROL.search(line.strip())
            names.append(name) if is_name else bad.append((number, line))
    return names, bad
