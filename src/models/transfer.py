"""Transfer learning: initial weights from a network with other letters and categories.

Shapes: n shared items, which are letters or categories of both networks; S symbols in the alphabet
of the source; K groups that each symbol belongs to (0 or 2); E size of an input vector, V input
vectors; H hidden size, G gates of the cell.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from src.data.alphabet import UNKNOWN_SYMBOL
from src.data.normalize import replace_unprintable
from src.errors import UserError
from src.models.network import Network
from src.models.recurrent import RecurrentNetwork, TutorialNetwork
from src.models.rnn import RNN

MAX_LISTED = 8
"""Maximum number of categories or letters that a message lists."""


@torch.no_grad()
def transfer_and_describe_weights(source: Network, target: Network, source_name: str) -> str:
    """Copy the weights of a trained network for the letters and categories that both networks have.

    Other weights keep their initial values. The n-gram models are not transferred.

    Args:
        source: the trained network.
        target: the new network, of the same architecture. Its weights are changed in place.
        source_name: name of the source in messages.

    Returns:
        A line for the user: what was copied, what is new and what was left out.

    Raises:
        UserError: if the architectures differ, or the networks share no letter or no category.
    """
    check_architecture(source, target, source_name)
    categories = match_items("categories", source.categories, target.categories, source_name)
    source_symbols = source.alphabet.symbols
    target_symbols = target.alphabet.symbols
    letters = match_items("letters", source_symbols, target_symbols, source_name)
    if isinstance(target.recurrent, TutorialNetwork):
        source_tutorial = cast(TutorialNetwork, source.recurrent)
        copy_tutorial_cell(source_tutorial.rnn, target.recurrent.rnn, categories, letters)
    elif isinstance(target.recurrent, RecurrentNetwork):
        source_recurrent = cast(RecurrentNetwork, source.recurrent)
        copy_recurrent_network(source_recurrent, target.recurrent, categories, letters)
    else:
        cell = target.architecture["cell"]
        raise UserError(f"init_from: cannot copy the weights of cell={cell}")
    message = f"{source_name}: copied {categories.description}, {letters.description}"
    if source.ngrams is not None:
        message += "; n-gram models are not copied, but fitted to the new names"
    return message


def check_architecture(source: Network, target: Network, source_name: str) -> None:
    """Check that two networks have the same architecture, apart from letters and categories.

    Raises:
        UserError: if the architectures differ; the message says which settings would fit.
    """
    differing = []
    for key, value in target.architecture.items():
        if value != source.architecture[key]:
            differing.append(key)
    if differing:
        current = as_overrides(target, differing)
        needed = as_overrides(source, differing)
        raise UserError(f"{current}: {source_name} has another architecture; use {needed}")


def as_overrides(network: Network, keys: Iterable[str]) -> str:
    """Return part of a network's architecture as one would type it on the command line."""
    overrides = []
    for key in keys:
        override = f"{key}={network.architecture[key]}"
        overrides.append(override.lower())  # Hydra writes `true`, and not `True`
    return replace_unprintable(" ".join(overrides))


class SharedItems(NamedTuple):
    """The categories, or the letters, that two networks have in common."""

    source_indices: Tensor
    """Indices of the shared items in the source [n], int64."""
    target_indices: Tensor
    """Indices of the shared items in the target [n], int64."""
    description: str
    """How many items are shared, new and left out, for a message."""


def match_items(
    kind: Literal["categories", "letters"],
    source_items: Sequence[str],
    target_items: Sequence[str],
    source_name: str,
) -> SharedItems:
    """Find the items that two networks have in common.

    Args:
        kind: name of the items in messages.
        source_items: the categories or letters of the source, in index order.
        target_items: the categories or letters of the target, in index order.
        source_name: name of the source in messages.

    Raises:
        UserError: if the networks have no items in common.
    """
    source_index = {item: index for index, item in enumerate(source_items)}
    target_index = {item: index for index, item in enumerate(target_items)}
    # A list in the order of the target: the order of a set would change from run to run.
    shared = [item for item in target_items if item in source_index]
    new = target_index.keys() - source_index.keys()
    left_out = source_index.keys() - target_index.keys()
    # All alphabets of kind `corpus` contain the unknown symbol; sharing only that is not enough.
    known_items = set(shared) - {UNKNOWN_SYMBOL}
    if not known_items:
        source_list = shortened_list(source_items)
        raise UserError(f"{source_name}: no {kind} in common; the model has {source_list}")
    differences = []
    if new:
        differences.append(f"new: {shortened_list(new)}")
    if left_out:
        differences.append(f"left out: {shortened_list(left_out)}")
    description = f"{len(shared):,} of {len(target_index):,} {kind}"
    if differences:
        description += f" ({'; '.join(differences)})"
    return SharedItems(
        source_indices=torch.tensor([source_index[item] for item in shared]),
        target_indices=torch.tensor([target_index[item] for item in shared]),
        description=description,
    )


