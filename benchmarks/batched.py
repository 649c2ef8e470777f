"""`make bench`: training in batches, compared with PyTorch's current tutorial as a plain loop.

    python -m benchmarks.batched

Both train the same cell of the same size on the same names. Prints the names/s of both training
loops for the tutorial's batch size and a larger one, the share of the time that sampling takes, and
the peak memory.
"""

import json
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import pytorch_tutorial
from benchmarks.measure import run_module
from src.data.datamodule import NamesDataModule

EXPERIMENT = "experiment=pytorch_tutorial_2024"
LARGE_BATCH_SIZE = 512
ITERATIONS = {64: 6100, LARGE_BATCH_SIZE: 760}
"""Number of iterations by batch size, for about as many names."""
LOG_EVERY = 20


def measure_plain_loop() -> float:
    """Return the names per second of the plain loop in one pass."""
    torch.set_num_threads(1)
    data = NamesDataModule()
    start = time.perf_counter()
    pytorch_tutorial.train(data, seed=0, epochs=1)
    return len(data.train_dataset) / (time.perf_counter() - start)


def measure_sampling(iterations: int, batch_size: int) -> float:
    """Return how many seconds it takes to sample and build all batches of a run."""
    data = NamesDataModule(
        iterations=iterations,
        log_every=LOG_EVERY,
        val_every=iterations,
        batch_size=batch_size,
        chunk_size=1,
        sampling="natural",
    )
    start = time.perf_counter()
    for _ in data.train_dataloader():
        pass
    return time.perf_counter() - start


def measure_training(iterations: int, batch_size: int) -> tuple[float, float]:
    """Run src.train; return the names per second of its training loop, and the peak in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        _, peak_mib = run_module(
            "src.train",
            EXPERIMENT,
            f"batch_size={batch_size}",
            f"log_every={LOG_EVERY}",
            f"iterations={iterations}",
            f"hydra.run.dir={folder}/run",
        )
        metrics = json.loads(Path(folder, "run/metrics.json").read_text())
    return metrics["names_per_second"], peak_mib


def main() -> None:
    """Print the speed of the plain loop and of the runs."""
    plain_speed = measure_plain_loop()
    print(f"plain loop, names/s                       {plain_speed:>9,.0f}")
    for batch_size, iterations in ITERATIONS.items():
        speed, peak_mib = measure_training(iterations, batch_size)
        ratio = speed / plain_speed
        training_seconds = iterations * batch_size / speed
        share = measure_sampling(iterations, batch_size) / training_seconds
        target = "  (target: at least 10×)" if batch_size == LARGE_BATCH_SIZE else ""
        print(f"batch_size={batch_size:<4} names/s                    {speed:>9,.0f}")
        print(f"  ratio to the plain loop                 {ratio:>8.1f}×{target}")
        print(f"  share of sampling                       {share:>9.1%}  (target: at most 10%)")
        print(
            f"  peak memory, MiB                        {peak_mib:>9,.0f}  (target: at most 1,536)"
        )


if __name__ == "__main__":
    main()
