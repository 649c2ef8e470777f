import pytest
import torch

from src.data.letters import (
    ALPHABET,
    decode,
    encode,
    fold,
    fold_name,
    name_to_tensor,
    one_hot,
    pack,
)


def test_alphabet_is_57_symbols_in_the_tutorials_order() -> None:
    assert len(ALPHABET) == 57
    assert ALPHABET.index("a") == 0
    assert ALPHABET.index("A") == 26
    assert ALPHABET[52:] == " .,;'"


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Jones", "Jones"),
        ("Ślusàrski", "Slusarski"),
        ("O'Néàl", "O'Neal"),
        ("O\u2019Neill", "O'Neill"),  # a typographic apostrophe
        ("Weiß", "Weiss"),
        ("Wałęsa", "Walesa"),
        ("Øster", "Oster"),
        ("Иванов", "Ivanov"),
        ("Толстой", "Tolstoy"),  # й is a letter, no i with an accent
        ("王", "Wang"),
        ("김", "Gim"),  # not its parts ᄀ ᅵ ᆷ
        ("S\u0301lusarski", "Slusarski"),  # an accent of its own, as files from a Mac have
        ("Ou-Yang", "OuYang"),  # no hyphen in the alphabet
        ("12-34", ""),
        ("\u0301", ""),
        ("", ""),
    ],
)
def test_fold(text: str, folded: str) -> None:
    assert fold(text) == folded


@pytest.mark.parametrize(
    ("text", "name"),
    [(" Ślusàrski\t", "Slusarski"), ("  ", ""), (".;'", ""), ("-", ""), ("a.", "a.")],
)
def test_fold_name(text: str, name: str) -> None:
    assert fold_name(text) == name


def test_ascii_is_folded_like_any_other_text() -> None:
    text = "".join(map(chr, range(128)))
    assert fold(text) == "".join(sorted(ALPHABET))
    assert fold(text) + "e" == fold(f"{text}é")


def test_encode_and_decode() -> None:
    assert list(encode("Jones")) == [35, 14, 13, 4, 18]
    assert decode(encode(ALPHABET)) == ALPHABET
    assert list(encode(ALPHABET)) == list(range(57))


def test_a_letter_is_a_one_hot_row() -> None:
    letter = one_hot(torch.tensor([1]))
    assert letter.shape == (1, 57)
    assert letter.dtype == torch.float32
    assert letter[0].tolist() == [float(i == 1) for i in range(57)]


def test_a_name_is_letters_by_batch_by_alphabet() -> None:
    name = name_to_tensor("Jones")
    assert name.shape == (5, 1, 57)
    assert name.argmax(dim=2).flatten().tolist() == [ALPHABET.index(letter) for letter in "Jones"]
    assert name.sum() == 5


def test_pack_lays_names_end_to_end() -> None:
    letters, lengths = pack([encode("ab"), encode("c")])
    assert letters.tolist() == [0, 1, 2]
    assert letters.dtype == torch.uint8
    assert lengths.tolist() == [2, 1]
