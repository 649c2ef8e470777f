from typing import Any

import pytest
import torch
import torch.nn.functional as F

from src.data.alphabet import ASCII_ALPHABET, UNKNOWN_SYMBOL, Alphabet
from src.data.dataset import NamesDataset
from src.errors import UserError
from src.models.network import Network
from src.models.recurrent import PyTorchCell, RecurrentNetwork, TutorialNetwork, symbol_groups
from src.models.rnn import read_name
from src.ngrams.ensemble import NgramEnsemble
from tests.helpers import make_batch

NAMES = ["Jones", "O'Neill", "a", "Lee", "Abdulkhalikovchenkos", "Li"]
PRIOR = [0.5, 0.3, 0.2]


def make_recurrent(cell: PyTorchCell, **changes: Any) -> RecurrentNetwork:
    torch.manual_seed(0)
    return RecurrentNetwork(ASCII_ALPHABET, 3, cell=cell, hidden=6, **changes)


def compute_log_probs_of_name(network: RecurrentNetwork, name: str) -> torch.Tensor:
    """Read a single name with PyTorch's layer itself, without padding and packing."""
    letters = ASCII_ALPHABET.encode([name]).letters.tolist()
    states, _ = network.rnn(network.input_vectors[letters])  # [L, D · H]
    # The backward direction ends at the first letter.
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
def test_batch_equals_single_names(cell: PyTorchCell, changes: dict[str, Any]) -> None:
    network = make_recurrent(cell, **changes)
    batch = make_batch(NAMES)
    actual = network(batch.letters, batch.lengths)
    expected = torch.stack([compute_log_probs_of_name(network, name) for name in NAMES])
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_names_of_equal_length_and_a_single_name() -> None:
    network = make_recurrent("gru", bidirectional=True, pooling="all")
    # Without padding, a packed sequence has a single batch size.
    for names in (["Li", "Wu", "Bo"], ["a", "b"], ["Abel"]):
        batch = make_batch(names)
        expected = torch.stack([compute_log_probs_of_name(network, name) for name in names])
        actual = network(batch.letters, batch.lengths)
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_recurrent_dropout_applies_to_hidden_weights() -> None:
    network = make_recurrent("gru", recurrent_dropout=0.5)
    batch = make_batch(NAMES)
    torch.manual_seed(3)
    dropped = network(batch.letters, batch.lengths)
    # With the same random numbers, dropout of the weights by hand has the same result.
    torch.manual_seed(3)
    with torch.no_grad():
        weight = dict(network.rnn.named_parameters())["weight_hh_l0"]
        weight.copy_(F.dropout(weight, 0.5))
    network.eval()
    torch.testing.assert_close(dropped, network(batch.letters, batch.lengths))


def test_no_dropout_in_evaluation_mode() -> None:
    network = make_recurrent("lstm", dropout=0.5, recurrent_dropout=0.5, embedding=4).eval()
    batch = make_batch(NAMES)
    first = network(batch.letters, batch.lengths)
    second = network(batch.letters, batch.lengths)
    assert torch.equal(first, second)


def test_batch_gradient_of_the_tutorial_cell_is_the_mean() -> None:
    torch.manual_seed(0)
    network = TutorialNetwork(ASCII_ALPHABET, 3, 8)
    batch = make_batch(NAMES)
    batch_loss = F.nll_loss(network(batch.letters, batch.lengths), batch.targets)
    batch_loss.backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
    batch_gradients = [weight.grad for weight in network.parameters()]
    # The mean of the gradients of single names is accumulated next.
    network.zero_grad()
    for name, category in zip(NAMES, batch.targets, strict=True):
        letters, _ = ASCII_ALPHABET.encode([name])
        one_hot = F.one_hot(letters.long(), 57).float().unsqueeze(1)  # [L, 1, 57]
        loss = -read_name(network.rnn, one_hot)[0, category] / len(NAMES)
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
    for gradient, weight in zip(batch_gradients, network.parameters(), strict=True):
        torch.testing.assert_close(gradient, weight.grad, atol=1e-6, rtol=0)


