"""The tutorial as a plain loop: one name at a time, with autograd.

    python -m benchmarks.tutorial_loop RESULT.pt [iterations=100000] [hidden=128] [FOLDER]

This module shares no code with src/, because src/ is compared with it. It reads the files of
FOLDER, data/names by default, as the tutorial does. RESULT.pt contains the loss of each name, the
weights after the first 2,000 names and the names per second.
"""

import random
import string
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LETTERS = string.ascii_letters + " .,;'"
HIDDEN, LEARNING_RATE, SEED = 128, 0.005, 0
SNAPSHOT = 2000
DEFAULTS = ["100000", str(HIDDEN), "data/names"]


class RNN(nn.Module):
    """The tutorial's cell."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.i2h = nn.Linear(input_size + hidden_size, hidden_size)
        self.i2o = nn.Linear(input_size + hidden_size, output_size)
        self.softmax = nn.LogSoftmax(dim=1)

    def forward(self, letter: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Read one letter [1, 57]; return the output [1, C] and the new hidden state [1, H]."""
        combined = torch.cat((letter, hidden), 1)
        return self.softmax(self.i2o(combined)), self.i2h(combined)


def name_to_tensor(name: str) -> Tensor:
    """Return the one-hot name [length, 1, 57]."""
    tensor = torch.zeros(len(name), 1, len(LETTERS))
    for i, letter in enumerate(name):
        tensor[i][0][LETTERS.find(letter)] = 1
    return tensor


def to_ascii(line: str) -> str:
    """Return a line without accents and without other characters that are not in LETTERS."""
    parts = unicodedata.normalize("NFD", line)
    return "".join(c for c in parts if unicodedata.category(c) != "Mn" and c in LETTERS)


def train(folder: Path, iterations: int, hidden_size: int) -> dict[str, Any]:
    """Train on the names of a folder, and return the losses, the weights and the speed."""
    torch.set_num_threads(1)  # with more it is slower: the matrices are small
    files = sorted(folder.glob("*.txt"))
    lines = [[to_ascii(line) for line in f.read_text("utf-8").strip().split("\n")] for f in files]
    torch.manual_seed(SEED)
    rnn = RNN(len(LETTERS), hidden_size, len(files))
    criterion = nn.NLLLoss()
    draw = random.Random(SEED)

    losses: list[float] = []
    weights: dict[str, Tensor] = {}
    start = time.perf_counter()
    for iteration in range(1, iterations + 1):
        category = draw.randint(0, len(lines) - 1)
        name = lines[category][draw.randint(0, len(lines[category]) - 1)]
        category_tensor = torch.tensor([category], dtype=torch.long)
        name_tensor = name_to_tensor(name)

        hidden = torch.zeros(1, hidden_size)
        rnn.zero_grad()
        for i in range(name_tensor.size(0)):
            output, hidden = rnn(name_tensor[i], hidden)
        loss = criterion(output, category_tensor)
        loss.backward()
        for weight in rnn.parameters():
            if weight.grad is not None:  # a name of one letter never uses i2h
                weight.data.add_(weight.grad.data, alpha=-LEARNING_RATE)
        losses.append(loss.item())
        if iteration == SNAPSHOT:
            weights = {name: weight.clone() for name, weight in rnn.state_dict().items()}
    seconds = time.perf_counter() - start
    return {"losses": losses, "weights": weights, "names_per_second": iterations / seconds}


def main() -> None:
    """Train, and write the losses, the weights and the speed to a file."""
    result, iterations, hidden, folder, *_ = [*sys.argv[1:], *DEFAULTS[len(sys.argv) - 2 :]]
    torch.save(train(Path(folder), int(iterations), int(hidden)), result)


if __name__ == "__main__":
    main()
