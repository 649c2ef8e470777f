"""Classifies names and prints the answers as a table or as JSON Lines."""

import json
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.data.normalize import replace_unprintable

if TYPE_CHECKING:  # torch takes a second to import
    from src.inference.trained_model import Answer, TrainedModel

MAX_NAME_COLUMN_WIDTH = 40


@dataclass
class AnswerPrinter:
    """Classifies names and prints the answers.

    In addition, it tells the user once that the case of names matters to the model, if it does.
    """

    model: "TrainedModel"
    top_k: int
    """Number of categories for each name."""
    threshold: float
    """A name whose highest probability is below this value has no predictions."""
    is_json: bool
    """Whether to print JSON Lines instead of a table."""
    should_show_prefixes: bool
    """Whether to print the answers for all prefixes of a name."""
    has_warned_about_case: bool = False

    def classify_and_print(self, names: list[str]) -> None:
        """Classify some names and print the answers."""
        self._warn_about_case(names)
        if self.should_show_prefixes:
            for name in names:
                self._classify_and_print_prefixes(name)
            return
        # All names are classified together, which is much faster than one by one.
        probabilities = self.model.predict_probabilities(names)  # [B, C]
        answers = self.model.top_k_or_reason(names, probabilities, self.top_k, self.threshold)
        if self.is_json:
            for name, answer in zip(names, answers, strict=True):
                print_json({"name": name, **answer_to_dict(answer)})
        else:
            print_table(names, answers)

    def _classify_and_print_prefixes(self, name: str) -> None:
        """Classify all prefixes of a name and print the answers."""
        prefixes, probabilities = self.model.prefix_probabilities(name)  # L strings, [L, C]
        answers = self.model.top_k_or_reason(prefixes, probabilities, self.top_k, self.threshold)
        if self.is_json:
            steps = []
            for prefix, answer in zip(prefixes, answers, strict=True):
                steps.append({"prefix": prefix, **answer_to_dict(answer)})
            print_json({"name": name, "prefixes": steps})
            return
        heading = replace_unprintable(name)
        if not prefixes:  # the name has no letters or is too long
            heading += f"  {self.model.explain_rejection(name)}"
        print(heading)
        print_table([f"  {prefix}" for prefix in prefixes], answers)

    def _warn_about_case(self, names: list[str]) -> None:
        """Tell the user about the first name in a single case, if the model keeps the case.

        With other alphabets, such a name is converted to the case of the training names.
        """
        if self.model.alphabet.kind != "tutorial" or self.has_warned_about_case:
            return
        for name in names:
            has_case = name.lower() != name.upper()  # unlike Chinese, for example
            if has_case and name in (name.lower(), name.upper()):
                reason = "with letters=tutorial, the case of a name matters"
                message = f"{replace_unprintable(name)}: {reason}; write it like Smith"
                print(message, file=sys.stderr)
                self.has_warned_about_case = True
                return


def answer_to_dict(answer: "Answer") -> dict[str, Any]:
    """Return an answer as plain values."""
    values: dict[str, Any] = {
        "predictions": [prediction._asdict() for prediction in answer.predictions]
    }
    if answer.reason:
        values["reason"] = answer.reason
    return values


def print_json(values: dict[str, Any]) -> None:
    """Print values as a line of JSON."""
    # Letters of all scripts are printed as they are, and not as escape sequences.
    print(json.dumps(values, ensure_ascii=False))


def print_table(names: Sequence[str], answers: "Sequence[Answer]") -> None:
    """Print a line for each name, with aligned columns."""
    labels = [replace_unprintable(name) for name in names]
    widths = [display_width(label) for label in labels]
    # A very long name should not move the predictions of all others out of sight.
    column_width = min(max(widths, default=0), MAX_NAME_COLUMN_WIDTH)
    for label, width, answer in zip(labels, widths, answers, strict=True):
        line = label + " " * (column_width - width)
        if answer.reason:
            line += f"  {answer.reason}"
        for category, probability in answer.predictions:
            line += f"  {category:<12} {probability:.3f}"
        print(line)


def display_width(text: str) -> int:
    """Return the number of columns that a text takes in a terminal."""
    width = 0
    for symbol in text:
        if unicodedata.combining(symbol):  # an accent, for example
            continue
        width += 1
        # Chinese characters, for example, are twice as wide as Latin letters.
        if unicodedata.east_asian_width(symbol) in "WF":
            width += 1
    return width
