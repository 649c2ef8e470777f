"""Normalization of names: from text as people write it to the symbols that a network reads."""

import string
import unicodedata
from functools import cache
from typing import Literal

import anyascii

AlphabetKind = Literal["ascii", "tutorial", "corpus"]
"""The choices of `letters=`; `normalize_name` explains them."""

PUNCTUATION = " .,;'"
ASCII_SYMBOLS = string.ascii_letters + PUNCTUATION
"""The tutorial's 57 symbols, in its order."""

MAX_NAME_LENGTH = 200
"""Maximum length of a name in characters. A file with longer lines is not a list of names."""

CAPITAL_SHARP_S = "\N{LATIN CAPITAL LETTER SHARP S}"

VOWEL_SIGN_CLASSES = {0, *range(84, 200)}
"""Canonical combining classes of the marks that are vowel signs and not accents: 0 for most scripts
of India and South-East Asia, 84 to 199 for Telugu, Thai, Lao and Tibetan. Unicode explains these
classes at https://www.unicode.org/reports/tr44/#Canonical_Combining_Class_Values."""

WITHOUT_PUNCTUATION = str.maketrans("", "", PUNCTUATION)
"""Table with which `str.translate` removes punctuation."""


def normalize_name(text: str, kind: AlphabetKind = "ascii") -> str:
    """Normalize a name: write it in the symbols of an alphabet.

    Args:
        text: the name as the user typed it, possibly with quotation marks and spaces around it.
        kind: the kind of alphabet.

            - `tutorial` removes accents and then every symbol outside of `ASCII_SYMBOLS`.
            - `ascii` transliterates all scripts to Latin letters (`Weiß` → `Weiss`, `कुमार` →
              `kumar`), replaces hyphens, tabs and line breaks by spaces, uses `'` for all kinds of
              apostrophes, and removes quotation marks and punctuation around the name.
            - `corpus` does the same, but keeps the letters and marks of all scripts, in Unicode
              form NFC.

    Returns:
        The normalized name, or an empty string if it contains no letter.
    """
    if kind == "tutorial":
        decomposed = unicodedata.normalize("NFD", text)
        name = "".join(symbol for symbol in decomposed if symbol in ASCII_SYMBOLS)
        return name if name.strip(PUNCTUATION) else ""
    # Repeated spaces, and those at both ends, are removed.
    words = _convert_symbols(text, kind).split()
    return _trim_punctuation_and_quotes(" ".join(words))


def _convert_symbols(text: str, kind: AlphabetKind) -> str:
    """Return a text with each of its characters replaced by symbols of the alphabet."""
    # For ASCII text, `ascii` and `corpus` give the same result, and a table is five times as fast.
    if text.isascii():
        return text.translate(_ascii_conversions())
    # Composing the text first lets a letter and its accent be looked up as one character.
    text = unicodedata.normalize("NFC", text)
    converted = "".join([_convert_symbol(symbol, kind) for symbol in text])
    name = unicodedata.normalize("NFC", converted)
    # `Я` becomes `Ya`, so a name in capitals is converted to upper case again.
    if kind == "ascii" and _is_in_capitals(text):
        return name.upper()
    return name


def _is_in_capitals(text: str) -> bool:
    """Return whether a text has at least two capitals and no small letter but `ß`."""
    # Many people write a small `ß` among capitals, because its capital is rarely used.
    n_capitals = sum(letter.isupper() for letter in text)
    return n_capitals > 1 and text.replace("ß", CAPITAL_SHARP_S).isupper()


@cache
def _convert_symbol(symbol: str, kind: AlphabetKind) -> str:
    """Return what replaces one character of a text in NFC; empty if the character is removed."""
    general_category = unicodedata.category(symbol)  # such as Lu, an upper-case letter
    transliteration = anyascii.anyascii(symbol)
    is_apostrophe = transliteration in ("'", "`")
    # The main categories are L for letters and M for marks such as accents.
    is_letter_or_mark = general_category[0] in ("L", "M")
    # Unicode counts some apostrophes as modifier letters (Lm), such as that in Hawaiian names.
    is_letter_like_apostrophe = is_apostrophe and general_category == "Lm"
    if is_letter_or_mark and not is_letter_like_apostrophe:
        return symbol if kind == "corpus" else _transliterate(symbol)
    # anyascii turns all dashes into hyphens, but also the dot in Catalan names such as `Gal·la`.
    is_hyphen = transliteration == "-" and symbol != "·"
    if symbol.isspace() or is_hyphen:
        return " "
    if is_apostrophe:
        return "'"
    # Punctuation of any script is kept if it resembles one of `.,;`.
    if general_category[0] == "P":
        return "".join(sign for sign in transliteration if sign in ".,;")
    return ""


def _transliterate(letter: str) -> str:
    """Return the Latin letters for a letter or mark of any script; empty for accents."""
    decomposed = unicodedata.normalize("NFD", letter)
    base = "".join(part for part in decomposed if unicodedata.category(part)[0] != "M")
    # A Latin letter with accents is spelled without them. If the base is empty, `letter` is a mark.
    if base and all(part in ASCII_SYMBOLS for part in base):
        return base
    # Vowel signs are transliterated. Accents are removed, and so are the points of Hebrew and
    # Arabic, because most texts leave them out.
    is_mark = unicodedata.category(letter)[0] == "M"
    if is_mark and unicodedata.combining(letter) not in VOWEL_SIGN_CLASSES:
        return ""
    # The transliteration of `ь` is an apostrophe, which would look like that of `O'Neill`.
    latin = "".join(filter(str.isalpha, anyascii.anyascii(letter)))
    # anyascii capitalizes each syllable in scripts without case, such as Korean.
    has_case = letter.lower() != letter.upper()
    return latin if has_case else latin.lower()


@cache
def _ascii_conversions() -> dict[int, str]:
    """Return what replaces each ASCII character, as a table for `str.translate`."""
    return {code: _convert_symbol(chr(code), "ascii") for code in range(128)}


def _trim_punctuation_and_quotes(name: str) -> str:
    """Return a name without the punctuation around it, except an unpaired apostrophe.

    The result is empty if the name contains no letter.
    """
    trimmed = name.strip(PUNCTUATION)
    if not any(letter.isalpha() for letter in trimmed):
        return ""
    # Apostrophes on both sides are quotation marks. One that has no counterpart belongs to the
    # name, as in `'t Hooft`.
    start = len(name) - len(name.lstrip(PUNCTUATION))
    end = len(name.rstrip(PUNCTUATION))
    n_before = name[:start].count("'")
    n_after = name[end:].count("'")
    if n_before > n_after:
        return "'" + trimmed
    if n_after > n_before:
        return trimmed + "'"
    return trimmed


def name_key(name: str) -> str:
    """Return a key that is equal for all spellings of a normalized name.

    Spellings may differ in case, spaces and punctuation: `O'Neill`, `ONEILL` and `o neill` have the
    same key.
    """
    return name.casefold().translate(WITHOUT_PUNCTUATION)


def replace_unprintable(text: str) -> str:
    """Return a text that is safe to print: control characters become replacement characters."""
    safe = ""
    for character in text:
        safe += character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
    return safe
