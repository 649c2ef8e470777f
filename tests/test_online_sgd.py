import signal

import pytest
import torch
import torch.nn.functional as F

from src.data.batch import Batch
from src.data.datamodule import NamesDataModule
from src.models.online_sgd import OnlineSGD, train_on_each_name
from src.models.rnn import RNN, read_name


def random_batch(lengths: list[int], n_categories: int) -> Batch:
    return Batch(
        torch.randint(57, (sum(lengths),), dtype=torch.uint8),
        torch.tensor(lengths),
        torch.randint(n_categories, (len(lengths),)),
    )


@pytest.mark.parametrize("hidden", [1, 3, 8, 13, 128])
@pytest.mark.parametrize("n_categories", [2, 18])
def test_gradient_against_autograd(hidden: int, n_categories: int) -> None:
    """With lr=1, a step is the negative gradient."""
    torch.manual_seed(hidden)
    for length in range(1, 20):
        rnn = RNN(57, hidden, n_categories)
        batch = random_batch([length], n_categories)
        before = [weight.detach().clone() for weight in rnn.parameters()]

        ((name, _),) = batch.one_hot_examples(57)
        output = read_name(rnn, name)
        loss = F.nll_loss(output, batch.targets)
        gradients = torch.autograd.grad(loss, list(rnn.parameters()), materialize_grads=True)
        losses, guesses = train_on_each_name(rnn, batch, lr=1.0)

        assert losses.item() == pytest.approx(loss.item(), abs=1e-6)
        assert guesses.item() == output.argmax().item()
        for weight, initial, gradient in zip(rnn.parameters(), before, gradients, strict=True):
            step = initial - weight.detach()
            torch.testing.assert_close(step, gradient, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("hidden", [1, 13, 128])
@pytest.mark.parametrize(
    ("clip", "clipped"), [(0.0, "none"), (99.0, "none"), (1.3, "some"), (0.1, "all")]
)
def test_steps_equal_torch_sgd(hidden: int, clip: float, clipped: str) -> None:
    torch.manual_seed(0)
    rnn = RNN(57, hidden, 4)
    reference = RNN(57, hidden, 4)
    reference.load_state_dict(rnn.state_dict())
    batch = random_batch([5, 1, 19, 2, 7, 3] * 10, 4)
    # With three letters, each one occurs several times in a name, and gets several gradients.
    batch = batch._replace(letters=batch.letters % 3)
    losses, guesses = train_on_each_name(rnn, batch, 0.05, clip)

    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05)
    norms = []
    for i, (name, category) in enumerate(batch.one_hot_examples(57)):
        output = read_name(reference, name)
        loss = F.nll_loss(output, category)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
        norms.append(torch.nn.utils.clip_grad_norm_(reference.parameters(), clip or torch.inf))
        optimizer.step()
        assert losses[i].item() == pytest.approx(loss.item(), abs=1e-5)
        assert guesses[i] == output.argmax()
    for weight, expected in zip(rnn.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, atol=1e-5, rtol=0)
    clipped_fraction = (torch.stack(norms) > (clip or torch.inf)).float().mean().item()
    # The case must be what its name says.
    if clipped == "none":
        assert clipped_fraction == 0
    elif clipped == "some":
        assert 0.1 < clipped_fraction < 0.9
    else:
        assert clipped_fraction > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_default_clip_has_no_effect_on_the_included_corpus(seed: int) -> None:
    data = NamesDataModule(
        seed=seed, iterations=4000, log_every=4000, val_every=4000, chunk_size=4000
    )
    (batch,) = data.train_dataloader()
    results = []
    for clip in (0.0, 500.0):
        torch.manual_seed(seed)
        rnn = RNN(57, 128, 18)
        losses, guesses = train_on_each_name(rnn, batch, 0.005, clip)
        results.append([losses, guesses] + list(rnn.parameters()))
    unclipped_results, clipped_results = results
    for unclipped, clipped in zip(unclipped_results, clipped_results, strict=True):
        assert torch.equal(unclipped, clipped)


def test_clipping_of_a_huge_gradient() -> None:
    """Its square is too large for 32 bits; its norm is not."""
    torch.manual_seed(0)
    rnn = RNN(57, 8, 3)
    batch = random_batch([3], 3)
    with torch.no_grad():
        rnn.i2h.weight *= 1e15
    _, guesses = train_on_each_name(rnn, batch, 0.0)
    # Only a wrong prediction has a large gradient.
    batch = batch._replace(targets=(guesses + 1) % 3)
    before = torch.cat([weight.detach().flatten().clone() for weight in rnn.parameters()]).double()
    train_on_each_name(rnn, batch, 1e20, 0.01)
    after = torch.cat([weight.detach().flatten() for weight in rnn.parameters()]).double()
    assert (after - before).norm().item() == pytest.approx(1e18, rel=1e-3)


def test_infinite_weights_give_an_infinite_loss() -> None:
    rnn = RNN(57, 8, 3)
    with torch.no_grad():
        rnn.i2o.bias[0] = float("inf")
    losses, _ = train_on_each_name(rnn, random_batch([3, 3], 3), 0.1)
    assert not losses.isfinite().any()


def test_creating_the_optimizer_changes_no_weight() -> None:
    rnn = RNN(57, 8, 3)
    before = {name: weight.clone() for name, weight in rnn.state_dict().items()}
    OnlineSGD(rnn, 0.1)
    assert all(torch.equal(weight, before[name]) for name, weight in rnn.state_dict().items())


def test_optimizer_uses_its_current_learning_rate() -> None:
    torch.manual_seed(0)
    rnn = RNN(57, 8, 3)
    reference = RNN(57, 8, 3)
    reference.load_state_dict(rnn.state_dict())
    batch = random_batch([4, 6], 3)
    optimizer = OnlineSGD(rnn, 0.1, clip=0.5)
    # A learning-rate scheduler does this.
    optimizer.param_groups[0]["lr"] *= 0.5
    losses, guesses = optimizer.step(batch=batch)
    expected_losses, expected_guesses = train_on_each_name(reference, batch, 0.05, 0.5)
    assert torch.equal(losses, expected_losses)
    assert torch.equal(guesses, expected_guesses)
    assert torch.equal(rnn.i2h.weight, reference.i2h.weight)


def test_ctrl_c_in_the_kernel_raises_keyboard_interrupt() -> None:
    rnn = RNN(57, 64, 3)
    batch = random_batch([8] * 100_000, 3)
    # The first call compiles the kernel, which must not be interrupted.
    train_on_each_name(rnn, random_batch([1], 3), 0.0)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for _ in range(3):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            train_on_each_name(rnn, batch, 1e-6)
