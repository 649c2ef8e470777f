"""Compiled plain SGD that takes one step for every single name.

The gradient. A name of letters x_1 … x_T and category y passes through

    h_0 = 0,    h_t = A[x_t] + W h_{t-1} + a,    o = B[x_T] + U h_{T-1} + b,
    loss = -log softmax(o)[y]

where A[x] and B[x] are the columns of `i2h` and `i2o` for the letter x, and W and U their columns
for the hidden state. The last hidden state h_T is never read. For example, `lee` has T = 3 letters
x_1 x_2 x_3 = l e e, of which l and the first e change the hidden state (h_1, h_2), and the last e
is read together with h_2 for the output. With the errors δ = softmax(o) - onehot(y),
g_{T-1} = Uᵀ δ and g_{t-1} = Wᵀ g_t, the chain rule gives

    ∂U = δ h_{T-1}ᵀ    ∂B[x_T] = δ      ∂b = δ
    ∂W = Σ g_t h_{t-1}ᵀ    ∂A[x_t] += g_t    ∂a = Σ g_t        (t = 1 … T-1)

All g_t are computed before any weight changes, as autograd does.

For gradient clipping, the norm of the whole gradient ∂ follows from products of vectors:

    |∂|² = |δ|² (2 + |h_{T-1}|²) + Σ_{s,t} g_s·g_t (1 + [x_s = x_t] + h_{s-1}·h_{t-1})

The first 2 stands for ∂b and ∂B, |h_{T-1}|² for ∂U; the terms in the last bracket stand for ∂a, ∂A
and ∂W, where [x_s = x_t] is 1 if both letters are the same and 0 otherwise. By the Cauchy-Schwarz
inequality, an upper bound needs only the lengths of the vectors. It often shows that no clipping is
necessary:

    |∂|² ≤ |δ|² (2 + |h_{T-1}|²) + Σ |g_t|² (2 (T - 1) + Σ |h_t|²)

Indices in the code: the arrays `h` and `g` are indexed like h_t and g_t above, but the letters in
`x` from 0, so that x_t is x[t - 1]. `last` is T - 1, the index of the last letter in `x` and of the
last hidden state that is read. For `lee`: last = 2, x[0 … 2] = l e e, h[0 … 2] = 0, h_1, h_2 and
g[1 … 2] = g_1, g_2; g[0] is not used.

Shapes: N names in a batch, T letters of a name, I input size, H hidden size, C categories.
"""

from typing import Any, NamedTuple

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


