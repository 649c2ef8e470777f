"""Text ↔ letters: names are folded to the alphabet; a letter is an index below 57, one byte."""

import string
import unicodedata
from functools import cache

import anyascii

_PUNCTUATION = " .,;'"
ALPHABET = string.ascii_lowercase + string.ascii_uppercase + _PUNCTUATION

_TO_INDEX = bytes.maketrans(ALPHABET.encode(), bytes(range(len(ALPHABET))))
_ASCII_OUTSIDE = bytes(set(range(128)) - set(ALPHABET.encode()))
_TO_LETTER = bytes.maketrans(bytes(range(len(ALPHABET))), ALPHABET.encode())


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
