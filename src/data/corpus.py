"""The names on disk: read and check them, hold some out.

A corpus is a folder of `<Category>.txt` files, UTF-8, one name a line. In memory it is a
dictionary from category, in sorted order, to the folded names of its lines, in file order.
"""

import unicodedata
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from src.data.alphabet import fold_name
from src.errors import UserError

Corpus = dict[str, list[str]]

LONGEST = 200
"""Letters of the longest name; a longer line is a list without line breaks."""


def read_corpus(folder: Path) -> Corpus:
    """Read every `<Category>.txt` of `folder`.

    Blank lines, blanks around a name and carriage returns are ignored.

    Raises:
        UserError: if the folder is missing or holds fewer than two categories, or a file is
            unreadable, elsewhere, not UTF-8, empty, or has a line without any letter.
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
        if folder.resolve() not in path.resolve().parents or not path.is_file():
            raise UserError(f"{path}: is no file of this folder")
    return {path.stem: _read_names(path) for path in sorted(files, key=lambda path: path.stem)}


def _read_names(path: Path) -> list[str]:
    try:
        status = path.stat()
        return list(_names_in(path, status.st_size, status.st_mtime_ns))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


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
            raise UserError(
                f"{path}:{number}: {line[:40]!r} is no name; at most {LONGEST} letters a line, "
                "no tabs or other control characters"
            )
        names.append(name)
    if not names:
        raise UserError(f"{path}: holds no names; delete the file or add one name a line")
    return names


def fingerprint(corpus: Corpus) -> str:
    """Return the SHA-256 of all categories and lines: equal only for the same corpus."""
    lines = (line for category, names in corpus.items() for line in (f"# {category}", *names))
    return sha256("\n".join(lines).encode()).hexdigest()


def split_corpus(
    corpus: Corpus, val_fraction: float, test_fraction: float, seed: int
) -> tuple[Corpus, Corpus, Corpus]:
    """Hold out distinct names: → the training lines, the validation names, the test names.

    A held-out name takes every line that has it along, whatever the category, so no name is on
    two sides. The held-out sides hold each (name, category) pair once.

    Stratified: the fractions are of each category's distinct names; a name of several categories
    counts in the rarest of them. A category keeps at least one name of its own for training, and
    gives at least one to each held-out side if it has three. Which names: those whose SHA-256
    together with the seed sorts first, so the choice depends on nothing but seed and names.

    Raises:
        UserError: if the corpus is too small for these fractions.
    """
    distinct = {category: set(names) for category, names in corpus.items()}
    val: set[str] = set()
    test: set[str] = set()
    seen: set[str] = set()
    for category in sorted(corpus, key=lambda category: (len(distinct[category]), category)):
        names = sorted(distinct[category] - seen, key=lambda name: _rank(name, seed))
        seen.update(names)
        n_test = _share(test_fraction, len(names), at_most=len(names) - 1)
        n_val = _share(val_fraction, len(names), at_most=len(names) - 1 - n_test)
        test.update(names[:n_test])
        val.update(names[n_test : n_test + n_val])

    for key, fraction, side in (
        ("val_fraction", val_fraction, val),
        ("test_fraction", test_fraction, test),
    ):
        if fraction and not side:
            raise UserError(f"{key}={fraction}: too few names to hold any out; use {key}=0")
    train = {
        category: [name for name in names if name not in val and name not in test]
        for category, names in corpus.items()
    }
    for category, names in train.items():
        if not names:
            raise UserError(
                f"{category}: every name is held out, as a name of other categories too; "
                "lower val_fraction and test_fraction"
            )
    return (
        train,
        {category: sorted(names & val) for category, names in distinct.items()},
        {category: sorted(names & test) for category, names in distinct.items()},
    )


def _rank(name: str, seed: int) -> bytes:
    return sha256(f"{seed} {name}".encode()).digest()


def _share(fraction: float, count: int, at_most: int) -> int:
    share = round(fraction * count)
    if fraction and count >= 3:
        share = max(share, 1)
    return max(0, min(share, at_most))
