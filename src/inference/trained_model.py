"""A trained model, loaded from its checkpoint alone: without the corpus and without Lightning.

Shapes: B names, L letters in a name, C categories.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from src.data.alphabet import Alphabet
from src.data.batch import MAX_BATCH_CELLS, size_limited_batches
from src.data.normalize import MAX_NAME_LENGTH
from src.data.readers.columns import quoted_list
from src.data.split import SplitRecord
from src.errors import UserError
from src.models.calibration import Calibration, CurvePoint
from src.models.checkpoint import LoadedCheckpoint, load_checkpoint
from src.models.network import Network
from src.models.registry import DEFAULT_PRIOR, PRIORS, PriorName
from src.run.run_folder import LAST_CHECKPOINT, find_checkpoint

MAX_NAMES_PER_CORE = 1024
"""Maximum number of names in a batch, which one core processes."""


class Prediction(NamedTuple):
    """A category and its probability for a name."""

    category: str
    probability: float


class Answer(NamedTuple):
    """The most likely categories of a name, or the reason why there are none."""

    predictions: list[Prediction]
    """In order of decreasing probability; empty if there is a reason."""
    reason: str
    """Empty if there are predictions."""


@dataclass(frozen=True)
class TrainedModel:
    """A network with its calibration: returns the probabilities of categories under a prior."""

    path: Path
    """The checkpoint."""
    network: Network
    categories: list[str]
    """The categories that the model chooses from, in the order of the probabilities [C]."""
    split_record: SplitRecord
    """Where the names of the run came from, and how they were split."""
    calibration: Calibration | None = None
    """Converts the network's probabilities to those under a prior. If None, they are not
    converted, and `prior` has no effect."""
    prior: PriorName = DEFAULT_PRIOR
    """How common the categories are assumed to be."""
    description: str = ""
    """The kind of network and its score, for users."""
    score: float | None = None
    """The validation balanced accuracy of the network, if it has one."""
    category_indices: list[int] | None = None
    """Indices of `categories` among those of the network; None if they are the same."""

    @property
    def alphabet(self) -> Alphabet:
        """The alphabet of the network."""
        return self.network.alphabet

    @property
    def title(self) -> str:
        """The name of the run and its score, for users."""
        # A run stores its checkpoints as <run folder>/checkpoints/<name>.ckpt.
        is_in_run_folder = self.path.parent.name == LAST_CHECKPOINT.parent.name
        name = self.path.parents[1].name if is_in_run_folder else str(self.path)
        if self.score is None:
            return name
        return f"{name} (validation balanced accuracy {self.score:.3f})"

    @property
    def prior_label(self) -> str:
        """The prior for display: `as trained` if the network is not calibrated."""
        return self.prior if self.calibration else "as trained"

    @property
    def score_scale(self) -> float:
        """Factor of the network's scores, from which other programs compute the probabilities.

        For example, the web page of src.export computes the probabilities under a prior as
        softmax(score_scale · scores + score_offsets[prior]). This holds for a model that chooses
        from all categories of the network.
        """
        return 1 / self.calibration.temperature if self.calibration else 1.0

    @property
    def score_offsets(self) -> dict[str, list[float]]:
        """For each prior, the terms [C] to add to the scaled scores; see `score_scale`.

        The network returns log p = log_softmax(scores + log_train_prior). Calibration is linear in
        log p up to a term that softmax removes: log_softmax(log p / T + offset). The terms that do
        not depend on the scores are therefore the calibrated log-probabilities for scores of 0,
        where log p = log_train_prior.
        """
        log_train_prior = self.network.log_train_prior
        if log_train_prior is None:
            log_train_prior = torch.zeros(len(self.categories))
        if self.calibration is None:
            return {self.prior_label: log_train_prior.tolist()}
        offsets: dict[str, list[float]] = {}
        for prior in PRIORS:
            log_probs = self.calibration.log_probabilities(log_train_prior[None], prior)  # [1, C]
            offsets[prior] = log_probs[0].tolist()
        return offsets

    def metadata(self) -> dict[str, Any]:
        """Return plain values that another program needs in addition to the weights."""
        return {
            "about": self.description,
            "categories": self.categories,
            "letters": self.alphabet.to_dict(),
            "longest": MAX_NAME_LENGTH,
            "longest_train_name": self.split_record.longest_train_name or MAX_NAME_LENGTH,
            "prior": self.prior_label,
            "priors": self.score_offsets,
        }

    def predict_probabilities(self, names: Sequence[str]) -> Tensor:
        """Return the probability of each category for each name [B, C], float32.

        A name that cannot be classified has a row of NaN; see `explain_rejection`.
        """
        # The network cannot read an empty name, and a very long one would take much memory.
        valid_indices = []
        valid_names = []
        for index, name in enumerate(names):
            normalized = self.alphabet.normalize(name)
            if 0 < len(normalized) <= MAX_NAME_LENGTH:
                valid_indices.append(index)
                valid_names.append(normalized)
        probabilities = torch.full((len(names), len(self.categories)), torch.nan)
        probabilities[valid_indices] = self._predict(valid_names)
        return probabilities

    def explain_rejection(self, name: str) -> str:
        """Return why a name cannot be classified; only for names that have no probabilities."""
        normalized = self.alphabet.normalize(name)
        if len(normalized) > MAX_NAME_LENGTH:
            return f"more than {MAX_NAME_LENGTH} letters"
        if not normalized:
            return "no letters of the alphabet"
        # The hidden state of the tutorial's cell is unbounded and can overflow.
        return "too long: the hidden state overflows"

    def prefix_probabilities(self, name: str) -> tuple[list[str], Tensor]:
        """Return the prefixes of a name and the probabilities for each of them.

        Returns:
            The prefixes of the normalized name, from its first letter to the whole name [L], and
            the probabilities [L, C]. L is 0 if the name has no letters or is too long.
        """
        normalized = self.alphabet.normalize(name)
        prefixes: list[str] = []
        # The prefixes of a very long name would take much memory.
        if len(normalized) <= MAX_NAME_LENGTH:
            for end in range(1, len(normalized) + 1):
                prefixes.append(normalized[:end])
        return prefixes, self._predict(prefixes)

    def _predict(self, names: Sequence[str]) -> Tensor:
        """Return the probabilities for normalized names [B, C], computed on all cores."""
        # Batches that fit into the cache of a core are the fastest.
        n_cells_per_letter = len(self.alphabet.symbols) + len(self.categories)
        if not names:
            return torch.empty(0, len(self.categories))
        batches = size_limited_batches(
            names,
            length_of=len,
            max_items=MAX_NAMES_PER_CORE,
            max_letters=MAX_BATCH_CELLS // n_cells_per_letter,
        )
        # Threads are sufficient, because torch releases Python's global lock while it computes.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(pool.map(self._predict_batch, batches))
        return torch.cat(results)

    @torch.inference_mode()
    def _predict_batch(self, names: Sequence[str]) -> Tensor:
        """Return the probabilities for normalized names [B, C], computed on one core."""
        letters, lengths = self.alphabet.encode(names)
        log_probs: Tensor = self.network(letters, lengths)
        if self.calibration is not None:
            log_probs = self.calibration.log_probabilities(log_probs, self.prior)
        if self.category_indices is not None:
            # Renormalize over the remaining categories.
            log_probs = log_probs[:, self.category_indices].log_softmax(dim=1)
        return log_probs.exp()

    def top_k(self, probabilities: Tensor, k: int) -> list[list[Prediction]]:
        """Return the k most likely categories of each name, the most likely one first.

        Args:
            probabilities: the result of `predict_probabilities` [B, C].
            k: number of categories, at most C.

        Returns:
            A list for each name; it is empty if the name cannot be classified.
        """
        values, indices = probabilities.topk(k)  # [B, k], [B, k]
        is_unclassified = values[:, 0].isnan()  # [B]
        all_predictions = []
        # Lists, because reading single elements of tensors is slow.
        rows = zip(values.tolist(), indices.tolist(), is_unclassified.tolist(), strict=True)
        for row_values, row_indices, is_nan in rows:
            predictions = []
            if not is_nan:
                for value, index in zip(row_values, row_indices, strict=True):
                    predictions.append(Prediction(self.categories[index], value))
            all_predictions.append(predictions)
        return all_predictions

    def top_k_or_reason(
        self, names: Sequence[str], probabilities: Tensor, k: int, threshold: float = 0.0
    ) -> list[Answer]:
        """Return the k most likely categories of each name, or the reason why there are none.

        Args:
            names: the names [B].
            probabilities: the result of `predict_probabilities` for them [B, C].
            k: number of categories, at most C.
            threshold: a name has no predictions if its highest probability is below this value.
        """
        answers = []
        for name, predictions in zip(names, self.top_k(probabilities, k), strict=True):
            if not predictions:  # the name cannot be classified
                answer = Answer([], reason=self.explain_rejection(name))
            elif predictions[0].probability < threshold:
                answer = Answer([], reason=f"unknown: below {threshold:g}")
            else:
                answer = Answer(predictions, reason="")
            answers.append(answer)
        return answers

    def find_threshold(self, precision: float) -> CurvePoint:
        """Return the lowest threshold that reached a precision on the run's validation names.

        Raises:
            UserError: if no threshold reached it, or the checkpoint does not contain any.
        """
        curve: list[CurvePoint] = []
        # The curves in the checkpoint are for all categories.
        if self.calibration and not self.category_indices:
            curve = self.calibration.precision_curves.get(self.prior, [])
        if not curve:
            reason = f"{self.path} has no precision curve"
            if self.category_indices:
                reason = "precision curves are not available with --among"
            raise UserError(f"--precision: {reason}; use --threshold instead")
        for point in curve:  # in order of increasing threshold and precision
            if point.precision >= precision:
                return point
        highest = int(1000 * curve[-1].precision) / 1000  # rounded down
        raise UserError(
            f"--precision {precision:g}: the highest precision on the validation names is {highest}"
        )


def load_model(
    path: str | Path | None = None,
    prior: PriorName = DEFAULT_PRIOR,
    among: Sequence[str] | None = None,
) -> TrainedModel:
    """Load the model of a run or a checkpoint.

    Args:
        path: a checkpoint, or the folder of a run or sweep; by default, the newest run. See
            `find_checkpoint`.
        prior: how common the categories are assumed to be. A checkpoint without a calibration, from
            a run without validation names, accepts the default only, which then has no effect.
        among: the categories to choose from; None for all.

    Raises:
        UserError: if the file is damaged or not a checkpoint of this program, or it does not
            support the prior or the categories.
        OSError: if the file cannot be read.
    """
    path = find_checkpoint(None if path is None else Path(path))
    checkpoint = load_checkpoint(path)
    # Without a calibration, no prior has an effect, so accepting another one would be misleading.
    if prior != DEFAULT_PRIOR and checkpoint.calibration is None:
        raise UserError(
            f"--prior {prior}: {path} has no calibration, because "
            "no names were held out for validation; omit --prior"
        )
    model = TrainedModel(
        path=path,
        network=checkpoint.network,
        categories=checkpoint.network.categories,
        split_record=checkpoint.split_record,
        calibration=checkpoint.calibration,
        prior=prior,
        description=describe_checkpoint(checkpoint),
        score=checkpoint.score,
    )
    if among is not None:
        return restrict_categories(model, list(among))
    return model


def describe_checkpoint(checkpoint: LoadedCheckpoint) -> str:
    """Return the kind of network and its score, for users."""
    network = checkpoint.network
    description = f"cell={network.architecture['cell']} letters={network.alphabet.kind}"
    description += f", {checkpoint.iteration:,} iterations"
    if checkpoint.score is not None:
        description += f", validation balanced accuracy {checkpoint.score:.3f}"
    return description


def restrict_categories(model: TrainedModel, categories: list[str]) -> TrainedModel:
    """Return a model that chooses from some categories of another one.

    Raises:
        UserError: if the model does not know a category, a category occurs more than once, or
            there are fewer than two.
    """
    categories_by_key = {category.casefold(): category for category in model.categories}
    for category in categories:
        if category not in model.categories:
            hint = f"choose from {quoted_list(model.categories)}"
            similar_keys = get_close_matches(category.casefold(), categories_by_key, n=1)
            if similar_keys:
                hint = f"did you mean {categories_by_key[similar_keys[0]]!r}?"
            raise UserError(f"--among: unknown category {category!r}; {hint}")
        if categories.count(category) > 1:
            raise UserError(f"--among: {category!r} occurs more than once")
    if len(categories) < 2:
        raise UserError("--among: at least two categories are required")
    # The network still predicts all categories; `_predict_batch` selects these.
    indices = [model.categories.index(category) for category in categories]
    return replace(model, categories=categories, category_indices=indices)
