"""Scores that are averaged over the categories that have names.

This module does not import torchmetrics, which takes a second. Shapes: C categories; the leading
dimensions, if any, are independent sets of names.
"""

from torch import Tensor


def balanced_accuracy(correct: Tensor, support: Tensor) -> Tensor:
    """Return the mean recall of the categories that have names [...].

    Args:
        correct: number of correctly classified names of each category [..., C].
        support: number of names of each category [..., C].
    """
    recall = correct / support  # 0 / 0 = NaN for a category without names
    return recall.nanmean(dim=-1)


def macro_f1(correct: Tensor, support: Tensor, predicted: Tensor) -> Tensor:
    """Return the mean F1 score of the categories that have names [...].

    Args:
        correct: number of correctly classified names of each category [..., C].
        support: number of names of each category [..., C].
        predicted: number of predictions of each category [..., C].
    """
    f1 = 2 * correct / (support + predicted)  # the harmonic mean of precision and recall
    return f1.where(support > 0, float("nan")).nanmean(dim=-1)