def test_groups_of_letters_share_a_part_of_their_vectors() -> None:
    symbols = "AaáÄбŐ" + UNKNOWN_SYMBOL
    # The vectors of the 7 symbols are followed by those of the two cases, of the three letters
    # without accents, and of unknown letters.
    lower = 7
    upper = 8
    assert symbol_groups(symbols).tolist() == [
        [upper, 9],
        [lower, 9],
        [lower, 9],
        [upper, 9],
        [lower, 10],
        [upper, 11],
        [lower, 12],
    ]
    torch.manual_seed(0)
    letters = Alphabet("corpus", symbols)
    network = Network(letters.to_dict(), ["A", "B"], None, "gru", 4, embedding=3).eval()
    recurrent: Any = network.recurrent
    ungrouped = Alphabet("ascii", symbols)
    plain = RecurrentNetwork(ungrouped, 2, 4, "gru", embedding=3).eval()
    vectors = recurrent.input_vectors.detach()
    assert vectors.shape == (13, 3)
    case_index, letter_index = symbol_groups(symbols).unbind(dim=1)
    sums = vectors[:7] + vectors[case_index] + vectors[letter_index]
    plain.load_state_dict(recurrent.state_dict() | {"input_vectors": sums})
    batch = letters.encode(["Aáб", "ŐaÄ", "a" + UNKNOWN_SYMBOL])
    actual = network(batch.letters, batch.lengths)
    torch.testing.assert_close(actual, plain(batch.letters, batch.lengths))
    one_hot: Any = Network(letters.to_dict(), ["A", "B"], None, "gru", 4).recurrent
    # One-hot vectors are not learned, so nothing could be shared.
    assert torch.equal(one_hot.sum_input_vectors(), torch.eye(7))


def test_one_hot_letters_have_no_groups() -> None:
    letters = Alphabet("corpus", "Aaá" + UNKNOWN_SYMBOL)
    network = Network(letters.to_dict(), ["A", "B"], None, "gru", 4)
    batch = letters.encode(["Aaá", "b"])
    torch.manual_seed(0)
    plain = RecurrentNetwork(Alphabet("ascii", letters.symbols), 2, 4, "gru")
    network.recurrent.load_state_dict(plain.state_dict())
    actual = network(batch.letters, batch.lengths)
    torch.testing.assert_close(actual, plain(batch.letters, batch.lengths))


def test_one_hot_letters_of_a_large_alphabet_are_refused() -> None:
    symbols = "".join(map(chr, range(0x4E00, 0x4F00)))
    alphabet = Alphabet("corpus", symbols[1:])
    # One-hot vectors of 255 symbols are still small enough.
    assert RecurrentNetwork(alphabet, 2, 4, "gru").input_vectors.shape == (255, 255)
    alphabet = Alphabet("corpus", symbols)
    with pytest.raises(UserError, match=r"embedding=0: the names have 256 .* use embedding=32"):
        RecurrentNetwork(alphabet, 2, 4, "gru")
    assert RecurrentNetwork(alphabet, 2, 4, "gru", embedding=3).input_vectors.shape[1] == 3


def test_options_that_a_cell_does_not_take_must_have_no_effect() -> None:
    alphabet = ASCII_ALPHABET.to_dict()
    Network(alphabet, ["A", "B"], None, "tutorial", 4, layers=1, pooling="last")
    with pytest.raises(ValueError, match="cell=tutorial does not take layers=2"):
        Network(alphabet, ["A", "B"], None, "tutorial", 4, layers=2)
    with pytest.raises(ValueError, match="cell=gru does not take heads=2"):
        Network(alphabet, ["A", "B"], None, "gru", 4, heads=2)


@pytest.mark.parametrize(
    "arguments", [{"layers": 0}, {"layers": 17}, {"dropout": 1.0}, {"recurrent_dropout": -0.1}]
)
def test_network_options_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        make_recurrent("gru", **arguments)


def make_network_with_ngrams(is_fitted: bool = True) -> Network:
    shape: dict[str, Any] = {"bidirectional": True, "embedding": 4, "pooling": "all"}
    network = Network(
        ASCII_ALPHABET.to_dict(), ["A", "B", "C"], PRIOR, cell="gru", hidden=5, ngrams=2, **shape
    )
    assert network.ngrams is not None
    if is_fitted:
        fit_ngrams(network.ngrams)
    return network


def fit_ngrams(ngrams: NgramEnsemble) -> None:
    train_names = {"A": NAMES[0::3], "B": NAMES[1::3], "C": NAMES[2::3]}
    ngrams.fit(NamesDataset(train_names), PRIOR, seed=0)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.ngrams.letter_ngrams.N_STEPS", 3)
    monkeypatch.setattr("src.ngrams.tfidf.MIN_STEPS", 3)
    monkeypatch.setattr("src.ngrams.tfidf.MAX_STEPS", 3)


def test_the_models_are_multiplied_with_weights_and_with_the_prior() -> None:
    network = make_network_with_ngrams().eval()
    batch = make_batch(NAMES + ["Zhang"])
    log_probs = network(batch.letters, batch.lengths)
    recurrent = network.recurrent(batch.letters, batch.lengths).exp()
    assert isinstance(network.ngrams, NgramEnsemble)
    models = network.ngrams.letter_ngrams
    lower, case_sensitive = (model(batch.letters, batch.lengths).softmax(1) for model in models)
    # The two n-gram models must differ for the test to detect an exchange.
    assert not torch.allclose(lower, case_sensitive)
    matches = [model.match_grams(batch.letters, batch.lengths) for model in models]
    tfidf = network.ngrams.tfidf(matches).softmax(1)
    product = recurrent**0.2 * lower**0.3 * case_sensitive**0.3 * tfidf**0.2 * torch.tensor(PRIOR)
    torch.testing.assert_close(log_probs.exp(), product / product.sum(dim=1, keepdim=True))


