"""A trained model, taken from its checkpoint alone: no corpus, no Lightning."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from src.data.alphabet import Alphabet
from src.data.batch import MAX_BATCH_CELLS, size_limited_batches
from src.data.normalize import MAX_NAME_LENGTH
from src.data.readers.columns import quoted_list
from src.data.split import SplitRecord
from src.errors import UserError
from src.models.calibration import Calibration, CurvePoint
from src.models.checkpoint import load_checkpoint
from src.models.network import Network
from src.models.registry import DEFAULT_PRIOR, PRIORS, PriorName

AT_ONCE = 4096
"""Names to ask about at once: enough for speed, few enough for memory."""
LETTERS_AT_ONCE = 1_000_000
"""Letters of them, as they are read."""
BLOCK = 1024
"""Names that a core answers at once."""

Answer = list[tuple[str, float]]
"""The likeliest categories and their probabilities; none for a name that has no answer."""


@dataclass(frozen=True)
class TrainedModel:
    """What a checkpoint holds to answer and to be evaluated."""

    path: Path
    network: Network
    categories: list[str]
    split: SplitRecord
    """Where the names of the run came from, and how they were split."""
    calibration: Calibration | None = None
    """How to answer under a prior; without it the answers are the network's own."""
    prior: PriorName | Literal["as trained"] = DEFAULT_PRIOR
    """How common the categories are taken to be, one of PRIORS."""
    about: str = ""
    """Where it is, what it is and how good, for a person."""
    chosen: list[int] | None = None
    """Which of the network's categories it answers among, if not all."""

    @property
    def alphabet(self) -> Alphabet:
        """How it reads names."""
        return self.network.alphabet

    @property
    def sharpness(self) -> float:
        """What the network's scores are multiplied by, under each prior."""
        return 1 / self.calibration.temperature if self.calibration else 1.0

    @property
    def offsets(self) -> dict[str, list[float]]:
        """What each prior then adds to them [C], so that their softmax are the probabilities."""
        shares = self.network.log_shares
        scores = torch.zeros(len(self.categories)) if shares is None else shares  # [C]
        if not self.calibration:
            return {self.prior: scores.tolist()}
        under = self.calibration.log_probabilities
        return {prior: under(scores[None], prior)[0].tolist() for prior in PRIORS}

    def described(self) -> dict[str, Any]:
        """Return what another program has to know beside the weights, as plain values."""
        return {
            "about": self.about.removeprefix(f"{self.path}, "),
            "categories": self.categories,
            "letters": self.alphabet.to_dict(),
            "longest": MAX_NAME_LENGTH,
            "prior": self.prior,
            "priors": self.offsets,
        }

    def probabilities(self, names: Sequence[str]) -> Tensor:
        """Return each category's probability for each name [B, C], as float32.

        A name that cannot be answered has a row of NaN: one without a letter that it reads, one
        that is too long, and one on which the hidden state, which nothing keeps in bounds, runs off
        to infinity.
        """
        read = [self.alphabet.normalize(name) for name in names]
        readable = [i for i, name in enumerate(read) if 0 < len(name) <= MAX_NAME_LENGTH]
        probabilities = torch.full((len(names), len(self.categories)), torch.nan)
        probabilities[readable] = self._ask([read[i] for i in readable])
        return probabilities

    def reason(self, name: str) -> str:
        """Return why a name has no answer."""
        read = self.alphabet.normalize(name)
        if len(read) > MAX_NAME_LENGTH:
            return f"longer than {MAX_NAME_LENGTH} letters"
        return "too long for this model" if read else "no letters I know"

    def beliefs(self, name: str) -> tuple[list[str], Tensor]:
        """Return the beginnings of the name as it is read, and the probabilities for each [L, C].

        A name without letters, or one that is too long, has none.
        """
        read = self.alphabet.normalize(name)
        prefixes = [read[:end] for end in range(1, len(read) + 1) if len(read) <= MAX_NAME_LENGTH]
        return prefixes, self._ask(prefixes)

    def _ask(self, names: Sequence[str]) -> Tensor:
        """Return the probabilities under the prior of names that were read [B, C].

        In batches that fit a core's cache, each core working on one.
        """
        width = len(self.alphabet.symbols) + len(self.categories)
        parts = size_limited_batches(names, len, BLOCK, MAX_BATCH_CELLS // width)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            answers = pool.map(self._ask_block, parts)
            return torch.cat([torch.empty(0, len(self.categories)), *answers])

    @torch.inference_mode()
    def _ask_block(self, names: Sequence[str]) -> Tensor:
        logp: Tensor = self.network(*self.alphabet.encode(names))
        if self.calibration and self.prior != "as trained":
            logp = self.calibration.log_probabilities(logp, self.prior)
        if self.chosen is not None:
            logp = logp[:, self.chosen].log_softmax(dim=1)
        return logp.exp()

    def best(self, probabilities: Tensor, k: int) -> list[Answer]:
        """Return for each row [B, C] its k likeliest categories and their probabilities.

        The list of a row of NaN is empty.
        """
        values, indices = probabilities.topk(k)
        likeliest = [[self.categories[i] for i in row] for row in indices.tolist()]
        rows = zip(likeliest, values.tolist(), values[:, 0].isnan().tolist(), strict=True)
        return [[] if unknown else list(zip(c, p, strict=True)) for c, p, unknown in rows]

    def answered(
        self, names: Sequence[str], probabilities: Tensor, k: int, threshold: float = 0.0
    ) -> list[tuple[Answer, str]]:
        """Return for each name the best of its row [B, C], or none and the reason why.

        One reason is that no probability reaches the threshold.
        """
        answers = []
        for name, answer in zip(names, self.best(probabilities, k), strict=True):
            reason = "" if answer else self.reason(name)
            if answer and answer[0][1] < threshold:
                answer, reason = [], f"unknown: below {threshold:g}"
            answers.append((answer, reason))
        return answers

    def threshold(self, precision: float) -> CurvePoint:
        """Return the lowest threshold that reached a precision on the run's validation names.

        And what precision and which coverage it had there, the share of names that were answered.

        Raises:
            UserError: if none did, or the checkpoint does not say.
        """
        curve: list[CurvePoint] = []
        if self.calibration and self.prior != "as trained" and not self.chosen:
            curve = self.calibration.precision_curves.get(self.prior, [])
        if not curve:
            of = " among these categories" if self.chosen else ""
            raise UserError(f"--precision: {self.path} holds none{of}; give a --threshold")
        if curve[-1].precision < precision:
            highest = int(1000 * curve[-1].precision) / 1000
            raise UserError(f"--precision {precision:g}: validation reaches {highest} at the most")
        return next(point for point in curve if point.precision >= precision)


def load_model(
    path: Path, prior: PriorName = DEFAULT_PRIOR, among: Sequence[str] | None = None
) -> TrainedModel:
    """Read the model of a checkpoint, to answer under one of PRIORS, among some categories or all.

    A checkpoint without a decision answers as it was trained, and under no prior but the default.

    Raises:
        UserError: if it is damaged or not one of this program's, or cannot answer under the prior
            or among these categories.
        OSError: if it cannot be read.
    """
    loaded = load_checkpoint(path)
    network = loaded.network
    about = f"{path}, cell={network.architecture['cell']} letters={network.alphabet.kind}"
    about += f", {loaded.iteration:,} iterations"
    if loaded.score is not None:
        about += f", validation balanced accuracy {loaded.score:.3f}"
    model = TrainedModel(
        path=path,
        network=network,
        categories=network.categories,
        split=loaded.split_record,
        calibration=loaded.calibration,
        prior=prior if loaded.calibration else "as trained",
        about=about,
    )
    if prior != DEFAULT_PRIOR and not model.calibration:
        raise UserError(f"--prior {prior}: {path} does not say how common its categories are")
    return model if among is None else _among(model, list(among))


def _among(model: TrainedModel, categories: list[str]) -> TrainedModel:
    known = {category.casefold(): category for category in model.categories}
    for each in categories:
        if each not in model.categories:
            near = get_close_matches(each.casefold(), known, 1) or known
            meant = quoted_list([known[key] for key in near])
            raise UserError(f"--among: the model knows no category {each!r}; try {meant}")
        if categories.count(each) > 1:
            raise UserError(f"--among: {each} is named twice")
    chosen = [model.categories.index(each) for each in categories]
    if len(chosen) < 2:
        raise UserError("--among: needs two categories; the answer among one is known")
    return replace(model, categories=categories, chosen=chosen)
