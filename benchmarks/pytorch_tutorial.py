"""PyTorch's current tutorial on classifying names, as a plain loop, for comparison.

The network is an `nn.RNN` with 128 hidden units, which reads one-hot letters, and a linear layer on
its last hidden state. The training takes 27 passes over the training lines in random batches of 64,
in which each name is read separately, with SGD, a learning rate of 0.15 and gradients clipped to a
norm of 3. Unlike in the tutorial, the names are split as in the rest of this project.
"""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.data.datamodule import NamesDataModule

EPOCHS = 27
BATCH = 64


class CharRNN(nn.Module):
    """The tutorial's network."""

    def __init__(self, n_letters: int, hidden: int, n_categories: int) -> None:
        super().__init__()
        self.rnn = nn.RNN(n_letters, hidden)
        self.h2o = nn.Linear(hidden, n_categories)

    def forward(self, name: Tensor) -> Tensor:
        """Return the log-probabilities [1, C] of a one-hot name [L, 1, n_letters]."""
        _, hidden = self.rnn(name)
        output: Tensor = self.h2o(hidden[0])
        return output.log_softmax(dim=1)


def train(data: NamesDataModule, seed: int, epochs: int = EPOCHS) -> CharRNN:
    """Train on the training lines of a corpus."""
    torch.manual_seed(seed)
    shuffled = random.Random(seed)
    network = CharRNN(57, 128, len(data.categories))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.15)
    items = [data.train_dataset[line] for line in range(len(data.train_dataset))]
    for _ in range(epochs):
        order = list(range(len(items)))
        shuffled.shuffle(order)
        for start in range(0, len(order), BATCH):
            batch = [items[line] for line in order[start : start + BATCH]]
            losses = [F.nll_loss(network(name), category) for name, category in batch]
            loss = torch.stack(losses).sum() / len(batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
            nn.utils.clip_grad_norm_(network.parameters(), 3)
            optimizer.step()
    return network


@torch.no_grad()
def log_probabilities(network: CharRNN, data: NamesDataModule) -> np.ndarray:
    """Return the log-probabilities of the test names, float64 [N, C]."""
    rows = [network(data.test_dataset[line][0]) for line in range(len(data.test_dataset))]
    return torch.cat(rows).double().numpy()
