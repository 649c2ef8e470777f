"""What a run leaves behind: its pictures and numbers in the folder and the logger, a table."""

import json
import shlex
import struct
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import FileWriter

from src.files import written_whole

Metrics = dict[str, float]
"""Tags such as `test/accuracy`, and `iterations`, `seconds`, `names_per_second`."""


def write_report(
    folder: Path,
    logger: Logger,
    settings: dict[str, Any],
    metrics: Metrics,
    loss: bytes,
    confusion: bytes,
) -> None:
    """Write metrics.json and the pictures, PNG files, to the run's folder; tell the logger."""
    with written_whole(folder / "metrics.json", "w", encoding="utf-8") as file:
        file.write(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    (folder / "loss.png").write_bytes(loss)
    (folder / "confusion_matrix.png").write_bytes(confusion)

    if not isinstance(logger, TensorBoardLogger):
        logger.log_hyperparams(settings)
        return
    writer = FileWriter(logger.log_dir)
    width, height = struct.unpack(">II", confusion[16:24])  # where PNG has them
    image = Summary.Image(encoded_image_string=confusion, width=width, height=height, colorspace=4)
    matrix = Summary(value=[Summary.Value(tag="confusion_matrix", image=image)])
    writer.add_summary(matrix, metrics["iterations"])
    # The row's metrics are points already logged; log_hyperparams would log them once more.
    scalars = {name: value for name, value in metrics.items() if "/" in name}
    for each in hparams(settings, scalars):  # type: ignore[no-untyped-call] # torch's
        writer.add_summary(each)
    writer.close()


def read_metrics(folder: Path) -> Metrics:
    """Return the metrics of a finished run; nothing if it is not finished."""
    file = folder / "metrics.json"
    metrics: Metrics = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return metrics


def summary(metrics: Metrics, folder: Path, logger: Logger) -> str:
    """Return the metrics as a table, the speed, where the files are and how to look at them."""
    titles = {"val": "validation", "test": "test"}
    stages = [stage for stage in titles if f"{stage}/loss" in metrics]
    names = dict.fromkeys(
        key.partition("/")[2] for key in metrics if key.partition("/")[0] in stages
    )
    lines = []
    if stages:
        lines.append(" " * 20 + "".join(f"{titles[stage]:>12}" for stage in stages))
    for name in names:
        values = "".join(f"{metrics[f'{stage}/{name}']:>12.4f}" for stage in stages)
        lines.append(f"{name.replace('_', ' '):<20}{values}")
    lines += [
        "",
        f"{metrics['iterations']:,} iterations at {metrics['names_per_second']:,.0f} names/s, "
        f"{metrics['seconds']:.1f} s after imports",
        f"Run          {folder}",
    ]
    if isinstance(logger, TensorBoardLogger):
        outputs = Path("outputs")  # all runs together, if this one is among them
        shown = outputs if outputs.resolve() in folder.resolve().parents else folder
        lines.append(f"TensorBoard  tensorboard --logdir {shlex.quote(str(shown))}")
    return "\n".join(lines)
