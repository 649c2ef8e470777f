"""The names under which checkpoints store values, where they differ from the names in the code.

Checkpoints keep the names of older versions, so that these can still be loaded. All other names in
a checkpoint are the same as in the code.
"""

from functools import partial
from typing import Any

from torch import nn

CALIBRATION_KEY = "decision"
"""Key of the calibration in a checkpoint."""

STORED_ARGUMENTS = {"alphabet": "letters", "train_prior": "shares"}
"""Names of arguments of `Network`, and their names in the hyperparameters of a checkpoint."""

STORED_WEIGHTS = {
    "log_train_prior": "log_shares",
    "input_vectors": "letters",
    "letter_ngrams": "counted",
    "tfidf": "weighed",
    "log_beta": "log_strength",
    "log_delta": "log_pooled_strength",
    "logit_mu": "own_share",
}
"""Names of parameters, buffers and submodules, and their names in the state dict of checkpoints."""


def to_stored_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Network` with their names in checkpoints."""
    return {STORED_ARGUMENTS.get(name, name): value for name, value in arguments.items()}


def from_stored_arguments(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Network` that a checkpoint stores, with their names in the code."""
    names = {stored_name: name for name, stored_name in STORED_ARGUMENTS.items()}
    return {names.get(stored_name, stored_name): value for stored_name, value in stored.items()}


def use_stored_names(module: nn.Module, attributes: list[str]) -> None:
    """Let the state dict of a module contain some of its attributes under their stored names.

    Args:
        module: the module, to which hooks are added.
        attributes: parameters, buffers or submodules; all of them are keys of `STORED_WEIGHTS`.
    """
    for name in attributes:
        stored_name = STORED_WEIGHTS[name]
        save_hook = partial(_rename_when_saving, old_name=name, new_name=stored_name)
        load_hook = partial(_rename_when_loading, old_name=stored_name, new_name=name)
        module.register_state_dict_post_hook(save_hook)  # type: ignore[no-untyped-call] # torch leaves
        module.register_load_state_dict_pre_hook(load_hook)  # type: ignore[no-untyped-call] # it untyped


def _rename_when_saving(
    module: nn.Module,  # noqa: ARG001 # PyTorch passes four positional arguments
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: Any,  # noqa: ARG001
    *,
    old_name: str,
    new_name: str,
) -> None:
    """Rename an attribute in a state dict, in place; see `register_state_dict_post_hook`."""
    _rename_attribute(state_dict, prefix, old_name, new_name)


def _rename_when_loading(
    module: nn.Module,  # noqa: ARG001 # PyTorch passes seven more arguments
    state_dict: dict[str, Any],
    prefix: str,
    *_: Any,
    old_name: str,
    new_name: str,
) -> None:
    """Rename an attribute in a state dict, in place; see `register_load_state_dict_pre_hook`."""
    _rename_attribute(state_dict, prefix, old_name, new_name)


def _rename_attribute(
    state_dict: dict[str, Any], prefix: str, old_name: str, new_name: str
) -> None:
    """Rename the keys of a parameter, a buffer or a whole submodule, in place.

    Args:
        state_dict: the state dict. The order of its keys is kept.
        prefix: what the keys of the module's attributes start with.
        old_name: name of the attribute.
        new_name: its new name.
    """
    for key in list(state_dict):
        value = state_dict.pop(key)
        # A submodule has keys such as `counted.0.weight`.
        attribute, dot, rest = key.removeprefix(prefix).partition(".")
        is_renamed = key.startswith(prefix) and attribute == old_name
        new_key = prefix + new_name + dot + rest if is_renamed else key
        state_dict[new_key] = value
