"""`make bench`: training side by side with the tutorial's plain loop, in one run.

    python -m benchmarks.speed [iterations=100000]

Prints the speed of the training loop alone, the whole command's wall time and peak memory, how far
losses and weights are from the plain loop's, and what clipping costs.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.measure import run_module
from benchmarks.tutorial_loop import HIDDEN, LEARNING_RATE, SEED, SNAPSHOT
from src.data.datamodule import NamesDataModule
from src.data.letters import Batch
from src.models.online_sgd import compiled_steps
from src.models.rnn import RNN

RUNS = 3
CURVE = 20_000  # iterations over which the loss curves are compared
CLIP, CLIPPED, PAIRS = 500.0, 5000, 100
"""The default clip, and how its cost is measured: on so many names, so often."""


def train(folder: Path, *overrides: str) -> tuple[float, float, dict[str, float]]:
    """Run src.train; return its wall time, its peak memory and its metrics."""
    seconds, memory = run_module("src.train", f"hydra.run.dir={folder}", *overrides)
    return seconds, memory, json.loads((folder / "metrics.json").read_text())


def first_names(count: int) -> tuple[Batch, int]:
    """Return the tutorial's first names, and the number of categories."""
    data = NamesDataModule(
        None, 0, 0, SEED, count, count, count, together=count, letters="tutorial"
    )
    (batch,) = data.train_dataloader()
    return batch, len(data.categories)


def kernel(batch: Batch, n_categories: int, clip: float = 0.0) -> tuple[float, torch.Tensor, RNN]:
    """Train a network with the compiled backend: processor time, losses, and the network."""
    torch.manual_seed(SEED)
    rnn = RNN(57, HIDDEN, n_categories)
    start = time.process_time()
    losses, _ = compiled_steps(rnn, batch, LEARNING_RATE, clip)
    return time.process_time() - start, losses, rnn


def clipping() -> None:
    """Print what a clip that no gradient reaches costs: the median of pairs, the first in turn."""
    names = first_names(CLIPPED)
    kernel(*names)
    ratios = []
    for pair in range(PAIRS):
        order = (0.0, CLIP) if pair % 2 else (CLIP, 0.0)
        seconds = {clip: kernel(*names, clip)[0] for clip in order}
        ratios.append(seconds[CLIP] / seconds[0.0])
    ratio = f"{median(ratios):.3f}×"
    print(f"{f'kernel with clip={CLIP:g} / clip=0':<40}{ratio:>12}  (target: at most 1.03×)")


def parity(plain: dict[str, Any], tutorial: Path) -> None:
    """Print the largest differences from the plain loop's losses, weights and loss curve."""
    _, losses, rnn = kernel(*first_names(SNAPSHOT))
    loss_gap = (losses - torch.tensor(plain["losses"][:SNAPSHOT])).abs().max().item()
    weights = rnn.state_dict()
    weight_gap = max((weights[k] - v).abs().max().item() for k, v in plain["weights"].items())
    events = EventAccumulator(str(tutorial)).Reload()
    curve = torch.tensor([event.value for event in events.Scalars("train/loss")])
    means = torch.tensor(plain["losses"][: 1000 * len(curve)]).view(-1, 1000).mean(dim=1)
    curve_gap = (curve - means).abs().max().item()
    print("largest difference from the plain loop")
    for what, gap, target in (
        (f"losses of the first {SNAPSHOT:,} names", loss_gap, "1e-5"),
        ("weights after them", weight_gap, "1e-5"),
        (f"train/loss, {1000 * len(curve):,} iterations", curve_gap, "1e-4"),
    ):
        print(f"{what:<40}{gap:>12.1e}  (target: at most {target})")


def compare(what: str, plain: float, ours: float, digits: str, target: str) -> None:
    """Print one row of the table."""
    print(
        f"{what:<28}{plain:>12{digits}}{ours:>12{digits}}{ours / plain:>8.3g}×  (target: {target})"
    )


def main() -> None:
    """Time both, then compare their numbers."""
    iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(folder / "warm", f"iterations={iterations}")  # has the kernel compiled and cached
        first = [train(folder / f"before{i}", f"iterations={iterations}") for i in range(RUNS)]
        plain_seconds, plain_memory = run_module(
            "benchmarks.tutorial_loop", str(folder / "plain.pt"), str(iterations)
        )
        last = [train(folder / f"after{i}", f"iterations={iterations}") for i in range(RUNS)]
        curve = min(CURVE, iterations)
        train(folder / "tutorial", "experiment=tutorial", f"iterations={curve}")

        plain = torch.load(folder / "plain.pt", weights_only=True)
        runs = first + last
        speeds = [metrics["names_per_second"] for _, _, metrics in runs]
        seconds = [wall for wall, _, _ in runs]
        memory = max(peak for _, peak, _ in runs)
        print(f"{iterations:,} iterations, hidden={HIDDEN}; src.train: median of {len(runs)} runs")
        print(f"\n{'':<28}{'plain loop':>12}{'src.train':>12}{'ratio':>9}")
        speed = plain["names_per_second"]
        compare("training loop, names/s", speed, median(speeds), ",.0f", "at least 30×")
        compare("whole command, s", plain_seconds, median(seconds), ".1f", "at most 0.20×")
        compare("peak memory, MiB", plain_memory, memory, ",.0f", "at most 1,024 MiB")
        print()
        parity(plain, folder / "tutorial")
        print()
        clipping()


if __name__ == "__main__":
    main()
