"""Buffers whose length depends on the data that a module was fitted to."""

from typing import Any

from torch import Tensor, nn


def replace_buffers(module: nn.Module, tensors: Any, keys: dict[str, str]) -> None:
    """Replace buffers of a module, and convert the new ones to the dtype and device of the old.

    `nn.Module.load_state_dict` accepts only tensors of the same shape. Buffers of variable length
    are therefore saved and loaded as the extra state of their module, which calls this function.

    Args:
        module: the module, which is changed in place.
        tensors: the new buffers by key. They may come from a damaged file.
        keys: for each buffer to replace, its key in `tensors`.

    Raises:
        ValueError: if a tensor has the wrong shape or the wrong kind of dtype. Only the first
            dimension may differ from that of the old buffer. A value that is not a dictionary of
            tensors raises a LookupError, TypeError or AttributeError.
    """
    for name, key in keys.items():
        old: Tensor = getattr(module, name)
        new = tensors[key]
        # The number of rows may differ, and so may the precision, but nothing else.
        has_same_shape = new.shape[1:] == old.shape[1:]
        has_same_kind = new.is_floating_point() == old.is_floating_point()
        if not (has_same_shape and has_same_kind):
            raise ValueError(f"{key}: wrong shape or dtype")
        setattr(module, name, new.to(old))
