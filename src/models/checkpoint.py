"""Loads networks from checkpoints. Checkpoints are untrusted, so every value is checked."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.data.alphabet import CASE_STYLES, UNKNOWN_SYMBOL
from src.data.normalize import ASCII_SYMBOLS
from src.models.network import Network
from src.run.files import from_checkpoint


def load_network(path: Path) -> Network:
    """Load the network of a checkpoint file, in evaluation mode.

    Raises:
        UserError: if the file is damaged or not a checkpoint of this program.
        OSError: if the file cannot be read.
    """
    return from_checkpoint(path, network_from_checkpoint)


def network_from_checkpoint(checkpoint: dict[str, Any]) -> Network:
    """Return the network of a checkpoint, in evaluation mode.

    Raises:
        ValueError: if a value is invalid. Errors raised by torch are passed on.
    """
    weights = {}
    for name, value in checkpoint["state_dict"].items():
        weights[name.removeprefix("network.")] = value
    check_weights(weights)
    with torch.device("meta"):  # allocates no memory, as the weights come from the checkpoint
        network = Network(**checkpoint["hyper_parameters"]["network"])
    check_alphabet_and_categories(network)
    network.load_state_dict(weights, assign=True)
    network.eval().float()
    # A trial run, because weights of the right shape may still have a wrong dtype.
    with torch.inference_mode():
        any_name = network.alphabet.symbols[0]
        network(*network.alphabet.encode([any_name]))
    return network


def check_weights(weights: dict[str, Tensor | dict[str, Tensor]]) -> None:
    """Check that all weights are contiguous tensors of finite floating-point numbers.

    The n-gram models have dictionaries of tensors, which may also be integers. `LetterNgrams`
    checks their values.

    Raises:
        ValueError: if a weight is invalid; the message names it.
    """
    for name, value in weights.items():
        if isinstance(value, dict):
            is_valid = all(is_finite_and_contiguous(tensor) for tensor in value.values())
        else:
            is_valid = is_finite_and_contiguous(value) and value.is_floating_point()
        if not is_valid:
            raise ValueError(f"its {name} has non-finite values or a wrong type")


def is_finite_and_contiguous(tensor: Tensor) -> bool:
    """Return whether a tensor has finite values only, each with its own place in memory.

    With strides of 0, a small file could describe a tensor that fills all memory when it is copied.
    """
    return tensor.is_contiguous() and bool(tensor.isfinite().all())


def check_alphabet_and_categories(network: Network) -> None:
    """Check that this program writes such an alphabet, and that all symbols are printable.

    The names of the categories must be printable as well.

    Raises:
        ValueError: if they are not.
    """
    alphabet = network.alphabet
    symbols = alphabet.symbols
    if alphabet.kind == "corpus":
        # The symbols of a corpus can be any, but the last one stands for unknown symbols.
        has_valid_symbols = symbols.endswith(UNKNOWN_SYMBOL)
    else:
        has_valid_symbols = alphabet.kind in ("ascii", "tutorial") and symbols == ASCII_SYMBOLS
    if not has_valid_symbols or alphabet.case_style not in ("", *CASE_STYLES):
        raise ValueError("its alphabet is not one that this program writes")
    if len(set(symbols)) < len(symbols) or not symbols.isprintable():
        raise ValueError("its alphabet has repeated or unprintable symbols")
    if not all(category.isprintable() for category in network.categories):
        raise ValueError("a category name is not printable")
