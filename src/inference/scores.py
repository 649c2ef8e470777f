"""How good answers are, and how sure that is: the numbers of an evaluation, and its text.

Shapes: N pairs of name and category, C categories, R weightings of the pairs.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from src.models.calibration import MIN_SAMPLE_SIZE, precision_curve

RESAMPLES = 1000
COVERAGES = (1.0, 0.9, 0.75, 0.5, 0.25)
BINS = 15
CONFUSED_PAIRS = 10


@dataclass(frozen=True)
class Evaluated:
    """N distinct (name, category) pairs and what the model says of them."""

    names: list[str]
    targets: Tensor  # [N]
    probabilities: Tensor  # [N, C], float64
    categories: list[str]  # C

    @property
    def guesses(self) -> Tensor:
        """The likeliest category of each name [N]."""
        return self.probabilities.argmax(dim=1)


def scores(evaluated: Evaluated, weights: Tensor) -> dict[str, Tensor]:
    """Return each score for R weightings of the pairs [R, N], each [R].

    A weighting says how often each pair counts: all ones for the pairs as they are.
    """
    targets, p, c = evaluated.targets, evaluated.probabilities, len(evaluated.categories)
    is_it, said_it = (F.one_hot(each, c).double() for each in (targets, evaluated.guesses))
    right = is_it * said_it  # [N, C]
    support, guessed, hits = weights @ is_it, weights @ said_it, weights @ right
    n = weights.sum(dim=1)
    likelihood = (p * is_it).sum(dim=1)
    among_top = ((p > likelihood[:, None]).sum(dim=1) < 3) & (likelihood > 0)
    confidence = p.max(dim=1).values
    bins = F.one_hot((confidence * BINS).long().clamp(max=BINS - 1), BINS)
    gaps = (confidence - right.sum(dim=1))[:, None] * bins  # [N, bins]
    f1 = 2 * hits / (support + guessed)
    return {
        "accuracy": hits.sum(dim=1) / n,
        "balanced_accuracy": (hits / support).nanmean(dim=1),  # without names: 0 / 0, which is NaN
        "macro_f1": f1.where(support > 0, torch.nan).nanmean(dim=1),
        "top3_accuracy": weights @ among_top.double() / n,
        "log_loss": weights @ -likelihood.clamp(min=1e-45).log() / n,
        "ece": (weights @ gaps).abs().sum(dim=1) / n,
    }


def make_report(evaluated: Evaluated) -> dict[str, Any]:
    """Return all there is to say, as plain values."""
    n, rng = len(evaluated.names), np.random.default_rng(0)
    drawn: dict[str, list[float]] = defaultdict(list)
    for _ in range(10):  # in ten parts, for the memory
        weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES // 10)
        for name, values in scores(evaluated, torch.from_numpy(weights).double()).items():
            drawn[name] += values.tolist()
    report: dict[str, Any] = {"pairs": n}
    for name, value in scores(evaluated, torch.ones(1, n).double()).items():
        low, high = np.quantile(drawn[name], [0.025, 0.975]).tolist()
        report[name] = {"value": value.item(), "low": low, "high": high}
    report["ceiling"] = len(set(evaluated.names)) / n
    report["categories"] = category_rows(evaluated)
    most = max(report["categories"], key=lambda row: row["support"])
    report["majority"] = {"category": most["category"], "accuracy": most["support"] / n}
    report["confused"] = confused_pairs(evaluated)
    curve = precision_curve(evaluated.probabilities, evaluated.targets)
    rows = torch.searchsorted(curve[:, 2].contiguous(), torch.tensor(COVERAGES).double())
    keys = "threshold", "precision", "coverage"
    report["coverage"] = [dict(zip(keys, row, strict=True)) for row in curve[rows].tolist()]
    return report


def category_rows(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and support of each category; None where undefined."""
    rows, guesses = [], evaluated.guesses
    for i, category in enumerate(evaluated.categories):
        is_it, said_it = evaluated.targets == i, guesses == i
        hits, support, guessed = (int(x.sum()) for x in (is_it & said_it, is_it, said_it))
        whole = {"precision": guessed, "recall": support, "f1": (guessed + support) / 2}
        ratios = {name: hits / count if count else None for name, count in whole.items()}
        rows.append({"category": category, **ratios, "support": support})
    return rows


def confused_pairs(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Return the most frequent mistakes, each with its three surest examples."""
    categories, names = evaluated.categories, evaluated.names
    targets, guesses = evaluated.targets.tolist(), evaluated.guesses.tolist()
    surest = evaluated.probabilities.max(dim=1).values.argsort(descending=True, stable=True)
    mistakes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for i in surest.tolist():
        if guesses[i] != targets[i]:
            mistakes[categories[targets[i]], categories[guesses[i]]].append(names[i])
    most = sorted(mistakes.items(), key=lambda item: -len(item[1]))[:CONFUSED_PAIRS]
    return [
        {"category": target, "guess": guess, "count": len(taken), "examples": taken[:3]}
        for (target, guess), taken in most
    ]


def as_text(report: dict[str, Any]) -> str:
    """Return the report for a person."""
    lines = [f"{'':<20}{'value':>8}    95 % interval"]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "top3_accuracy", "log_loss", "ece"):
        numbers = "{value:>8.4f}    {low:.4f} – {high:.4f}".format(**report[name])
        lines.append(f"{name.replace('_', ' '):<20}{numbers}")
    majority = report["majority"]
    blind = 1 / sum(row["support"] > 0 for row in report["categories"])
    lines += [
        f"\n{report['pairs']:,} pairs of name and category. No model can guess more than "
        f"{report['ceiling']:.1%} of them right,",
        f"because some names have several categories. Always guessing {majority['category']} "
        f"gives accuracy {majority['accuracy']:.4f},",
        f"balanced accuracy {blind:.4f}.\n",
        f"{'':<20}{'precision':>10}{'recall':>10}{'F1':>10}{'support':>10}",
    ]
    for row in report["categories"]:
        ratios = [row[key] for key in ("precision", "recall", "f1")]
        cells = "".join(f"{'–' if x is None else format(x, '.3f'):>10}" for x in ratios)
        few = " *" if 0 < row["support"] < MIN_SAMPLE_SIZE else ""
        lines.append(f"{row['category']:<20}{cells}{row['support']:>10,}{few}")
    if any(0 < row["support"] < MIN_SAMPLE_SIZE for row in report["categories"]):
        lines.append(f"* fewer than {MIN_SAMPLE_SIZE} names: its recall may be off by 0.2 and more")
    lines.append(f"\n{'coverage':>10}{'precision':>12}  with predict --threshold")
    for row in report["coverage"]:
        lines.append("{coverage:>10.3f}{precision:>12.3f}{threshold:>12.6f}".format(**row))
    lines.append("\nmost frequent mistakes")
    for row in report["confused"]:
        pair = f"{row['category']} taken for {row['guess']}"
        lines.append(f"{row['count']:>5}  {pair:<32}{', '.join(row['examples'])}")
    return "\n".join(lines)
