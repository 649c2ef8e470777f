"""`make bench`: the speed of predictions, compared with the `predict` function of the tutorial.

    python -m benchmarks.predict [ROWS]

Trains a short run, then prints the time for one name, the speed for a CSV file and a pipe with ROWS
names (1,000,000 by default), and how far the probabilities are from those of the tutorial.
"""

import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import run_module
from benchmarks.tutorial_loop import RNN, name_to_tensor
from src.inference.trained_model import TrainedModel, load_model

N_REPETITIONS = 5
"""Number of times that a short command is timed; the median counts."""
MAX_TUTORIAL_NAMES = 3000
"""Number of names that the tutorial's function is timed with."""
NAMES_PER_CALL = 4096


def corpus_names(count: int) -> list[str]:
    """Return names of the included corpus in a mixed order, repeated as often as necessary."""
    distinct_names: set[str] = set()
    for file in Path("data/names").glob("*.txt"):
        distinct_names.update(file.read_text("utf-8").splitlines())
    names = sorted(distinct_names)
    mixed_names = []
    for i in range(count):
        n_passes = i // len(names)
        mixed_names.append(names[(7919 * i + n_passes) % len(names)])  # 7919 is a prime number
    return mixed_names


def tutorial_predict(rnn: RNN, name: str, k: int = 3) -> Tensor:
    """Predict a name letter by letter, as the tutorial does; return the probabilities [1, C]."""
    with torch.no_grad():
        hidden = torch.zeros(1, rnn.hidden_size)
        for letter in name_to_tensor(name):
            output, hidden = rnn(letter, hidden)
        # The tutorial prints these, so that looking them up is part of the time.
        values, indices = output.topk(k, 1, True)
        [(values[0][i].item(), indices[0][i].item()) for i in range(k)]
        return torch.as_tensor(output.exp())


def measure_seconds(function: Callable[[], Any]) -> float:
    """Return the wall time of a function call in seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def print_time_of_one_name(predict_command: list[str]) -> None:
    """Print the time of the program for a single name, and that of importing torch."""
    one_name = median(run_module(*predict_command, "Satoshi")[0] for _ in range(N_REPETITIONS))
    print(f"one name, whole process        {one_name:>10.2f} s      (target: at most 2 s)")
    import_torch = [sys.executable, "-c", "import torch"]
    only_torch = median(
        measure_seconds(lambda: subprocess.run(import_torch, check=True))
        for _ in range(N_REPETITIONS)
    )
    print(f"`import torch`, usual exit      {only_torch:>10.2f} s\n")


def measure_csv(predict_command: list[str], names: list[str], folder: Path) -> tuple[float, float]:
    """Return the time in seconds and the peak memory in MiB for a CSV file of names."""
    source = folder / "in.csv"
    with source.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "surname"])
        writer.writerows(enumerate(names))
    options = [f"--csv={source}", "--column=surname", f"--out={folder}/out.csv"]
    return run_module(*predict_command, *options)


def measure_pipe(predict_command: list[str], names: list[str]) -> float:
    """Return the time in seconds for names from a pipe, with answers as JSON Lines."""
    command = [sys.executable, "-m", *predict_command, "--json"]
    content = "\n".join(names).encode()
    return measure_seconds(
        lambda: subprocess.run(
            command,
            input=content,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    )


def predict_in_batches(model: TrainedModel, names: list[str]) -> Tensor:
    """Return the probabilities [N, C]."""
    results = []
    for start in range(0, len(names), NAMES_PER_CALL):
        results.append(model.predict_probabilities(names[start : start + NAMES_PER_CALL]))
    return torch.cat(results)


def copy_to_tutorial(model: TrainedModel) -> RNN:
    """Return the tutorial's network with the weights of a model."""
    rnn = RNN(57, 128, len(model.categories))
    weights = {}
    for name, weight in model.network.state_dict().items():
        weights[name.removeprefix("recurrent.rnn.")] = weight
    rnn.load_state_dict(weights)
    return rnn


def main() -> None:
    """Time the program, the model and the tutorial's function, and compare their results."""
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    names = corpus_names(n_rows)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run_module("src.train", f"hydra.run.dir={folder}/run", "iterations=20000")
        predict_command = ["src.predict", f"--checkpoint={folder}/run"]
        print_time_of_one_name(predict_command)
        csv_seconds, csv_memory = measure_csv(predict_command, names, folder)
        pipe_seconds = measure_pipe(predict_command, names)
        calibrated_model = load_model(folder / "run/checkpoints/last.ckpt")

    torch.set_num_threads(1)  # faster for such a small network, also for the tutorial's function
    model = replace(calibrated_model, calibration=None)  # the tutorial has no calibration
    start = time.perf_counter()
    probabilities = predict_in_batches(model, names)
    model_seconds = time.perf_counter() - start

    rnn = copy_to_tutorial(model)
    tutorial_names = [model.alphabet.normalize(name) for name in names[:MAX_TUTORIAL_NAMES]]
    start = time.perf_counter()
    tutorial_probabilities = torch.cat([tutorial_predict(rnn, name) for name in tutorial_names])
    tutorial_speed = len(tutorial_names) / (time.perf_counter() - start)

    print(f"{n_rows:,} names")
    print(f"tutorial's predict, name by name {tutorial_speed:>10,.0f} names/s")
    for label, seconds, target in (
        ("model alone", model_seconds, "at least 100,000 names/s and 20×"),
        ("whole process, CSV to CSV", csv_seconds, "at least 40,000 names/s and 20×"),
        ("whole process, pipe to JSON", pipe_seconds, "at least 40,000 names/s"),
    ):
        speed = n_rows / seconds
        ratio = f"{speed / tutorial_speed:.0f}×"
        print(f"{label:<32} {speed:>10,.0f} names/s {ratio:>6}  (target: {target})")
    print(f"peak memory of CSV to CSV        {csv_memory:>10,.0f} MiB      (target: at most 1,024)")
    gaps = (probabilities[: len(tutorial_names)] - tutorial_probabilities).abs()
    gap = gaps.max().item()
    print(f"largest difference of a probability from the tutorial's {gap:.1e}  (target: 1e-6)")


if __name__ == "__main__":
    main()
