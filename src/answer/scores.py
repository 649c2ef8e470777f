"""How good answers are, and how sure that is: the numbers of an evaluation, and its text.

Shapes: N pairs of name and category, C categories, R weightings of the pairs.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
BINS = 15
CONFUSED_PAIRS = 10

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Evaluated:
    """N distinct (name, category) pairs and what the model says of them."""

    names: list[str]
    targets: Ints  # [N]
    probabilities: Floats  # [N, C]
    categories: list[str]  # C

    @property
    def guesses(self) -> Ints:
        """The likeliest category of each name [N]."""
        return np.asarray(self.probabilities.argmax(axis=1))


def scores(evaluated: Evaluated, weights: Floats) -> dict[str, Floats]:
    """Return each score for R weightings of the pairs [R, N], each [R].

    A weighting says how often each pair counts: all ones for the pairs as they are.
    """
    targets, p, guesses = evaluated.targets, evaluated.probabilities, evaluated.guesses
    n = weights.sum(axis=1)
    right = guesses == targets
    classes = np.arange(len(evaluated.categories))
    support = weights @ (targets[:, None] == classes)  # [R, C]
    guessed = weights @ (guesses[:, None] == classes)
    hits = weights @ ((targets[:, None] == classes) & right[:, None])
    likelihood = p[np.arange(len(targets)), targets]
    rank = (p > likelihood[:, None]).sum(axis=1)  # of the true category, from 0
    confidence = p.max(axis=1)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = (confidence - right)[:, None] * (bins[:, None] == np.arange(BINS))  # [N, bins]
    return {
        "accuracy": weights @ right / n,
        "balanced_accuracy": mean_where(hits, support, support > 0),
        "macro_f1": mean_where(2 * hits, support + guessed, support + guessed > 0),
        "top3_accuracy": weights @ (rank < 3) / n,
        "log_loss": weights @ -np.log(np.maximum(likelihood, 1e-45)) / n,
        "ece": np.abs(weights @ gaps).sum(axis=1) / n,
    }


def mean_where(above: Floats, below: Floats, there: NDArray[np.bool_]) -> Floats:
    """Return the mean along each row of above / below [R, C], over what is there."""
    ratios = np.divide(above, below, out=np.zeros_like(above), where=there)
    return np.asarray(ratios.sum(axis=1) / there.sum(axis=1))


def make_report(evaluated: Evaluated) -> dict[str, Any]:
    """Return all there is to say, as plain values."""
    n, value = len(evaluated.names), scores(evaluated, np.ones((1, len(evaluated.names))))
    rng = np.random.default_rng(0)
    drawn = [
        scores(evaluated, rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES // 10).astype(float))
        for _ in range(10)  # in ten parts, for the memory
    ]
    report: dict[str, Any] = {"pairs": n}
    for name, numbers in value.items():
        low, high = np.quantile([part[name] for part in drawn], [0.025, 0.975])
        report[name] = {"value": float(numbers[0]), "low": float(low), "high": float(high)}
    most = Counter(evaluated.targets.tolist()).most_common(1)[0]
    report["ceiling"] = len(set(evaluated.names)) / n
    report["majority"] = {"category": evaluated.categories[most[0]], "accuracy": most[1] / n}
    report["categories"] = category_rows(evaluated)
    report["confused"] = confused_pairs(evaluated)
    return report


def category_rows(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and support of each category; None where undefined."""
    rows: list[dict[str, Any]] = []
    for i, category in enumerate(evaluated.categories):
        is_it, said_it = evaluated.targets == i, evaluated.guesses == i
        hits, support, guessed = (int(x.sum()) for x in (is_it & said_it, is_it, said_it))
        parts = {"precision": (hits, guessed), "recall": (hits, support)}
        parts["f1"] = 2 * hits, support + guessed
        ratios = {name: above / below if below else None for name, (above, below) in parts.items()}
        rows.append({"category": category, **ratios, "support": support})
    return rows


def confused_pairs(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Return the most frequent mistakes, each with its three surest examples."""
    wrong = np.flatnonzero(evaluated.guesses != evaluated.targets)
    surest_first = wrong[np.argsort(-evaluated.probabilities[wrong].max(axis=1), kind="stable")]
    mistakes: dict[tuple[str, str], list[str]] = {}
    for i in surest_first:
        pair = evaluated.targets[i], evaluated.guesses[i]
        target, guess = (evaluated.categories[each] for each in pair)
        mistakes.setdefault((target, guess), []).append(evaluated.names[i])
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
        "",
        f"{report['pairs']:,} pairs of name and category. No model can guess more than "
        f"{report['ceiling']:.1%} of them right,",
        f"because some names have several categories. Always guessing {majority['category']} "
        f"gives accuracy {majority['accuracy']:.4f},",
        f"balanced accuracy {blind:.4f}.",
        "",
        f"{'':<20}{'precision':>10}{'recall':>10}{'F1':>10}{'support':>10}",
    ]
    for row in report["categories"]:
        ratios = [row[key] for key in ("precision", "recall", "f1")]
        cells = "".join(f"{'–' if x is None else format(x, '.3f'):>10}" for x in ratios)
        lines.append(f"{row['category']:<20}{cells}{row['support']:>10,}")
    lines += ["", "most frequent mistakes"]
    for row in report["confused"]:
        pair = f"{row['category']} taken for {row['guess']}"
        lines.append(f"{row['count']:>5}  {pair:<32}{', '.join(row['examples'])}")
    return "\n".join(lines)