def test_an_alphabet_without_case_has_a_single_ngram_model() -> None:
    alphabet = Alphabet("corpus", "아이우" + UNKNOWN_SYMBOL)
    ngrams = Network(alphabet.to_dict(), ["A", "B"], PRIOR[:2], "gru", 4, ngrams=2).ngrams
    assert isinstance(ngrams, NgramEnsemble)
    dataset = NamesDataset({"A": ["아이", "이우"], "B": ["우"]}, alphabet)
    ngrams.eval().fit(dataset, [0.6, 0.4], 0)
    batch = alphabet.encode(["아이우", "우"])
    (model,) = ngrams.letter_ngrams
    letters, lengths = batch
    tfidf = ngrams.tfidf([model.match_grams(letters, lengths)])
    # The single model has the weights of both n-gram models, 2 · 0.3.
    expected = 0.6 * model(letters, lengths) + 0.2 * tfidf
    torch.testing.assert_close(ngrams(letters, lengths), expected)


def test_the_state_of_a_network_contains_the_counts_and_is_checked() -> None:
    network = make_network_with_ngrams().eval()
    loaded = make_network_with_ngrams(is_fitted=False).eval()
    batch = make_batch(NAMES)
    state = network.state_dict()
    loaded.load_state_dict(state)
    assert torch.equal(loaded(batch.letters, batch.lengths), network(batch.letters, batch.lengths))
    counts = state["ngrams.letter_ngrams.1._extra_state"]
    malformed_counts = counts | {"counts": -counts["counts"]}
    malformed = state | {"ngrams.letter_ngrams.1._extra_state": malformed_counts}
    with pytest.raises(ValueError, match="letter counts: out of range"):
        loaded.load_state_dict(malformed)


def test_the_keys_of_the_state_dict() -> None:
    """They are the names in checkpoints: if one is renamed, older checkpoints need a conversion."""
    network = make_network_with_ngrams()
    names = set()
    for name in network.state_dict():
        # The keys of PyTorch's own layers are known not to change.
        if "rnn." not in name and "output." not in name:
            names.add(name)
    expected = {"log_train_prior", "recurrent.input_vectors", "ngrams.tfidf.bias"}
    expected.add("ngrams.tfidf._extra_state")
    for model in ("ngrams.letter_ngrams.0", "ngrams.letter_ngrams.1"):
        for name in ("log_beta", "log_delta", "logit_mu", "weight", "bias"):
            expected.add(f"{model}.{name}")
        expected.add(f"{model}._extra_state")
    assert names == expected


def test_in_training_only_the_recurrent_network_and_the_prior_are_used() -> None:
    network = make_network_with_ngrams().train()
    batch = make_batch(NAMES)
    scores = network.recurrent(batch.letters, batch.lengths) + torch.tensor(PRIOR).log()
    torch.testing.assert_close(network(batch.letters, batch.lengths), scores.log_softmax(dim=1))


def test_a_uniform_prior_leaves_the_recurrent_networks_log_probabilities_unchanged() -> None:
    network = Network(ASCII_ALPHABET.to_dict(), ["A", "B", "C"], [1 / 3] * 3, "rnn", 6).eval()
    batch = make_batch(NAMES)
    torch.testing.assert_close(
        network(batch.letters, batch.lengths), network.recurrent(batch.letters, batch.lengths)
    )


def test_without_a_prior_the_log_probabilities_are_those_of_the_tutorials_network() -> None:
    network = Network(ASCII_ALPHABET.to_dict(), ["A", "B", "C"], None, "tutorial", 8).eval()
    batch = make_batch(NAMES)
    log_probs = network(batch.letters, batch.lengths)
    assert torch.equal(log_probs, network.recurrent(batch.letters, batch.lengths))
    assert set(network.state_dict()) == {
        "recurrent.rnn.i2h.weight",
        "recurrent.rnn.i2h.bias",
        "recurrent.rnn.i2o.weight",
        "recurrent.rnn.i2o.bias",
    }


def test_ngram_models_do_not_change_the_initial_weights_of_the_network() -> None:
    """They do not draw from the global random generator, which the network draws from."""
    results = []
    for ngrams in (0, 2):
        torch.manual_seed(0)
        network = Network(ASCII_ALPHABET.to_dict(), ["A", "B", "C"], PRIOR, "gru", 5, ngrams=ngrams)
        if network.ngrams is not None:
            fit_ngrams(network.ngrams)
        results.append((network.recurrent.state_dict(), torch.rand(1)))
    results_without_ngrams, results_with_ngrams = results
    torch.testing.assert_close(results_without_ngrams, results_with_ngrams, atol=0, rtol=0)
