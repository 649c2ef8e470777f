"""The alphabet of a network: which symbols it reads, and how names are encoded in them.

Shapes: B names in a batch, L letters in a name, S symbols in the alphabet.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.data.batch import one_hot
from src.data.normalize import ASCII_SYMBOLS, AlphabetKind, normalize_name

UNKNOWN_SYMBOL = "\N{REPLACEMENT CHARACTER}"
"""Last symbol of an alphabet with `letters=corpus`. It stands for every symbol that is not in the
alphabet."""
MAX_SYMBOLS = 32_000
"""Maximum number of known symbols with `letters=corpus`. Indices are int16, so up to 32,767."""
MAX_UINT8_SYMBOLS = 255
"""Maximum number of symbols whose indices are stored as uint8."""
MIN_FORCED_SHARE = 0.99
"""If at least this share of the training names is in lower case, or in upper case, all names are
converted to that case."""

CaseStyle = Literal["", "lower", "upper", "capitalised"]
"""The case of the training names; empty if they have none. Checkpoints contain these words, so the
spelling `capitalised` is kept, although the rest of the code uses American spelling."""


def capitalize(name: str) -> str:
    """Return a name with its first cased letter as a capital and all others in lower case."""
    if name[:1].isalpha() and name.isascii():
        return name.capitalize()  # five times as fast as the general way
    lower = name.lower()
    for index, letter in enumerate(lower):
        # Unlike `upper`, `title` only changes the first part of letters such as `ǆ`.
        if letter != letter.upper():
            return lower[:index] + letter.title() + lower[index + 1 :]
    return lower  # no letter has an upper case


CASE_STYLES = {"lower": str.lower, "upper": str.upper, "capitalised": capitalize}
"""Functions that convert a name to a case, by the name of the case in checkpoints."""


class EncodedNames(NamedTuple):
    """Names as tensors: a `Batch` without its targets."""

    letters: Tensor
    """Letter indices of all names, end to end [sum of lengths]."""
    lengths: Tensor
    """Number of letters in each name [B], int64."""


class Alphabet(NamedTuple):
    """The symbols that a network reads, and the case in which it expects names."""

    kind: AlphabetKind = "ascii"
    """How names are normalized; see `normalize_name`."""
    symbols: str = ASCII_SYMBOLS
    """All symbols, in index order."""
    case_style: CaseStyle = ""
    """The most frequent case of the training names; empty if there is none."""
    force_case: bool = False
    """Whether to convert all names to that case, or only those entirely in lower or upper case."""

    @classmethod
    def from_names(cls, kind: AlphabetKind, names: Collection[str]) -> "Alphabet":
        """Build the alphabet for some training names.

        Args:
            kind: the kind of alphabet. With `ascii`, the symbols are fixed and only the case of the
                names is learned. With `corpus`, the symbols are those that occur at least twice in
                the names.
            names: the distinct training names, normalized.
        """
        if kind == "tutorial":
            return cls(kind)
        case = detect_case(names)
        # These are the symbols of `ascii`. With `corpus`, they are replaced below; until then, only
        # the case is used.
        alphabet = cls(kind, ASCII_SYMBOLS, case.style, case.is_forced)
        if kind == "ascii":
            return alphabet
        # A symbol that occurs once would be learned from a single name, so it counts as unknown.
        symbol_counts = Counter("".join(alphabet.apply_training_case(name) for name in names))
        most_common = symbol_counts.most_common(MAX_SYMBOLS)
        symbols = sorted(symbol for symbol, count in most_common if count > 1)
        return alphabet._replace(symbols="".join(symbols) + UNKNOWN_SYMBOL)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Alphabet":
        """Build an alphabet from the dictionary that `to_dict` returns.

        Raises:
            ValueError: if its keys are not those of `to_dict`.
        """
        # Fields of another version of the program could change how names are read.
        if fields.keys() != cls().to_dict().keys():
            raise ValueError(f"not the fields of an alphabet: {', '.join(map(str, fields))}")
        return cls(
            kind=fields["kind"],
            symbols=fields["symbols"],
            case_style=fields["style"],
            force_case=fields["always"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the alphabet as plain values. The keys are part of the checkpoint format."""
        return {
            "kind": self.kind,
            "symbols": self.symbols,
            "style": self.case_style,
            "always": self.force_case,
        }

    def apply_training_case(self, name: str) -> str:
        """Return a normalized name in the case of the training names.

        A name in mixed case is returned unchanged, unless `force_case` is set.
        """
        if not self.case_style:
            return name
        is_in_single_case = name == name.lower() or name == name.upper()
        # Many people write names in capitals: `SMITH` should be read like `Smith`.
        if self.force_case or is_in_single_case:
            return CASE_STYLES[self.case_style](name)
        return name

    def normalize(self, text: str) -> str:
        """Normalize a name as the network reads it; the result is empty if it has no letter."""
        return self.apply_training_case(normalize_name(text, self.kind))

    def encode(self, names: Sequence[str]) -> EncodedNames:
        """Return normalized names as tensors.

        The letter indices are uint8, or int16 if the alphabet has more than 255 symbols.

        Raises:
            ValueError: if a name contains a symbol that is not in the alphabet.
        """
        # UTF-32 has one number per symbol, so that one table lookup encodes all names together.
        text = "".join(names)
        code_points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        letters = torch.from_numpy(_index_table(self.symbols)[code_points])
        if (letters < 0).any():  # -1 stands for symbols that are not in the alphabet
            raise ValueError(f"a name contains symbols outside the alphabet (letters={self.kind})")
        lengths = torch.tensor([len(name) for name in names], dtype=torch.int64)
        return EncodedNames(letters.to(letter_dtype(len(self.symbols))), lengths)

    def decode(self, letters: Iterable[int]) -> str:
        """Return the name with these letter indices."""
        return "".join(self.symbols[letter] for letter in letters)


