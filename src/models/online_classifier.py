"""The Lightning module for the tutorial's training: a step of plain SGD for every single name.

Shapes: B names in a batch, L letters in a name, S symbols in the alphabet, C categories, H size of
the hidden state.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD

from src.data.batch import Batch
from src.models.classifier import NameClassifier
from src.models.online_sgd import OnlineSGD
from src.models.recurrent import TutorialNetwork
from src.models.rnn import RNN, read_name

HIDDEN_NORM_LETTERS = 20
"""Number of letters after which the norm of the hidden state is logged."""


class OnlineClassifier(NameClassifier):
    """Trains the tutorial's network: each iteration is one name and one step of plain SGD.

    As in the tutorial, the network has no prior: it learns from the names how frequent the
    categories are.

    Args:
        backend: `autograd` runs the training step that the tutorial shows. `compiled` takes the
            same steps many times as fast; see `OnlineSGD`.
        clip: maximum norm of the gradient of a name; 0 for no clipping.
        kwargs: the arguments of `NameClassifier`, including `network`.
    """

    uses_prior = False

    def __init__(self, backend: str = "compiled", clip: float = 500.0, **kwargs: Any) -> None:
        # `super().__init__` calls `save_hyperparameters`, which also stores `backend` and `clip`.
        super().__init__(**kwargs)
        # Lightning would take one step for a batch; `training_step` takes one for each name.
        self.automatic_optimization = False

    @property
    def clip(self) -> float:
        """Maximum norm of the gradient of a name; 0 for no clipping."""
        return float(self.hparams["clip"])

    @property
    def rnn(self) -> RNN:
        """The hand-written cell."""
        return cast(TutorialNetwork, self.network.recurrent).rnn

    def configure_optimizers(self) -> SGD:
        """Return the optimizer."""
        if self.hparams["backend"] == "compiled":
            return OnlineSGD(self.rnn, self.hparams["lr"], self.clip)
        return SGD(self.rnn.parameters(), self.hparams["lr"])

    @torch.no_grad()
    def extra_values_to_log(self) -> dict[str, float]:
        """Return the norm of the hidden state after HIDDEN_NORM_LETTERS letters.

        If training diverges, this norm grows before the loss does.
        """
        hidden = self.rnn.init_hidden()  # [1, H]
        n_symbols = self.rnn.i2h.in_features - self.rnn.hidden_size
        # The first letters of the alphabet, one-hot, each as a batch of one. If the alphabet has
        # fewer letters, the remaining rows are zero, as for no letter.
        letters = torch.eye(HIDDEN_NORM_LETTERS, n_symbols).unsqueeze(1)  # [20, 1, S]
        for letter in letters:  # [1, S]
            combined = torch.cat((letter, hidden), dim=1)  # [1, S + H]
            hidden = self.rnn.i2h(combined)
        return {"train/hidden_norm": hidden.norm().item()}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Take a step for each name of a batch.

        Returns:
            `losses`, the loss of each name before its step [B]; `guesses`, the prediction [B],
            int64.
        """
        optimizer: Any = self.optimizers()
        if self.hparams["backend"] == "compiled":
            # `OnlineSGD.step` does everything: the forward and backward passes and the updates.
            results = optimizer.step(batch=batch)
            return {"losses": results.losses, "guesses": results.guesses}
        criterion = nn.NLLLoss()
        losses = []
        guesses = []
        for letters, target in batch.one_hot_examples(len(self.network.alphabet.symbols)):
            output = read_name(self.rnn, letters)  # letters [L, 1, S] → [1, C]
            loss = criterion(output, target)  # target [1]
            optimizer.zero_grad()
            self.manual_backward(loss)
            if self.clip > 0:
                nn.utils.clip_grad_norm_(self.rnn.parameters(), self.clip)
            optimizer.step()
            losses.append(loss.detach())
            guesses.append(output.argmax())
        return {"losses": torch.stack(losses), "guesses": torch.stack(guesses)}
