import numpy as np
import pytest
import torch

from src.data.alphabet import ASCII_ALPHABET, UNKNOWN_SYMBOL, Alphabet, name_to_tensor
from src.data.batch import one_hot
from src.data.normalize import ASCII_SYMBOLS, AlphabetKind, name_key, normalize_name


def test_alphabet_is_57_symbols_in_the_tutorials_order() -> None:
    assert len(ASCII_SYMBOLS) == 57
    assert ASCII_SYMBOLS.index("a") == 0
    assert ASCII_SYMBOLS.index("A") == 26
    assert ASCII_SYMBOLS[52:] == " .,;'"


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("Jones", "Jones"),
        ("Ślusàrski", "Slusarski"),
        ("O'Néàl", "O'Neal"),
        ("Weiß", "Weiss"),
        ("WEIß", "WEISS"),
        ("Wałęsa", "Walesa"),
        ("Øster", "Oster"),
        ("Иванов", "Ivanov"),
        ("ЯКОВЛЕВ", "YAKOVLEV"),  # The first letter becomes YA, not Ya.
        ("Яковлев", "Yakovlev"),
        ("Ильин", "Ilin"),  # The soft sign does not become an apostrophe.
        ("Толстой", "Tolstoy"),  # The last letter is not an accented vowel.
        ("王", "wang"),
        ("김철수", "gimcheolsu"),  # Syllables are not decomposed into letters.
        ("S\u0301lusarski", "Slusarski"),  # Files from a Mac have separate accents.
        ("m\u0303a", "ma"),  # There is no composed form of these two.
        ("\uff33mith", "Smith"),  # The first letter has full width.
        ("12-34", ""),
        ("\u0301", ""),
        ("", ""),
    ],
)
def test_ascii_normalization(text: str, normalized: str) -> None:
    assert normalize_name(text) == normalized


@pytest.mark.parametrize(
    ("name", "transliterated"),
    [
        ("कुमार", "kumar"),
        ("শেখ", "sekh"),
        ("முருகன்", "murukn"),
        ("రెడ్డి", "reddi"),
        ("สุริย", "suriy"),
        ("ខ្មែរ", "khmaer"),
        ("မောင်", "mean"),
        ("සිරිසේන", "sirisen"),
        ("ಗೌಡ", "gaud"),
        ("പിള്ള", "pill"),
        ("ગાંધી", "gamdhi"),
        ("ਸਿੰਘ", "simgh"),
        ("ລາວ", "lav"),
        ("བོད", "bod"),
        ("ދިވެހި", "dhivehi"),
        ("ᮞᮥᮔ᮪ᮓ", "sund"),
        # Hebrew and Arabic names are the same with and without vowel points.
        ("שָׁלוֹם", "slvm"),
        ("مُحَمَّد", "mhmd"),
    ],
)
def test_vowel_signs_are_transliterated(name: str, transliterated: str) -> None:
    assert normalize_name(name) == transliterated


@pytest.mark.parametrize("kind", ["ascii", "corpus"])
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Smith,", "Smith"),
        ("Smith.", "Smith"),
        (" Smith\t", "Smith"),
        (";Smith", "Smith"),
        ('"Smith"', "Smith"),
        ("“Smith”", "Smith"),
        ("„Smith“", "Smith"),
        ("«Smith»", "Smith"),
        ("'Smith'", "Smith"),
        ("‘Smith’", "Smith"),
        ("‚Smith‘", "Smith"),
        ("`Smith'", "Smith"),
        ("'t Hooft", "'t Hooft"),
        ("“'t Hooft”,", "'t Hooft"),
        ("Isa'", "Isa'"),
        ("O\u2019Neill", "O'Neill"),
        ("O`Neill", "O'Neill"),
        ("Oʻahu", "O'ahu"),
        ("Ou-Yang", "Ou Yang"),
        ("Ou–Yang", "Ou Yang"),
        ("Ou - Yang", "Ou Yang"),
        ("De\tla\r\nCruz", "De la Cruz"),
        ("De\u00a0la  Cruz", "De la Cruz"),
        ('Jo "Bo" Dow', "Jo Bo Dow"),
        ("St. John", "St. John"),
        ("smith-", "smith"),
        ("Smith 😀", "Smith"),
        ("Gal·la", "Galla"),
        ("№ 5", ""),
        ("123", ""),
        ("-", ""),
        (".;'", ""),
        ("😀", ""),
        ("1a2", "a"),
        ("'", ""),
        ("Smith & Co", "Smith Co"),
    ],
)
def test_punctuation_and_spaces_in_names(kind: AlphabetKind, text: str, name: str) -> None:
    assert normalize_name(text, kind) == name


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("Ślusàrski", "Slusarski"),
        ("Weiß-Wałęsa ", "WeiWaesa "),  # The blank stays, unlike the hyphen, ß and ł.
        ("“Smith”,", "Smith,"),
        ("Иванов", ""),
        (".;'", ""),
    ],
)
def test_tutorial_normalization(text: str, normalized: str) -> None:
    assert normalize_name(text, "tutorial") == normalized


