"""`make bench`: training side by side with the tutorial's plain loop, in one run.

    python -m benchmarks.speed

In the environment of `make train`, without the extras: what they bring is imported, too.

Prints the speed of the training loop alone and peak memory, the seconds of whole commands, how far
losses and weights are from the plain loop's, and what clipping costs.
"""

import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.measure import Usage, measured
from benchmarks.tutorial_loop import HIDDEN, LEARNING_RATE, SEED, SNAPSHOT
from src.data.batch import Batch
from src.data.datamodule import NamesDataModule
from src.models.online_sgd import compiled_steps
from src.models.rnn import RNN

RUNS = 5
ALONE = 20_000  # names the kernel is timed on
CURVE = 20_000  # iterations over which the loss curves are compared
CLIP, CLIPPED, PAIRS = 500.0, 5000, 100
"""The default clip, and how its cost is measured: on so many names, so often."""


def train(folder: Path, *overrides: str) -> None:
    """Run src.train."""
    measured("-m", "src.train", f"hydra.run.dir={folder}", *overrides)


def first_names(count: int) -> tuple[Batch, int]:
    """Return the tutorial's first names, and the number of categories."""
    data = NamesDataModule(
        None, 0, 0, SEED, count, count, count, chunk_size=count, letters="tutorial"
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


def commands(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return what is timed from start to exit: the words that Python is started with."""
    return {
        "import torch": ("-c", "import torch"),
        "import lightning.pytorch": ("-c", "import lightning.pytorch"),
        "src.train --help": ("-m", "src.train", "--help"),
        "src.train hiden=64, refused": ("-m", "src.train", "hiden=64"),
        "src.predict, one name": ("-m", "src.predict", "--checkpoint", f"{folder}/0", "Satoshi"),
        "src.train": ("-m", "src.train", "hydra.run.dir={run}"),
        "the plain loop": ("-m", "benchmarks.tutorial_loop", f"{folder}/plain.pt"),
    }


def time_commands(folder: Path) -> dict[str, list[Usage]]:
    """Run each command, round after round; the plain loop is long enough to run once.

    Each default run is a folder from `1` on.
    """
    used: dict[str, list[Usage]] = {what: [] for what in commands(folder)}
    for number in range(1, RUNS + 1):
        for what, words in commands(folder).items():
            if what != "the plain loop" or number == (RUNS + 1) // 2:
                told = (word.format(run=folder / str(number)) for word in words)
                used[what].append(measured(*told, status=int("refused" in what)))
    return used


def print_commands(used: dict[str, list[Usage]]) -> None:
    """Print the seconds of each command, and how they compare."""
    medians = {
        what: [median(part) for part in zip(*usages, strict=True)] for what, usages in used.items()
    }
    print(f"{'seconds, start to exit':<32}{'processor':>10}{'wall':>8}")
    for what, (wall, processor, _) in medians.items():
        print(f"{what:<32}{processor:>10.2f}{wall:>8.2f}")
    print()
    for of, to, target in (
        ("src.train", "import lightning.pytorch", 1.35),
        ("src.predict, one name", "import torch", 1.3),
    ):
        ratio = medians[of][1] / medians[to][1]
        print(f"{f'{of} / {to}':<40}{ratio:>9.2f}×  (target: at most {target}×, processor)")
    ratio = medians["src.train"][0] / medians["the plain loop"][0]
    print(f"{'src.train / the plain loop':<40}{ratio:>9.3f}×  (target: at most 0.10×, wall)")
    slowest = max(medians[what][0] for what in medians if "--help" in what or "refused" in what)
    print(f"{'help and refusals, s':<40}{slowest:>9.2f}   (target: below 1 s, wall)")


def main() -> None:
    """Time both, then compare their numbers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(folder / "0")  # has the kernel compiled and cached
        used = time_commands(folder)
        train(folder / "tutorial", "experiment=tutorial", f"iterations={CURVE}")

        plain = torch.load(folder / "plain.pt", weights_only=True)
        runs = [
            json.loads((folder / f"{number}/metrics.json").read_text())
            for number in range(1, RUNS + 1)
        ]
        speed, ours = (
            plain["names_per_second"],
            median(metrics["names_per_second"] for metrics in runs),
        )
        print(f"100,000 iterations, hidden={HIDDEN}; src.train: median of {RUNS} runs\n")
        print_commands(used)
        print(f"\n{'names/s of the plain loop':<40}{speed:>9,.0f}")
        print(f"{'names/s of the training loop':<40}{ours:>9,.0f}")
        print(f"{'ratio':<40}{ours / speed:>9.1f}×  (target: at least 50×)")
        names = first_names(ALONE)
        kernel(*names)
        alone = ALONE / median(kernel(*names, CLIP)[0] for _ in range(RUNS))
        print(f"{'names/s of the kernel alone':<40}{alone:>9,.0f}   {alone / speed:.1f}×")
        peak = max(usage.peak for usage in used["src.train"])
        print(f"{'peak memory, MiB':<40}{peak:>9,.0f}   (target: at most 1,024)\n")
        parity(plain, folder / "tutorial")
        print()
        clipping()


if __name__ == "__main__":
    main()
