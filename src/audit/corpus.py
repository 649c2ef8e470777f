"""Reads the names of a source and derives all data that the checks of an audit need.

A name has three forms in an audit. A *written* name is the text in the file, without spaces around
it. A *normalized* name is the result of `normalize_name`. A name *as a network reads it* is also in
the case of the training names; see `Alphabet.apply_training_case`.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple
from zlib import crc32

from src.config import Config
from src.data.alphabet import Alphabet
from src.data.corpus import Corpus, NamesByCategory, RejectedLines, group_by_split, valid_rows
from src.data.normalize import AlphabetKind, name_key
from src.data.readers import DataSource
from src.data.readers.columns import NAME_WORDS, is_usual_name
from src.data.split import Split, split_corpus
from src.errors import UserError

MISSING_VALUES = (
    "n/a #n/a n.a. <na> nan none null nil unknown missing anonymous test xxx notavailable noname"
)
"""Texts that stand for a missing name, separated by spaces. They are compared with names from which
spaces and underscores are removed: `notavailable` is `Not available`, too."""
MISSING_NAMES = {*MISSING_VALUES.split(), *NAME_WORDS}
"""Texts that stand for a missing name, or are the header of a column of names."""


class AuditSettings(NamedTuple):
    """The names to audit, and how a run would read and split them."""

    source: DataSource = DataSource()
    letters: AlphabetKind = "ascii"
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0

    @classmethod
    def from_config(cls, config: Config) -> "AuditSettings":
        """Return the settings of a run with this configuration."""
        letters: Any = config.letters  # a string, which `Config` has checked
        return cls(
            source=config.data_source,
            letters=letters,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
            seed=config.seed,
        )


@dataclass
class CollectedRows:
    """What is collected while the rows of a source are read."""

    guesses: list[str] = field(default_factory=list)
    """Messages about the columns that the reader guessed."""
    rejected: RejectedLines = field(default_factory=lambda: defaultdict(list))
    """Locations of the invalid rows, by the reason why they are invalid."""
    missing_names: list[str] = field(default_factory=list)
    """Locations and texts of rows with one of `MISSING_NAMES`."""
    line_counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """For each category, the number of lines of each written name."""
    normalized: dict[str, str] = field(default_factory=dict)
    """The normalized form of each written name."""
    names: dict[tuple[str, str], dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    """For each pair of a split and a category, the distinct normalized names. They are the keys of
    a dictionary, which keep the order of the lines; the values are not used."""


def collect_rows_of_sampled_names(
    source: DataSource, letters: AlphabetKind, sample_every: int
) -> CollectedRows:
    """Read all rows of a source.

    Args:
        source: the folder or table to read.
        letters: the kind of alphabet that names are normalized for.
        sample_every: 1 to collect all names. With n, a sample of one in n is collected, with all
            lines of each name. Invalid rows and missing names are collected from all lines.

    Raises:
        UserError: if the source cannot be read.
        OSError: if a file cannot be opened.
    """
    rows = CollectedRows()
    # The reader adds the invalid rows to `rows.rejected`, and its messages to `rows.guesses`.
    rows_and_names = valid_rows(
        source, kind=letters, rejected=rows.rejected, report=rows.guesses.append
    )
    for row, normalized in rows_and_names:
        written = row.name.strip()
        # Training reads such a name like any other one, because it may be correct.
        if is_usual_name(written, MISSING_NAMES):
            rows.missing_names.append(f"{row.location}: {written}")
        # This creates the entry of a new category even if none of its names is in the sample,
        # because all categories are checked.
        counts = rows.line_counts[row.category]
        if is_in_sample(normalized, sample_every):
            # A row of a table can stand for several lines.
            counts[written] += row.count
            rows.normalized[written] = normalized
            rows.names[row.split, row.category][normalized] = None
    return rows


def is_in_sample(normalized: str, sample_every: int) -> bool:
    """Return whether a name belongs to a sample of one in `sample_every` names.

    Either all spellings of a name are in the sample or none. The choice is the same for each
    category, so that names with several categories are found.
    """
    if sample_every == 1:
        return True
    # Unlike `hash`, a checksum chooses the same names in every process.
    checksum = crc32(name_key(normalized).encode())
    return checksum % sample_every == 0


@dataclass(frozen=True)
class AuditedCorpus:
    """All data that the checks of an audit need."""

    settings: AuditSettings
    is_sample: bool
    """Whether the corpus is a sample of the names of the source."""
    rows: CollectedRows
    categories: list[str]
    """All categories, sorted, even those without a name in the sample."""
    names: NamesByCategory
    """Distinct normalized names of each category, in the order of their lines."""
    split: Split
    """The names as a run would split them. If that fails, all of them are training names."""
    split_error: str
    """Why the names cannot be split; empty if they can."""
    alphabet: Alphabet
    """The alphabet of the training names."""

    @cached_property
    def n_lines(self) -> dict[str, int]:
        """Number of lines of each category."""
        line_counts = self.rows.line_counts
        return {category: counts.total() for category, counts in line_counts.items()}

    @cached_property
    def names_with_changed_letters(self) -> set[str]:
        """Written names whose letters or digits the normalization changes."""
        changed = set()
        for written, normalized in self.rows.normalized.items():
            # Most names are unchanged, which the first comparison finds quickly.
            if written == normalized:
                continue
            # A change of case, spaces or punctuation loses no information that matters.
            if to_lower_letters_and_digits(written) != to_lower_letters_and_digits(normalized):
                changed.add(written)
        return changed

    @cached_property
    def n_changed_lines(self) -> dict[str, int]:
        """Number of lines of each category whose names are among `names_with_changed_letters`."""
        n_changed = {}
        for category, counts in self.rows.line_counts.items():
            # A changed name can be in several categories, each of which counts its own lines.
            changed = self.names_with_changed_letters & counts.keys()
            n_changed[category] = sum(counts[name] for name in changed)
        return n_changed

    @cached_property
    def categories_by_name(self) -> dict[str, list[int]]:
        """Indices of the categories of each name, as a network reads it."""
        indices: dict[str, list[int]] = {}
        for index, category in enumerate(self.categories):
            # Names that differ only in case can become the same name, which then counts once.
            names = [self.alphabet.apply_training_case(name) for name in self.names[category]]
            for name in dict.fromkeys(names):
                indices.setdefault(name, []).append(index)
        return indices

    @cached_property
    def n_pairs(self) -> int:
        """Number of distinct pairs of a name and a category."""
        return sum(map(len, self.categories_by_name.values()))

    @cached_property
    def accuracy_ceiling(self) -> float:
        """Highest accuracy that a model can reach on all pairs of a name and a category."""
        # A model predicts one category per name, so at most one pair of each name is right. The
        # number of pairs is 0 if a sample is empty.
        return len(self.categories_by_name) / max(1, self.n_pairs)

    @cached_property
    def train_names(self) -> dict[str, dict[str, str]]:
        """Training names of each category by their `name_key`, which all spellings share."""
        return self._index_by_key(self.split.train)

    @cached_property
    def val_names(self) -> dict[str, dict[str, str]]:
        """Validation names of each category by their `name_key`."""
        return self._index_by_key(self.split.val)

    @cached_property
    def test_names(self) -> dict[str, dict[str, str]]:
        """Test names of each category by their `name_key`."""
        return self._index_by_key(self.split.test)

    def _index_by_key(self, names: NamesByCategory) -> dict[str, dict[str, str]]:
        """Return the names of all categories by their `name_key`.

        If a name has several spellings, the last one is kept.
        """
        by_key = {}
        for category in self.categories:
            # A split does not contain the categories of which it has no names.
            category_names = names.get(category, ())
            by_key[category] = {name_key(name): name for name in category_names}
        return by_key


def read_audited_corpus(settings: AuditSettings, sample_every: int = 1) -> AuditedCorpus:
    """Read the names of a source for an audit.

    Args:
        settings: the source, and how a run would read and split it.
        sample_every: see `collect_rows_of_sampled_names`.

    Raises:
        UserError: if the source cannot be read.
        OSError: if a file cannot be opened.
    """
    rows = collect_rows_of_sampled_names(settings.source, settings.letters, sample_every)
    categories = sorted(rows.line_counts)
    # The split does not depend on the number of lines of a name.
    corpus = Corpus(group_by_split(rows.names), line_counts={})
    all_names = corpus.all_names
    names = {}
    for category in categories:
        # A source with a given split can have the same name in several splits.
        unique_names = dict.fromkeys(all_names.get(category, ()))
        names[category] = list(unique_names)

    # If the names cannot be split, all of them are training names.
    split = Split(train=names, val={}, test={})
    split_error = ""
    try:
        split = split_corpus(
            corpus, settings.val_fraction, settings.test_fraction, seed=settings.seed
        )
    except UserError as error:
        # An audit reports this error and continues, because the user wants to know about all
        # problems at once.
        split_error = str(error)
    # As in training, held-out names do not influence the alphabet.
    train_names = set()
    for category_names in split.train.values():
        train_names.update(category_names)
    return AuditedCorpus(
        settings=settings,
        is_sample=sample_every > 1,
        rows=rows,
        categories=categories,
        names=names,
        split=split,
        split_error=split_error,
        alphabet=Alphabet.from_names(settings.letters, train_names),
    )


def to_lower_letters_and_digits(text: str) -> str:
    """Return the letters and digits of a text, in lower case."""
    # Without NFC, an accent could be a character of its own, which is not a letter.
    composed = unicodedata.normalize("NFC", text)
    return re.sub(r"[\W_]", "", composed.lower())
