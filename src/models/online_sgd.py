"""Plain SGD, one step for every single name, compiled.

The gradient. A name of letters x_1 … x_T and category y passes through

    h_0 = 0,    h_t = A[x_t] + W h_{t-1} + a,    o = B[x_T] + U h_{T-1} + b,
    loss = -log softmax(o)[y]

where A[x], B[x] are the columns that letter x selects of `i2h` and `i2o`, and W, U the columns
that multiply the hidden state. The last hidden state h_T is never read. With the errors
δ = softmax(o) - onehot(y), g_{T-1} = Uᵀ δ and g_{t-1} = Wᵀ g_t, the chain rule gives

    ∂U = δ h_{T-1}ᵀ    ∂B[x_T] = δ      ∂b = δ
    ∂W = Σ g_t h_{t-1}ᵀ    ∂A[x_t] += g_t    ∂a = Σ g_t        (t = 1 … T-1)

All g_t are computed before any weight moves, as autograd does.

The norm of all of it, which `clip` bounds, comes from products of vectors alone, and no more than
from their lengths if these say that it is small enough:

    |∂|² = |δ|² (2 + |h_{T-1}|²) + Σ_{s,t} g_s·g_t (1 + [x_s = x_t] + h_{s-1}·h_{t-1})
         ≤ |δ|² (2 + |h_{T-1}|²) + Σ |g_t|² (2 (T - 1) + Σ |h_t|²)

Shapes: B names of a batch, T letters of a name, I input size, H hidden size, C categories.
"""

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.data.alphabet import letter_dtype
from src.data.batch import Batch
from src.models.rnn import RNN

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def _compile(function: Any) -> Any:
    """Compile with Numba, and keep the machine code on disk where there is a place for it."""
    # Sums may be reordered, so that loops vectorize; NaN and infinity keep their meaning.
    options: Any = {"nogil": True, "fastmath": {"reassoc", "contract", "arcp", "nsz"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither __pycache__ nor the user's cache folder can be written
        return numba.njit(**options)(function)


@_compile
def _add_product(y: Floats, w: Floats, x: Floats) -> None:
    """Add w [m, n] x [n] to y [m], four rows at a time so that x is loaded once for all four."""
    m, n = w.shape
    fours = m - m % 4
    for j in range(0, fours, 4):
        w0, w1, w2, w3 = w[j], w[j + 1], w[j + 2], w[j + 3]
        s0 = s1 = s2 = s3 = np.float32(0)
        for i in range(n):
            s0 += w0[i] * x[i]
            s1 += w1[i] * x[i]
            s2 += w2[i] * x[i]
            s3 += w3[i] * x[i]
        y[j] += s0
        y[j + 1] += s1
        y[j + 2] += s2
        y[j + 3] += s3
    for j in range(fours, m):
        row, s = w[j], np.float32(0)
        for i in range(n):
            s += row[i] * x[i]
        y[j] += s


@_compile
def _add_combination(y: Floats, c: Floats, w: Floats) -> None:
    """Add Σ_j c_j w_j to y [n]: the rows of w [m, n] weighted by c [m], four at a time."""
    m, n = w.shape
    fours = m - m % 4
    for j in range(0, fours, 4):
        w0, w1, w2, w3 = w[j], w[j + 1], w[j + 2], w[j + 3]
        c0, c1, c2, c3 = c[j], c[j + 1], c[j + 2], c[j + 3]
        for i in range(n):
            y[i] += c0 * w0[i] + c1 * w1[i] + c2 * w2[i] + c3 * w3[i]
    for j in range(fours, m):
        row, cj = w[j], c[j]
        for i in range(n):
            y[i] += cj * row[i]


@_compile
def _add_outer(w: Floats, s: np.float32, c: Floats, x: Floats) -> None:
    """Add s Σ_t c_t x_tᵀ to w [m, n]: rows of c [T, m] and x [T, n], four t at a time."""
    m, n = w.shape
    n_rows = len(c)
    fours = n_rows - n_rows % 4
    for j in range(m):
        row = w[j]
        for t in range(0, fours, 4):
            x0, x1, x2, x3 = x[t], x[t + 1], x[t + 2], x[t + 3]
            c0, c1, c2, c3 = s * c[t, j], s * c[t + 1, j], s * c[t + 2, j], s * c[t + 3, j]
            for i in range(n):
                row[i] += c0 * x0[i] + c1 * x1[i] + c2 * x2[i] + c3 * x3[i]
        for t in range(fours, n_rows):
            xt, ct = x[t], s * c[t, j]
            for i in range(n):
                row[i] += ct * xt[i]


@_compile
def _add_scaled(y: Floats, s: np.float32, x: Floats) -> None:
    """Add s x to y [n]."""
    for i in range(len(y)):
        y[i] += s * x[i]


@_compile
def _product(x: Floats, y: Floats) -> float:
    """Return x·y of x [n] and y [n], in 64 bits, in which no product is too large."""
    s = 0.0
    for i in range(len(x)):
        s += np.float64(x[i]) * np.float64(y[i])
    return s


@_compile
def _square_norm(delta: Floats, g: Floats, h: Floats, x: NDArray[Any]) -> float:
    """Return |∂|² of a name x [T] from its errors δ [C], its g [T, H] and its states h [T, H]."""
    h_last = h[len(x) - 1]
    total: float = _product(delta, delta) * (2 + _product(h_last, h_last))
    for t in range(1, len(x)):
        for s in range(1, t + 1):
            each = 1 + (x[s - 1] == x[t - 1]) + _product(h[s - 1], h[t - 1])
            total += _product(g[s], g[t]) * each * (1 if s == t else 2)
    return total


@_compile
def _train_on_names(
    weights: Any, batch: Any, lr: np.float32, clip: np.float32, losses: Floats, guesses: Ints
) -> None:
    """Take one step for each name in turn; note the loss and the guess before each step.

    Args:
        weights: of the cell, changed in place: [H, I + H], [H], [C, I + H], [C].
        batch: the parts of a `Batch`.
        lr: the learning rate.
        clip: see `OnlineSGD`.
        losses: [B], written, as guesses are; returned instead, Ctrl-C would break the return.
        guesses: [B].
    """
    i2h_weight, i2h_bias, i2o_weight, i2o_bias = weights
    letters, lengths, categories = batch
    n_names, n_hidden, n_out = len(lengths), len(i2h_bias), len(i2o_bias)
    n_in = i2h_weight.shape[1] - n_hidden
    # Copies that lie in memory in the order they are read; written back after the last name.
    A, W, a = i2h_weight[:, :n_in].T.copy(), i2h_weight[:, n_in:].copy(), i2h_bias
    B, U, b = i2o_weight[:, :n_in].T.copy(), i2o_weight[:, n_in:].copy(), i2o_bias

    h = np.zeros((lengths.max(), n_hidden), np.float32)  # h[t] is h_t; h[0] stays zero
    g = np.zeros_like(h)  # g[t] is g_t; g[0] is never used
    o = np.empty(n_out, np.float32)

    one, end = np.float32(1), 0
    for name in range(n_names):
        start, end = end, end + lengths[name]
        x, y, last = letters[start:end], categories[name], lengths[name] - 1

        for t in range(1, last + 1):
            h[t] = a
            _add_scaled(h[t], one, A[x[t - 1]])
            if t > 1:
                _add_product(h[t], W, h[t - 1])
        o[:] = b
        _add_scaled(o, one, B[x[last]])
        _add_product(o, U, h[last])

        guess = o.argmax()  # the first of the largest
        highest, y_score, total = o[guess], o[y], np.float32(0)
        for k in range(n_out):
            o[k] = np.exp(o[k] - highest)
            total += o[k]
        losses[name] = np.log(total) + highest - y_score
        guesses[name] = guess

        for k in range(n_out):
            o[k] /= total
        o[y] -= np.float32(1)  # o is δ now
        g[last] = 0
        _add_combination(g[last], o, U)
        for t in range(last, 1, -1):
            g[t - 1] = 0
            _add_combination(g[t - 1], g[t], W)

        step = lr
        if clip:
            all_g = all_h = 0.0
            for t in range(1, last + 1):
                all_g += _product(g[t], g[t])
                all_h += _product(h[t - 1], h[t - 1])
            bound = _product(o, o) * (2 + _product(h[last], h[last])) + all_g * (2 * last + all_h)
            if bound > clip * clip:
                norm = np.sqrt(_square_norm(o, g, h, x)) + 1e-6  # as clip_grad_norm_ has it
                step *= np.float32(min(1.0, clip / norm))

        _add_outer(U, -step, o.reshape(1, n_out), h[last : last + 1])
        _add_scaled(B[x[last]], -step, o)
        _add_scaled(b, -step, o)
        _add_outer(W, -step, g[2 : last + 1], h[1:last])  # h_0 = 0 adds nothing to ∂W
        for t in range(1, last + 1):
            _add_scaled(A[x[t - 1]], -step, g[t])
            _add_scaled(a, -step, g[t])

    i2h_weight[:, :n_in], i2h_weight[:, n_in:] = A.T, W
    i2o_weight[:, :n_in], i2o_weight[:, n_in:] = B.T, U


def compiled_steps(rnn: RNN, batch: Batch, lr: float, clip: float = 0.0) -> tuple[Tensor, Tensor]:
    """Take one SGD step per name of `batch`, in order, on the weights themselves; CPU only.

    A gradient longer than `clip` is shortened to it, unless that is 0.

    Returns:
        The loss [B] and the guessed category [B] of each name, before its step.
    """
    losses = torch.empty(len(batch.lengths), dtype=torch.float32)
    guesses = torch.empty_like(batch.lengths)
    weights = tuple(weight.detach().numpy() for weight in rnn.parameters())  # in the same memory
    names, results = tuple(part.numpy() for part in batch), (losses.numpy(), guesses.numpy())
    _train_on_names(weights, names, np.float32(lr), np.float32(clip), *results)
    return losses, guesses


class OnlineSGD(torch.optim.SGD):
    """Plain SGD whose `step` trains on a whole batch, one name after the other.

    To Lightning it is an optimizer like any other: steps are counted, checkpoints hold its state.
    Each name's gradient is shortened to the norm `clip`, as `clip_grad_norm_` does it; 0: never.
    """

    def __init__(self, rnn: RNN, lr: float, clip: float = 0.0) -> None:
        super().__init__(rnn.parameters(), lr)
        self._rnn, self._clip = rnn, clip
        # A step of length zero: has the kernel compiled now, not in the middle of training.
        n_symbols = rnn.i2h.in_features - rnn.hidden_size
        letter, one = torch.zeros(1, dtype=letter_dtype(n_symbols)), torch.ones(1).long()
        compiled_steps(rnn, Batch(letter, one, one - 1), 0.0)

    def step(self, closure: Any = None, *, batch: Batch) -> Any:  # type: ignore[override] # needs a batch
        """Train on `batch`; return each name's loss [B] and guess [B] before its step.

        `closure` is what Lightning passes to every optimizer; nothing is left for it to do.
        """
        return compiled_steps(self._rnn, batch, self.param_groups[0]["lr"], self._clip)
