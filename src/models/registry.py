"""The choices that the configuration needs: cells, priors and the score. Does not import torch."""

from importlib import import_module
from typing import Any, Literal, NamedTuple

SCORE = "val/balanced_accuracy"
"""The metric that selects the best weights, ranks the runs of a sweep and is the score of a run."""

PriorName = Literal["uniform", "corpus", "tempered"]
PRIORS: tuple[PriorName, ...] = ("uniform", "corpus", "tempered")
"""Assumptions about how common each category is among the names to classify; see `Calibration`."""
DEFAULT_PRIOR: PriorName = "tempered"


class NetworkEntry(NamedTuple):
    """An entry of the registry of recurrent networks, `CELLS`."""

    class_path: str
    """Module and name of a network class. It is called with the arguments `alphabet`,
    `n_categories`, `hidden` and the `options` below, and maps names to log-probabilities."""
    options: tuple[str, ...] = ()
    """Keys of the configuration that the class takes as further arguments."""
    is_compilable: bool = False
    """Whether `backend=compiled` can train the network."""

    def load_class(self) -> Any:
        """Import and return the class of the network."""
        module_name, _, class_name = self.class_path.rpartition(".")
        return getattr(import_module(module_name), class_name)


# The keys are also the names of arguments of the network classes. A new option therefore needs one
# line here and one in the class that takes it.
CELL_OPTIONS: dict[str, Any] = {
    "layers": 1,
    "bidirectional": False,
    "embedding": 0,
    "pooling": "last",
    "dropout": 0,
    "recurrent_dropout": 0,
}
"""Configuration keys that only some networks take, with their defaults. The others accept only the
default."""

NETWORK_KEYS = ["cell", "hidden", "ngrams", *CELL_OPTIONS]
"""Configuration keys that are arguments of `Network`."""

PYTORCH_NETWORK = NetworkEntry(
    "src.models.recurrent.RecurrentNetwork", options=("cell", *CELL_OPTIONS)
)

# The classes are given as text, because their modules import torch.
CELLS: dict[str, NetworkEntry] = {
    "tutorial": NetworkEntry("src.models.recurrent.TutorialNetwork", is_compilable=True),
    "rnn": PYTORCH_NETWORK,
    "gru": PYTORCH_NETWORK,
    "lstm": PYTORCH_NETWORK,
}
"""The recurrent network of each value of `cell=`. To add a network, write its class and add it
here; see docs/extending.md."""

METRIC_LABELS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "top3_accuracy": "top-3 accuracy",
    "log_loss": "log loss",
    "ece": "ECE",
}
"""The labels of metrics in printed tables. Other metrics are shown by their names."""
