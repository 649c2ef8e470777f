"""Text ↔ letters ↔ tensors: names as people write them, in the symbols that a network reads.

Shapes: L letters of a name, B names of a batch, S symbols that there are.
"""

import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple, TypeVar

import anyascii
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_PUNCTUATION = " .,;'"
ALPHABET = string.ascii_letters + _PUNCTUATION
OTHER = "\N{REPLACEMENT CHARACTER}"
"""Stands for every symbol that `letters=corpus` does not know; never part of a name."""
MOST_SYMBOLS = 32_000

LONGEST = 200
"""Letters of the longest name that is read; a longer one is a list without line breaks."""
MOST_CELLS = 2**21
"""Letters × (symbols + categories) scored at once: enough for speed, few enough for memory."""

T = TypeVar("T")


def fold(text: str, kind: str = "ascii") -> str:
    """Return the name in `text`, in the symbols of `kind`; empty if no letter is left.

    tutorial: accents are dropped, and whatever is then outside the alphabet.

    ascii: likewise, but letters that are no accented Latin ones are spelled with such (`Weiß` →
    `Weiss`, `कुमार` → `kumar`); hyphens, tabs and line breaks are blanks; every sign like an
    apostrophe is one. Quotes and punctuation around the name go.

    corpus: as ascii, but letters and their marks stay, of any script, in NFC.
    """
    if kind == "tutorial":
        name = "".join(c for c in unicodedata.normalize("NFD", text) if c in ALPHABET)
        return name if name.strip(_PUNCTUATION) else ""
    if text.isascii():  # five times faster
        name = text.translate(_ASCII)
    else:
        text = unicodedata.normalize("NFC", text)
        name = unicodedata.normalize("NFC", "".join([_symbols(c, kind) for c in text]))
        # Я is spelled Ya: capitals are to stay capitals. ß is none, and stands among them.
        capitals = text.replace("ß", "ẞ").isupper() and sum(map(str.isupper, text)) > 1
        name = name.upper() if kind == "ascii" and capitals else name
    name = " ".join(name.split())
    bare = name.strip(_PUNCTUATION)
    if not any(map(str.isalpha, bare)):
        return ""
    before, _, after = name.partition(bare)
    n_before, n_after = before.count("'"), after.count("'")
    return "'" * (n_before > n_after) + bare + "'" * (n_after > n_before)  # `'t Hooft`


@cache
def _symbols(letter: str, kind: str) -> str:
    """Return what stands for a letter or sign of a text in NFC; nothing if it is dropped."""
    category, spelled = unicodedata.category(letter), anyascii.anyascii(letter)
    if category[0] in "LM" and not (category == "Lm" and spelled in ("'", "`")):
        if kind == "corpus":
            return letter
        parts = unicodedata.normalize("NFD", letter)
        base = "".join(c for c in parts if unicodedata.category(c)[0] != "M")
        if base and {*base} <= {*ALPHABET}:
            return base
        # By its combining class a mark is a vowel sign, which is spelled; an accent or a point
        # of Hebrew or Arabic, which may be there or not, is dropped.
        if category[0] == "M" and unicodedata.combining(letter) not in (0, *range(84, 200)):
            return ""
        spelled = "".join(filter(str.isalpha, spelled))  # ь is no apostrophe
        return spelled if letter.lower() != letter.upper() else spelled.lower()
    if letter.isspace() or (spelled == "-" and letter != "·"):
        return " "
    if spelled in ("'", "`"):
        return "'"
    return "".join(c for c in spelled if c in ".,;") if category[0] == "P" else ""


_ASCII = {code: _symbols(chr(code), "ascii") for code in range(128)}


def same_name(name: str) -> str:
    """Return the key of a folded name, equal for `O'Neill`, `ONEILL` and `o neill`."""
    return name.casefold().translate(_NO_PUNCTUATION)


_NO_PUNCTUATION = dict.fromkeys(map(ord, _PUNCTUATION))


def _capitalised(name: str) -> str:
    if name[:1].isalpha() and name.isascii():  # five times faster
        return name.capitalize()
    lower = name.lower()
    first = next((i for i, c in enumerate(lower) if c != c.upper()), 0)
    return lower[:first] + lower[first : first + 1].title() + lower[first + 1 :]


STYLES = {"lower": str.lower, "upper": str.upper, "capitalised": _capitalised}


