"""The hand-written recurrent network: the cell (one letter) and the loop over a name.

Shapes: B names of a batch, L letters of a name, I input size (57 letters), H hidden size,
C categories.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn


class RNN(nn.Module):
    """One step of an Elman network without a nonlinearity on its hidden state.

    Both the next hidden state and the output are linear in the letter and the hidden state
    before it. Two linear layers, created in the order `i2h`, `i2o`.
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.i2h = nn.Linear(input_size + hidden_size, hidden_size)
        self.i2o = nn.Linear(input_size + hidden_size, output_size)

    def forward(self, input: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Read one letter of each name.

        Args:
            input: one-hot letters [B, I].
            hidden: the hidden state before them [B, H].

        Returns:
            The log-probabilities of the categories [B, C] and the next hidden state [B, H].
        """
        combined = torch.cat((input, hidden), dim=1)  # [B, I + H]
        output = self.i2o(combined).log_softmax(dim=1)  # [B, C]
        return output, self.i2h(combined)  # [B, C], [B, H]

    def init_hidden(self, batch_size: int = 1) -> Tensor:
        """Return the hidden state before the first letter, zeros [B, H]."""
        return self.i2h.weight.new_zeros(batch_size, self.hidden_size)


def read_name(rnn: RNN, name: Tensor) -> Tensor:
    """Read one name, one-hot [L, 1, I], and return the output after its last letter [1, C]."""
    output: Tensor  # [1, C]
    hidden = rnn.init_hidden()  # [1, H]
    for letter in name:  # [1, I]
        output, hidden = rnn(letter, hidden)
    return output


def read_names(rnn: RNN, letters: Tensor, lengths: Tensor) -> Tensor:
    """Read a batch of names side by side.

    Args:
        rnn: the cell.
        letters: letter indices of all names, end to end [sum of lengths].
        lengths: letters of each name [B], all at least 1.

    Returns:
        The output after each name's last letter [B, C]; what `read_name` gives for each.
    """
    input_size = rnn.i2h.in_features - rnn.hidden_size
    order = lengths.argsort(descending=True, stable=True)  # the longest first: those still being
    starts = (lengths.cumsum(0) - lengths)[order]  # read are always the first n rows
    reading = [int((lengths > t).sum()) for t in range(int(lengths.max()))] + [0]
    hidden = rnn.init_hidden(len(lengths))  # [B, H]
    outputs = []
    for t, (n, n_next) in enumerate(pairwise(reading)):
        index = letters[starts[:n] + t].long()  # [n]
        letter = nn.functional.one_hot(index, input_size).to(hidden)  # [n, I]
        output, hidden = rnn(letter, hidden[:n])  # [n, C], [n, H]
        outputs.append(output[n_next:])  # the names that end here
    return torch.cat(outputs[::-1])[order.argsort()]  # [B, C]
