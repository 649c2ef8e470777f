"""What a run leaves behind: its pictures and numbers in the folder and the logger, a table."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.figure import Figure
from torch.utils.tensorboard.summary import hparams

from src.files import written_whole

Metrics = dict[str, float]
"""Tags such as `test/accuracy`, and `iterations`, `seconds`, `names_per_second`."""


def write_report(
    folder: Path,
    logger: Logger,
    settings: dict[str, Any],
    metrics: Metrics,
    loss: Figure,
    confusion: Figure,
) -> None:
    """Write the pictures and metrics.json to the run's folder, and tell the logger."""
    loss.savefig(folder / "loss.png", dpi=120)
    confusion.savefig(folder / "confusion_matrix.png", dpi=120)
    with written_whole(folder / "metrics.json", "w", encoding="utf-8") as file:
        file.write(json.dumps(metrics, indent=2) + "\n")

    if not isinstance(logger, TensorBoardLogger):
        logger.log_hyperparams(settings)
        return
    writer = logger.experiment
    writer.add_figure("confusion_matrix", confusion, metrics["iterations"])
    # The row's metrics are points already logged; log_hyperparams would log them once more.
    scalars = {name: value for name, value in metrics.items() if "/" in name}
    for summary in hparams(settings, scalars):  # type: ignore[no-untyped-call]
        writer.file_writer.add_summary(summary)
    writer.close()


def summary(metrics: Metrics, folder: Path) -> str:
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
        f"{metrics['seconds']:.1f} s in all",
        f"Run          {folder}",
        "TensorBoard  tensorboard --logdir outputs",
    ]
    return "\n".join(lines)
