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
    output = hidden = rnn.init_hidden()  # [1, H]
    for letter in name:  # [1, I]
        output, hidden = rnn(letter, hidden)  # [1, C], [1, H]
    return output


def read_names(rnn: RNN, letters: Tensor, lengths: Tensor) -> Tensor:
    """Read a batch of names side by side.

    The sums are `RNN.forward`'s, fewer of them: a one-hot letter times a weight is a column of that
    weight, and no output is computed before a name's last letter, no hidden state after it.

    Args:
        rnn: the cell.
        letters: letter indices of all names, end to end [sum of lengths].
        lengths: letters of each name [B], all at least 1.

    Returns:
        The output after each name's last letter [B, C]; what `read_name` gives for each.
    """
    sizes = [rnn.i2h.in_features - rnn.hidden_size, rnn.hidden_size]
    letter_to_hidden, hidden_to_hidden = torch.split(rnn.i2h.weight.T, sizes)  # [I, H], [H, H]
    letter_to_output, hidden_to_output = torch.split(rnn.i2o.weight.T, sizes)  # [I, C], [H, C]
    letter_to_hidden = letter_to_hidden + rnn.i2h.bias
    letter_to_output = letter_to_output + rnn.i2o.bias

    order = lengths.argsort(descending=True, stable=True)  # the longest first, so that the names
    starts = (lengths.cumsum(0) - lengths)[order]  # still being read are always the first n rows
    reading = (len(lengths) - lengths.bincount().cumsum(0)).tolist()  # n, before each letter
    hidden = rnn.init_hidden(len(lengths))  # [B, H]
    outputs = []
    for t, (n, n_next) in enumerate(pairwise(reading)):
        index = letters[starts[:n] + t].long()  # [n]
        going_on, ending = hidden[:n_next], hidden[n_next:n]
        outputs.append(torch.addmm(letter_to_output[index[n_next:]], ending, hidden_to_output))
        hidden = torch.addmm(letter_to_hidden[index[:n_next]], going_on, hidden_to_hidden)
    return torch.cat(outputs[::-1])[order.argsort()].log_softmax(dim=1)  # [B, C]
