"""Scores of a model with confidence intervals, as plain values and as text.

Shapes: N distinct pairs of a name and its category, C categories, R resamples of the pairs, T bins.
"""

import textwrap
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from src.data.corpus import NamesByCategory
from src.data.readers.columns import quoted_list
from src.errors import UserError
from src.inference.trained_model import TrainedModel
from src.models.calibration import MIN_SAMPLE_SIZE, CurvePoint, compute_precision_curve
from src.models.registry import METRIC_LABELS
from src.models.scores import balanced_accuracy, macro_f1

N_RESAMPLES = 1000
RESAMPLES_PER_BATCH = 100
"""Number of resamples that are in memory at once."""
CONFIDENCE_QUANTILES = [0.025, 0.975]
SCORE_NAMES = ("accuracy", "balanced_accuracy", "macro_f1", "top3_accuracy", "log_loss", "ece")
"""The scores in the order of the report. ECE is the expected calibration error."""
REPORTED_COVERAGES = (1.0, 0.9, 0.75, 0.5, 0.25)
"""Shares of answered names for which the report shows precision and threshold."""
N_CALIBRATION_BINS = 15
MIN_PROBABILITY = 1e-45
"""Lower probabilities count as this one in the log loss, which would be infinite for 0."""
MAX_CONFUSED_PAIRS = 10
EXAMPLES_PER_PAIR = 3
REPORT_WIDTH = 88
"""Maximum length of the lines of text in a report, in characters."""


@dataclass(frozen=True)
class EvaluatedNames:
    """Distinct pairs of a name and its category, and what the model predicts for them."""

    names: list[str]
    """The normalized name of each pair [N]."""
    targets: Tensor
    """Index of the category of each pair [N], int64."""
    probabilities: Tensor
    """Probability of each category [N, C], float64."""
    categories: list[str]
    """The categories [C]."""

    @property
    def predictions(self) -> Tensor:
        """Index of the most likely category of each name [N], int64."""
        return self.probabilities.argmax(dim=1)


def predict_distinct_pairs(
    model: TrainedModel, names_by_category: NamesByCategory
) -> EvaluatedNames:
    """Predict each distinct pair of a name and its category.

    Categories that the model does not know follow those that it knows. Their probability is 0.

    Raises:
        UserError: if there are no names, or a name cannot be classified.
    """
    unknown_categories = []
    for category in names_by_category:
        if category not in model.categories:
            unknown_categories.append(category)
    categories = model.categories + unknown_categories
    names = []
    targets = []
    for category, lines in names_by_category.items():
        # The model may normalize several of these names alike.
        distinct_names = sorted({model.alphabet.normalize(line) for line in lines})
        names += distinct_names
        targets += [categories.index(category)] * len(distinct_names)
    if not names:
        raise UserError(f"there are no names of these categories: {quoted_list(categories)}")
    known_probabilities = model.predict_probabilities(names)
    probabilities = F.pad(known_probabilities, (0, len(unknown_categories)))  # [N, C]
    is_unclassified = probabilities[:, 0].isnan()
    if is_unclassified.any():
        name = names[int(is_unclassified.nonzero()[0])]
        raise UserError(f"{name}: {model.explain_rejection(name)}")
    return EvaluatedNames(names, torch.tensor(targets), probabilities.double(), categories)


def compute_scores(evaluated: EvaluatedNames, weights: Tensor) -> dict[str, Tensor]:
    """Return each score of several weighted samples of the pairs.

    Args:
        evaluated: the pairs.
        weights: how often each sample contains each pair [R, N], float64.

    Returns:
        The score of each sample [R] by the names in SCORE_NAMES.
    """
    n_categories = len(evaluated.categories)
    one_hot_targets = F.one_hot(evaluated.targets, n_categories).double()  # [N, C]
    one_hot_predictions = F.one_hot(evaluated.predictions, n_categories).double()  # [N, C]
    one_hot_correct = one_hot_targets * one_hot_predictions  # [N, C]
    support = weights @ one_hot_targets  # [R, C]
    predicted = weights @ one_hot_predictions  # [R, C]
    correct = weights @ one_hot_correct  # [R, C]
    n_pairs = weights.sum(dim=1)  # [R]

    target_probabilities = (evaluated.probabilities * one_hot_targets).sum(dim=1)  # [N]
    is_in_top3 = is_among_top3(evaluated.probabilities, target_probabilities)  # [N]
    losses = -target_probabilities.clamp(min=MIN_PROBABILITY).log()  # [N]
    is_correct = one_hot_correct.sum(dim=1)  # [N]
    confidence = evaluated.probabilities.max(dim=1).values  # [N]
    return {
        "accuracy": correct.sum(dim=1) / n_pairs,
        "balanced_accuracy": balanced_accuracy(correct, support),
        "macro_f1": macro_f1(correct, support, predicted),
        "top3_accuracy": weights @ is_in_top3.double() / n_pairs,
        "log_loss": weights @ losses / n_pairs,
        "ece": expected_calibration_error(confidence, is_correct, weights),
    }


