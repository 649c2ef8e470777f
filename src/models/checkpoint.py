"""Reads checkpoints, which may come from anybody, and rebuilds networks from them."""

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
"""Parameters, buffers and submodules whose names in older checkpoints were different."""
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
        rename_keys_of_older_version(checkpoint)
        network = network_from_checkpoint(checkpoint)
        calibration = None
        if "calibration" in checkpoint:
            calibration = Calibration.from_checkpoint(checkpoint["calibration"])
        check_trial_predictions(network, calibration)
        score = None
        for _, values in checkpoint["history"]:  # the last score remains
            if SCORE in values:
                score = float(values[SCORE])
        return LoadedCheckpoint(
            network=network,
            calibration=calibration,
            split_record=SplitRecord.from_dict(checkpoint[DATA_KEY]),
            iteration=int(checkpoint["iteration"]),
            score=score,
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
        raise UserError(f"{path}: not a checkpoint, or a damaged or unsafe one") from None
    if not is_of_this_program:
        raise UserError(f"{path}: not a checkpoint of this program")
    if not is_of_this_version:
        raise UserError(f"{path}: is of an older version of this program; train anew")
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


def rename_keys_of_older_version(checkpoint: dict[str, Any]) -> None:
    """Give the entries of an older checkpoint the names that they have now, in place.

    Args:
        checkpoint: the content of a checkpoint. A recent one is not changed.
    """
    network = checkpoint["hyper_parameters"]["network"]
    # The weights cannot tell the versions apart: a recent network may use an old name for another
    # weight.
    is_of_older_version = "letters" in network
    if not is_of_older_version:
        return
    network["alphabet"] = network.pop("letters")
    network["train_prior"] = network.pop("shares")
    if "decision" in checkpoint:
        checkpoint["calibration"] = checkpoint.pop("decision")
    weights = checkpoint["state_dict"]
    for key in list(weights):
        # A key is a path of names, such as `network.ngrams.counted.0.own_share`.
        names = [NEW_WEIGHT_NAMES.get(name, name) for name in key.split(".")]
        # Keys that stay the same are inserted again as well, which keeps the order of all keys.
        weights[".".join(names)] = weights.pop(key)


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
    # Names of two equal letters use all weights for a letter. A name of one letter would not use
    # the weights of the hidden state, because no state is computed after the last letter.
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
