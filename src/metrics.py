"""metrics.json: the numbers of a run, final or so far."""

import json
from pathlib import Path
from typing import Any

from src.files import written_whole

FILE = "metrics.json"
SCORE = "val/balanced_accuracy"
"""What runs are ranked by."""
FINISHED, INTERRUPTED, DIVERGED = "finished", "interrupted", "diverged"

Metrics = dict[str, float]
"""Tags such as `test/accuracy`, and `iterations`, `seconds`, `names_per_second`."""


def write_metrics(folder: Path, status: str, metrics: Metrics) -> None:
    """Write a run's metrics.json: the status, and the numbers that are finite."""
    with written_whole(folder / FILE, "w", encoding="utf-8") as file:
        file.write(json.dumps({"status": status, **metrics}, indent=2, allow_nan=False) + "\n")


def read_metrics(folder: Path) -> Metrics:
    """Return the metrics of a finished run; nothing if it is not finished."""
    try:
        content: Any = json.loads((folder / FILE).read_text(encoding="utf-8"))
        finished = content.pop("status") == FINISHED
    except (OSError, ValueError, AttributeError, KeyError):  # no file, or not ours
        return {}
    return dict(content) if finished else {}
