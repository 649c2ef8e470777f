"""A trained model, taken from its checkpoint alone: no corpus, no Lightning."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.data.alphabet import ALPHABET, encode, fold_name, name_to_tensor, pack
from src.errors import UserError
from src.models.rnn import RNN, read_letters, read_names

OUTPUTS = Path("outputs")
AT_ONCE = 4096
"""Names to ask about at once: enough for speed, few enough for memory."""
NO_LETTERS = "no letters I know"
"""The answer to a name that folds to nothing."""

Answer = list[tuple[str, float]]
"""The likeliest categories and their probabilities; none for a name without letters."""


@dataclass(frozen=True)
class TrainedModel:
    """What a checkpoint holds to answer and to be evaluated."""

    path: Path
    rnn: RNN
    categories: list[str]
    split: dict[str, Any]
    """How the run split its corpus, and the fingerprints of its sides; see NamesDataModule."""

    @torch.inference_mode()
    def probabilities(self, names: Sequence[str]) -> Tensor:
        """Return each category's probability for each name [B, C], as float32.

        A name without a letter of the alphabet has a row of NaN: there is nothing to judge by.
        """
        encoded = [encode(fold_name(name)) for name in names]
        readable = torch.tensor([len(name) > 0 for name in encoded])
        probabilities = torch.full((len(names), len(self.categories)), torch.nan)
        if readable.any():
            letters, lengths = pack([name for name in encoded if name])
            probabilities[readable] = read_names(self.rnn, letters, lengths).exp()
        return probabilities

    @torch.inference_mode()
    def beliefs(self, name: str) -> tuple[str, Tensor]:
        """Return the folded name and the probabilities after each of its letters [L, C]."""
        folded = fold_name(name)
        if not folded:
            return "", torch.empty(0, len(self.categories))
        return folded, torch.cat(read_letters(self.rnn, name_to_tensor(folded))).exp()

    def best(self, probabilities: Tensor, k: int) -> list[Answer]:
        """Return for each row [B, C] its k likeliest categories and their probabilities.

        The list of a row of NaN is empty.
        """
        values, indices = probabilities.topk(k)
        return [
            [(self.categories[i], value) for i, value in zip(row, likely, strict=True)]
            if likely[0] == likely[0]  # NaN is not
            else []
            for row, likely in zip(indices.tolist(), values.tolist(), strict=True)
        ]


def find_checkpoint(path: Path | None) -> Path:
    """Return the checkpoint at `path`, a file or a run's folder; by default the newest run's.

    Raises:
        UserError: if there is none.
    """
    if path is None:
        finished = list(OUTPUTS.glob("**/metrics.json"))  # written when a run ends
        if not finished:
            raise UserError(f"no finished run under {OUTPUTS}/; train one, or name a --checkpoint")
        path = max(finished, key=lambda file: file.stat().st_mtime).parent
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"  # the weights that the run's metrics are of
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    return path


def load_model(path: Path) -> TrainedModel:
    """Read a checkpoint; nothing but tensors and plain values is ever unpickled.

    Raises:
        UserError: if it is damaged or not one of this program's.
        OSError: if it cannot be read.
    """
    torch.set_num_threads(1)  # matrices this small lose more to a second thread than they gain
    content = io.BytesIO(path.read_bytes())
    try:
        checkpoint = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the bytes provoke
        first_line = str(error).partition("\n")[0][:200]
        raise UserError(f"{path}: not a checkpoint, or a damaged one ({first_line})") from None
    try:
        settings = checkpoint["hyper_parameters"]
        categories, alphabet = settings["categories"], settings["alphabet"]
        weights = {name.removeprefix("rnn."): w for name, w in checkpoint["state_dict"].items()}
        with torch.device("meta"):  # sizes only: the weights come from the file
            rnn = RNN(len(alphabet), settings["hidden"], len(categories))
        rnn.load_state_dict(weights, assign=True)
        split = checkpoint["NamesDataModule"]
    except (KeyError, TypeError, AttributeError, RuntimeError):
        raise UserError(f"{path}: not a checkpoint of this program") from None
    if alphabet != ALPHABET:
        raise UserError(f"{path}: made for another alphabet, {alphabet!r}")
    return TrainedModel(path, rnn, categories, split)
