"""Lightning data module that reads, splits, encodes and samples the names of a corpus."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from src.data.alphabet import Alphabet
from src.data.corpus import NamesByCategory, read_corpus, unique_names
from src.data.dataset import NamesDataset
from src.data.normalize import AlphabetKind, name_key
from src.data.readers import DataSource
from src.data.sampler import (
    NameSampler,
    RandomExamples,
    RunLength,
    ShuffledPasses,
    TrainBatchSampler,
    TrainingPosition,
)
from src.data.split import Split, SplitRecord, fingerprint, split_corpus
from src.errors import UserError

EVAL_BATCH_SIZE = 1024
"""Maximum number of names in a batch for validation and test."""

Sampling = Literal["balanced", "natural"]


class NamesDataModule(LightningDataModule):
    """Data loaders of training, validation and test names. Each of them yields a `Batch` at a time.

    An epoch starts at the current iteration of the model and ends at the next multiple of
    `val_every`. The names of an iteration depend on nothing but its number and the seed, so a run
    that is resumed sees the same names as one that was never interrupted.

    Args:
        data_dir: folder of names. Defaults to the shipped corpus if there is no `data_file`.
        val_fraction: fraction of each category's names to hold out for validation.
        test_fraction: fraction of each category's names to hold out for the test.
        seed: seeds the split and the order of the training names.
        iterations: length of the whole run.
        log_every: iterations between points of the loss curve; 0 means 50 points per run.
        val_every: iterations between validations; 0 means 10 validations per run. Rounded up to a
            multiple of `log_every`.
        batch_size: number of names in an iteration.
        chunk_size: maximum number of iterations whose names are delivered as one batch. Only
            `OnlineClassifier` accepts more than one, because it steps through a batch by itself.
        sampling: `balanced` draws a category, then one of its lines. `natural` passes over the
            distinct pairs of a name and a category.
        letters: the kind of alphabet; see `normalize_name`.
        passes: length of the run in passes over the training names; overrides `iterations`.
        data_file: table of names, instead of a folder.
        columns: the `*_column` fields of `DataSource`. If there is a `count_column`, a name has the
            weight of that many lines.

    Attributes:
        train_dataset: the training names, line by line.
        val_dataset: the validation names, each once per category.
        test_dataset: the test names, each once per category.
        categories: names of the categories, in index order.
        alphabet: the alphabet of the training names.
        sampler: draws the training names.
        train_prior: share of each category among the training names as they are sampled.
        corpus_prior: share of each category among the distinct spellings of the training names.
        run_length: length of the run, and how often it logs and validates.

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
        chunk_size: int = 1,
        sampling: Sampling = "balanced",
        letters: AlphabetKind = "ascii",
        passes: float | None = None,
        data_file: str | Path | None = None,
        **columns: str | None,
    ) -> None:
        super().__init__()
        # Absolute paths, so that src.evaluate finds the names from any folder.
        source = DataSource(absolute_path(data_dir), absolute_path(data_file), **columns)
        corpus = read_corpus(source, letters)
        split = split_corpus(corpus, val_fraction, test_fraction, seed)
        line_counts = count_lines(split.train, corpus.line_counts)

        self.categories = list(split.train)
        # Held-out names must not influence the alphabet.
        self.alphabet = Alphabet.from_names(letters, set(chain.from_iterable(split.train.values())))
        self._train_names = match_case(split.train, self.alphabet)
        self.train_dataset = NamesDataset(self._train_names, self.alphabet)
        self.val_dataset = self._make_eval_dataset(split.val)
        self.test_dataset = self._make_eval_dataset(split.test)

        self._sampled_dataset = self._choose_sampled_dataset(sampling, line_counts)
        sampled_counts = count_targets(self._sampled_dataset, len(self.categories), line_counts)
        self.sampler = make_sampler(
            sampling, self._sampled_dataset, sampled_counts, batch_size, seed, line_counts
        )
        self.train_prior = prior_of_sampling(sampling, sampled_counts)
        self.corpus_prior = as_shares([len(set(names)) for names in self._train_names.values()])

        if passes:
            iterations = self._count_iterations(passes)
        self.run_length = RunLength.from_settings(iterations, log_every, val_every)
        self._train_batch_sampler = TrainBatchSampler(
            self.sampler, batch_size, chunk_size, self.get_training_position, self.run_length
        )
        # Checkpoints contain this record, so that no run is resumed on other names.
        fingerprints = fingerprint_split(corpus.all_names, split, line_counts)
        self._split_record = SplitRecord(source, seed, val_fraction, test_fraction, fingerprints)

    def _choose_sampled_dataset(self, sampling: Sampling, line_counts: list[int]) -> NamesDataset:
        """Return the dataset from which the training names are sampled."""
        # If the source has counts, it lists each name once, so the names are distinct already.
        if sampling == "natural" and not line_counts:
            return self.distinct_pairs
        return self.train_dataset

    def _count_iterations(self, passes: float) -> int:
        """Return the number of iterations of some passes over the sampled names."""
        n_sampled_names = passes * len(self._sampled_dataset)
        return ceil(n_sampled_names / self.sampler.names_per_iteration)

    def _make_eval_dataset(self, names: NamesByCategory) -> NamesDataset:
        """Return the dataset of held-out names."""
        # Names that differ in case may become the same name, which should be scored only once.
        return NamesDataset(unique_names(match_case(names, self.alphabet)), self.alphabet)

    @cached_property
    def distinct_pairs(self) -> NamesDataset:
        """The training names, each spelling once per category."""
        return NamesDataset(unique_names(self._train_names), self.alphabet)

    @cached_property
    def distinct_names(self) -> NamesDataset:
        """The training names, each once per category: of `O'Neill` and `ONEILL`, only one."""
        distinct: NamesByCategory = {}
        for category, names in unique_names(self._train_names).items():
            # Of several spellings, the last one in sorted order is kept.
            spelling_of_key = {name_key(name): name for name in names}
            distinct[category] = list(spelling_of_key.values())
        return NamesDataset(distinct, self.alphabet)

    def get_training_position(self) -> TrainingPosition:
        """Return the current iteration of the model, and the rank of this process."""
        if self.trainer is None:  # the data loaders also work without a trainer
            return TrainingPosition()
        iteration = getattr(self.trainer.lightning_module, "iteration", 0)
        return TrainingPosition(iteration, self.trainer.global_rank, self.trainer.world_size)

    def state_dict(self) -> dict[str, Any]:
        """Return the record of the split that checkpoints contain: settings and fingerprints."""
        return self._split_record.to_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint was trained on this split.

        Raises:
            UserError: if the names or their split have changed since.
        """
        trained_on = SplitRecord.from_dict(state_dict)
        # The files may have been moved.
        if trained_on._replace(source=self._split_record.source) != self._split_record:
            raise UserError("the names or their split have changed since; start a new run")

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training names. Each pass over the loader is one epoch."""
        return self._sampled_dataset.loader(self._train_batch_sampler)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the validation names; an empty list if there are none."""
        if not len(self.val_dataset):
            return []  # Lightning then skips validation
        return self.val_dataset.loader(max_batch_size=EVAL_BATCH_SIZE)

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the test names; an empty list if there are none."""
        if not len(self.test_dataset):
            return []
        return self.test_dataset.loader(max_batch_size=EVAL_BATCH_SIZE)

    predict_dataloader = test_dataloader

    def evaluation_split(self) -> tuple[str, NamesDataset]:
        """Return the name and the dataset of the split that the report of a run shows.

        Of test, validation and training, it is the first split that has names.
        """
        if len(self.test_dataset):
            return "test", self.test_dataset
        if len(self.val_dataset):
            return "validation", self.val_dataset
        return "training", self.train_dataset

    def summary(self) -> str:
        """Return a line with the number of categories and of names in each split."""
        return (
            f"{len(self.categories)} categories, {len(self.train_dataset):,} training lines, "
            f"{len(self.val_dataset):,} validation names, {len(self.test_dataset):,} test names"
        )


