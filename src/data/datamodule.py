"""The names as PyTorch and Lightning take them."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.data.alphabet import encode
from src.data.corpus import Corpus, fingerprint, read_corpus, split_corpus
from src.data.sampler import Batches, Chunks, Passes, RandomExamples
from src.data.tensors import Batch, one_hot, pack

EVAL_BATCH = 1024
"""Names evaluated at once; any number gives the same metrics."""


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

    def __len__(self) -> int:
        return len(self.lengths)

    def whole(self) -> Batch:
        """Return all lines as one batch."""
        return Batch(self.letters, self.lengths, self.categories)

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


class NamesDataModule(LightningDataModule):
    """The corpus, split, as data loaders of `Batch`es.

    By default training batches are chunks of at most `chunk` random examples, cut at each multiple
    of `log_every`; an epoch is `epoch_size` examples, the last one what is left of `iterations`,
    and the first one what was left of it at iteration `start`. Lightning must ask for the training
    loader anew every epoch (`reload_dataloaders_every_n_epochs=1`).

    With a `batch_size` a batch is one iteration's names, and an epoch `epoch_size` iterations;
    each of the trainer's processes gets its own part of the batch.
    They are as many random examples, or with `natural` sampling come from passes over the distinct
    pairs of a name and a category.

    Raises:
        UserError: if the corpus cannot be read or split.
    """

    def __init__(
        self,
        data_dir: str | Path,
        val_fraction: float,
        test_fraction: float,
        seed: int,
        iterations: int,
        log_every: int,
        epoch_size: int,
        chunk: int = 10_000,
        batch_size: int | None = None,
        sampling: str = "balanced",
    ) -> None:
        super().__init__()
        corpus = read_corpus(Path(data_dir))
        train, val, test = split_corpus(corpus, val_fraction, test_fraction, seed)
        sides = {"all": corpus, "train": train, "val": val, "test": test}
        self.categories = list(corpus)
        self._distinct = {category: set(lines) for category, lines in train.items()}
        self.train, self.val, self.test = NamesDataset(train), NamesDataset(val), NamesDataset(test)
        self.examples = RandomExamples([len(lines) for lines in train.values()], seed)
        self.iterations = iterations
        self.chunk = chunk
        self.log_every = log_every
        self.epoch_size = epoch_size
        self.batch_size = batch_size
        self.natural = sampling == "natural"
        self._seed = seed
        self.start = 0
        """Iterations done before the trainer's first epoch."""
        self._split: dict[str, str | float] = {
            "data_dir": str(data_dir),
            "val_fraction": val_fraction,
            "test_fraction": test_fraction,
            "seed": seed,
            **{side: fingerprint(names) for side, names in sides.items()},
        }

    def state_dict(self) -> dict[str, str | float]:
        """Return what a checkpoint holds of the split: how it was made, and fingerprints of it."""
        return self._split

    @cached_property
    def distinct(self) -> NamesDataset:
        """The distinct pairs of a name and a category to train on."""
        return NamesDataset({category: sorted(names) for category, names in self._distinct.items()})

    @cached_property
    def _passes(self) -> Passes:
        return Passes(self.distinct.lengths.tolist(), self.batch_size or 1, self._seed)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the examples of the trainer's present epoch, in chunks."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        first = self.start // self.epoch_size  # the epoch that the run goes on in
        start = max(self.epoch_size * (first + epoch), self.start)
        stop = min(self.epoch_size * (first + epoch + 1), self.iterations)
        if self.batch_size is None:
            chunks = Chunks(self.examples, start, stop, self.chunk, self.log_every)
            return DataLoader(self.train, batch_sampler=chunks, collate_fn=_as_it_is)
        draw = self._passes.batch if self.natural else self._random
        together = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = Batches(draw, start, stop, *together)
        names = self.distinct if self.natural else self.train
        return DataLoader(names, batch_sampler=batches, collate_fn=_as_it_is)

    def _random(self, iteration: int) -> list[int]:
        size = self.batch_size or 1
        return self.examples.take(iteration * size, size)

    @property
    def names_per_iteration(self) -> float:
        """Names of a training step; the mean of a pass, where its last batch is smaller."""
        if self.natural:
            return len(self.distinct) / self._passes.n_batches
        return self.batch_size or 1

    def shares(self) -> list[float]:
        """Return the categories' shares among the names as they are drawn for training."""
        n = len(self.categories)
        return self.corpus_shares() if self.natural else [1 / n] * n

    def corpus_shares(self) -> list[float]:
        """Return the categories' shares among the distinct pairs to train on."""
        counts = [len(names) for names in self._distinct.values()]
        return [count / sum(counts) for count in counts]

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]] | list[Any]:
        """Return the held-out names of validation; nothing if there are none."""
        return self._eval_dataloader(self.val)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]] | list[Any]:
        """Return the held-out names of the test; nothing if there are none."""
        return self._eval_dataloader(self.test)

    @property
    def epochs(self) -> int:
        """Epochs of the trainer from `start` on."""
        return -(-self.iterations // self.epoch_size) - self.start // self.epoch_size

    def summary(self) -> str:
        """Return what there is to train and evaluate on, and what cannot be evaluated."""
        text = (
            f"{len(self.categories)} categories, {len(self.train):,} lines to train on, "
            f"{len(self.val):,} names to validate and {len(self.test):,} to test"
        )
        held_out = {*self.val.categories.tolist(), *self.test.categories.tolist()}
        kept = [c for index, c in enumerate(self.categories) if index not in held_out]
        if held_out and kept:
            text += f"\nToo few names to hold any out, all trained on: {', '.join(kept)}"
        return text

    def pictured(self) -> tuple[str, NamesDataset]:
        """Return the names to picture, and what they are: test, else validation, else training."""
        sides = {"test": self.test, "validation": self.val, "training": self.train}
        return next((side, names) for side, names in sides.items() if len(names))

    @staticmethod
    def _eval_dataloader(
        dataset: NamesDataset,
    ) -> DataLoader[tuple[Tensor, Tensor]] | list[Any]:
        if not len(dataset):
            return []  # Lightning's word for "do not run this loop"
        return DataLoader(dataset, batch_size=EVAL_BATCH, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch
