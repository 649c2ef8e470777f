"""A trained model, taken from its checkpoint alone: no corpus, no Lightning."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.data.letters import ALPHABET, LONGEST, MOST_CELLS, OTHER, STYLES, Letters, blocks
from src.data.tables import Source
from src.errors import UserError
from src.models.decision import DEFAULT_PRIOR, Decision
from src.models.networks import Network
from src.run.files import FILE, FINISHED, SCORE, STOPPED, read_checkpoint, read_metrics

OUTPUTS = Path("outputs")
AT_ONCE = 4096
"""Names to ask about at once: enough for speed, few enough for memory."""
LETTERS_AT_ONCE = 1_000_000
"""Letters of them, as they are read."""

Answer = list[tuple[str, float]]
"""The likeliest categories and their probabilities; none for a name that has no answer."""


@dataclass(frozen=True)
class TrainedModel:
    """What a checkpoint holds to answer and to be evaluated."""

    path: Path
    network: Network
    categories: list[str]
    split: dict[str, Any]
    """How the run split its corpus, and the fingerprints of its sides; see NamesDataModule."""
    decision: Decision | None = None
    """How to answer under a prior; without it the answers are the network's own."""
    prior: str = DEFAULT_PRIOR
    """How common the categories are taken to be, one of PRIORS."""
    about: str = ""
    """Where it is, what it is and how good, for a person."""

    @property
    def letters(self) -> Letters:
        """How it reads names."""
        return self.network.letters

    def probabilities(self, names: Sequence[str]) -> Tensor:
        """Return each category's probability for each name [B, C], as float32.

        A name that cannot be answered has a row of NaN: one without a letter that it reads, one
        that is too long, and one on which the hidden state, which nothing keeps in bounds, runs off
        to infinity.
        """
        read = [self.letters.read(name) for name in names]
        readable = [i for i, name in enumerate(read) if 0 < len(name) <= LONGEST]
        probabilities = torch.full((len(names), len(self.categories)), torch.nan)
        probabilities[readable] = self._ask([read[i] for i in readable])
        return probabilities

    def reason(self, name: str) -> str:
        """Return why a name has no answer."""
        read = self.letters.read(name)
        if len(read) > LONGEST:
            return f"longer than {LONGEST} letters"
        return "too long for this model" if read else "no letters I know"

    def beliefs(self, name: str) -> tuple[list[str], Tensor]:
        """Return the beginnings of the name as it is read, and the probabilities for each [L, C].

        A name without letters, or one that is too long, has none.
        """
        read = self.letters.read(name)
        prefixes = [read[:end] for end in range(1, len(read) + 1) if len(read) <= LONGEST]
        return prefixes, self._ask(prefixes)

    @torch.inference_mode()
    def _ask(self, names: Sequence[str]) -> Tensor:
        """Return the probabilities under the prior of names that were read [B, C], in blocks."""
        answers = [torch.empty(0, len(self.categories))]
        width = len(self.letters.symbols) + len(self.categories)
        for block in blocks(names, len, AT_ONCE, MOST_CELLS // width):
            logp = self.network(*self.letters.pack(block))
            if self.decision:
                logp = self.decision.log_probabilities(logp, self.prior)
            answers.append(logp.exp())
        return torch.cat(answers)

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

    Of a folder with runs below it, such as a sweep's, it is that of the highest validation score.

    Raises:
        UserError: if there is no run that has finished, with a score if one is looked for.
    """
    if path is None or (path.is_dir() and not (path / "checkpoints").exists()):
        runs: dict[Path, float] = {}
        for file in sorted((path or OUTPUTS).glob(f"**/{FILE}")):
            status, numbers, _ = read_metrics(file.parent)
            if not (file.parent / "checkpoints").exists():
                continue  # of several seeds: one of them is taken
            if status in (FINISHED, STOPPED) and (path is None or SCORE in numbers):
                runs[file.parent] = numbers[SCORE] if path else file.stat().st_mtime
        if not runs:
            wanted = f"no finished run with a {SCORE} in" if path else "no finished run under"
            raise UserError(f"{wanted} {path or OUTPUTS}/; train one, or name a --checkpoint")
        path = max(runs, key=lambda run: runs[run])
    # Of a run, the weights that its metrics are of.
    return path / "checkpoints" / "last.ckpt" if path.is_dir() else path


def load_model(path: Path, prior: str = DEFAULT_PRIOR) -> TrainedModel:
    """Read the model of a checkpoint, to answer under one of PRIORS.

    A checkpoint without a decision answers as it was trained, and under no prior but the default.

    Raises:
        UserError: if it is damaged or not one of this program's, or cannot answer under the prior.
        OSError: if it cannot be read.
    """
    checkpoint = read_checkpoint(path)
    try:
        model = _checked_model(path, checkpoint, prior)
    except Exception as error:  # whatever the values provoke
        reason = " ".join(str(error).partition("Exception raised from")[0].split())
        raise UserError(f"{path}: not a checkpoint of this program ({reason})") from None
    if prior != DEFAULT_PRIOR and not model.decision:
        raise UserError(f"--prior {prior}: {path} does not say how common its categories are")
    return model


def _checked_model(path: Path, checkpoint: dict[str, Any], prior: str) -> TrainedModel:
    made_for, split = checkpoint["hyper_parameters"]["network"], checkpoint["NamesDataModule"]
    categories = list(made_for["categories"])
    letters = Letters(**made_for["letters"])
    learned = letters.symbols.rstrip(OTHER) + OTHER
    known = {"ascii": ALPHABET, "tutorial": ALPHABET, "corpus": learned}[letters.kind]
    if letters.symbols != known or letters.style not in ("", *STYLES):
        raise ValueError("its letters are none that this program reads")
    if len(set(known)) < len(known) or not known.isprintable():
        raise ValueError("its letters repeat, or cannot be shown")
    said = (split.get(key) or "" for key in Source._fields)
    shown = all(text.isprintable() for text in (*categories, *said))
    if not (shown and 0 <= split["val_fraction"] < 1 and 0 <= split["test_fraction"] < 1):
        raise ValueError("its categories are no names, or its split is none")
    weights = {name.removeprefix("network."): w for name, w in checkpoint["state_dict"].items()}
    for name, weight in weights.items():
        # Made of plain numbers: one number may be many. The n-grams check the rest of their counts.
        for part in weight.values() if isinstance(weight, dict) else [weight]:
            plain = part.is_contiguous() and bool(part.isfinite().all())
            if not plain or (part is weight and not part.is_floating_point()):
                raise ValueError(f"its {name} is not made of finite numbers")
    with torch.device("meta"):  # sizes only: the weights come from the file
        network = Network(**made_for)
    network.load_state_dict(weights, assign=True)
    with torch.inference_mode():  # sizes may fit, and values still be of a wrong type
        network.eval().float()(*letters.pack([known[0]]))
    values = checkpoint.get("decision")
    decision = None if values is None else Decision.checked(values, len(categories))
    about = f"{path}, cell={made_for['cell']} letters={letters.kind}"
    about += f", {checkpoint['iteration']:,} iterations"
    history = [values[SCORE] for _, values in checkpoint["history"] if SCORE in values]
    about += f", validation balanced accuracy {float(history[-1]):.3f}" if history else ""
    prior = prior if decision else "as trained"
    return TrainedModel(path, network, categories, split, decision, prior, about)
