"""The hand-written recurrent network: the cell (one letter) and the loop over a name.

Shapes: B names in a batch, L letters of a name, I input size (the number of symbols of the
alphabet; 57 with `letters=ascii`), H hidden size, C categories.
"""

import torch
from torch import Tensor, nn


class RNN(nn.Module):
    """One step of an Elman network without a nonlinearity on its hidden state.

    Both the next hidden state and the output are linear functions of the letter and the previous
    hidden state. The two linear layers are created in the order `i2h`, `i2o`.

    Args:
        input_size: size of a one-hot letter, I.
        hidden_size: size of the hidden state, H.
        output_size: number of categories, C.
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
            hidden: previous hidden state [B, H].

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
    """Read one name and return the log-probabilities after its last letter [1, C].

    Args:
        rnn: the cell.
        name: one-hot letters [L, 1, I].
    """
    output: Tensor
    hidden = rnn.init_hidden()  # [1, H]
    for letter in name:  # [1, I]; a name has at least one letter
        output, hidden = rnn(letter, hidden)  # [1, C], [1, H]
    return output


def compute_log_probs_of_names(rnn: RNN, letters: Tensor, lengths: Tensor) -> Tensor:
    """Read a batch of names in parallel.

    The result is that of `read_name` for each name, with fewer operations. The product of a weight
    matrix and a one-hot letter is a column of that matrix. The output is computed only after the
    last letter of a name, and the hidden state after the last letter is not computed.

    Args:
        rnn: the cell.
        letters: letter indices of all names, end to end [sum of lengths].
        lengths: number of letters in each name [B], all at least 1.

    Returns:
        The log-probabilities after the last letter of each name [B, C].
    """
    sizes = [rnn.i2h.in_features - rnn.hidden_size, rnn.hidden_size]
    letter_to_hidden, hidden_to_hidden = torch.split(rnn.i2h.weight.T, sizes)  # [I, H], [H, H]
    letter_to_output, hidden_to_output = torch.split(rnn.i2o.weight.T, sizes)  # [I, C], [H, C]
    # Adding the biases to the rows of all letters saves an addition for each letter of a name.
    letter_to_hidden = letter_to_hidden + rnn.i2h.bias
    letter_to_output = letter_to_output + rnn.i2o.bias

    # The longest names come first, so that the names with a t-th letter are always the first rows.
    order = lengths.argsort(descending=True, stable=True)  # [B]
    starts = (lengths.cumsum(0) - lengths)[order]  # index of the first letter of each name [B]
    # n_longer[t] is the number of names that are longer than t letters, for t = 0 … L. For example,
    # for the lengths 3 2 2, `bincount` is 0 0 2 1, n_up_to is 0 0 2 3 and n_longer is 3 3 1 0.
    n_up_to = lengths.bincount().cumsum(0)  # [L + 1]
    n_longer = (len(lengths) - n_up_to).tolist()
    max_length = len(n_longer) - 1  # L
    hidden = rnn.init_hidden(len(lengths))  # [B, H]
    outputs = []
    for t in range(max_length):  # letters are numbered from 0 here
        n = n_longer[t]  # number of names with a letter t
        n_next = n_longer[t + 1]  # number of names that go on after it
        index = letters[starts[:n] + t].long()  # letter t of these names [n]
        # The names n_next … n - 1 end with this letter; those before them continue.
        ending = torch.addmm(
            letter_to_output[index[n_next:]], hidden[n_next:n], hidden_to_output
        )  # [n - n_next, C]
        outputs.append(ending)
        hidden = torch.addmm(
            letter_to_hidden[index[:n_next]], hidden[:n_next], hidden_to_hidden
        )  # [n_next, H]
    # The shortest names were finished first.
    outputs.reverse()
    logits = torch.cat(outputs)  # in the order of decreasing length [B, C]
    original_order = order.argsort()  # the inverse permutation of `order`
    return logits[original_order].log_softmax(dim=1)
