"""Letters ↔ tensors: a name one-hot, many names end to end.

Shapes: L letters of a name, B names of a batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from src.data.alphabet import ALPHABET, encode


class Batch(NamedTuple):
    """B names with their categories, compact: letters are bytes and lie end to end."""

    letters: Tensor
    """uint8 [sum of lengths]: letter indices."""
    lengths: Tensor
    """int64 [B]: letters in each name, all at least 1."""
    categories: Tensor
    """int64 [B]: index of each name's category."""


def pack(names: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    """Lay encoded names end to end: → letters uint8 [sum of lengths], lengths int64 [B]."""
    letters = np.frombuffer(b"".join(names), dtype=np.uint8).copy()
    return torch.from_numpy(letters), torch.tensor([len(name) for name in names], dtype=torch.int64)


def one_hot(letters: Tensor) -> Tensor:
    """Letter indices, any shape [...] → float32 one-hot rows [..., 57]."""
    return F.one_hot(letters.long(), len(ALPHABET)).float()


def name_to_tensor(folded: str) -> Tensor:
    """A folded name → its one-hot tensor [L, 1, 57]; the 1 is the batch."""
    return one_hot(torch.frombuffer(bytearray(encode(folded)), dtype=torch.uint8)).unsqueeze(1)
