"""What a run leaves behind: its pictures and numbers in the folder and the logger, a table."""

import shlex
import struct
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import FileWriter

from src.metrics import FINISHED, Metrics, write_metrics
from src.models.decision import PRIORS


def write_report(
    folder: Path,
    logger: Logger,
    settings: dict[str, Any],
    metrics: Metrics,
    loss: bytes,
    confusion: bytes,
) -> None:
    """Write the pictures, PNG files, to the run's folder; tell the logger; last, metrics.json.

    A run is finished when its metrics.json says so.
    """
    (folder / "loss.png").write_bytes(loss)
    (folder / "confusion_matrix.png").write_bytes(confusion)

    if isinstance(logger, TensorBoardLogger):
        _tell_tensorboard(logger.log_dir, settings, metrics, confusion)
    else:
        logger.log_hyperparams(settings)
    write_metrics(folder, FINISHED, metrics)


def _tell_tensorboard(
    folder: str, settings: dict[str, Any], metrics: Metrics, confusion: bytes
) -> None:
    writer = FileWriter(folder)
    width, height = struct.unpack(">II", confusion[16:24])  # where PNG has them
    image = Summary.Image(encoded_image_string=confusion, width=width, height=height, colorspace=4)
    matrix = Summary(value=[Summary.Value(tag="confusion_matrix", image=image)])
    writer.add_summary(matrix, metrics["iterations"])
    # The row's metrics are points already logged; log_hyperparams would log them once more.
    scalars = {name: value for name, value in metrics.items() if name.count("/") == 1}
    for each in hparams(settings, scalars):  # type: ignore[no-untyped-call] # untyped
        writer.add_summary(each)
    writer.close()


def summary(metrics: Metrics, folder: Path, logger: Logger) -> str:
    """Return the metrics as a table, the speed, where the files are and how to look at them."""
    columns = {"validation": "val", "test": "test"}
    columns |= {f"{prior}*": f"test/{prior}" for prior in PRIORS}
    columns = {
        title: prefix for title, prefix in columns.items() if f"{prefix}/accuracy" in metrics
    }
    lines = [" " * 20 + "".join(f"{title:>12}" for title in columns)] if columns else []
    for name in ("loss", "accuracy", "balanced_accuracy", "macro_f1", "top3_accuracy"):
        values = [metrics.get(f"{prefix}/{name}") for prefix in columns.values()]
        cells = "".join(" " * 12 if value is None else f"{value:>12.4f}" for value in values)
        if columns:
            lines.append(f"{name.replace('_', ' '):<20}{cells}".rstrip())
    if any(title.endswith("*") for title in columns):
        lines.append("* the test names under each --prior of predict and evaluate")
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
