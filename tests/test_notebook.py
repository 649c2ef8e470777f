"""Tests that docs/walkthrough.ipynb runs, and that its stored outputs are up to date."""

import base64
import re
import sys
from copy import deepcopy
from io import BytesIO
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from benchmarks import notebook

NUMBER = re.compile(r"\d+(?:\.\d*)?(?:e[+-]?\d+)?")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning:lightning")
def test_stored_outputs_equal_a_new_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    # Running the notebook replaces the outputs of its cells.
    stored = notebook.read_notebook()
    fresh = deepcopy(stored)
    notebook.run_notebook(fresh)
    assert sum(len(cell.get("outputs", [])) for cell in fresh["cells"]) >= 14
    for old, new in zip(stored["cells"], fresh["cells"], strict=True):
        if old["cell_type"] == "code":
            assert old["execution_count"] == new["execution_count"]
            assert_similar_outputs(old["outputs"], new["outputs"], "".join(old["source"]))


def assert_similar_outputs(old: list[Any], new: list[Any], source: str) -> None:
    """Assert that outputs are equal, except for the last digits, which depend on the processor."""
    assert len(old) == len(new), source
    for old_output, new_output in zip(old, new, strict=True):
        assert old_output["output_type"] == new_output["output_type"], source
        if "image/png" in old_output.get("data", {}):
            old_picture = read_picture(old_output)
            new_picture = read_picture(new_output)
            assert old_picture.shape == new_picture.shape
            # The fonts may differ, too.
            assert np.abs(old_picture - new_picture).mean() < 0.01
            continue
        old_text = read_text(old_output)
        new_text = read_text(new_output)
        assert remove_numbers(old_text) == remove_numbers(new_text), source
        old_numbers = [float(number) for number in NUMBER.findall(old_text)]
        new_numbers = [float(number) for number in NUMBER.findall(new_text)]
        assert old_numbers == pytest.approx(new_numbers, rel=0.02, abs=0.02), source


def read_picture(output: Any) -> Any:
    """Return the pixels of a picture in the output of a cell."""
    content = base64.b64decode(output["data"]["image/png"])
    return matplotlib.image.imread(BytesIO(content))


def read_text(output: Any) -> str:
    """Return the text in the output of a cell."""
    return "".join(output.get("text") or output["data"]["text/plain"])


def remove_numbers(text: str) -> str:
    """Return a text with placeholders for numbers, and with single spaces."""
    return re.sub(r"\s+", " ", NUMBER.sub("#", text))


def test_comparison_detects_other_numbers_and_words() -> None:
    def make_outputs(text: str) -> list[Any]:
        return [{"output_type": "stream", "name": "stdout", "text": [text]}]

    assert_similar_outputs(make_outputs("loss 2.503\n"), make_outputs("loss 2.504\n"), "")
    # A larger difference, another word and an additional number must be detected.
    for changed_text in "loss 2.603\n", "lost 2.503\n", "loss 2.503 2\n":
        with pytest.raises(AssertionError):
            assert_similar_outputs(make_outputs("loss 2.503\n"), make_outputs(changed_text), "")