def is_among_top3(probabilities: Tensor, target_probabilities: Tensor) -> Tensor:
    """Return whether the correct category of each pair is among the three most likely ones.

    A category with a probability of 0 is never among them.

    Args:
        probabilities: probability of each category [N, C].
        target_probabilities: probability of the correct category [N].

    Returns:
        A boolean tensor [N].
    """
    n_higher = (probabilities > target_probabilities[:, None]).sum(dim=1)  # [N]
    return (n_higher < 3) & (target_probabilities > 0)


def expected_calibration_error(confidence: Tensor, is_correct: Tensor, weights: Tensor) -> Tensor:
    """Return the expected calibration error of several weighted samples [R].

    It is the mean gap between confidence and accuracy in bins of equal width, weighted by the
    number of pairs in each bin.

    Args:
        confidence: the highest probability of each pair [N].
        is_correct: 1.0 if the prediction is correct, 0.0 if not [N].
        weights: how often each sample contains each pair [R, N].
    """
    bin_indices = (confidence * N_CALIBRATION_BINS).long().clamp(max=N_CALIBRATION_BINS - 1)  # [N]
    one_hot_bins = F.one_hot(bin_indices, N_CALIBRATION_BINS)  # [N, T]
    gaps = (confidence - is_correct)[:, None] * one_hot_bins  # [N, T]
    # The sum of the gaps of all pairs in a bin is the gap of the bin times its number of pairs.
    gaps_of_bins = weights @ gaps  # [R, T]
    n_pairs = weights.sum(dim=1)  # [R]
    return gaps_of_bins.abs().sum(dim=1) / n_pairs


