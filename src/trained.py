"""A trained model, taken from its checkpoint alone: no corpus, no Lightning."""

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor, nn

from src.data.alphabet import ALPHABET, encode, fold_name
from src.data.tensors import pack
from src.errors import UserError
from src.metrics import FILE, read_metrics
from src.models.decision import DEFAULT_PRIOR, Decision
from src.models.network import TutorialNetwork, make_network

OUTPUTS = Path("outputs")
AT_ONCE = 4096
"""Names to ask about at once: enough for speed, few enough for memory."""
LETTERS_AT_ONCE = 1_000_000

SPLIT = {
    **{"data_dir": str, "seed": int, "val_fraction": int | float, "test_fraction": int | float},
    **{"all": str, "train": str, "val": str, "test": str},
}
"""What a checkpoint holds of the split; see NamesDataModule.state_dict."""

Answer = list[tuple[str, float]]
"""The likeliest categories and their probabilities; none for a name that has no answer."""

T = TypeVar("T")


@dataclass(frozen=True)
class TrainedModel:
    """What a checkpoint holds to answer and to be evaluated."""

    path: Path
    network: nn.Module
    categories: list[str]
    split: dict[str, Any]
    """How the run split its corpus, and the fingerprints of its sides; see NamesDataModule."""
    decision: Decision | None = None
    """How to answer under a prior; without it the answers are the network's own."""
    prior: str = DEFAULT_PRIOR
    """How common the categories are taken to be, one of PRIORS."""

    @torch.inference_mode()
    def probabilities(self, names: Sequence[str]) -> Tensor:
        """Return each category's probability for each name [B, C], as float32.

        A name that cannot be answered has a row of NaN: one without a letter of the alphabet, and
        one so long that the hidden state, which nothing keeps in bounds, runs off to infinity.
        """
        encoded = [encode(fold_name(name)) for name in names]
        readable = torch.tensor([len(name) > 0 for name in encoded])
        probabilities = torch.full((len(names), len(self.categories)), torch.nan)
        if readable.any():
            letters, lengths = pack([name for name in encoded if name])
            probabilities[readable] = self._decided(self.network(letters, lengths))
        return probabilities

    def reason(self, name: str) -> str:
        """Return why a name has no answer."""
        return "too long for this model" if fold_name(name) else "no letters I know"

    @torch.inference_mode()
    def beliefs(self, name: str) -> tuple[str, Tensor]:
        """Return the folded name and the probabilities after each of its letters [L, C]."""
        folded = fold_name(name)
        if not folded:
            return "", torch.empty(0, len(self.categories))
        letters, lengths = pack([encode(folded[:end]) for end in range(1, len(folded) + 1)])
        return folded, self._decided(self.network(letters, lengths))

    def _decided(self, logp: Tensor) -> Tensor:
        """Return the probabilities under the prior [B, C] from the network's logarithms [B, C]."""
        if self.decision:
            logp = self.decision.log_probabilities(logp, self.prior)
        return logp.exp()

    def best(self, probabilities: Tensor, k: int) -> list[Answer]:
        """Return for each row [B, C] its k likeliest categories and their probabilities.

        The list of a row of NaN is empty.
        """
        values, indices = probabilities.topk(k)
        likeliest = np.array(self.categories, dtype=object)[indices.numpy()].tolist()
        rows = zip(likeliest, values.tolist(), values[:, 0].isnan().tolist(), strict=True)
        return [[] if unknown else list(zip(c, p, strict=True)) for c, p, unknown in rows]


def find_checkpoint(path: Path | None) -> Path:
    """Return the checkpoint at `path`, a file or a run's folder; by default the newest run's.

    Raises:
        UserError: if there is none.
    """
    if path is None:
        finished = [file for file in OUTPUTS.glob(f"**/{FILE}") if read_metrics(file.parent)]
        if not finished:
            raise UserError(f"no finished run under {OUTPUTS}/; train one, or name a --checkpoint")
        path = max(finished, key=lambda file: file.stat().st_mtime).parent
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"  # the weights that the run's metrics are of
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    return path


def load_model(path: Path, prior: str = DEFAULT_PRIOR) -> TrainedModel:
    """Read the model of a checkpoint, to answer under one of PRIORS.

    A checkpoint without a decision answers as it was trained, and under no prior but the default.

    Raises:
        UserError: if it is damaged or not one of this program's, or cannot answer under the prior.
        OSError: if it cannot be read.
    """
    torch.set_num_threads(1)  # matrices this small lose more to a second thread than they gain
    checkpoint = load_checkpoint(path)
    try:
        model = _checked_model(path, checkpoint, prior)
    except (LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not a checkpoint of this program ({error})") from None
    if prior != DEFAULT_PRIOR and not model.decision:
        raise UserError(
            f"--prior {prior}: {path} does not say how common its categories are; without --prior "
            "it answers as it was trained"
        )
    return model


def load_checkpoint(path: Path) -> Any:
    """Read a checkpoint; nothing but tensors and plain values is ever unpickled.

    Raises:
        UserError: if it is damaged.
        OSError: if it cannot be read.
    """
    content = path.read_bytes()
    try:
        with ZipFile(io.BytesIO(content)) as archive:  # as torch writes it, not compressed
            if sum(each.file_size for each in archive.infolist()) > len(content):
                raise ValueError("would grow in memory")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on how to load it all the same
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # torch raises whatever the bytes provoke
        raise UserError(f"{path}: not a checkpoint, or a damaged or unsafe one") from None


def _checked_model(path: Path, checkpoint: Any, prior: str) -> TrainedModel:
    settings, split = checkpoint["hyper_parameters"], checkpoint["NamesDataModule"]
    made_for = settings.get("network", settings)
    categories = made_for["categories"]
    if not (categories and all(isinstance(c, str) and c.isprintable() for c in categories)):
        raise ValueError("its categories are no names")
    if made_for["alphabet"] != ALPHABET:
        raise ValueError("it was made for another alphabet")
    for key, kind in SPLIT.items():
        if not isinstance(split[key], kind):
            raise ValueError(f"its {key} is no {kind}")
    weights = {
        name.removeprefix("network."): weight for name, weight in checkpoint["state_dict"].items()
    }
    for name, weight in weights.items():
        if name.endswith("_extra_state"):
            continue  # whose it is checks it
        if weight.dtype != torch.float32 or not weight.is_contiguous():  # one number may be many
            raise ValueError(f"its {name} is not made of plain float32 numbers")
        if not weight.isfinite().all():
            raise ValueError(f"its {name} is not made of finite float32 numbers")
    with torch.device("meta"):  # sizes only: the weights come from the file
        if "network" in settings:
            network: nn.Module = make_network(**settings["network"])
        else:
            network = TutorialNetwork(len(ALPHABET), len(categories), settings["hidden"])
    network.load_state_dict(weights, assign=True)
    decision = None
    if "decision" in checkpoint:
        decision = Decision.checked(checkpoint["decision"], len(categories))
    return TrainedModel(path, network.eval(), list(categories), split, decision, prior)


def in_chunks(items: Iterable[T], text_of: Callable[[T], str]) -> Iterator[list[T]]:
    """Yield the items in lists of as many as should be asked about at once."""
    chunk: list[T] = []
    letters = 0
    for item in items:
        chunk.append(item)
        letters += len(text_of(item))
        if len(chunk) == AT_ONCE or letters >= LETTERS_AT_ONCE:
            yield chunk
            chunk, letters = [], 0
    if chunk:
        yield chunk