def _compile_and_cache_with_numba(function: Any) -> Any:
    """Return a function compiled by Numba. The machine code is cached on disk if possible."""
    # `nogil` lets other threads run meanwhile. `reassoc` and `contract` let sums be reordered and
    # fused, so that loops can be vectorized, `arcp` allows multiplying by reciprocals, and `nsz`
    # ignores the sign of zeros. NaN and infinity keep their meaning.
    options: Any = {"nogil": True, "fastmath": {"reassoc", "contract", "arcp", "nsz"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither __pycache__ nor the user's cache folder is writable
        return numba.njit(**options)(function)


@_compile_and_cache_with_numba
def _add_product(y: Floats, w: Floats, x: Floats) -> None:
    """Add w [m, n] x [n] to y [m]: `y += w @ x`.

    Four rows are processed at a time, so that x is loaded once for all four.
    """
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


@_compile_and_cache_with_numba
def _add_combination(y: Floats, c: Floats, w: Floats) -> None:
    """Add the rows of w [m, n], weighted by c [m], to y [n]: `y += c @ w`; four rows at a time."""
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


@_compile_and_cache_with_numba
def _add_outer(w: Floats, s: np.float32, c: Floats, x: Floats) -> None:
    """Add s Σ_t c_t x_tᵀ to w [m, n], for the rows c_t of c [T, m] and x_t of x [T, n].

    This is `w += s * c.T @ x`, four t at a time.
    """
    m, n = w.shape
    n_rows = len(c)
    fours = n_rows - n_rows % 4
    for j in range(m):
        row = w[j]
        for t in range(0, fours, 4):
            x0, x1, x2, x3 = x[t], x[t + 1], x[t + 2], x[t + 3]
            c0 = s * c[t, j]
            c1 = s * c[t + 1, j]
            c2 = s * c[t + 2, j]
            c3 = s * c[t + 3, j]
            for i in range(n):
                row[i] += c0 * x0[i] + c1 * x1[i] + c2 * x2[i] + c3 * x3[i]
        for t in range(fours, n_rows):
            xt, ct = x[t], s * c[t, j]
            for i in range(n):
                row[i] += ct * xt[i]


@_compile_and_cache_with_numba
def _add_scaled(y: Floats, s: np.float32, x: Floats) -> None:
    """Add s x to y [n]."""
    for i in range(len(y)):
        y[i] += s * x[i]


@_compile_and_cache_with_numba
def _dot(x: Floats, y: Floats) -> float:
    """Return the dot product x·y of x [n] and y [n] in 64 bits, so that no product overflows."""
    s = 0.0
    for i in range(len(x)):
        s += np.float64(x[i]) * np.float64(y[i])
    return s


@_compile_and_cache_with_numba
def _square_norm(delta: Floats, g: Floats, h: Floats, x: NDArray[Any]) -> float:
    """Return |∂|² of a name x [T] from its errors δ [C], its g [T, H] and its states h [T, H]."""
    h_last = h[len(x) - 1]  # h_{T-1}
    total: float = _dot(delta, delta) * (2 + _dot(h_last, h_last))
    for t in range(1, len(x)):
        for s in range(1, t + 1):
            is_same_letter = x[s - 1] == x[t - 1]  # x_s = x_t
            term = 1 + is_same_letter + _dot(h[s - 1], h[t - 1])
            multiplicity = 1 if s == t else 2  # the sum is symmetric in s and t
            total += _dot(g[s], g[t]) * term * multiplicity
    return total


@_compile_and_cache_with_numba
def _square_norm_bound(delta: Floats, g: Floats, h: Floats, last: int) -> float:
    """Return the upper bound of |∂|² from the lengths of the vectors; `last` is T - 1."""
    sum_g = 0.0
    sum_h = 0.0
    for t in range(1, last + 1):
        sum_g += _dot(g[t], g[t])
        sum_h += _dot(h[t - 1], h[t - 1])
    last_term = _dot(delta, delta) * (2 + _dot(h[last], h[last]))
    bound: float = last_term + sum_g * (2 * last + sum_h)
    return bound


@_compile_and_cache_with_numba
def _train_on_names(
    weights: Any, batch: Any, lr: np.float32, clip: np.float32, losses: Floats, guesses: Ints
) -> None:
    """Take one step for each name in turn.

    The results are written into existing arrays, because Numba cannot return new arrays if Ctrl-C
    was pressed meanwhile.

    Args:
        weights: the parameters of the cell, which are changed in place: [H, I + H], [H],
            [C, I + H], [C].
        batch: the fields of a `Batch`.
        lr: learning rate.
        clip: maximum norm of the gradient of a name; 0 for no clipping.
        losses: receives the loss of each name before its step [N].
        guesses: receives the predicted category of each name before its step [N].
    """
    i2h_weight, i2h_bias, i2o_weight, i2o_bias = weights
    letters, lengths, categories = batch
    n_hidden = len(i2h_bias)
    n_out = len(i2o_bias)
    n_in = i2h_weight.shape[1] - n_hidden

    # A, W, B and U are copies in which each vector that is used together is a row, because rows are
    # contiguous in memory. They are written back after the last name. The biases a and b are not
    # copies: they are changed in place.
    A = i2h_weight[:, :n_in].T.copy()  # [I, H]
    W = i2h_weight[:, n_in:].copy()  # [H, H]
    a = i2h_bias
    B = i2o_weight[:, :n_in].T.copy()  # [I, C]
    U = i2o_weight[:, n_in:].copy()  # [C, H]
    b = i2o_bias

    h = np.zeros((lengths.max(), n_hidden), np.float32)  # h[0] stays zero
    g = np.zeros_like(h)
    o = np.empty(n_out, np.float32)

    one = np.float32(1)
    end = 0
    for i in range(len(lengths)):
        start = end
        end = start + lengths[i]
        x = letters[start:end]  # [T]
        y = categories[i]
        last = lengths[i] - 1

        # Forward: h_t = A[x_t] + W h_{t-1} + a and o = B[x_T] + U h_{T-1} + b.
        for t in range(1, last + 1):
            h[t] = a
            _add_scaled(h[t], one, A[x[t - 1]])
            if t > 1:  # h_0 is zero
                _add_product(h[t], W, h[t - 1])
        o[:] = b
        _add_scaled(o, one, B[x[last]])
        _add_product(o, U, h[last])

        # The loss, -log softmax(o)[y]. Subtracting the maximum keeps exp from overflowing.
        guess = o.argmax()
        highest = o[guess]
        y_score = o[y]
        total = np.float32(0)
        for k in range(n_out):
            o[k] = np.exp(o[k] - highest)
            total += o[k]
        losses[i] = np.log(total) + highest - y_score
        guesses[i] = guess

        # Backward: δ = softmax(o) - onehot(y), then g_{T-1} = Uᵀ δ and g_{t-1} = Wᵀ g_t.
        delta = o  # the same array: δ replaces exp(o), which is not needed any more
        for k in range(n_out):
            delta[k] /= total
        delta[y] -= np.float32(1)
        g[last] = 0
        _add_combination(g[last], delta, U)
        for t in range(last, 1, -1):
            g[t - 1] = 0
            _add_combination(g[t - 1], g[t], W)

        # Clipping. The norm itself takes much longer to compute than its bound.
        step = lr
        if clip and _square_norm_bound(delta, g, h, last) > clip * clip:
            norm = np.sqrt(_square_norm(delta, g, h, x)) + 1e-6  # as in clip_grad_norm_
            step *= np.float32(min(1.0, clip / norm))

        # Update: each weight minus step times its gradient.
        _add_outer(U, -step, delta.reshape(1, n_out), h[last : last + 1])  # ∂U = δ h_{T-1}ᵀ
        _add_scaled(B[x[last]], -step, delta)
        _add_scaled(b, -step, delta)
        # ∂W = Σ g_t h_{t-1}ᵀ for t = 2 … T-1; the term for t = 1 is zero, because h_0 is.
        _add_outer(W, -step, g[2 : last + 1], h[1:last])
        for t in range(1, last + 1):
            _add_scaled(A[x[t - 1]], -step, g[t])
            _add_scaled(a, -step, g[t])

    i2h_weight[:, :n_in] = A.T
    i2h_weight[:, n_in:] = W
    i2o_weight[:, :n_in] = B.T
    i2o_weight[:, n_in:] = U


class NameResults(NamedTuple):
    """The results of a batch of names, each before the step on that name."""

    losses: Tensor
    """Loss of each name [N], float32."""
    guesses: Tensor
    """Index of the predicted category of each name [N], int64."""


def train_on_each_name(rnn: RNN, batch: Batch, lr: float, clip: float = 0.0) -> NameResults:
    """Take one step of SGD for each name of a batch, in order, with the compiled kernel.

    Args:
        rnn: the cell, on the CPU. Its parameters are changed in place.
        batch: the names.
        lr: learning rate.
        clip: maximum norm of the gradient of a name; 0 for no clipping.
    """
    results = NameResults(
        losses=torch.empty(len(batch.lengths), dtype=torch.float32),
        guesses=torch.empty_like(batch.lengths),
    )
    # The arrays share the memory of the tensors.
    weights = []
    for weight in (rnn.i2h.weight, rnn.i2h.bias, rnn.i2o.weight, rnn.i2o.bias):
        weights.append(weight.detach().numpy())
    _train_on_names(
        weights=tuple(weights),
        batch=tuple(tensor.numpy() for tensor in batch),
        lr=np.float32(lr),
        clip=np.float32(clip),
        losses=results.losses.numpy(),
        guesses=results.guesses.numpy(),
    )
    return results


class OnlineSGD(torch.optim.SGD):
    """Plain SGD whose `step` trains on a whole batch, one name after the other.

    For Lightning, it is an optimizer like any other: its steps are counted, and checkpoints contain
    its state.

    Args:
        rnn: the cell to train, on the CPU.
        lr: learning rate.
        clip: maximum norm of the gradient of a name, as in `clip_grad_norm_`; 0 for no clipping.
    """

    def __init__(self, rnn: RNN, lr: float, clip: float = 0.0) -> None:
        super().__init__(rnn.parameters(), lr)
        self._rnn = rnn
        self._clip = clip
        self._compile_kernel()

    def _compile_kernel(self) -> None:
        """Compile the kernel by a step of length 0, so that the first real step does not wait."""
        n_symbols = self._rnn.i2h.in_features - self._rnn.hidden_size
        name = Batch(
            letters=torch.zeros(1, dtype=letter_dtype(n_symbols)),
            lengths=torch.ones(1, dtype=torch.int64),
            targets=torch.zeros(1, dtype=torch.int64),
        )
        train_on_each_name(self._rnn, name, lr=0.0)

    def step(self, closure: Any = None, *, batch: Batch) -> Any:  # type: ignore[override] # needs a batch
        """Take a step for each name of a batch, and return the `NameResults`.

        Args:
            closure: ignored; Lightning passes it to every optimizer.
            batch: the names.
        """
        return train_on_each_name(self._rnn, batch, self.param_groups[0]["lr"], self._clip)
