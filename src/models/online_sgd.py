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
    ∂W = Σ_t g_t h_{t-1}ᵀ    ∂A[x] = Σ_{t: x_t = x} g_t    ∂a = Σ_t g_t    (t = 1 … T-1)

All g_t are computed before any weight changes, as autograd does.

For gradient clipping, the norm of the whole gradient ∂ follows from products of vectors:

    |∂|² = |δ|² (2 + |h_{T-1}|²) + Σ_{s,t} g_s·g_t (1 + [x_s = x_t] + h_{s-1}·h_{t-1})

where s and t run from 1 to T-1. The first 2 stands for ∂b and ∂B, |h_{T-1}|² for ∂U; the terms in
the last bracket stand for ∂a, ∂A and ∂W, where [x_s = x_t] is 1 if both letters are the same and 0
otherwise. By the Cauchy-Schwarz inequality, an upper bound needs only the lengths of the vectors.
It often shows that no clipping is necessary:

    |∂|² ≤ |δ|² (2 + |h_{T-1}|²) + Σ_t |g_t|² (2 (T - 1) + Σ_t |h_{t-1}|²)    (t = 1 … T-1)

Indices in the code: h[t] is h_t and g[t] is g_t, as above. The letters in `x` are numbered from 0,
so x[t - 1] is x_t. `last` is T - 1, the index of the last letter in `x` and of the last hidden
state that is read. For `lee`: last = 2, x[0 … 2] = l e e, h[0 … 2] = 0, h_1, h_2 and
g[1 … 2] = g_1, g_2; g[0] is not used.

Shapes: N names in a batch, T letters of a name, I input size, H hidden size, C categories.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.console import announce_if_slow
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
def _add_product(out: Floats, matrix: Floats, vector: Floats) -> None:
    """Add a product to out [m]: `out += matrix @ vector`, for a matrix [m, n] and a vector [n].

    Four rows are processed at a time, so that the vector is loaded once for all four.
    """
    m, n = matrix.shape
    fours = m - m % 4
    for j in range(0, fours, 4):
        row0 = matrix[j]
        row1 = matrix[j + 1]
        row2 = matrix[j + 2]
        row3 = matrix[j + 3]
        sum0 = np.float32(0)
        sum1 = np.float32(0)
        sum2 = np.float32(0)
        sum3 = np.float32(0)
        for i in range(n):
            sum0 += row0[i] * vector[i]
            sum1 += row1[i] * vector[i]
            sum2 += row2[i] * vector[i]
            sum3 += row3[i] * vector[i]
        out[j] += sum0
        out[j + 1] += sum1
        out[j + 2] += sum2
        out[j + 3] += sum3
    for j in range(fours, m):
        row = matrix[j]
        row_sum = np.float32(0)
        for i in range(n):
            row_sum += row[i] * vector[i]
        out[j] += row_sum


@_compile_and_cache_with_numba
def _add_combination(out: Floats, factors: Floats, matrix: Floats) -> None:
    """Add the rows of a matrix [m, n], times their factors [m], to out [n], four rows at a time.

    This is `out += factors @ matrix`.
    """
    m, n = matrix.shape
    fours = m - m % 4
    for j in range(0, fours, 4):
        row0 = matrix[j]
        row1 = matrix[j + 1]
        row2 = matrix[j + 2]
        row3 = matrix[j + 3]
        c0 = factors[j]
        c1 = factors[j + 1]
        c2 = factors[j + 2]
        c3 = factors[j + 3]
        for i in range(n):
            out[i] += c0 * row0[i] + c1 * row1[i] + c2 * row2[i] + c3 * row3[i]
    for j in range(fours, m):
        row = matrix[j]
        c = factors[j]
        for i in range(n):
            out[i] += c * row[i]


