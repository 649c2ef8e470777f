"""The names as PyTorch and Lightning take them."""

from collections.abc import Sequence
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.data.corpus import Corpus, read_names
from src.data.letters import ASCII, MOST_CELLS, Batch, Letters, blocks, places, same_name
from src.data.sampler import Iterations, Passes, RandomExamples
from src.data.split import fingerprint, split_names
from src.data.tables import Source
from src.errors import UserError

EVAL_BATCH = 1024
"""Names validated or tested at once, at most."""


class NamesDataset(Dataset[tuple[Tensor, Tensor]]):
    """The lines of a corpus, written in its letters and numbered through, a byte a letter.

    An item is the tutorial's pair: the one-hot name [L, 1, S] and its category [1], int64.
    A data loader takes many at once, as a compact `Batch`.
    """

    def __init__(self, corpus: Corpus, letters: Letters = ASCII) -> None:
        self.letters, self.lengths = letters.pack([n for names in corpus.values() for n in names])
        self.n_symbols = len(letters.symbols)
        self.starts = self.lengths.cumsum(0) - self.lengths
        counts = torch.tensor([len(lines) for lines in corpus.values()])
        self.categories = torch.arange(len(counts)).repeat_interleave(counts)
        self.n_categories = len(corpus)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, line: int) -> tuple[Tensor, Tensor]:
        return next(self.__getitems__([line]).examples(self.n_symbols))

    def __getitems__(self, lines: Sequence[int]) -> Batch:
        """Return many lines at once; PyTorch's data loader asks for them so."""
        chosen = torch.as_tensor(lines, dtype=torch.int64)
        lengths = self.lengths[chosen]
        letters = self.letters[places(self.starts[chosen], lengths)]
        return Batch(letters, lengths, self.categories[chosen])

    def loader(self, batch_sampler: Any = None, most: int = MOST_CELLS) -> DataLoader[Any]:
        """Return the lines as `Batch`es: the sampler's, or all in order, in blocks to score."""
        letters = MOST_CELLS // (self.n_symbols + self.n_categories)
        length = self.lengths.tolist().__getitem__
        order = batch_sampler or Blocks(blocks(range(len(self)), length, most, letters))
        return DataLoader(self, batch_sampler=order, collate_fn=Batch._make)  # it is one already


class Blocks(list[list[int]]):
    """A plain list has no attributes, which Lightning wants to see when it predicts."""


