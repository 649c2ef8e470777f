"""Minimizes a loss over mini-batches, for models that Lightning does not train."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm


class FitProgress:
    """The progress of one or more fits, which run in threads and can be stopped together.

    Args:
        n_fits: number of fits.
        show: whether to show a progress bar if the output is a terminal.

    Attributes:
        is_stopped: set to True to stop all fits at their next step.
    """

    def __init__(self, n_fits: int = 1, show: bool = False) -> None:
        self.is_stopped = False
        # tqdm distinguishes three cases: None shows the bar only if the output is a terminal.
        disable = None
        if not show:
            disable = True
        self._bar = tqdm(
            total=float(n_fits),
            disable=disable,
            leave=False,
            bar_format="{percentage:3.0f}% |{bar}| {remaining} left",
        )

    def advance(self, fraction: float) -> None:
        """Advance the bar by a fraction of one fit."""
        self._bar.update(fraction)

    def stop(self) -> None:
        """Stop all fits at their next step, and remove the bar."""
        self.is_stopped = True
        self._bar.close()


def minimize_with_adam(
    loss: Callable[[Tensor], Tensor],
    param_groups: list[dict[str, Any]],
    *,
    max_lr: float,
    n_steps: int,
    batch_size: int,
    n_examples: int,
    generator: torch.Generator,
    progress: FitProgress | None = None,
) -> None:
    """Minimize a loss over mini-batches with Adam. The parameters are changed in place.

    The learning rate is the product of `max_lr`, a warm-up factor, which rises linearly to 1 over
    the first 5 % of the steps, and a decay factor, which falls linearly from 1 to 0 over all steps.

    Args:
        loss: maps the indices of the examples in a batch [B] to the mean loss of these examples, a
            scalar.
        param_groups: the parameters, as `torch.optim.Adam` takes them.
        max_lr: upper limit of the learning rate.
        n_steps: number of optimizer steps.
        batch_size: number of examples in a batch, B.
        n_examples: number of all examples.
        generator: shuffles the examples.
        progress: is advanced at each step; another thread can stop the minimization with it.
    """
    # `fused` updates all parameters in one call, which is faster for small models.
    optimizer = torch.optim.Adam(param_groups, max_lr, betas=(0.9, 0.99), fused=True)
    batches = shuffled_batches(n_examples, batch_size, n_steps, generator)
    for step, indices in enumerate(batches):
        if progress is not None:
            if progress.is_stopped:
                return
            progress.advance(1 / n_steps)

        # The warm-up covers the first 1 / 20 of the steps, and the decay all of them.
        warmup = min(1, 20 * (step + 1) / n_steps)
        decay = 1 - step / n_steps
        for group in optimizer.param_groups:
            group["lr"] = max_lr * warmup * decay

        optimizer.zero_grad()
        loss(indices).backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
        optimizer.step()


def shuffled_batches(
    n_examples: int, batch_size: int, n_batches: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Return batches of indices [batch_size] that visit all examples in random order, repeatedly.

    A batch can contain the end of one pass over the examples and the beginning of the next.
    """
    n_indices = n_batches * batch_size
    # One pass more than necessary, of which only a part is used.
    n_passes = 1 + n_indices // n_examples
    passes = [torch.randperm(n_examples, generator=generator) for _ in range(n_passes)]
    return torch.split(torch.cat(passes)[:n_indices], batch_size)
