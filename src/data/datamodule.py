"""The names as PyTorch and Lightning take them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.data.corpus import NAMES, Corpus, read_corpus
from src.data.letters import ALPHABET, MOST_CELLS, Batch, blocks, encode, one_hot, pack
from src.data.sampler import Iterations, Passes, RandomExamples
from src.data.split import fingerprint, split_corpus
from src.errors import UserError

EVAL_BATCH = 1024
"""Names validated or tested at once, at most."""


class NamesDataset(Dataset[tuple[Tensor, Tensor]]):
    """The lines of a corpus, numbered through, a byte a letter.

    An item is the tutorial's pair: the one-hot name [L, 1, 57] and its category [1], int64.
    A data loader takes many at once, as a compact `Batch`.
    """

    def __init__(self, corpus: Corpus) -> None:
        names = [encode(name) for lines in corpus.values() for name in lines]
        self.letters, self.lengths = pack(names)
        self.starts = self.lengths.cumsum(0) - self.lengths
        counts = torch.tensor([len(lines) for lines in corpus.values()])
        self.categories = torch.arange(len(counts)).repeat_interleave(counts)
        self.n_categories = len(corpus)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, line: int) -> tuple[Tensor, Tensor]:
        start, length = self.starts[line], self.lengths[line]
        letters = self.letters[start : start + length]
        return one_hot(letters).unsqueeze(1), self.categories[line].reshape(1)

    def __getitems__(self, lines: Sequence[int]) -> Batch:
        """Return many lines at once; PyTorch's data loader asks for them so."""
        chosen = torch.as_tensor(lines, dtype=torch.int64)
        lengths = self.lengths[chosen]
        # Each name's letters lie one after the other in both places: shift its whole run.
        shift = self.starts[chosen] - (lengths.cumsum(0) - lengths)
        positions = torch.arange(int(lengths.sum())) + shift.repeat_interleave(lengths)
        return Batch(self.letters[positions], lengths, self.categories[chosen])

    def loader(self, batch_sampler: Any = None, most: int = MOST_CELLS) -> DataLoader[Any]:
        """Return the lines as `Batch`es: the sampler's, or all in order, in blocks to score."""
        letters = MOST_CELLS // self.n_categories
        length = self.lengths.tolist().__getitem__
        order = batch_sampler or Blocks(blocks(range(len(self)), length, most, letters))
        return DataLoader(self, batch_sampler=order, collate_fn=_as_it_is)


class Blocks(list[list[int]]):
    """A plain list has no attributes, which Lightning wants to see when it predicts."""


def _as_it_is(batch: Any) -> Any:  # made by __getitems__ already
    return batch


class NamesDataModule(LightningDataModule):
    """The corpus, split, as data loaders of `Batch`es.

    An epoch of the trainer goes from where the model has come to, its `iteration`, to the next
    multiple of `val_every`; so a run that is taken up anywhere sees the names of the whole run.

    Args:
        data_dir: the corpus; None: the one shipped.
        val_fraction: share of each category's names held out for validation.
        test_fraction: likewise, for the test.
        seed: of the split and of the order of names.
        iterations: of the whole run.
        log_every: iterations per point of the loss curve.
        val_every: iterations between validations.
        batch_size: names of an iteration.
        together: iterations whose names lie in one batch, at most; only the tutorial's training can
            take more than one.
        sampling: `balanced`, random examples; `natural`, passes over the distinct pairs of a name
            and a category.

    Raises:
        UserError: if the corpus cannot be read or split.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        seed: int = 0,
        iterations: int = 100_000,
        log_every: int = 1000,
        val_every: int = 5000,
        batch_size: int = 1,
        together: int = 1,
        sampling: str = "balanced",
    ) -> None:
        super().__init__()
        folder = NAMES if data_dir is None else Path(data_dir)
        corpus = read_corpus(folder)
        train, val, test = split_corpus(corpus, val_fraction, test_fraction, seed)
        self.alphabet, self.categories = ALPHABET, list(corpus)
        self.train, self.val, self.test = NamesDataset(train), NamesDataset(val), NamesDataset(test)
        self.distinct = NamesDataset({category: sorted(set(train[category])) for category in train})
        """The distinct pairs of a name and a category to train on."""
        self._natural = sampling == "natural"
        counts = [len(lines) for lines in train.values()]
        self.order: RandomExamples | Passes = RandomExamples(counts, batch_size, seed)
        if self._natural:
            self.order = Passes(self.distinct.lengths.tolist(), batch_size, seed)
        self._batches = Iterations(
            self.order, batch_size, iterations, val_every, log_every, together, self._place
        )
        sides = {"all": corpus, "train": train, "val": val, "test": test}
        how = {"seed": seed, "val_fraction": val_fraction, "test_fraction": test_fraction}
        prints = {side: fingerprint(names) for side, names in sides.items()}
        self._split = {"data_dir": data_dir and str(folder.absolute()), **how, **prints}

    def _place(self) -> tuple[int, int, int]:
        if self.trainer is None:
            return 0, 0, 1
        done = getattr(self.trainer.lightning_module, "iteration", 0)
        return done, self.trainer.global_rank, self.trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the split: how it was made, and fingerprints of it."""
        return self._split

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a run.

        Raises:
            UserError: if the names or their split have changed since.
        """
        if {**state_dict, "data_dir": None} != {**self._split, "data_dir": None}:
            raise UserError("the names or their split have changed since; start a new run")

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training names; each pass through them is the next epoch's."""
        return (self.distinct if self._natural else self.train).loader(self._batches)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the held-out names of validation; nothing if there are none."""
        return self.val.loader(most=EVAL_BATCH) if len(self.val) else []

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the held-out names of the test; nothing if there are none."""
        return self.test.loader(most=EVAL_BATCH) if len(self.test) else []

    predict_dataloader = test_dataloader

    def shares(self) -> list[float]:
        """Return the categories' shares among the names as they are drawn for training."""
        n = len(self.categories)
        return self.corpus_shares() if self._natural else [1 / n] * n

    def corpus_shares(self) -> list[float]:
        """Return the categories' shares among the distinct pairs to train on."""
        counts = self.distinct.categories.bincount(minlength=len(self.categories)).tolist()
        return [count / sum(counts) for count in counts]

    def shown(self) -> tuple[str, NamesDataset]:
        """Return the names to picture, and what they are: test, else validation, else training."""
        sides = {"test": self.test, "validation": self.val, "training": self.train}
        return next((side, names) for side, names in sides.items() if len(names))

    def summary(self) -> str:
        """Return what there is to train and evaluate on, and what cannot be evaluated."""
        text = f"{len(self.categories)} categories, {len(self.train):,} lines to train on, "
        text += f"{len(self.val):,} names to validate, {len(self.test):,} to test"
        held_out = {*self.val.categories.tolist(), *self.test.categories.tolist()}
        kept = [c for index, c in enumerate(self.categories) if index not in held_out]
        if held_out and kept:
            text += f"\nToo few names to hold any out, all trained on: {', '.join(kept)}"
        return text
