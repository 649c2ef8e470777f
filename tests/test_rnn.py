import pytest
import torch
from torch import nn

from src.data.alphabet import ASCII_ALPHABET, name_to_tensor
from src.models.rnn import RNN, compute_log_probs_of_names, read_name

NAMES = ["Jones", "O'Neill", "a", "Lee", "Abdulkhalikovchenkos", "Li", "b"]


def make_rnn(hidden: int = 128) -> RNN:
    torch.manual_seed(0)
    return RNN(57, hidden, 18)


def test_shapes() -> None:
    rnn = make_rnn()
    assert rnn.init_hidden().shape == (1, 128)
    assert rnn.init_hidden().abs().sum() == 0
    output, hidden = rnn(name_to_tensor("Jones")[0], rnn.init_hidden())
    assert output.shape == (1, 18)
    assert hidden.shape == (1, 128)
    output, hidden = rnn(torch.zeros(4, 57), rnn.init_hidden(4))
    assert output.shape == (4, 18)
    assert hidden.shape == (4, 128)


def test_weights_are_two_linear_layers_in_order() -> None:
    rnn = make_rnn()
    torch.manual_seed(0)
    # The order of creation determines the initial weights of a seed.
    i2h = nn.Linear(57 + 128, 128)
    i2o = nn.Linear(57 + 128, 18)
    assert torch.equal(rnn.i2h.weight, i2h.weight)
    assert torch.equal(rnn.i2h.bias, i2h.bias)
    assert torch.equal(rnn.i2o.weight, i2o.weight)
    assert torch.equal(rnn.i2o.bias, i2o.bias)


def test_one_step_by_its_definition() -> None:
    rnn = make_rnn(hidden=5)
    letter = torch.randn(1, 57)
    hidden = torch.randn(1, 5)
    combined = torch.cat((letter, hidden), dim=1)
    scores = combined @ rnn.i2o.weight.T + rnn.i2o.bias
    output, next_hidden = rnn(letter, hidden)
    # The outputs are log-probabilities, and the hidden state has no activation function.
    torch.testing.assert_close(output, scores - scores.logsumexp(dim=1))
    torch.testing.assert_close(next_hidden, combined @ rnn.i2h.weight.T + rnn.i2h.bias)
    torch.testing.assert_close(output.exp().sum(), torch.tensor(1.0))


def test_output_is_the_one_after_the_last_letter() -> None:
    rnn = make_rnn()
    hidden = torch.zeros(1, 128)
    for letter in name_to_tensor("Satoshi"):
        output, hidden = rnn(letter, hidden)
    assert torch.equal(read_name(rnn, name_to_tensor("Satoshi")), output)


@pytest.mark.parametrize("names", [NAMES, ["Lee"], ["a", "b"]])
def test_parallel_reading_equals_single_names(names: list[str]) -> None:
    rnn = make_rnn()
    letters, lengths = ASCII_ALPHABET.encode(names)
    actual = compute_log_probs_of_names(rnn, letters, lengths)
    expected = torch.cat([read_name(rnn, name_to_tensor(name)) for name in names])
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)