def absolute_path(path: str | Path | None) -> str | None:
    """Return an absolute path as a plain string, or None for None."""
    return str(Path(path).absolute()) if path else None


def match_case(names: NamesByCategory, alphabet: Alphabet) -> NamesByCategory:
    """Return the names in the case that the alphabet expects."""
    matched: NamesByCategory = {}
    for category, category_names in names.items():
        matched[category] = [alphabet.match_case(name) for name in category_names]
    return matched


def make_sampler(
    sampling: Sampling,
    dataset: NamesDataset,
    counts: list[int],
    batch_size: int,
    seed: int,
    line_counts: list[int],
) -> NameSampler:
    """Return the sampler of the training names.

    Args:
        sampling: see `NamesDataModule`.
        dataset: the names to draw from.
        counts: number of lines in each category.
        batch_size: number of names in an iteration.
        seed: seeds the order of the names.
        line_counts: number of lines of each name. Empty if each name is one line.
    """
    if sampling == "natural":
        return ShuffledPasses(dataset.lengths.tolist(), batch_size, seed, line_counts)
    return RandomExamples(counts, batch_size, seed, line_counts)


def prior_of_sampling(sampling: Sampling, counts: list[int]) -> list[float]:
    """Return the share of each category among the sampled names.

    Args:
        sampling: see `NamesDataModule`.
        counts: number of lines in each category.
    """
    if sampling == "natural":
        return as_shares(counts)
    return as_shares([1] * len(counts))  # all categories are equally frequent


def count_lines(names: NamesByCategory, line_counts: dict[str, Counter[str]]) -> list[int]:
    """Return the number of lines of each name, in the order of the names.

    Args:
        names: the names, distinct within each category.
        line_counts: the number of lines of each name by category. If it is empty, so is the result.
    """
    counts: list[int] = []
    if line_counts:
        for category, category_names in names.items():
            counts += [line_counts[category][name] for name in category_names]
    return counts


def count_targets(
    dataset: NamesDataset, n_categories: int, line_counts: Sequence[int]
) -> list[int]:
    """Return the number of names in each category, or of the lines that they stand for.

    Args:
        dataset: the names.
        n_categories: number of categories, some of which may have no names.
        line_counts: number of lines of each name. Empty if each name is one line.
    """
    weights = torch.tensor(line_counts, dtype=torch.float64) if line_counts else None
    counts = dataset.targets.bincount(weights, minlength=n_categories)
    # With weights, bincount returns floating-point numbers.
    whole_numbers: list[int] = counts.long().tolist()
    return whole_numbers


def fingerprint_split(
    all_names: NamesByCategory, split: Split, line_counts: list[int]
) -> dict[str, str]:
    """Return hashes of the names, of each split and of the counts, for the record of the split."""
    fingerprints = {
        "all": fingerprint(all_names),
        "train": fingerprint(split.train),
        "val": fingerprint(split.val),
        "test": fingerprint(split.test),
    }
    if line_counts:
        # `fingerprint` hashes text by category, so the counts are written as text.
        fingerprints["counts"] = fingerprint({"": [str(count) for count in line_counts]})
    return fingerprints


def as_shares(counts: Sequence[int]) -> list[float]:
    """Return the share of each count in their sum."""
    total = sum(counts)
    return [count / total for count in counts]