@pytest.mark.parametrize("name", ["Ślusàrski", "Иванов", "王小明", "कुमार", "김철수", "さくら はな"])
def test_corpus_normalization_keeps_letters(name: str) -> None:
    assert normalize_name(name, "corpus") == name
    assert normalize_name(f"“{name}”, ", "corpus") == name


def test_name_key() -> None:
    # These spellings are held out together.
    assert len({name_key(name) for name in ("O'Neill", "ONEILL", "o neill", "Oneill")}) == 1
    assert name_key("Weiß") == name_key("WEISS")
    assert name_key("Müller") != name_key("Muller")
    # Vowel signs are marks, but names differ by them.
    assert name_key("कुमार") != name_key("कमर")


@pytest.mark.parametrize(
    ("names", "style", "force_case"),
    [
        (["Smith", "O'neill", "De la fontaine", "McDonald", "X"], "capitalised", False),
        (["smith", "jones", "Lee"], "lower", False),
        (["SMITH", "JONES", "Lee", "X"], "upper", False),
        ([f"SMITH {c}" for c in "ABCDEFGHIJ" * 10] + ["Lee"], "upper", True),
        (["McDonald", "x"], "", False),
        (["王", "कुमार"], "", False),
        # Georgian has capitals, but names are written without them.
        (["გიორგი"] * 3, "lower", True),
    ],
)
def test_detected_case_style(names: list[str], style: str, force_case: bool) -> None:
    for kind in ("ascii", "corpus"):
        letters = Alphabet.from_names(kind, [normalize_name(name, kind) for name in names])
        if kind == "corpus" or all(map(str.isascii, names)):
            assert (letters.case_style, letters.force_case) == (style, force_case)
    assert Alphabet.from_names("tutorial", names) == Alphabet("tutorial")


def test_names_in_a_single_case_are_converted() -> None:
    capitalised = Alphabet(case_style="capitalised")
    for name in ("SMITH", "smith", "Smith"):
        assert capitalised.normalize(name) == "Smith"
    assert capitalised.normalize("O'NEILL") == "O'neill"
    assert capitalised.normalize("DE LA FONTAINE") == "De la fontaine"
    assert capitalised.normalize("'t hooft") == "'T hooft"
    assert capitalised.normalize("McDonald") == "McDonald"
    # These letters have no case, but their transliteration is converted.
    assert capitalised.normalize("王小明") == "Wangxiaoming"
    assert Alphabet(case_style="lower").normalize("SMITH") == "smith"
    assert Alphabet(case_style="lower").normalize("Smith") == "Smith"
    assert Alphabet(case_style="lower", force_case=True).normalize("Smith") == "smith"
    assert Alphabet(case_style="upper").normalize("ß") == "SS"
    assert Alphabet("tutorial").normalize("SMITH") == "SMITH"


def test_symbols_of_the_corpus() -> None:
    letters = Alphabet.from_names("corpus", ["Ōno", "Ono", "Ān", "Bān", "Kān", "x'y", "Y'z", "xo"])
    # Symbols that occur once are left out. The names x'y and xo are normalized to X'y and Xo.
    assert letters.symbols == "'Xnoā" + UNKNOWN_SYMBOL
    indices, lengths = letters.encode(["Ōno", "王n"])
    assert indices.dtype == torch.uint8
    assert lengths.tolist() == [3, 2]
    assert letters.decode(indices.tolist()) == f"{UNKNOWN_SYMBOL}no{UNKNOWN_SYMBOL}n"


def test_alphabet_of_thousands_of_symbols() -> None:
    names = [chr(0x4E00 + i) * 2 for i in range(8000)]
    letters = Alphabet.from_names("corpus", names)
    assert len(letters.symbols) == 8001
    indices, _ = letters.encode(names)
    # The indices do not fit into one byte.
    assert indices.dtype == torch.int16
    assert letters.decode(indices.tolist()) == "".join(names)


def test_encode_and_decode() -> None:
    letters, lengths = ASCII_ALPHABET.encode(["Jones"])
    assert letters.tolist() == [35, 14, 13, 4, 18]
    assert lengths.tolist() == [5]
    assert ASCII_ALPHABET.decode(np.arange(57)) == ASCII_SYMBOLS
    with pytest.raises(ValueError, match=r"symbols outside the alphabet \(letters=ascii\)"):
        ASCII_ALPHABET.encode(["Müller"])


def test_letter_is_a_one_hot_row() -> None:
    letter = one_hot(torch.tensor([1]))
    assert letter.shape == (1, 57)
    assert letter.dtype == torch.float32
    assert letter[0].tolist() == [float(i == 1) for i in range(57)]


def test_shape_of_a_name_tensor() -> None:
    name = name_to_tensor("Jones")
    assert name.shape == (5, 1, 57)
    assert name.argmax(dim=2).flatten().tolist() == [
        ASCII_SYMBOLS.index(letter) for letter in "Jones"
    ]
    assert name.sum() == 5


def test_encoded_names_are_end_to_end() -> None:
    letters, lengths = ASCII_ALPHABET.encode(["ab", "c"])
    assert letters.tolist() == [0, 1, 2]
    assert letters.dtype == torch.uint8
    assert lengths.tolist() == [2, 1]
