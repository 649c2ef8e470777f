from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.data.alphabet import ALPHABET, encode
from src.data.tensors import Batch, pack
from src.models.network import NGRAM_SHARE, Network, RecurrentNetwork, TutorialNetwork, make_network
from src.models.ngrams import LetterNgrams
from src.models.rnn import read_name

NAMES = ["Jones", "O'Neill", "a", "Lee", "Abdulkhalikovchenkos", "Li"]
SHARES = [0.5, 0.3, 0.2]


def batch_of(names: list[str]) -> Batch:
    letters, lengths = pack([encode(name) for name in names])
    return Batch(letters, lengths, torch.arange(len(names)) % 3)


def make(cell: str, **changes: Any) -> RecurrentNetwork:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        **{"hidden": 6, "layers": 1, "bidirectional": False, "embedding": 0, "pooling": "last"},
        **{"dropout": 0.0, "recurrent_dropout": 0.0},
    }
    return RecurrentNetwork(57, 3, cell, **(arguments | changes))


def one_by_one(network: RecurrentNetwork, name: str) -> torch.Tensor:
    """Read a single name with PyTorch's layer itself: no padding, no packing."""
    states, _ = network.rnn(network.letters[list(encode(name))])  # [L, F]
    if network.pooling == "all":
        features = torch.cat((states.max(dim=0).values, states.mean(dim=0)))
    elif network.rnn.bidirectional:
        hidden = states.shape[1] // 2
        features = torch.cat((states[-1, :hidden], states[0, hidden:]))
    else:
        features = states[-1]
    scores: torch.Tensor = network.output(features)
    return scores.log_softmax(dim=0)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"embedding": 5, "layers": 2},
        {"bidirectional": True, "layers": 2},
        {"bidirectional": True, "pooling": "all", "embedding": 5},
    ],
)
def test_a_batch_gives_what_each_name_gives(cell: str, changes: dict[str, Any]) -> None:
    network = make(cell, **changes)
    batch = batch_of(NAMES)
    together = network(batch.letters, batch.lengths)
    expected = torch.stack([one_by_one(network, name) for name in NAMES])
    torch.testing.assert_close(together, expected, atol=1e-6, rtol=0)


def test_names_of_one_length_and_a_single_name() -> None:
    network = make("gru", bidirectional=True, pooling="all")
    for names in (["Li", "Wu", "Bo"], ["a", "b"], ["Abel"]):
        batch = batch_of(names)
        expected = torch.stack([one_by_one(network, name) for name in names])
        together = network(batch.letters, batch.lengths)
        torch.testing.assert_close(together, expected, atol=1e-6, rtol=0)


def test_recurrent_dropout_is_of_the_weights_from_state_to_state() -> None:
    network = make("gru", recurrent_dropout=0.5)
    batch = batch_of(NAMES)
    torch.manual_seed(3)
    dropped = network(batch.letters, batch.lengths)
    torch.manual_seed(3)
    with torch.no_grad():
        weight = dict(network.rnn.named_parameters())["weight_hh_l0"]
        weight.copy_(F.dropout(weight, 0.5))
    network.eval()
    torch.testing.assert_close(dropped, network(batch.letters, batch.lengths))


def test_dropout_is_gone_in_evaluation() -> None:
    network = make("lstm", dropout=0.5, recurrent_dropout=0.5, embedding=4).eval()
    batch = batch_of(NAMES)
    once, again = (network(batch.letters, batch.lengths) for _ in range(2))
    assert torch.equal(once, again)


def test_the_tutorials_cell_in_a_batch_has_the_mean_of_the_gradients() -> None:
    torch.manual_seed(0)
    network = TutorialNetwork(57, 3, 8)
    batch = batch_of(NAMES)
    F.nll_loss(network(batch.letters, batch.lengths), batch.categories).backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
    together = [weight.grad for weight in network.parameters()]
    network.zero_grad()
    for name, category in zip(NAMES, batch.categories, strict=True):
        one_hot = F.one_hot(torch.tensor(list(encode(name))), 57).float().unsqueeze(1)
        loss = -read_name(network.rnn, one_hot)[0, category] / len(NAMES)
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
    for mine, weight in zip(together, network.parameters(), strict=True):
        torch.testing.assert_close(mine, weight.grad, atol=1e-6, rtol=0)


def make_mixture() -> Network:
    settings = {
        **{"layers": 1, "bidirectional": True, "embedding": 4, "pooling": "all"},
        **{"dropout": 0.0, "recurrent_dropout": 0.0},
    }
    network = make_network(
        ALPHABET, ["A", "B", "C"], SHARES, cell="gru", hidden=5, ngrams=2, **settings
    )
    assert network.ngrams is not None
    network.ngrams.count(*batch_of(NAMES))
    return network


def test_a_mixture_is_bayes_rule_over_the_weighted_parts() -> None:
    network = make_mixture()
    batch = batch_of([*NAMES, "Zhang"])
    mixed = network(batch.letters, batch.lengths)
    alone = network.recurrent(batch.letters, batch.lengths)
    assert isinstance(network.ngrams, LetterNgrams)
    beside = network.ngrams(batch.letters, batch.lengths).softmax(dim=1)
    weighted = alone.exp() ** (1 - NGRAM_SHARE) * beside**NGRAM_SHARE * torch.tensor(SHARES)
    torch.testing.assert_close(mixed.exp(), weighted / weighted.sum(dim=1, keepdim=True))


def test_parts_are_trained_under_the_shares_without_the_names_own_counts() -> None:
    network = make_mixture()
    batch = batch_of(NAMES)
    alone, beside = network.parts(*batch)
    shares = torch.tensor(SHARES).log()
    expected = (network.recurrent(batch.letters, batch.lengths) + shares).log_softmax(dim=1)
    torch.testing.assert_close(alone, expected)
    assert isinstance(network.ngrams, LetterNgrams)
    scores = network.ngrams(batch.letters, batch.lengths, leave_out=batch.categories)
    torch.testing.assert_close(beside, (scores + shares).log_softmax(dim=1))


def test_a_network_without_ngrams_keeps_its_parts_own_answer_under_equal_shares() -> None:
    network = Network(make("rnn"), None, [1 / 3] * 3)
    batch = batch_of(NAMES)
    torch.testing.assert_close(
        network(batch.letters, batch.lengths), network.recurrent(batch.letters, batch.lengths)
    )
    assert len(network.parts(*batch)) == 1
    assert not any(isinstance(each, nn.Embedding) for each in network.modules())