class NamesDataModule(LightningDataModule):
    """The corpus, split, as data loaders of `Batch`es.

    An epoch of the trainer goes from where the model has come to, its `iteration`, to the next
    multiple of `val_every`; so a run that is taken up anywhere sees the names of the whole run.

    Args:
        data_dir: the folder of the names; None: those shipped.
        val_fraction: share of each category's names held out for validation.
        test_fraction: likewise, for the test.
        seed: of the split and of the order of names.
        iterations: of the whole run.
        log_every: iterations per point of the loss curve; 0: a 50th of all.
        val_every: iterations between validations, in whole points of the curve; 0: a 10th of all.
        batch_size: names of an iteration.
        together: iterations whose names lie in one batch, at most; only the tutorial's training can
            take more than one.
        sampling: `balanced`, random examples; `natural`, passes over the distinct pairs of a name
            and a category.
        letters: `ascii`, `tutorial` or `corpus`: the symbols of the names; see `fold`.
        passes: over the names that are drawn; in place of `iterations`.
        data_file: a table of the names, instead of a folder.
        columns: of the table, see `Source`; a name counts as many lines as `count_column` says.

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
        letters: str = "ascii",
        passes: float | None = None,
        data_file: str | Path | None = None,
        **columns: str | None,
    ) -> None:
        super().__init__()
        paths = (str(Path(path).absolute()) if path else None for path in (data_dir, data_file))
        source = Source(*paths, **columns)
        names = read_names(source, letters)
        corpus, sides = names.corpus, split_names(names, val_fraction, test_fraction, seed)
        self.categories = list(corpus)
        self.letters = Letters.learned(letters, {n for of in sides[0].values() for n in of})
        """How names are written, learned from the names to train on."""
        write = self.letters.write
        lines = {c: [*map(write, of)] for c, of in sides[0].items()}
        val, test = ({c: sorted({*map(write, side[c])}) for c in side} for side in sides[1:])
        sets = (NamesDataset(names, self.letters) for names in (lines, val, test))
        self.train, self.val, self.test = sets
        """What to train on, validate and test."""
        self._lines = lines
        weights = [names.counts[c][n] for c, of in sides[0].items() for n in of if names.counts]
        natural = sampling == "natural"
        self._drawn = self.distinct if natural and not weights else self.train
        times = torch.tensor(weights, dtype=torch.float64) if weights else None
        counts = self._drawn.categories.bincount(times, len(lines)).long().tolist()
        self.order: RandomExamples | Passes = RandomExamples(counts, batch_size, seed, weights)
        if natural:
            self.order = Passes(self._drawn.lengths.tolist(), batch_size, seed, weights)
        self.shares = [n / sum(counts) if natural else 1 / len(counts) for n in counts]
        """Of the categories among the names as they are drawn for training."""
        pairs = torch.tensor([len({*of}) for of in lines.values()]).double()
        self.corpus_shares: list[float] = (pairs / pairs.sum()).tolist()
        """Of the categories among the distinct pairs to train on."""
        if passes:
            iterations = ceil(passes * len(self._drawn) / self.order.names_per_iteration)
        log_every = log_every or ceil(iterations / 50)
        val_every = ceil((val_every or iterations / 10) / log_every) * log_every
        self.every = {"iterations": iterations, "log_every": log_every, "val_every": val_every}
        """The run's length, and from one point of the loss curve and one validation to the next."""
        self._batches = Iterations(self.order, batch_size, together, self._place, **self.every)
        how = {"seed": seed, "val_fraction": val_fraction, "test_fraction": test_fraction}
        named = zip(("all", "train", "val", "test"), (corpus, *sides), strict=True)
        prints = {side: fingerprint(of) for side, of in named}
        if weights:
            prints["counts"] = fingerprint({"": [*map(str, weights)]})
        self._split = {**source._asdict(), **how, **prints}

    @cached_property
    def distinct(self) -> NamesDataset:
        """Of what to train on, the distinct pairs of a spelling and a category."""
        return NamesDataset({c: sorted({*of}) for c, of in self._lines.items()}, self.letters)

    @cached_property
    def once(self) -> NamesDataset:
        """Of these, those with one spelling of a name."""
        of_name = {c: {same_name(n): n for n in sorted({*of})} for c, of in self._lines.items()}
        return NamesDataset({c: [*of.values()] for c, of in of_name.items()}, self.letters)

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
        if state_dict | Source()._asdict() != self._split | Source()._asdict():
            raise UserError("the names or their split have changed since; start a new run")

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training names; each pass through them is the next epoch's."""
        return self._drawn.loader(self._batches)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the held-out names of validation; nothing if there are none."""
        return self.val.loader(most=EVAL_BATCH) if len(self.val) else []

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the held-out names of the test; nothing if there are none."""
        return self.test.loader(most=EVAL_BATCH) if len(self.test) else []

    predict_dataloader = test_dataloader

    def shown(self) -> tuple[str, NamesDataset]:
        """Return the names to picture, and what they are: test, else validation, else training."""
        sides = {"test": self.test, "validation": self.val, "training": self.train}
        return next((side, names) for side, names in sides.items() if len(names))

    def summary(self) -> str:
        """Return what there is to train and evaluate on."""
        text = f"{len(self.categories)} categories, {len(self.train):,} lines to train on, "
        return text + f"{len(self.val):,} names to validate, {len(self.test):,} to test"