def bootstrap_scores(evaluated: EvaluatedNames) -> dict[str, list[float]]:
    """Return each score of N_RESAMPLES bootstrap samples of the pairs, by name."""
    n_pairs = len(evaluated.names)
    rng = np.random.default_rng(0)
    resampled_scores: dict[str, list[float]] = defaultdict(list)
    # All pairs are equally likely to be drawn.
    pair_probabilities = np.full(n_pairs, 1 / n_pairs)
    # In batches, because the weights of all resamples would take too much memory.
    for _ in range(N_RESAMPLES // RESAMPLES_PER_BATCH):
        # Number of times that each pair is drawn, among N draws with replacement [R, N].
        counts = rng.multinomial(n_pairs, pair_probabilities, size=RESAMPLES_PER_BATCH)
        weights = torch.from_numpy(counts).double()
        for name, values in compute_scores(evaluated, weights).items():
            resampled_scores[name] += values.tolist()
    return resampled_scores


def build_report(evaluated: EvaluatedNames) -> dict[str, Any]:
    """Return the report of an evaluation as plain values."""
    n_pairs = len(evaluated.names)
    report: dict[str, Any] = {"pairs": n_pairs}
    # A single sample that contains each pair once.
    scores = compute_scores(evaluated, torch.ones(1, n_pairs).double())
    resampled_scores = bootstrap_scores(evaluated)
    for name in SCORE_NAMES:
        low, high = np.quantile(resampled_scores[name], CONFIDENCE_QUANTILES).tolist()
        report[name] = {"value": scores[name].item(), "low": low, "high": high}
    # A model predicts one category for each name, so at most one of the pairs with this name is
    # correct. Its accuracy is highest if that holds for every distinct name.
    report["ceiling"] = len(set(evaluated.names)) / n_pairs
    rows = compute_category_rows(evaluated)
    report["categories"] = rows
    largest = max(rows, key=lambda row: row["support"])
    report["majority"] = {
        "category": largest["category"],
        "accuracy": largest["support"] / n_pairs,
    }
    report["confused"] = list_confused_pairs(evaluated)
    report["coverage"] = compute_coverage_rows(evaluated)
    return report


def compute_category_rows(evaluated: EvaluatedNames) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and support of each category; None where they are undefined."""
    predictions = evaluated.predictions
    rows = []
    for index, category in enumerate(evaluated.categories):
        is_target = evaluated.targets == index  # [N]
        is_predicted = predictions == index  # [N]
        n_correct = int((is_target & is_predicted).sum())
        support = int(is_target.sum())
        n_predicted = int(is_predicted.sum())
        row = {
            "category": category,
            "precision": ratio_or_none(n_correct, n_predicted),
            "recall": ratio_or_none(n_correct, support),
            "f1": ratio_or_none(n_correct, (n_predicted + support) / 2),
            "support": support,
        }
        rows.append(row)
    return rows


def ratio_or_none(numerator: float, denominator: float) -> float | None:
    """Return a ratio, or None if the denominator is 0."""
    return numerator / denominator if denominator else None


def list_confused_pairs(evaluated: EvaluatedNames) -> list[dict[str, Any]]:
    """Return the most frequent mistakes, each with the examples of the highest confidence."""
    categories = evaluated.categories
    targets = evaluated.targets.tolist()
    predictions = evaluated.predictions.tolist()
    confidence = evaluated.probabilities.max(dim=1).values  # [N]
    most_confident_first = confidence.argsort(descending=True, stable=True).tolist()
    names_by_mistake: dict[tuple[int, int], list[str]] = defaultdict(list)
    for index in most_confident_first:
        target = targets[index]
        prediction = predictions[index]
        if prediction != target:
            names_by_mistake[target, prediction].append(evaluated.names[index])

    counts = Counter({mistake: len(names) for mistake, names in names_by_mistake.items()})
    rows = []
    for mistake, count in counts.most_common(MAX_CONFUSED_PAIRS):
        target, prediction = mistake
        row = {
            "category": categories[target],
            "guess": categories[prediction],
            "count": count,
            "examples": names_by_mistake[mistake][:EXAMPLES_PER_PAIR],
        }
        rows.append(row)
    return rows


def compute_coverage_rows(evaluated: EvaluatedNames) -> list[dict[str, float]]:
    """Return threshold, precision and coverage for each of REPORTED_COVERAGES."""
    curve = compute_precision_curve(evaluated.probabilities, evaluated.targets)  # [M, 3]
    coverage = curve[:, 2].contiguous()
    # The coverage increases along the curve: find the first point that reaches each value.
    indices = torch.searchsorted(coverage, torch.tensor(REPORTED_COVERAGES).double())
    return [CurvePoint(*point)._asdict() for point in curve[indices].tolist()]


def format_report(report: dict[str, Any]) -> str:
    """Return a report as text."""
    sections = [
        format_scores(report),
        format_baselines(report),
        format_category_table(report["categories"]),
        format_coverage(report["coverage"]),
        format_mistakes(report["confused"]),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections)


def format_scores(report: dict[str, Any]) -> list[str]:
    """Return a table of the scores with their confidence intervals, line by line."""
    lines = [f"{'':<20}{'value':>8}    95 % interval"]
    for name in SCORE_NAMES:
        score = report[name]
        interval = f"{score['low']:.3f} – {score['high']:.3f}"
        lines.append(f"{METRIC_LABELS[name]:<20}{score['value']:>8.3f}    {interval}")
    return lines


def format_baselines(report: dict[str, Any]) -> list[str]:
    """Return lines about the highest possible accuracy and the scores of the largest category.

    The latter are the scores of always predicting the largest category.
    """
    majority = report["majority"]
    n_present = sum(row["support"] > 0 for row in report["categories"])
    text = (
        f"{report['pairs']:,} pairs of a name and a category. Because some names have several "
        f"categories, the accuracy cannot exceed {report['ceiling']:.3f}. Always predicting "
        f"{majority['category']} would give an accuracy of {majority['accuracy']:.3f} and a "
        f"balanced accuracy of {1 / n_present:.3f}."
    )
    return textwrap.wrap(text, width=REPORT_WIDTH, break_on_hyphens=False)


def format_category_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a table of the categories, line by line, with a star where there are few names."""
    lines = [f"{'':<20}{'precision':>10}{'recall':>10}{'F1':>10}{'support':>10}"]
    has_small_category = False
    for row in rows:
        line = f"{row['category']:<20}"
        for key in ("precision", "recall", "f1"):
            cell = "–" if row[key] is None else f"{row[key]:.3f}"
            line += f"{cell:>10}"
        line += f"{row['support']:>10,}"
        if 0 < row["support"] < MIN_SAMPLE_SIZE:
            line += " *"
            has_small_category = True
        lines.append(line)
    if has_small_category:
        note = "the margin of error of the recall can be 0.2 or more"
        lines.append(f"* fewer than {MIN_SAMPLE_SIZE} names; {note}")
    return lines


def format_coverage(rows: list[dict[str, float]]) -> list[str]:
    """Return a table of thresholds with their precision and coverage, line by line."""
    lines = ["Precision at reduced coverage (see predict --threshold)"]
    lines.append(f"{'coverage':>10}{'precision':>12}{'threshold':>12}")
    for row in rows:
        numbers = f"{row['coverage']:>10.3f}{row['precision']:>12.3f}{row['threshold']:>12.6f}"
        lines.append(numbers)
    return lines


def format_mistakes(rows: list[dict[str, Any]]) -> list[str]:
    """Return a table of the most frequent mistakes, line by line."""
    lines = ["Most frequent mistakes"]
    for row in rows:
        mistake = f"{row['category']} → {row['guess']}"
        lines.append(f"{row['count']:>5}  {mistake:<32}{', '.join(row['examples'])}")
    return lines
