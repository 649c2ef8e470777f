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
from src.data.corpus import NamesByCategory, read_corpus, sorted_unique_names
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

    The datasets differ in which lines of the source they merge, and the priors in what they count:

        dataset               one item for each
        train_dataset         line
        distinct_spellings    different spelling in a category: `ONEILL` twice is one item
        distinct_names        different name in a category: `O'Neill` and `ONEILL` are one item
        val_dataset           different spelling in a category
        test_dataset          different spelling in a category

        prior                 share of each category among
        train_prior           the training names as they are drawn: equal with `balanced`, else the
                              shares of the spellings or, with a `count_column`, of the lines
        corpus_prior          distinct_spellings

    With a `count_column`, a source lists each spelling once, with the number of its lines.

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
            distinct spellings of all categories.
        letters: the kind of alphabet; see `normalize_name`.
        passes: length of the run in passes over the training names; overrides `iterations`.
        data_file: table of names, instead of a folder.
        columns: the `*_column` fields of `DataSource`. If there is a `count_column`, it says how
            many lines each name stands for.

    Attributes:
        train_dataset: the training names; see above.
        val_dataset: the validation names.
        test_dataset: the test names.
        categories: names of the categories, in index order.
        alphabet: the alphabet of the training names.
        sampler: draws the training names.
        train_prior: prior of each category in training [C]; see above.
        corpus_prior: prior of each category in the corpus [C]; see above.
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
        # The paths are made absolute, so that src.evaluate finds the names from any folder.
        source = DataSource(absolute_path(data_dir), absolute_path(data_file), **columns)
        # In a sweep, all runs read the same files, which `read_corpus` keeps in memory.
        corpus = read_corpus(source, letters)
        split = split_corpus(corpus, val_fraction, test_fraction, seed)
        lines_per_name = list_lines_per_name(split.train, corpus.lines_per_name)

        self.categories = list(split.train)
        # Held-out names must not influence the alphabet.
        self.alphabet = Alphabet.from_names(letters, set(chain.from_iterable(split.train.values())))
        # The names as the network reads them. The fingerprints below are those of the split itself.
        self._train_names = match_case(split.train, self.alphabet)
        self.train_dataset = NamesDataset(self._train_names, self.alphabet)
        self.val_dataset = self._make_eval_dataset(split.val)
        self.test_dataset = self._make_eval_dataset(split.test)

        self._sampled_dataset = self._choose_sampled_dataset(sampling, lines_per_name)
        n_per_category = count_per_category(
            self._sampled_dataset, len(self.categories), lines_per_name
        )
        self.sampler = make_sampler(
            sampling=sampling,
            dataset=self._sampled_dataset,
            n_per_category=n_per_category,
            batch_size=batch_size,
            seed=seed,
            lines_per_name=lines_per_name,
        )
        self.train_prior = compute_train_prior(sampling, n_per_category)
        n_spellings = [len(set(names)) for names in self._train_names.values()]
        self.corpus_prior = as_shares(n_spellings)

        # The length of a pass is known only now.
        if passes:
            iterations = self._count_iterations(passes)
        self.run_length = RunLength.from_settings(iterations, log_every, val_every)
        self._train_batch_sampler = TrainBatchSampler(
            sampler=self.sampler,
            batch_size=batch_size,
            chunk_size=chunk_size,
            get_training_position=self.get_training_position,
            run_length=self.run_length,
        )
        # Checkpoints contain this record, so that no run is resumed on other names.
        self._split_record = SplitRecord(
            source=source,
            seed=seed,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            fingerprints=fingerprint_split(corpus.all_names, split, lines_per_name),
        )

    def _choose_sampled_dataset(
        self, sampling: Sampling, lines_per_name: list[int]
    ) -> NamesDataset:
        """Return the dataset from which the training names are sampled."""
        # A source with counts lists each spelling once, so its spellings are distinct already.
        if sampling == "natural" and not lines_per_name:
            return self.distinct_spellings
        return self.train_dataset

    def _count_iterations(self, passes: float) -> int:
        """Return the number of iterations of some passes over the sampled names."""
        n_sampled_names = passes * len(self._sampled_dataset)
        # The last batch of a pass may be smaller, so the mean size is not always `batch_size`.
        return ceil(n_sampled_names / self.sampler.names_per_iteration)

    def _make_eval_dataset(self, names: NamesByCategory) -> NamesDataset:
        """Return the dataset of held-out names."""
        # Names that differ in case may become the same name, which should be scored only once.
        matched = match_case(names, self.alphabet)
        return NamesDataset(sorted_unique_names(matched), self.alphabet)

    @cached_property
    def distinct_spellings(self) -> NamesDataset:
        """The training names, each spelling once per category."""
        return NamesDataset(sorted_unique_names(self._train_names), self.alphabet)

    @cached_property
    def distinct_names(self) -> NamesDataset:
        """The training names, one spelling of each per category; see `name_key`."""
        distinct: NamesByCategory = {}
        for category, names in sorted_unique_names(self._train_names).items():
            # Of several spellings, the last one in sorted order is kept.
            spelling_of_key = {name_key(name): name for name in names}
            distinct[category] = list(spelling_of_key.values())
        return NamesDataset(distinct, self.alphabet)

    def get_training_position(self) -> TrainingPosition:
        """Return the current iteration of the model, and the rank of this process."""
        if self.trainer is None:  # the data loaders also work without a trainer
            return TrainingPosition()
        # A LightningModule of another project has no such attribute.
        iteration = getattr(self.trainer.lightning_module, "iteration", 0)
        return TrainingPosition(iteration, self.trainer.global_rank, self.trainer.world_size)

    def state_dict(self) -> dict[str, Any]:
        """Return the record of the split that checkpoints contain: settings and fingerprints."""
        return self._split_record.to_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint was trained on this split; there is nothing to load.

        Raises:
            UserError: if the names or their split have changed since.
        """
        trained_split = SplitRecord.from_dict(state_dict)
        # Everything but the source is compared, because the files may have been moved.
        trained_split = trained_split._replace(source=self._split_record.source)
        if trained_split != self._split_record:
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
            return []  # as in `val_dataloader`
        return self.test_dataset.loader(max_batch_size=EVAL_BATCH_SIZE)

    predict_dataloader = test_dataloader

    def choose_report_split(self) -> tuple[str, NamesDataset]:
        """Return the name and the dataset of the split that the report of a run shows.

        It is `test`, or `val` if there are no test names, or `train` if there are no validation
        names, either.
        """
        # Training names come last, because the scores for them say little about other names.
        if len(self.test_dataset):
            return "test", self.test_dataset
        if len(self.val_dataset):
            return "val", self.val_dataset
        return "train", self.train_dataset

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
    *,
    sampling: Sampling,
    dataset: NamesDataset,
    n_per_category: list[int],
    batch_size: int,
    seed: int,
    lines_per_name: list[int],
) -> NameSampler:
    """Return the sampler of the training names.

    Args:
        sampling: see `NamesDataModule`.
        dataset: the names to draw from.
        n_per_category: number of lines in each category; used with `balanced` only.
        batch_size: number of names in an iteration.
        seed: seeds the order of the names.
        lines_per_name: number of lines that each name stands for. Empty if it is 1 for all names.
    """
    # `ShuffledPasses` needs the lengths, because it puts names of similar length into a batch.
    if sampling == "natural":
        return ShuffledPasses(dataset.lengths.tolist(), batch_size, seed, lines_per_name)
    return RandomExamples(n_per_category, batch_size, seed, lines_per_name)


def compute_train_prior(sampling: Sampling, n_per_category: list[int]) -> list[float]:
    """Return the share of each category among the names as they are drawn for training.

    Args:
        sampling: see `NamesDataModule`.
        n_per_category: the result of `count_per_category`.
    """
    if sampling == "natural":
        return as_shares(n_per_category)
    return as_shares([1] * len(n_per_category))  # all categories are equally frequent


def list_lines_per_name(
    names: NamesByCategory, lines_per_name: dict[str, Counter[str]]
) -> list[int]:
    """Return the number of lines that each name stands for, in the order of the names.

    Args:
        names: the names, distinct within each category.
        lines_per_name: `Corpus.lines_per_name`. If it is empty, so is the result.
    """
    n_lines: list[int] = []
    # The dictionary also has the counts of names that were held out, which are not used.
    if lines_per_name:
        for category, category_names in names.items():
            n_lines += [lines_per_name[category][name] for name in category_names]
    return n_lines


def count_per_category(
    dataset: NamesDataset, n_categories: int, lines_per_name: Sequence[int]
) -> list[int]:
    """Return the number of items of a dataset in each category, or of the lines they stand for.

    Args:
        dataset: the names.
        n_categories: number of categories, some of which may have no names.
        lines_per_name: number of lines that each name stands for. If it is empty, items are
            counted.
    """
    weights = None
    if lines_per_name:
        weights = torch.tensor(lines_per_name, dtype=torch.float64)
    counts = dataset.targets.bincount(weights, minlength=n_categories)
    # With weights, bincount returns floating-point numbers.
    whole_numbers: list[int] = counts.long().tolist()
    return whole_numbers


def fingerprint_split(
    all_names: NamesByCategory, split: Split, lines_per_name: list[int]
) -> dict[str, str]:
    """Return hashes of the names, of each split and of the counts, for the record of the split."""
    fingerprints = {
        "all": fingerprint(all_names),
        "train": fingerprint(split.train),
        "val": fingerprint(split.val),
        "test": fingerprint(split.test),
    }
    if lines_per_name:
        # `fingerprint` hashes text by category, so the counts are written as text.
        fingerprints["counts"] = fingerprint({"": [str(count) for count in lines_per_name]})
    return fingerprints


def as_shares(counts: Sequence[int]) -> list[float]:
    """Return the share of each count in their sum."""
    total = sum(counts)
    return [count / total for count in counts]
