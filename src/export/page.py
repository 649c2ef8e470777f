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
        UserError: if the model has n-gram models, or another cell than the hand-written one.
    """
    network = model.network
    if not isinstance(network.recurrent, TutorialNetwork) or network.ngrams:
        raise UserError(f"{model.path}: --html shows cell=tutorial without n-grams, and no other")
    weights = {}
    for name, weight in network.recurrent.rnn.named_parameters():
        weights[name] = encode_weight_as_base64(weight)
    # The script of the page reads all values by these keys.
    values = model.metadata()
    values["spelled"] = find_characters_by_replacement(model.alphabet.kind)
    values["weights"] = weights
    values["sharpness"] = model.score_scale
    # Without `<`, the values cannot end the script element that contains them.
    embedded = json.dumps(values, ensure_ascii=False).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace("{model}", embedded)


def encode_weight_as_base64(weight: Tensor) -> str:
    """Return a weight, row by row, as little-endian float32 numbers in base64."""
    # JavaScript reads numbers in the byte order of the reader's machine, which is little-endian on
    # nearly all machines.
    numbers = weight.detach().numpy().astype("<f4")
    return b64encode(numbers.tobytes()).decode()


def find_characters_by_replacement(kind: AlphabetKind) -> dict[str, str]:
    """Map each replacement to the characters that normalization replaces with it.

    With letters=ascii, for example, `Ya` is mapped to `Я` and others. Characters that are kept or
    removed are left out, and so are those outside `CONVERTIBLE_CHARACTERS`.
    """
    characters_by_replacement: dict[str, str] = {}
    for code_point in CONVERTIBLE_CHARACTERS:
        character = chr(code_point)
        # Between two letters, a character is not removed as the first or last one of a name. They
        # are `q`s, because no accent composes with a `q`.
        normalized = normalize_name(f"q{character}q", kind)
        replacement = normalized[1:-1]
        if replacement not in ("", character):
            previous = characters_by_replacement.get(replacement, "")
            characters_by_replacement[replacement] = previous + character
    return characters_by_replacement
