"""Reads checkpoints, which may be untrusted, and rebuilds networks from them."""

import io
import warnings
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import torch
from torch import Tensor

from src.data.split import SplitRecord
from src.errors import UserError
from src.models.calibration import Calibration
from src.models.network import Network
from src.models.registry import PRIORS, SCORE

VERSION = 4
"""Version of the content of checkpoints."""
DATA_KEY = "NamesDataModule"
"""Key of the state of the data module, which Lightning stores under the name of the class."""
NEW_WEIGHT_NAMES = {
    "log_shares": "log_train_prior",
    "letters": "input_vectors",
    "counted": "letter_ngrams",
    "weighed": "tfidf",
    "log_strength": "log_beta",
    "log_pooled_strength": "log_delta",
    "own_share": "logit_mu",
}
"""New names of parameters, buffers and submodules by their names in early checkpoints of version 4;
see `rename_keys_of_early_version_4`."""
TRIAL_NAMES = ("Smith", "SMITH", "smith")
"""Names that are predicted when a checkpoint is loaded."""
MAX_TRIAL_SYMBOLS = 1000
"""Maximum number of symbols of the alphabet that are tried when a checkpoint is loaded."""


class LoadedCheckpoint(NamedTuple):
    """What a checkpoint contains for prediction and evaluation."""

    network: Network
    """The network in evaluation mode."""
    calibration: Calibration | None
    """None if the run had no validation names."""
    split_record: SplitRecord
    """Where the names of the run came from, and how they were split."""
    iteration: int
    """Number of iterations that the network was trained for."""
    score: float | None
    """The last validation score, or None if the run had no validation names."""


