"""docs/walkthrough.ipynb runs, without Jupyter, and shows what it shows when it is stored."""

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
    monkeypatch.setattr(sys, "path", [*sys.path])
    stored = notebook.read_notebook()
    fresh = deepcopy(stored)
    notebook.run_notebook(fresh)
    assert sum(len(cell.get("outputs", [])) for cell in fresh["cells"]) >= 14
    for old, new in zip(stored["cells"], fresh["cells"], strict=True):
        if old["cell_type"] == "code":
            assert old["execution_count"] == new["execution_count"]
            assert_alike(old["outputs"], new["outputs"], "".join(old["source"]))


def assert_alike(old: list[Any], new: list[Any], source: str) -> None:
    """Assert that outputs are equal, up to the digits that processors differ in."""
    assert len(old) == len(new), source
    for one, other in zip(old, new, strict=True):
        assert one["output_type"] == other["output_type"], source
        if "image/png" in one.get("data", {}):
            pictures = (base64.b64decode(each["data"]["image/png"]) for each in (one, other))
            shown = [matplotlib.image.imread(BytesIO(picture)) for picture in pictures]
            assert shown[0].shape == shown[1].shape
            assert np.abs(shown[0] - shown[1]).mean() < 0.01  # fonts may differ, too
            continue
        texts = ["".join(each.get("text") or each["data"]["text/plain"]) for each in (one, other)]
        words = [re.sub(r"\s+", " ", NUMBER.sub("#", text)) for text in texts]
        assert words[0] == words[1], source
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in texts]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=0.02), source


def test_comparison_detects_other_numbers_and_words() -> None:
    def printed(text: str) -> list[Any]:
        return [{"output_type": "stream", "name": "stdout", "text": [text]}]

    assert_alike(printed("loss 2.503\n"), printed("loss 2.504\n"), "")
    for other in "loss 2.603\n", "lost 2.503\n", "loss 2.503 2\n":
        with pytest.raises(AssertionError):
            assert_alike(printed("loss 2.503\n"), printed(other), "")
