"""`make bench`: training, compared with the tutorial's plain loop.

    python -m benchmarks.speed

Run it in the environment of `make train`, without the extras: installed extras are imported, too.

Prints the speed of the training loop alone and its peak memory, the time of whole commands, the
differences of losses and weights from those of the plain loop, and the cost of clipping.
"""

import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.measure import Usage, measure_python
from benchmarks.tutorial_loop import HIDDEN, LEARNING_RATE, SEED, SNAPSHOT
from src.data.batch import Batch
from src.data.datamodule import NamesDataModule
from src.models.online_sgd import train_on_each_name
from src.models.rnn import RNN

N_REPETITIONS = 5
N_KERNEL_NAMES = 20_000
"""Number of names that the kernel is timed with."""
N_CURVE_ITERATIONS = 20_000
"""Number of iterations for which the loss curves are compared."""
LOG_EVERY = 1000
"""Iterations between two points of the loss curve, which is the default."""
DEFAULT_CLIP = 500.0
N_CLIPPED_NAMES = 5000
N_CLIP_PAIRS = 100
"""The cost of clipping is the median of so many pairs of measurements with so many names each."""

TRAIN = "src.train"
PREDICT = "src.predict, one name"
IMPORT_TORCH = "import torch"
IMPORT_LIGHTNING = "import lightning.pytorch"
HELP = "src.train --help"
INVALID_KEY = "src.train hiden=64, refused"
PLAIN_LOOP = "the plain loop"
"""Labels of the commands that are timed."""


class KernelResult(NamedTuple):
    """A network that the compiled backend has trained."""

    seconds: float
    """Processor time."""
    losses: torch.Tensor  # [N]
    rnn: RNN


def train(folder: Path, *overrides: str) -> None:
    """Run src.train."""
    measure_python("-m", "src.train", f"hydra.run.dir={folder}", *overrides)


def first_names(count: int) -> tuple[Batch, int]:
    """Return the first names that the tutorial trains on, and the number of categories."""
    data = NamesDataModule(
        data_dir=None,
        val_fraction=0,
        test_fraction=0,
        seed=SEED,
        iterations=count,
        log_every=count,
        val_every=count,
        chunk_size=count,
        letters="tutorial",
    )
    (batch,) = data.train_dataloader()
    return batch, len(data.categories)


def run_kernel(batch: Batch, n_categories: int, clip: float = 0.0) -> KernelResult:
    """Train a network with the compiled backend."""
    torch.manual_seed(SEED)
    rnn = RNN(57, HIDDEN, n_categories)
    start = time.process_time()
    losses, _ = train_on_each_name(rnn, batch, LEARNING_RATE, clip)
    return KernelResult(time.process_time() - start, losses, rnn)


def print_cost_of_clipping() -> None:
    """Print how much longer the kernel takes with a clip that no gradient reaches."""
    batch, n_categories = first_names(N_CLIPPED_NAMES)
    run_kernel(batch, n_categories)
    ratios = []
    for pair in range(N_CLIP_PAIRS):
        # The order alternates, so that it has no influence on the median.
        clips = (0.0, DEFAULT_CLIP) if pair % 2 else (DEFAULT_CLIP, 0.0)
        seconds = {}
        for clip in clips:
            seconds[clip] = run_kernel(batch, n_categories, clip).seconds
        ratios.append(seconds[DEFAULT_CLIP] / seconds[0.0])
    label = f"kernel with clip={DEFAULT_CLIP:g} / clip=0"
    ratio = f"{median(ratios):.3f}×"
    print(f"{label:<40}{ratio:>12}  (target: at most 1.03×)")


def print_differences(plain: dict[str, Any], tutorial_run: Path) -> None:
    """Print the largest differences from the losses, weights and loss curve of the plain loop.

    Args:
        plain: the result of benchmarks.tutorial_loop.
        tutorial_run: folder of a run with `experiment=tutorial`.
    """
    batch, n_categories = first_names(SNAPSHOT)
    kernel = run_kernel(batch, n_categories)
    loss_gap = max_difference(kernel.losses, torch.tensor(plain["losses"][:SNAPSHOT]))
    weights = kernel.rnn.state_dict()
    weight_gaps = []
    for name, plain_weight in plain["weights"].items():
        weight_gaps.append(max_difference(weights[name], plain_weight))
    events = EventAccumulator(str(tutorial_run)).Reload()
    curve = torch.tensor([event.value for event in events.Scalars("train/loss")])
    n_iterations = LOG_EVERY * len(curve)
    plain_losses = torch.tensor(plain["losses"][:n_iterations])
    plain_curve = plain_losses.view(-1, LOG_EVERY).mean(dim=1)
    curve_gap = max_difference(curve, plain_curve)
    print("largest difference from the plain loop")
    for label, gap, target in (
        (f"losses of the first {SNAPSHOT:,} names", loss_gap, "1e-5"),
        ("weights after them", max(weight_gaps), "1e-5"),
        (f"train/loss, {n_iterations:,} iterations", curve_gap, "1e-4"),
    ):
        print(f"{label:<40}{gap:>12.1e}  (target: at most {target})")