def load_checkpoint(path: Path) -> LoadedCheckpoint:
    """Load a checkpoint for prediction and evaluation.

    Raises:
        UserError: if the file is damaged or not a checkpoint of this program.
        OSError: if the file cannot be read.
    """
    checkpoint = read_checkpoint(path)
    try:
        rename_keys_of_early_version_4(checkpoint)
        network = network_from_checkpoint(checkpoint)
        calibration = None
        if "calibration" in checkpoint:
            calibration = Calibration.from_checkpoint(checkpoint["calibration"])
        check_trial_predictions(network, calibration)
        scores = [float(values[SCORE]) for _, values in checkpoint["history"] if SCORE in values]
        return LoadedCheckpoint(
            network=network,
            calibration=calibration,
            split_record=SplitRecord.from_dict(checkpoint[DATA_KEY]),
            iteration=int(checkpoint["iteration"]),
            score=scores[-1] if scores else None,
        )
    except Exception as error:  # the values can be anything, and so can the errors that they cause
        # Messages of torch can extend over several lines, with a traceback in C++ at the end.
        message, _, _ = str(error).partition("Exception raised from")
        reason = " ".join(message.split())
        raise UserError(f"{path}: not a checkpoint of this program ({reason})") from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint and verify its checksums. Only tensors and plain values are unpickled.

    Raises:
        UserError: if the file is damaged or not a checkpoint of this program.
        OSError: if the file cannot be read.
    """
    content = path.read_bytes()
    try:
        check_archive(content)
        with warnings.catch_warnings():
            # torch warns about files that are not checkpoints, and suggests unsafe loading.
            warnings.simplefilter("ignore")
            checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        is_of_this_program = DATA_KEY in checkpoint
        is_of_this_version = bool(checkpoint.get("version") == VERSION)
    except Exception:  # torch raises many kinds of errors for damaged files
        raise UserError(f"{path}: not a checkpoint, or a damaged one") from None
    if not is_of_this_program:
        raise UserError(f"{path}: not a checkpoint of this program")
    if not is_of_this_version:
        raise UserError(f"{path}: written by another version of this program; train a new model")
    return dict(checkpoint)


def check_archive(content: bytes) -> None:
    """Check that a checkpoint file is not compressed, and that its checksums are right.

    `torch.load` checks neither.

    Raises:
        ValueError: if the file is compressed, or a checksum is wrong.
    """
    with ZipFile(io.BytesIO(content)) as archive:
        # A compressed file could fill all memory when it is decompressed.
        size_in_memory = sum(entry.file_size for entry in archive.infolist())
        if size_in_memory > len(content):
            raise ValueError("the file is compressed")
        first_damaged_entry = archive.testzip()
        if first_damaged_entry is not None:
            raise ValueError(f"the checksum of {first_damaged_entry} is wrong")


def rename_keys_of_early_version_4(checkpoint: dict[str, Any]) -> None:
    """Give the entries of a checkpoint their current names, in place.

    Checkpoints of version 4 were written with two sets of names, an early and a current one.
    `read_checkpoint` refuses all other versions.

    Args:
        checkpoint: the content of a checkpoint of version 4. If it has the current names, it is not
            changed.
    """
    network = checkpoint["hyper_parameters"]["network"]
    # The names of the weights do not identify the set: a network with the current names may use an
    # early name for another weight.
    has_early_names = "letters" in network
    if not has_early_names:
        return
    network["alphabet"] = network.pop("letters")
    network["train_prior"] = network.pop("shares")
    if "decision" in checkpoint:
        checkpoint["calibration"] = checkpoint.pop("decision")
    renamed_weights = {}
    for key, weight in checkpoint["state_dict"].items():
        # A key is a path of names, such as `network.ngrams.counted.0.own_share`.
        names = [NEW_WEIGHT_NAMES.get(name, name) for name in key.split(".")]
        renamed_weights[".".join(names)] = weight
    checkpoint["state_dict"] = renamed_weights


def network_from_checkpoint(checkpoint: dict[str, Any]) -> Network:
    """Return the network of a checkpoint, in evaluation mode.

    Raises:
        ValueError: if a value is invalid. Errors that torch raises are passed on.
    """
    weights = {}
    for name, value in checkpoint["state_dict"].items():
        check_is_contiguous(value)
        weights[name.removeprefix("network.")] = value
    with torch.device("meta"):  # allocates no memory, as the weights come from the checkpoint
        network = Network(**checkpoint["hyper_parameters"]["network"])
    texts = list(network.alphabet.symbols) + network.categories
    if not all(text.isprintable() for text in texts):  # they could control the terminal
        raise ValueError("a letter or a category is not printable")
    network.load_state_dict(weights, assign=True)
    return network.eval().float()


def check_is_contiguous(value: Tensor | dict[str, Tensor]) -> None:
    """Check that each value of a tensor has its own place in memory.

    With strides of 0, a small file can describe a tensor that fills all memory when it is copied.

    Args:
        value: a weight, or the tables of an n-gram model.

    Raises:
        ValueError: if a tensor is not contiguous.
    """
    tensors = value.values() if isinstance(value, dict) else [value]
    for tensor in tensors:
        if not tensor.is_contiguous():
            raise ValueError("a weight is not contiguous")


@torch.inference_mode()
def check_trial_predictions(network: Network, calibration: Calibration | None) -> None:
    """Check the predictions for some names, as weights of the right shape may have wrong values.

    Raises:
        ValueError: if the predictions have the wrong shape or are not finite. Errors that torch
            raises are passed on.
    """
    # A name such as `aa` uses all weights for the letter `a`. The name `a` would not use those of
    # the hidden state, because no state is computed after the last letter.
    names = [symbol * 2 for symbol in network.alphabet.symbols[:MAX_TRIAL_SYMBOLS]]
    for name in TRIAL_NAMES:
        normalized = network.alphabet.normalize(name)
        if normalized:
            names.append(normalized)
    letters, lengths = network.alphabet.encode(names)
    log_probs = network(letters, lengths)  # [N, C]
    results = [log_probs]
    if calibration is not None:
        results += [calibration.log_probabilities(log_probs, prior) for prior in PRIORS]
    for result in results:
        if result.shape != log_probs.shape or not result.isfinite().all():
            raise ValueError("its predictions have the wrong shape or are not finite")
