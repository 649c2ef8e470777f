"""How good answers are, and how sure that is: the numbers of an evaluation, and its text.

Shapes: N pairs of name and category, C categories, R weightings of the pairs.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from src.models.decision import FEWEST, precision_curve

RESAMPLES = 1000
COVERAGES = (1, 0.9, 0.75, 0.5, 0.25)
BINS = 15
CONFUSED_PAIRS = 10

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluated:
    """N distinct (name, category) pairs and what the model says of them."""

    names: list[str]
    targets: NDArray[np.int64]  # [N]
    probabilities: Floats  # [N, C]
    categories: list[str]  # C

    @property
    def guesses(self) -> NDArray[np.int64]:
        """The likeliest category of each name [N]."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def curve(self) -> Floats:
        """Threshold, precision and coverage, the coverage rising [M, 3]."""
        p, targets = torch.from_numpy(self.probabilities), torch.from_numpy(self.targets)
        return np.asarray(precision_curve(p, targets).numpy())


def scores(evaluated: Evaluated, weights: Floats) -> dict[str, Floats]:
    """Return each score for R weightings of the pairs [R, N], each [R].

    A weighting says how often each pair counts: all ones for the pairs as they are.
    """
    targets, p, guesses = evaluated.targets, evaluated.probabilities, evaluated.guesses
    n = weights.sum(axis=1)
    right = guesses == targets
    classes = np.arange(len(evaluated.categories))
    is_it, said_it = targets[:, None] == classes, guesses[:, None] == classes  # [N, C]
    support, guessed, hits = weights @ is_it, weights @ said_it, weights @ (is_it & said_it)
    likelihood = p[np.arange(len(targets)), targets]
    among_top = (p > likelihood[:, None]).sum(axis=1) < 3
    confidence = p.max(axis=1)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = (confidence - right)[:, None] * (bins[:, None] == np.arange(BINS))  # [N, bins]
    return {
        "accuracy": weights @ right / n,
        "balanced_accuracy": mean_ratio(hits, support),
        "macro_f1": mean_ratio(2 * hits, np.where(support > 0, support + guessed, 0)),
        "top3_accuracy": weights @ (among_top & (likelihood > 0)) / n,
        "log_loss": weights @ -np.log(np.maximum(likelihood, 1e-45)) / n,
        "ece": np.abs(weights @ gaps).sum(axis=1) / n,
    }


def mean_ratio(above: Floats, below: Floats) -> Floats:
    """Return the mean along each row of above / below, counts [R, C], where below is not 0."""
    return np.asarray((above / below.clip(min=1)).sum(axis=1) / (below > 0).sum(axis=1))


def make_report(evaluated: Evaluated) -> dict[str, Any]:
    """Return all there is to say, as plain values."""
    n = len(evaluated.names)
    rng = np.random.default_rng(0)
    drawn = [
        scores(evaluated, rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES // 10).astype(float))
        for _ in range(10)  # in ten parts, for the memory
    ]
    report: dict[str, Any] = {"pairs": n}
    for name, (value,) in scores(evaluated, np.ones((1, n))).items():
        low, high = np.quantile([part[name] for part in drawn], [0.025, 0.975])
        report[name] = {"value": float(value), "low": float(low), "high": float(high)}
    report["ceiling"] = len(set(evaluated.names)) / n
    report["categories"] = category_rows(evaluated)
    most = max(report["categories"], key=lambda row: row["support"])
    report["majority"] = {"category": most["category"], "accuracy": most["support"] / n}
    report["confused"] = confused_pairs(evaluated)
    curve = evaluated.curve
    report["coverage"] = [
        dict(zip(("threshold", "precision", "coverage"), row, strict=True))
        for row in curve[np.searchsorted(curve[:, 2], COVERAGES)].tolist()
    ]
    return report


def category_rows(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and support of each category; None where undefined."""
    rows = []
    guesses = evaluated.guesses
    for i, category in enumerate(evaluated.categories):
        is_it, said_it = evaluated.targets == i, guesses == i
        hits, support, guessed = (int(x.sum()) for x in (is_it & said_it, is_it, said_it))
        whole = {"precision": guessed, "recall": support, "f1": (guessed + support) / 2}
        ratios = {name: hits / count if count else None for name, count in whole.items()}
        rows.append({"category": category, **ratios, "support": support})
    return rows


def confused_pairs(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Return the most frequent mistakes, each with its three surest examples."""
    categories, targets, guesses = evaluated.categories, evaluated.targets, evaluated.guesses
    mistakes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for i in np.argsort(-evaluated.probabilities.max(axis=1), kind="stable"):  # the surest first
        if guesses[i] != targets[i]:
            mistakes[categories[targets[i]], categories[guesses[i]]].append(evaluated.names[i])
    most = sorted(mistakes.items(), key=lambda item: -len(item[1]))[:CONFUSED_PAIRS]
    return [
        {"category": target, "guess": guess, "count": len(names), "examples": names[:3]}
        for (target, guess), names in most
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
        few = " *" if 0 < row["support"] < FEWEST else ""
        lines.append(f"{row['category']:<20}{cells}{row['support']:>10,}{few}")
    if any(0 < row["support"] < FEWEST for row in report["categories"]):
        lines.append(f"* fewer than {FEWEST} names: its recall may be off by 0.2 and more")
    lines.append(f"\n{'coverage':>10}{'precision':>12}  with predict --threshold")
    for row in report["coverage"]:
        lines.append("{coverage:>10.3f}{precision:>12.3f}{threshold:>12.6f}".format(**row))
    lines.append("\nmost frequent mistakes")
    for row in report["confused"]:
        pair = f"{row['category']} taken for {row['guess']}"
        lines.append(f"{row['count']:>5}  {pair:<32}{', '.join(row['examples'])}")
    return "\n".join(lines)