@_compile_and_cache_with_numba
def _add_outer(out: Floats, scale: np.float32, left: Floats, right: Floats) -> None:
    """Add the scaled sum of the outer products of the rows of left [T, m] and right [T, n].

    This is `out += scale * left.T @ right` for out [m, n], four products at a time.
    """
    m, n = out.shape
    n_products = len(left)
    fours = n_products - n_products % 4
    for j in range(m):
        row = out[j]
        for t in range(0, fours, 4):
            right0 = right[t]
            right1 = right[t + 1]
            right2 = right[t + 2]
            right3 = right[t + 3]
            c0 = scale * left[t, j]
            c1 = scale * left[t + 1, j]
            c2 = scale * left[t + 2, j]
            c3 = scale * left[t + 3, j]
            for i in range(n):
                row[i] += c0 * right0[i] + c1 * right1[i] + c2 * right2[i] + c3 * right3[i]
        for t in range(fours, n_products):
            right_t = right[t]
            c = scale * left[t, j]
            for i in range(n):
                row[i] += c * right_t[i]


@_compile_and_cache_with_numba
def _add_scaled(out: Floats, scale: np.float32, vector: Floats) -> None:
    """Add a scaled vector [n] to out [n]: `out += scale * vector`."""
    for i in range(len(out)):
        out[i] += scale * vector[i]


@_compile_and_cache_with_numba
def _dot(left: Floats, right: Floats) -> float:
    """Return the dot product of two vectors [n] in 64 bits, so that no product overflows."""
    total = 0.0
    for i in range(len(left)):
        total += np.float64(left[i]) * np.float64(right[i])
    return total


@_compile_and_cache_with_numba
def _square_norm(delta: Floats, g: Floats, h: Floats, x: NDArray[Any]) -> float:
    """Return |∂|² of a name x [T] from its errors δ [C] and the arrays g and h.

    These have the shape [longest name, H]; only their first T rows belong to this name.
    """
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

    The results are written into existing arrays. A pending KeyboardInterrupt would make Numba fail
    to create the Python objects for new arrays.

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
    letters, lengths, targets = batch
    n_hidden = len(i2h_bias)
    n_out = len(i2o_bias)
    n_in = i2h_weight.shape[1] - n_hidden

    # A, W, B and U are copies in which the elements that are used together are contiguous rows.
    # They are written back after the last name. The biases a and b are not copies: they are changed
    # in place.
    A = i2h_weight[:, :n_in].T.copy()  # [I, H]
    W = i2h_weight[:, n_in:].copy()  # [H, H]
    a = i2h_bias
    B = i2o_weight[:, :n_in].T.copy()  # [I, C]
    U = i2o_weight[:, n_in:].copy()  # [C, H]
    b = i2o_bias

    h = np.zeros((lengths.max(), n_hidden), np.float32)  # h[0] stays zero
    g = np.zeros_like(h)
    o = np.empty(n_out, np.float32)

    unit_scale = np.float32(1)
    end = 0
    for i in range(len(lengths)):
        start = end
        end = start + lengths[i]
        x = letters[start:end]  # [T]
        y = targets[i]
        last = lengths[i] - 1

        # Forward: h_t = A[x_t] + W h_{t-1} + a and o = B[x_T] + U h_{T-1} + b.
        for t in range(1, last + 1):
            h[t] = a
            _add_scaled(h[t], unit_scale, A[x[t - 1]])
            if t > 1:  # h_0 is zero
                _add_product(h[t], W, h[t - 1])
        o[:] = b
        _add_scaled(o, unit_scale, B[x[last]])
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
        """Compile the kernel by a step of length 0, so that the first real step does not wait.

        The first time on a machine, this takes a while, which is announced. Later, the compiled
        kernel is loaded from a file.
        """
        n_symbols = self._rnn.i2h.in_features - self._rnn.hidden_size
        name = Batch(
            letters=torch.zeros(1, dtype=letter_dtype(n_symbols)),
            lengths=torch.ones(1, dtype=torch.int64),
            targets=torch.zeros(1, dtype=torch.int64),
        )
        with announce_if_slow("Compiling the training kernel, which is cached for later runs …"):
            train_on_each_name(self._rnn, name, lr=0.0)

    def step(self, closure: Any = None, *, batch: Batch) -> Any:  # type: ignore[override] # needs a batch
        """Take a step for each name of a batch, and return the `NameResults`.

        Args:
            closure: ignored; Lightning passes it to every optimizer.
            batch: the names.
        """
        return train_on_each_name(self._rnn, batch, self.param_groups[0]["lr"], self._clip)
