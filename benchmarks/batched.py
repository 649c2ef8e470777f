"""`make bench`: batched training, side by side with PyTorch's present tutorial as a plain loop.

    python -m benchmarks.batched

The same cell and size on the same names. Prints names/s of both training loops, at the tutorial's
batch size and a larger one, what of the time goes into drawing names, and the peak memory.
"""

import json
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import pytorch_tutorial
from benchmarks.measure import run_module
from src.data.datamodule import NamesDataModule

RECIPE = "experiment=pytorch_tutorial_2024"
LARGER = 512
LOG_EVERY = 20


def plain_speed() -> float:
    """Return the names/s of the plain loop, over one pass."""
    torch.set_num_threads(1)
    data = NamesDataModule()
    start = time.perf_counter()
    pytorch_tutorial.train(data, seed=0, epochs=1)
    return len(data.train_dataset) / (time.perf_counter() - start)


def loader_seconds(iterations: int, size: int) -> float:
    """Return how long it takes to draw all the batches of a run."""
    data = NamesDataModule(
        iterations=iterations,
        log_every=LOG_EVERY,
        val_every=iterations,
        batch_size=size,
        chunk_size=1,
        sampling="natural",
    )
    start = time.perf_counter()
    for _ in data.train_dataloader():
        pass
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    plain = plain_speed()
    print(f"plain loop, names/s                       {plain:>9,.0f}")
    for size, iterations in ((64, 6100), (LARGER, 760)):
        with tempfile.TemporaryDirectory() as folder:
            words = (RECIPE, f"batch_size={size}", f"log_every={LOG_EVERY}")
            run = (f"iterations={iterations}", f"hydra.run.dir={folder}/run")
            _, peak = run_module("src.train", *words, *run)
            metrics = json.loads(Path(folder, "run/metrics.json").read_text())
        speed = metrics["names_per_second"]
        share = loader_seconds(iterations, size) / (iterations * size / speed)
        target = "  (target: at least 10×)" if size == LARGER else ""
        print(f"batch_size={size:<4} names/s                    {speed:>9,.0f}")
        print(f"  times the plain loop's                  {speed / plain:>8.1f}×{target}")
        print(f"  share of drawing names                  {share:>9.1%}  (target: at most 10%)")
        print(f"  peak memory, MiB                        {peak:>9,.0f}  (target: at most 1,536)")


if __name__ == "__main__":
    main()
