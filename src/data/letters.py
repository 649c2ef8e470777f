"""Text ↔ letters ↔ tensors: names are folded to the alphabet; a letter is an index below 57.

Shapes: L letters of a name, B names of a batch.
"""

import string
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple, TypeVar

import anyascii
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_PUNCTUATION = " .,;'"
ALPHABET = string.ascii_lowercase + string.ascii_uppercase + _PUNCTUATION

LONGEST = 200
"""Letters of the longest name that is read; a longer one is a list without line breaks."""
MOST_CELLS = 2**20
"""Letters × categories that are scored at once: enough for speed, few enough for memory."""

_TO_INDEX = bytes.maketrans(ALPHABET.encode(), bytes(range(len(ALPHABET))))
_ASCII_OUTSIDE = bytes(set(range(128)) - set(ALPHABET.encode()))
_TO_LETTER = bytes.maketrans(bytes(range(len(ALPHABET))), ALPHABET.encode())


T = TypeVar("T")


def fold(text: str) -> str:
    """Return `text` in letters of the alphabet: `Ślusàrski` → `Slusarski`, `Иванов` → `Ivanov`.

    Accents are dropped (NFD, without the combining marks); a letter that is no accented Latin
    letter is spelled with Latin ones; whatever is then outside the alphabet is dropped. The
    result is empty if nothing is left.
    """
    if text.isascii():  # nothing to take apart or to spell: five times faster
        return text.encode().translate(None, _ASCII_OUTSIDE).decode()
    return "".join(map(_fold_letter, unicodedata.normalize("NFC", text)))


def fold_name(text: str) -> str:
    """Return the name in `text`, folded, without blanks around it; empty if it has no letter."""
    folded = fold(text).strip()
    return folded if folded.strip(_PUNCTUATION) else ""


@cache
def _fold_letter(letter: str) -> str:
    base = "".join(
        c for c in unicodedata.normalize("NFD", letter) if unicodedata.category(c) != "Mn"
    )
    if not all(c in ALPHABET for c in base):
        base = anyascii.anyascii(letter)
    return "".join(c for c in base if c in ALPHABET)


def encode(folded: str) -> bytes:
    """Return the letter indices of a folded name, a byte each: `Jones` → `23 0e 0d 04 12`."""
    return folded.encode("ascii").translate(_TO_INDEX)


def decode(letters: bytes) -> str:
    """Return the folded name whose letter indices are `letters`."""
    return letters.translate(_TO_LETTER).decode("ascii")


class Batch(NamedTuple):
    """B names with their categories, compact: letters are bytes and lie end to end."""

    letters: Tensor
    """uint8 [sum of lengths]: letter indices."""
    lengths: Tensor
    """int64 [B]: letters in each name, all at least 1."""
    categories: Tensor
    """int64 [B]: index of each name's category."""

    def examples(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each name as the tutorial has it: one-hot [L, 1, 57], and its category [1]."""
        names = torch.split(one_hot(self.letters).unsqueeze(1), self.lengths.tolist())
        return zip(names, torch.split(self.categories, 1), strict=True)


def pack(names: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    """Lay encoded names end to end: → letters uint8 [sum of lengths], lengths int64 [B]."""
    letters = np.frombuffer(b"".join(names), dtype=np.uint8).copy()
    return torch.from_numpy(letters), torch.tensor([len(name) for name in names], dtype=torch.int64)


def one_hot(letters: Tensor) -> Tensor:
    """Letter indices, any shape [...] → float32 one-hot rows [..., 57]."""
    return F.one_hot(letters.long(), len(ALPHABET)).float()


def name_to_tensor(folded: str) -> Tensor:
    """A folded name → its one-hot tensor [L, 1, 57]; the 1 is the batch."""
    return one_hot(torch.frombuffer(bytearray(encode(folded)), dtype=torch.uint8)).unsqueeze(1)


def blocks(
    items: Iterable[T], length: Callable[[T], int], most: int, letters: int
) -> Iterator[list[T]]:
    """Yield the items in lists of at most `most`, and of at most `letters` letters or one item."""
    block: list[T] = []
    total = 0
    for item in items:
        if block and (len(block) == most or total + length(item) > letters):
            yield block
            block, total = [], 0
        block.append(item)
        total += length(item)
    if block:
        yield block
