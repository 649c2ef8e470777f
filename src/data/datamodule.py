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

    An item of each dataset is:

        train_dataset         a line of the source
        distinct_spellings    a spelling in a category: `ONEILL` on two lines is one item
        distinct_names        a name in a category: `O'Neill` and `ONEILL` are one item
        val_dataset           a spelling in a category
        test_dataset          a spelling in a category

    The priors are the shares of the categories among these training items:

        train_prior           the items as they are drawn: with `sampling=balanced`, all categories
                              have equal shares; with `natural`, the shares of the spellings, or of
                              the lines if there is a `count_column`
        corpus_prior          the spellings in `distinct_spellings`

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
        columns: `name_column`, `label_column`, `count_column` and `split_column`: names or numbers
            of the columns of the table. The `count_column` contains the number of lines that each
            name stands for.

    Attributes:
        train_dataset: the training names; see above.
        val_dataset: the validation names.
        test_dataset: the test names.
        categories: names of the categories, in index order.
        alphabet: the alphabet of the training names.
        sampler: draws the training names.
        train_prior: share of each category among the training names as they are drawn [C]; see
            above.
        corpus_prior: share of each category among the distinct training spellings [C].
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
        lines_per_name = flatten_line_counts(split.train, corpus.line_counts)
        self._set_alphabet_and_datasets(split, letters)
        self._set_sampler_and_priors(sampling, batch_size, seed, lines_per_name)
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
        # Checkpoints contain this record, so that a run cannot be resumed with different names.
        self._split_record = SplitRecord(
            source=source,
            seed=seed,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            fingerprints=fingerprint_split(corpus.all_names, split, lines_per_name),
            longest_train_name=int(self.train_dataset.lengths.max()),
        )

    def _set_alphabet_and_datasets(self, split: Split, letters: AlphabetKind) -> None:
        """Set the categories, the alphabet and the datasets of a split."""
        self.categories = list(split.train)
        # Held-out names must not influence the alphabet.
        distinct_train_names = set(chain.from_iterable(split.train.values()))
        self.alphabet = Alphabet.from_names(letters, distinct_train_names)
        # `split.train` itself is needed for the fingerprints, which do not depend on the case that
        # the alphabet expects.
        self._train_names = apply_training_case(split.train, self.alphabet)
        self.train_dataset = NamesDataset(self._train_names, self.alphabet)
        self.val_dataset = self._make_eval_dataset(split.val)
        self.test_dataset = self._make_eval_dataset(split.test)

    def _set_sampler_and_priors(
        self, sampling: Sampling, batch_size: int, seed: int, lines_per_name: list[int]
    ) -> None:
        """Set the dataset that training names are sampled from, its sampler and both priors."""
        self._sampled_dataset = self._choose_sampled_dataset(sampling, lines_per_name)
        category_counts = count_items_or_lines_per_category(
            self._sampled_dataset, len(self.categories), lines_per_name
        )
        self.sampler = make_sampler(
            sampling=sampling,
            dataset=self._sampled_dataset,
            lines_per_category=category_counts,
            batch_size=batch_size,
            seed=seed,
            lines_per_name=lines_per_name,
        )
        self.train_prior = compute_train_prior(sampling, category_counts)
        n_spellings = [len(set(names)) for names in self._train_names.values()]
        self.corpus_prior = as_shares(n_spellings)

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
        in_training_case = apply_training_case(names, self.alphabet)
        return NamesDataset(sorted_unique_names(in_training_case), self.alphabet)

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
            UserError: if the names or their split have changed since the checkpoint was written.
        """
        trained_split = SplitRecord.from_dict(state_dict)
        # The source is not compared, because the files may have been moved. Older versions did not
        # store the length of the longest name.
        trained_split = trained_split._replace(
            source=self._split_record.source,
            longest_train_name=self._split_record.longest_train_name,
        )
        if trained_split != self._split_record:
            raise UserError(
                "the names or their split have changed since this checkpoint was written; "
                "start a new run"
            )

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

        It is the first of `test`, `val` and `train` that has names.
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
            f"{len(self.categories)} categories; {len(self.train_dataset):,} training examples, "
            f"{len(self.val_dataset):,} validation and {len(self.test_dataset):,} test names"
        )


def absolute_path(path: str | Path | None) -> str | None:
    """Return an absolute path as a plain string, or None for None."""
    return str(Path(path).absolute()) if path else None


def apply_training_case(names: NamesByCategory, alphabet: Alphabet) -> NamesByCategory:
    """Return the names in the case that the alphabet expects."""
    in_training_case: NamesByCategory = {}
    for category, category_names in names.items():
        converted = [alphabet.apply_training_case(name) for name in category_names]
        in_training_case[category] = converted
    return in_training_case


def make_sampler(
    *,
    sampling: Sampling,
    dataset: NamesDataset,
    lines_per_category: list[int],
    batch_size: int,
    seed: int,
    lines_per_name: list[int],
) -> NameSampler:
    """Return the sampler of the training names.

    Args:
        sampling: see `NamesDataModule`.
        dataset: the names to draw from.
        lines_per_category: number of lines in each category; used with `balanced` only.
        batch_size: number of names in an iteration.
        seed: seeds the order of the names.
        lines_per_name: number of lines that each name stands for. Empty if it is 1 for all names.
    """
    # `ShuffledPasses` needs the lengths, because it puts names of similar length into a batch.
    if sampling == "natural":
        return ShuffledPasses(dataset.lengths.tolist(), batch_size, seed, lines_per_name)
    return RandomExamples(lines_per_category, batch_size, seed, lines_per_name)


def compute_train_prior(sampling: Sampling, category_counts: list[int]) -> list[float]:
    """Return the share of each category among the names as they are drawn for training.

    Args:
        sampling: see `NamesDataModule`.
        category_counts: the result of `count_items_or_lines_per_category`.
    """
    if sampling == "natural":
        return as_shares(category_counts)
    return as_shares([1] * len(category_counts))  # all categories are equally frequent


def flatten_line_counts(names: NamesByCategory, line_counts: dict[str, Counter[str]]) -> list[int]:
    """Return the number of lines that each name stands for, in the order of the names.

    Args:
        names: the names, distinct within each category.
        line_counts: `Corpus.line_counts`. If it is empty, so is the result.
    """
    lines_per_name: list[int] = []
    # The dictionary also has the counts of names that were held out, which are not used.
    if line_counts:
        for category, category_names in names.items():
            lines_per_name += [line_counts[category][name] for name in category_names]
    return lines_per_name


def count_items_or_lines_per_category(
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
