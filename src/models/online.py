"""The tutorial's training: a plain SGD step for every single name."""

import torch
from torch import Tensor

from src.data.tensors import Batch
from src.models.classifier import NameClassifier
from src.models.online_sgd import OnlineSGD
from src.models.rnn import RNN, read_names


class OnlineClassifier(NameClassifier):
    """The hand-written RNN, trained one name at a time.

    All arguments are plain values and are kept in the checkpoint, so that it can be used without
    the corpus.

    Args:
        categories: the names of the categories, in index order.
        alphabet: the letters, in index order.
        hidden: size of the hidden state.
        lr: learning rate.
        backend: `compiled` or `autograd`, see `online_sgd`.
        log_every: names per point of the loss curve.
    """

    def __init__(
        self,
        categories: list[str],
        alphabet: str,
        hidden: int,
        lr: float,
        backend: str,
        log_every: int,
    ) -> None:
        super().__init__(len(categories), log_every)
        self.save_hyperparameters()
        self.automatic_optimization = False  # OnlineSGD takes a step for each name by itself
        self.rnn = RNN(len(alphabet), hidden, len(categories))
        self.lr = lr
        self.backend = backend

    def log_probabilities(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Read letters, end to end, of names with these lengths [B]: → log-probabilities [B, C]."""
        return read_names(self.rnn, letters, lengths)

    def configure_optimizers(self) -> OnlineSGD:
        """Return plain SGD, one step a name."""
        return OnlineSGD(self.rnn, self.lr, self.backend)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Train on each name of the batch in turn; return their losses and guesses, each [B].

        Raises:
            DivergenceError: if a loss is not finite; the weights are those before the batch then.
        """
        before = [weight.detach().clone() for weight in self.rnn.parameters()]
        losses, guesses = self.optimizers().step(batch=batch)  # type: ignore[union-attr] # there is one
        losses = losses.cpu()
        bad = losses.isfinite().logical_not().nonzero()
        if len(bad) or not all(weight.isfinite().all() for weight in self.rnn.parameters()):
            with torch.no_grad():
                for weight, good in zip(self.rnn.parameters(), before, strict=True):
                    weight.copy_(good)
            # The last step may have gone wrong, too; its loss was before it.
            raise self.diverged(self.iteration + (int(bad[0]) + 1 if len(bad) else len(losses)))
        self.trained_on(losses)
        return {"losses": losses, "guesses": guesses}
