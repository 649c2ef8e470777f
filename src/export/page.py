"""Renders the web page that shows how a trained model reads a name."""

import json
from base64 import b64encode
from pathlib import Path

from torch import Tensor

from src.data.normalize import AlphabetKind, normalize_name
from src.errors import UserError
from src.inference.trained_model import TrainedModel
from src.models.recurrent import TutorialNetwork

TEMPLATE = Path(__file__).with_name("page.html")
CONVERTIBLE_CHARACTERS = range(0x3100)
"""Code points that the page can transliterate: all up to Japanese kana. Thousands of Han characters
follow, which would make the page much larger."""


def render_page_of_tutorial_cell(model: TrainedModel) -> str:
    """Return a web page that contains a model and runs it in the browser.

    Raises:
        UserError: if the model is not a hand-written cell without n-gram models.
    """
    network = model.network
    if not isinstance(network.recurrent, TutorialNetwork) or network.ngrams:
        raise UserError(f"{model.path}: --html shows cell=tutorial without n-grams, and no other")
    weights = {}
    for name, weight in network.recurrent.rnn.named_parameters():
        weights[name] = encode_weight(weight)
    # The script of the page reads all values by these keys.
    values = model.metadata()
    values["spelled"] = find_conversions(model.alphabet.kind)
    values["weights"] = weights
    values["sharpness"] = model.score_scale
    # Without `<`, the values cannot end the script element that contains them.
    embedded = json.dumps(values, ensure_ascii=False).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace("{model}", embedded)


def encode_weight(weight: Tensor) -> str:
    """Return a weight, row by row, as little-endian float32 numbers in base64."""
    # JavaScript reads numbers in the byte order of the machine, nearly always little-endian.
    numbers = weight.detach().numpy().astype("<f4")
    return b64encode(numbers.tobytes()).decode()


def find_conversions(kind: AlphabetKind) -> dict[str, str]:
    """Return the characters that normalization replaces, by what replaces them.

    The result contains `CONVERTIBLE_CHARACTERS` only, and no characters that are kept or removed.
    With letters=ascii, the characters of the key `Ya` are `Я` and others.
    """
    characters: dict[str, str] = {}
    for code_point in CONVERTIBLE_CHARACTERS:
        character = chr(code_point)
        # Between two letters, a character is neither trimmed nor the only one of a name. No accent
        # composes with a `q`.
        normalized = normalize_name(f"q{character}q", kind)
        replacement = normalized[1:-1]
        if replacement not in ("", character):
            characters[replacement] = characters.get(replacement, "") + character
    return characters
