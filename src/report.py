"""What a run leaves behind: a table, two pictures, and the numbers for programs."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

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
    text = json.dumps(metrics, indent=2) + "\n"
    (folder / "metrics.json").write_text(text, encoding="utf-8")

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


def loss_figure(curve: list[tuple[int, float]]) -> Figure:
    """Draw the training loss: (iteration, mean loss of the names up to it)."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*curve, strict=True), marker="." if len(curve) < 20 else "")
    axes.set(xlabel="iteration (names trained on)", ylabel="training loss", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def confusion_figure(matrix: Tensor, categories: list[str], title: str) -> Figure:
    """Draw a confusion matrix [C, C], true category × guess, as per cent of each true category."""
    shares = (matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)).tolist()
    size = 1.5 + 0.33 * len(categories)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            if share >= 0.005:
                color = "white" if share > 0.5 else "black"
                text = f"{100 * share:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=7)
    ticks = range(len(categories))
    axes.set_xticks(ticks, categories, rotation=90)
    axes.set_yticks(ticks, categories)
    axes.set(xlabel="guess", ylabel="true category", title=title)
    return figure


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
