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
INCLUDED_NAMES_FOLDER = Path(__file__).parents[2] / "data" / "names"
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
        raise UserError(f"{model.path}: --html supports only cell=tutorial with ngrams=0")
    weights = {}
    for name, weight in network.recurrent.rnn.named_parameters():
        weights[name] = encode_weight_as_base64(weight)
    # The script of the page reads all values by these keys.
    values = model.metadata()
    values["conversions"] = find_characters_by_replacement(model.alphabet.kind)
    values["weights"] = weights
    values["score_scale"] = model.score_scale
    # Without `<`, the values cannot end the script element that contains them.
    embedded = json.dumps(values, ensure_ascii=False).replace("<", "\\u003c")
    page = TEMPLATE.read_text(encoding="utf-8")
    for placeholder, text in list_page_texts(model).items():
        page = page.replace(placeholder, text)
    # This comes last, because categories could contain the other placeholders.
    return page.replace("{model}", embedded)


def list_page_texts(model: TrainedModel) -> dict[str, str]:
    """Return the texts of a page that depend on its categories, by their placeholders."""
    included_languages = {path.stem for path in INCLUDED_NAMES_FOLDER.glob("*.txt")}
    count = str(len(model.categories))
    if included_languages.issuperset(model.categories):
        noun = "language"
        question = "Which language is your surname from?"
        prediction = f"predicts which of {count} languages it comes from"
    else:
        noun = "category"
        question = "Which category does a name belong to?"
        prediction = f"predicts which of {count} categories it belongs to"
    summary = f"A small recurrent neural network reads a name letter by letter and {prediction}."
    return {"{question}": question, "{summary}": summary, "{noun}": noun, "{count}": count}


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
        # The character is put between two letters, because normalization strips punctuation at the
        # ends of a name. The letter is `q`, with which no accent composes.
        normalized = normalize_name(f"q{character}q", kind)
        replacement = normalized[1:-1]
        if replacement not in ("", character):
            previous = characters_by_replacement.get(replacement, "")
            characters_by_replacement[replacement] = previous + character
    return characters_by_replacement