ASCII_ALPHABET = Alphabet()
"""The 57 symbols of the tutorial; the case of names is kept."""


class DetectedCase(NamedTuple):
    """The case of some names."""

    style: CaseStyle
    """The most frequent case."""
    is_forced: bool
    """Whether nearly all names have it, so that all others should be converted to it."""


def detect_case(names: Collection[str]) -> DetectedCase:
    """Return the most frequent case of some names, and whether to convert all names to it.

    Names with fewer than two cased letters are ignored: `A`, for example, is in upper case and
    capitalized at once.
    """
    cased_names = []
    for name in names:
        # Letters of scripts without case, such as Arabic, are neither upper nor lower.
        n_cased = sum(letter.isupper() or letter.islower() for letter in name)
        if n_cased > 1:
            cased_names.append(name)
    counts: dict[CaseStyle, int] = {
        "lower": sum(name == name.lower() for name in cased_names),
        "upper": sum(name == name.upper() for name in cased_names),
        "capitalised": sum(name == capitalize(name) for name in cased_names),
    }
    if not any(counts.values()):
        return DetectedCase(style="", is_forced=False)
    style = max(counts, key=lambda case: counts[case])
    # Capitalized names may have further capitals, as in `McDonald`, which are worth keeping.
    is_frequent = counts[style] >= MIN_FORCED_SHARE * len(cased_names)
    return DetectedCase(style, is_forced=is_frequent and style != "capitalised")


def letter_dtype(n_symbols: int) -> torch.dtype:
    """Return the dtype of letter indices in an alphabet of this size."""
    return torch.uint8 if n_symbols <= MAX_UINT8_SYMBOLS else torch.int16


@cache
def _index_table(symbols: str) -> NDArray[np.int16]:
    """Return the letter index of every Unicode code point.

    A code point outside of the alphabet has the index of `UNKNOWN_SYMBOL`, or -1 if the alphabet
    does not contain that.
    """
    # Unicode has 0x110000 code points, so a table takes 2 MB. It is cached for each alphabet.
    # `find` returns -1 if there is no such symbol.
    table = np.full(0x110000, symbols.find(UNKNOWN_SYMBOL), np.int16)
    table[[ord(symbol) for symbol in symbols]] = range(len(symbols))
    return table


def name_to_tensor(name: str, alphabet: Alphabet = ASCII_ALPHABET) -> Tensor:
    """Return the tutorial's tensor of a normalized name: one-hot [L, 1, S], with a batch of 1."""
    letters = alphabet.encode([name]).letters
    return one_hot(letters, len(alphabet.symbols)).unsqueeze(1)