def shortened_list(items: Iterable[str]) -> str:
    """Return the first few items in sorted order, and the number of others."""
    sorted_items = sorted(items)
    text = ", ".join(sorted_items[:MAX_LISTED])
    n_others = len(sorted_items) - MAX_LISTED
    return f"{text} and {n_others:,} more" if n_others > 0 else text


def copy_tutorial_cell(
    source: RNN, target: RNN, categories: SharedItems, letters: SharedItems
) -> None:
    """Copy the weights of the tutorial's cell for the shared letters and categories.

    The columns of both weight matrices are the letters, then the hidden state. The rows of `i2o`
    are the categories.
    """
    # Negative indices, because the alphabets may differ in size.
    hidden_columns = torch.arange(-target.hidden_size, 0)  # the last H columns
    source_columns = torch.cat([letters.source_indices, hidden_columns])
    target_columns = torch.cat([letters.target_indices, hidden_columns])
    target.i2h.weight[:, target_columns] = source.i2h.weight[:, source_columns]
    target.i2h.bias.copy_(source.i2h.bias)

    # An index [n, 1] of rows and an index [m] of columns select a block [n, m].
    source_rows = categories.source_indices.unsqueeze(1)
    target_rows = categories.target_indices.unsqueeze(1)
    target.i2o.weight[target_rows, target_columns] = source.i2o.weight[source_rows, source_columns]
    target.i2o.bias[categories.target_indices] = source.i2o.bias[categories.source_indices]


def copy_recurrent_network(
    source: RecurrentNetwork,
    target: RecurrentNetwork,
    categories: SharedItems,
    letters: SharedItems,
) -> None:
    """Copy the weights of a `RecurrentNetwork` for the shared letters and categories."""
    output_weight = source.output.weight[categories.source_indices]
    target.output.weight[categories.target_indices] = output_weight
    target.output.bias[categories.target_indices] = source.output.bias[categories.source_indices]
    for name, weight in target.rnn.named_parameters():
        source_weight = source.rnn.get_parameter(name)
        has_letter_columns = not target.has_learned_vectors and is_first_input_weight(name)
        if has_letter_columns:
            # The columns of this weight [G · H, S] are one-hot letters; copy the shared ones.
            weight[:, letters.target_indices] = source_weight[:, letters.source_indices]
        else:
            weight.copy_(source_weight)
    if target.has_learned_vectors:
        copy_input_vectors(source, target, letters)


def is_first_input_weight(name: str) -> bool:
    """Return whether a parameter is an input weight of the first layer, in either direction."""
    return name in ("weight_ih_l0", "weight_ih_l0_reverse")


def copy_input_vectors(
    source: RecurrentNetwork, target: RecurrentNetwork, letters: SharedItems
) -> None:
    """Copy the learned vectors of the shared letters and of their groups."""
    source_vectors = source.input_vectors  # [V, E]
    target_vectors = target.input_vectors  # [V, E]
    source_groups = source.groups[letters.source_indices]  # [n, K]
    target_groups = target.groups[letters.target_indices]  # [n, K]
    letter_vectors = source_vectors[letters.source_indices]  # [n, E]
    # Only networks with `letters=corpus` have groups; for others, K is 0.
    if source_groups.shape == target_groups.shape:
        target_vectors[target_groups] = source_vectors[source_groups]
    else:
        # Only one of the networks has groups. The input for a letter is its own vector plus those
        # of its groups. To keep the input the same, the vectors of the groups of the source are
        # added to the letter's own vector, and those of the target are subtracted.
        source_sum = source_vectors[source_groups].sum(dim=1)  # [n, E], zeros without groups
        target_sum = target_vectors[target_groups].sum(dim=1)  # [n, E], zeros without groups
        letter_vectors = letter_vectors + (source_sum - target_sum)
    target_vectors[letters.target_indices] = letter_vectors
