"""`make bench`: predicting side by side with the tutorial's `predict`, in one run.

    python -m benchmarks.predict [rows=1000000]

Trains a short run for a model, then prints the time of one name, the speed of a CSV file and how
far batched answers are from answers one by one.
"""

import csv
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.measure import run_module
from benchmarks.tutorial_loop import RNN, name_to_tensor
from src.inference.trained_model import load_model

RUNS = 5
ONE_BY_ONE = 3000  # names the tutorial's predict is timed on


def corpus_names(count: int) -> list[str]:
    """Return `count` names: the corpus's distinct ones, in a mixed order, over and over."""
    lines = [f.read_text("utf-8").splitlines() for f in sorted(Path("data/names").glob("*.txt"))]
    names = sorted({name for names in lines for name in names})
    return [names[(7919 * i + i // len(names)) % len(names)] for i in range(count)]


def tutorial_predict(rnn: RNN, name: str, k: int = 3) -> Tensor:
    """Answer as the tutorial does, letter by letter; return the probabilities [1, C]."""
    with torch.no_grad():
        hidden = torch.zeros(1, rnn.hidden_size)
        for letter in name_to_tensor(name):
            output, hidden = rnn(letter, hidden)
        values, indices = output.topk(k, 1, True)
        [(values[0][i].item(), indices[0][i].item()) for i in range(k)]
        return torch.as_tensor(output.exp())


def main() -> None:
    """Time both, then compare their answers."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run_module("src.train", f"hydra.run.dir={folder}/run", "iterations=20000")
        ask = ("src.predict", f"--checkpoint={folder}/run")

        one = median(run_module(*ask, "Satoshi")[0] for _ in range(RUNS))
        only_torch = median(time_of(sys.executable, "-c", "import torch") for _ in range(RUNS))
        print(f"one name, whole process        {one:>10.2f} s      (target: at most 2 s)")
        print(f"`import torch`, usual exit      {only_torch:>10.2f} s\n")

        names = corpus_names(rows)
        source = folder / "in.csv"
        with source.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("id", "surname"), *enumerate(names)])
        seconds, memory = run_module(
            *ask, f"--csv={source}", "--column=surname", f"--out={folder}/out.csv"
        )

        torch.set_num_threads(1)  # it is faster so, and so is the tutorial's predict
        # The network's own answer, as the tutorial's is.
        model = replace(load_model(folder / "run/checkpoints/last.ckpt"), calibration=None)
        start = time.perf_counter()
        batched = torch.cat(
            [model.probabilities(names[i : i + 4096]) for i in range(0, rows, 4096)]
        )
        model_seconds = time.perf_counter() - start

        rnn = RNN(57, 128, len(model.categories))
        weights = model.network.state_dict()
        rnn.load_state_dict({name.removeprefix("recurrent.rnn."): w for name, w in weights.items()})
        few = list(map(model.alphabet.normalize, names[:ONE_BY_ONE]))
        start = time.perf_counter()
        one_by_one = torch.cat([tutorial_predict(rnn, name) for name in few])
        tutorial_speed = len(few) / (time.perf_counter() - start)

        print(f"{rows:,} names, CSV to CSV")
        print(f"tutorial's predict, name by name {tutorial_speed:>10,.0f} names/s")
        for what, speed, target in (
            ("model alone", rows / model_seconds, "at least 100,000 names/s and 20×"),
            ("whole process", rows / seconds, "at least 40,000 names/s and 20×"),
        ):
            ratio = f"{speed / tutorial_speed:.0f}×"
            print(f"{what:<32} {speed:>10,.0f} names/s {ratio:>6}  (target: {target})")
        gap = (batched[: len(few)] - one_by_one).abs().max().item()
        print(f"peak memory                      {memory:>10,.0f} MiB      (target: at most 1,024)")
        print(f"largest difference of a probability from the tutorial's {gap:.1e}  (target: 1e-6)")


def time_of(*command: str) -> float:
    """Return the wall time of a command in seconds."""
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
