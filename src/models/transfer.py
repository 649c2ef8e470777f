"""Networks out of checkpoints, and their weights for new networks."""

from collections.abc import Set
from typing import Any

import torch
from torch import Tensor

from src.data.letters import ALPHABET, OTHER, STYLES, printable
from src.errors import UserError
from src.models.networks import Network, RecurrentNetwork

MOST = 8
"""Categories or letters that are named; of more, the number is."""


def network_of(checkpoint: dict[str, Any]) -> Network:
    """Return the network of a checkpoint, ready to answer.

    Raises:
        ValueError: if a value is none that this program writes, or likewise another error.
    """
    made_for = checkpoint["hyper_parameters"]["network"]
    weights = {name.removeprefix("network."): w for name, w in checkpoint["state_dict"].items()}
    for name, weight in weights.items():
        # Made of plain numbers: one number may be many. The n-grams check the rest of their counts.
        for part in weight.values() if isinstance(weight, dict) else [weight]:
            plain = part.is_contiguous() and bool(part.isfinite().all())
            if not plain or (part is weight and not part.is_floating_point()):
                raise ValueError(f"its {name} is not made of finite numbers")
    with torch.device("meta"):  # sizes only: the weights come from the file
        network = Network(**made_for)
    letters = network.letters
    learned = letters.symbols.rstrip(OTHER) + OTHER
    known = {"ascii": ALPHABET, "tutorial": ALPHABET, "corpus": learned}[letters.kind]
    if letters.symbols != known or letters.style not in ("", *STYLES):
        raise ValueError("its letters are none that this program reads")
    if len(set(known)) < len(known) or not known.isprintable():
        raise ValueError("its letters repeat, or cannot be shown")
    if not all(category.isprintable() for category in network.categories):
        raise ValueError("its categories are no names")
    network.load_state_dict(weights, assign=True)
    with torch.inference_mode():  # sizes may fit, and values still be of a wrong type
        network.eval().float()(*letters.pack([known[0]]))
    return network


@torch.no_grad()
def take_weights(network: Network, source: Network, name: str) -> str:
    """Give a new network the weights that another has for the letters and categories of both.

    What the other does not know keeps its initial weights. n-grams are never taken.

    Args:
        network: is changed.
        source: of the same sizes.
        name: what the source is called in messages.

    Returns:
        What was taken, what is new, and what was left.

    Raises:
        UserError: if the sizes differ, or there is no letter or no category that both have.
    """
    if differ := [key for key, size in network.sizes.items() if size != source.sizes[key]]:
        sizes = [" ".join(f"{key}={of.sizes[key]}" for key in differ) for of in (network, source)]
        asked, use = (printable(each.lower()) for each in sizes)  # as they are typed
        raise UserError(f"{asked}: {name} is of other sizes; use {use}")
    places, told = [], []
    known = [(of.categories, of.letters.symbols) for of in (network, source)]
    for kind, *both in zip(("categories", "letters"), *known, strict=True):
        mine, theirs = ({item: i for i, item in enumerate(items)} for items in both)
        shared = [(i, theirs[item]) for item, i in mine.items() if item in theirs]
        new, left = mine.keys() - theirs, theirs.keys() - mine
        if not {*mine} & {*theirs} - {OTHER}:
            raise UserError(f"{name}: knows none of these {kind}, but {_some(left)}")
        places.append(torch.tensor(shared).T)  # in the one and in the other [2, n]
        beside = [f"{what}: {_some(some)}" for what, some in (("new", new), ("left", left)) if some]
        told.append(f"{len(shared):,} of {len(mine):,} {kind}")
        told[-1] += f" ({'; '.join(beside)})" if beside else ""
    told += ["no n-grams: they are counted anew"] if source.ngrams is not None else []
    copy = _copy if isinstance(network.recurrent, RecurrentNetwork) else _copy_tutorial
    copy(network.recurrent, source.recurrent, *places)
    return f"{name}: takes {', '.join(told)}"


def _some(items: Set[str]) -> str:
    more = f" and {len(items) - MOST:,} more" if len(items) > MOST else ""
    return ", ".join(sorted(items)[:MOST]) + more


def _copy_tutorial(mine: Any, theirs: Any, categories: Tensor, letters: Tensor) -> None:
    new, old = mine.rnn, theirs.rnn
    hidden = torch.arange(-new.hidden_size, 0).expand(2, -1)  # columns, behind the letters'
    (row, its), (to, of) = categories, torch.cat((letters, hidden), dim=1)
    new.i2h.weight[:, to] = old.i2h.weight[:, of]
    new.i2h.bias.copy_(old.i2h.bias)
    new.i2o.weight[row[:, None], to] = old.i2o.weight[its[:, None], of]
    new.i2o.bias[row] = old.i2o.bias[its]


def _copy(mine: Any, theirs: Any, categories: Tensor, letters: Tensor) -> None:
    (row, its), (to, of) = categories, letters
    for name, weight in mine.output.named_parameters():
        weight[row] = theirs.output.get_parameter(name)[its]
    old = dict(theirs.rnn.named_parameters())
    columns = {}  # that a one-hot letter chooses, wherever they are kept
    if not mine.embedding:
        columns = {n: w @ theirs.letters.T for n, w in old.items() if "weight_ih_l0" in n}
    for name, weight in mine.rnn.named_parameters():
        if name not in columns:
            weight.copy_(old[name])
        elif weight.requires_grad:
            weight[:, to] = columns[name][:, of]
    if mine.embedding:
        ours, its = mine.alike[to], theirs.alike[of]
        if ours.shape == its.shape:
            mine.letters[ours] = theirs.letters[its]
        shared = theirs.letters[its].sum(dim=1) - mine.letters[ours].sum(dim=1)
        mine.letters[to] = theirs.letters[of] + shared  # so that each vector's sum is the other's
    elif mine.letters.requires_grad:
        mine.letters[to] = torch.cat([*columns.values()]).T[of]