def printable(text: str) -> str:
    """Return a text without what would steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class Letters(NamedTuple):
    """The symbols that a network reads, and how names become such: plain values."""

    kind: str = "ascii"
    """`ascii`, `tutorial` or `corpus`; see `fold`."""
    symbols: str = ALPHABET
    """The symbols, in index order."""
    style: str = ""
    """One of STYLES: how a name in one case only is written; empty: as it is."""
    always: bool = False
    """Whether names in both cases are written so, too."""

    @classmethod
    def learned(cls, kind: str, names: Iterable[str]) -> "Letters":
        """Return the letters of a kind, with the case and the symbols of distinct folded names."""
        if kind == "tutorial":
            return cls(kind)
        names = list(names)
        cased = [n for n in names if sum(map(str.isupper, n)) + sum(map(str.islower, n)) > 1]
        counts = {style: sum(n == write(n) for n in cased) for style, write in STYLES.items()}
        style = max(counts, key=counts.__getitem__) if any(counts.values()) else ""
        always = style in ("lower", "upper") and counts[style] >= 0.99 * len(cased)
        letters = cls(kind, ALPHABET, style, always)
        if kind == "ascii":
            return letters
        seen = Counter("".join(map(letters.write, names))).most_common(MOST_SYMBOLS)
        return letters._replace(symbols="".join(sorted(c for c, n in seen if n > 1)) + OTHER)

    def write(self, name: str) -> str:
        """Return a folded name in the case of the training names."""
        if self.style and (self.always or name in (name.lower(), name.upper())):
            return STYLES[self.style](name)
        return name

    def read(self, text: str) -> str:
        """Return the name in `text` as the network reads it; empty if it has no letter."""
        return self.write(fold(text, self.kind))

    def pack(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Lay names that were read end to end.

        Returns:
            Letter indices [sum of lengths], uint8, or int16 where there are more than 255 symbols;
            and int64 lengths [B].

        Raises:
            ValueError: if a letter is none of the symbols.
        """
        codes = np.frombuffer("".join(names).encode("utf-32-le"), np.uint32)
        letters = torch.from_numpy(_indices(self.symbols)[codes])
        if (letters < 0).any():
            raise ValueError(f"not a name in {self.kind} letters")
        lengths = torch.tensor([*map(len, names)], dtype=torch.int64)
        return letters.to(letter_dtype(len(self.symbols))), lengths

    def unpack(self, letters: Iterable[int]) -> str:
        """Return the name whose letter indices are `letters`."""
        return "".join(self.symbols[letter] for letter in letters)


ASCII = Letters()
"""The 57 symbols, names in whatever case they are."""


def letter_dtype(n_symbols: int) -> torch.dtype:
    """Return the type of letter indices."""
    return torch.uint8 if n_symbols <= 255 else torch.int16


@cache
def _indices(symbols: str) -> NDArray[np.int16]:
    """Return the index of each code point; OTHER's of what is unknown, -1 without it."""
    table = np.full(0x110000, symbols.find(OTHER), np.int16)
    table[[*map(ord, symbols)]] = range(len(symbols))
    return table


class Batch(NamedTuple):
    """B names with their categories, compact: letters are bytes and lie end to end."""

    letters: Tensor
    """uint8, or int16 [sum of lengths]: letter indices; see `Letters.pack`."""
    lengths: Tensor
    """int64 [B]: letters in each name, all at least 1."""
    categories: Tensor
    """int64 [B]: index of each name's category."""

    def examples(self, n_symbols: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each name as the tutorial has it: one-hot [L, 1, S], and its category [1]."""
        names = torch.split(one_hot(self.letters, n_symbols).unsqueeze(1), self.lengths.tolist())
        return zip(names, torch.split(self.categories, 1), strict=True)


def one_hot(letters: Tensor, n_symbols: int = len(ALPHABET)) -> Tensor:
    """Letter indices, any shape [...] → float32 one-hot rows [..., S]."""
    return F.one_hot(letters.long(), n_symbols).float()


def name_to_tensor(name: str, letters: Letters = ASCII) -> Tensor:
    """A name that was read → its one-hot tensor [L, 1, S]; the 1 is the batch."""
    return one_hot(letters.pack([name])[0], len(letters.symbols)).unsqueeze(1)


def places(begins: Tensor, sizes: Tensor) -> Tensor:
    """Return where all of some runs is, end to end: of B runs, begins and sizes [B]."""
    shift = begins - (sizes.cumsum(0) - sizes)
    return torch.arange(int(sizes.sum()), device=sizes.device) + shift.repeat_interleave(sizes)


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