def max_difference(values: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest absolute difference of two tensors of the same shape."""
    return (values - expected).abs().max().item()


def list_commands(folder: Path, run: Path) -> dict[str, list[str]]:
    """Return the arguments of Python for each command that is timed.

    Args:
        folder: contains the run `0`, which predicts; the plain loop writes `plain.pt` to it.
        run: folder for the run of src.train.
    """
    checkpoint = str(folder / "0")
    return {
        IMPORT_TORCH: ["-c", "import torch"],
        IMPORT_LIGHTNING: ["-c", "import lightning.pytorch"],
        HELP: ["-m", "src.train", "--help"],
        INVALID_KEY: ["-m", "src.train", "hiden=64"],
        PREDICT: ["-m", "src.predict", "--checkpoint", checkpoint, "Satoshi"],
        TRAIN: ["-m", "src.train", f"hydra.run.dir={run}"],
        PLAIN_LOOP: ["-m", "benchmarks.tutorial_loop", str(folder / "plain.pt")],
    }


def time_commands(folder: Path) -> dict[str, list[Usage]]:
    """Run all commands several times in turn, and return what they took by label.

    The plain loop takes so long that it runs only once, in the middle. The folders of the runs of
    src.train are the numbers from 1.
    """
    usages: dict[str, list[Usage]] = {}
    for number in range(1, N_REPETITIONS + 1):
        for label, arguments in list_commands(folder, run=folder / str(number)).items():
            is_middle = number == (N_REPETITIONS + 1) // 2
            if label == PLAIN_LOOP and not is_middle:
                continue
            exit_status = 1 if label == INVALID_KEY else 0
            usage = measure_python(*arguments, exit_status=exit_status)
            usages.setdefault(label, []).append(usage)
    return usages


def print_commands(usages: dict[str, list[Usage]]) -> None:
    """Print the median time of each command, and the ratios that have targets."""
    wall: dict[str, float] = {}
    processor: dict[str, float] = {}
    for label in list_commands(Path(), run=Path()):
        wall[label] = median(usage.wall_seconds for usage in usages[label])
        processor[label] = median(usage.processor_seconds for usage in usages[label])
    print(f"{'seconds, start to exit':<32}{'processor':>10}{'wall':>8}")
    for label in wall:
        print(f"{label:<32}{processor[label]:>10.2f}{wall[label]:>8.2f}")
    print()
    for label, reference, target in (
        (TRAIN, IMPORT_LIGHTNING, 1.35),
        (PREDICT, IMPORT_TORCH, 1.3),
    ):
        ratio = processor[label] / processor[reference]
        ratio_label = f"{label} / {reference}"
        print(f"{ratio_label:<40}{ratio:>9.2f}×  (target: at most {target}×, processor)")
    ratio = wall[TRAIN] / wall[PLAIN_LOOP]
    print(f"{'src.train / the plain loop':<40}{ratio:>9.3f}×  (target: at most 0.10×, wall)")
    slowest = max(wall[HELP], wall[INVALID_KEY])
    print(f"{'help and error messages, s':<40}{slowest:>9.2f}   (target: below 1 s, wall)")


def print_training_speed(folder: Path, plain_speed: float) -> None:
    """Print the speeds of the plain loop, of the training loop and of the kernel alone.

    Args:
        folder: contains the runs of `time_commands`.
        plain_speed: names per second of the plain loop.
    """
    speeds = []
    for number in range(1, N_REPETITIONS + 1):
        metrics = json.loads((folder / f"{number}/metrics.json").read_text())
        speeds.append(metrics["names_per_second"])
    speed = median(speeds)
    print(f"\n{'names/s of the plain loop':<40}{plain_speed:>9,.0f}")
    print(f"{'names/s of the training loop':<40}{speed:>9,.0f}")
    print(f"{'ratio':<40}{speed / plain_speed:>9.1f}×  (target: at least 50×)")
    batch, n_categories = first_names(N_KERNEL_NAMES)
    run_kernel(batch, n_categories)
    seconds = []
    for _ in range(N_REPETITIONS):
        seconds.append(run_kernel(batch, n_categories, DEFAULT_CLIP).seconds)
    kernel_speed = N_KERNEL_NAMES / median(seconds)
    kernel_ratio = kernel_speed / plain_speed
    print(f"{'names/s of the kernel alone':<40}{kernel_speed:>9,.0f}   {kernel_ratio:.1f}×")


def main() -> None:
    """Time training and the plain loop, then compare their losses and weights."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(folder / "0")  # compiles the kernel and caches it
        usages = time_commands(folder)
        train(folder / "tutorial", "experiment=tutorial", f"iterations={N_CURVE_ITERATIONS}")
        plain = torch.load(folder / "plain.pt", weights_only=True)
        print(f"100,000 iterations, hidden={HIDDEN}; src.train: median of {N_REPETITIONS} runs\n")
        print_commands(usages)
        print_training_speed(folder, plain["names_per_second"])
        peak = max(usage.peak_mib for usage in usages[TRAIN])
        print(f"{'peak memory, MiB':<40}{peak:>9,.0f}   (target: at most 1,024)\n")
        print_differences(plain, folder / "tutorial")
        print()
        print_cost_of_clipping()


if __name__ == "__main__":
    main()
