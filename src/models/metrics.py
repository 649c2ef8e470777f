"""The metrics of validation and test."""

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassRecall

from src.models.scores import balanced_accuracy, macro_f1


class BalancedAccuracy(MulticlassRecall):
    """Recall averaged over the categories that have names.

    In the macro average of torchmetrics, a category without names has a recall of 0 as soon as it
    is predicted for one name. Here, such a category is left out.
    """

    def compute(self) -> Tensor:
        """Return the mean recall, a scalar."""
        # The counts of each category [C], in the order TP, FP, TN, FN.
        true_positives, _, _, false_negatives = self._final_state()
        return balanced_accuracy(true_positives, true_positives + false_negatives)


class MacroF1(MulticlassF1Score):
    """F1 score averaged over the categories that have names; see `BalancedAccuracy`."""

    def compute(self) -> Tensor:
        """Return the mean F1 score, a scalar."""
        # The counts of each category [C], in the order TP, FP, TN, FN.
        true_positives, false_positives, _, false_negatives = self._final_state()
        return macro_f1(
            correct=true_positives,
            support=true_positives + false_negatives,
            predicted=true_positives + false_positives,
        )


def build_metrics(n_categories: int) -> MetricCollection:
    """Return the metrics that are logged for validation and test names, by name.

    A metric that is added here is logged, saved to metrics.json and shown in the table at the end
    of a run.
    """
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(n_categories, average="micro"),
            "balanced_accuracy": BalancedAccuracy(n_categories, average="macro"),
            "macro_f1": MacroF1(n_categories, average="macro"),
            "top3_accuracy": MulticlassAccuracy(
                n_categories, average="micro", top_k=min(3, n_categories)
            ),
        },
        # With compute groups, metrics share one state if their states are equal after the first
        # batch, which can happen by chance.
        compute_groups=False,
    )
