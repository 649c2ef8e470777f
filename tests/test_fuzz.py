"""Property-based tests. `make test` tries a few inputs for each, `make fuzz` thousands."""

import codecs
import csv
import io
import os
import random
import re
import shlex
import unicodedata
from collections.abc import Callable
from functools import cache, partial, wraps
from hashlib import sha256
from pathlib import Path
from string import ascii_lowercase
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src.config import KEYS, Config
from src.data.alphabet import ASCII_ALPHABET, CASE_STYLES, Alphabet, CaseStyle, name_to_tensor
from src.data.batch import one_hot
from src.data.corpus import NamesByCategory
from src.data.dataset import NamesDataset
from src.data.normalize import (
    ASCII_SYMBOLS,
    MAX_NAME_LENGTH,
    AlphabetKind,
    name_key,
    normalize_name,
)
from src.data.readers import DataSource
from src.data.sampler import RandomExamples, RunLength, TrainBatchSampler, TrainingPosition
from src.data.split import SplitRecord, fingerprint, hold_out_distinct_names
from src.errors import UserError
from src.inference.tables import classify_csv_column
from src.inference.trained_model import TrainedModel, load_model
from src.models.network import Network
from src.run.messages import format_folder_override
from tests.conftest import N_TRIED_INPUTS
from tests.helpers import GRU_NETWORK, NETWORK, make_checkpoint, read_corpus, settings

Property = Callable[..., None]


def with_random_inputs(
    n_fuzz_inputs: int, n_quick_inputs: int = 30, **inputs: st.SearchStrategy[Any]
) -> Callable[[Property], Any]:
    """Run a test with random inputs, and count them.

    Args:
        n_fuzz_inputs: number of inputs of `make fuzz`, which has the profile `fuzz`.
        n_quick_inputs: number of inputs of `make test`.
        inputs: the strategy of each argument of the test.
    """

    def decorate(test: Property) -> Any:
        @wraps(test)
        def run_and_count(**drawn: Any) -> None:
            test(**drawn)
            N_TRIED_INPUTS[test.__name__] += 1

        # Only the profile `suite` tries the same inputs in every run.
        is_quick = hypothesis.settings().derandomize
        n_inputs = n_quick_inputs if is_quick else n_fuzz_inputs
        return hypothesis.settings(max_examples=n_inputs)(given(**inputs)(run_and_count))

    return decorate


# Letters and names

any_character = st.characters(exclude_categories=())  # including lone surrogates
combining_mark = st.characters(categories=["Mn"])
accents = st.text(st.characters(min_codepoint=0x300, max_codepoint=0x362), max_size=3)
names_of_letters = st.text(st.sampled_from("abcXYZ '"))
texts = st.text(any_character | st.sampled_from(ASCII_SYMBOLS) | combining_mark)
normalized_names = st.text(ASCII_SYMBOLS, min_size=1).filter(
    lambda name: normalize_name(name) == name
)
kinds = st.sampled_from(["ascii", "corpus"])


@with_random_inputs(4000, text=texts, kind=kinds)
def test_normalization_is_idempotent(text: str, kind: AlphabetKind) -> None:
    normalized = normalize_name(text, kind)
    assert normalize_name(normalized, kind) == normalized
    assert normalized == " ".join(normalized.split()).strip(".,;")
    for c in normalized:
        assert c in ASCII_SYMBOLS if kind == "ascii" else c in " .,;'" or c.isprintable()
    # The tutorial decomposes the text, and drops all characters that are not in its alphabet.
    decomposed = unicodedata.normalize("NFD", text)
    tutorial_name = "".join(filter(ASCII_SYMBOLS.__contains__, decomposed))
    assert normalize_name(text, "tutorial") in ("", tutorial_name)


@with_random_inputs(3000, text=texts, kind=st.sampled_from(["ascii", "corpus", "tutorial"]))
def test_composed_and_decomposed_letters_are_normalized_to_the_same_name(
    text: str, kind: AlphabetKind
) -> None:
    normalized = normalize_name(text, kind)
    assert normalize_name(unicodedata.normalize("NFC", text), kind) == normalized
    assert normalize_name(unicodedata.normalize("NFD", text), kind) == normalized


@with_random_inputs(3000, text=st.text(st.characters(max_codepoint=127)))
def test_ascii_letters_are_normalized_independently_of_other_letters(text: str) -> None:
    assert (
        normalize_name(f"é {text} é", "corpus")
        == normalize_name(f"e {text} e").replace("e", "é", 1)[:-1] + "é"
    )


@with_random_inputs(
    3000, name=normalized_names, wrapped=st.sampled_from(['"{}"', "“{}”", " {}, ", "«{}».", "{};"])
)
def test_quotes_and_punctuation_around_a_name_are_dropped(name: str, wrapped: str) -> None:
    assert normalize_name(wrapped.format(name)) == name


@with_random_inputs(3000, letters=st.lists(st.tuples(st.sampled_from(ASCII_SYMBOLS), accents)))
def test_accents_are_dropped(letters: list[tuple[str, str]]) -> None:
    plain = "".join(letter for letter, _ in letters)
    assert normalize_name("".join(map("".join, letters))) == normalize_name(plain)


@with_random_inputs(
    3000, name=names_of_letters, style=st.sampled_from(list(CASE_STYLES)), force_case=st.booleans()
)
def test_case_of_a_name_does_not_matter(name: str, style: CaseStyle, force_case: bool) -> None:
    alphabet = Alphabet(case_style=style, force_case=force_case)
    normalized = alphabet.normalize(name)
    assert alphabet.normalize(normalized) == normalized
    assert alphabet.normalize(name.upper()) == alphabet.normalize(name.lower())
    assert name_key(normalized) == name_key(normalize_name(name))


@with_random_inputs(2000, names=st.lists(normalized_names))
def test_encoded_and_one_hot_names_are_decoded_to_the_names(names: list[str]) -> None:
    letters, lengths = ASCII_ALPHABET.encode(names)
    encoded_names = torch.split(one_hot(letters).argmax(dim=1), lengths.tolist())
    assert [ASCII_ALPHABET.decode(encoded) for encoded in encoded_names] == names
    assert (one_hot(letters).sum(dim=1) == 1).all()
    for name, encoded in zip(names, encoded_names, strict=True):
        assert torch.equal(name_to_tensor(name), one_hot(encoded).unsqueeze(1))


# Files of names

endings = st.sampled_from(["\n", "\r\n", "\r", "\n\n", " \r\n\r\n", "\r\r"])
blanks = st.sampled_from(["", " ", "\t", "\N{NO-BREAK SPACE}", "\N{IDEOGRAPHIC SPACE}  "])
names = st.text(st.characters(categories=["L", "Mn"]) | st.sampled_from(" '.-"), max_size=20)
names = names.filter(normalize_name)
contents = st.lists(
    st.sampled_from([b"\n", b"\r", b"\r\n", b"\t", b"Lee", b"x" * 199, codecs.BOM_UTF8, b"\xff"])
    | st.text().map(str.encode)
    | st.binary(max_size=3)
).map(b"".join)


def read_names_or_error(content: bytes) -> list[str] | str:
    """Return the normalized names in a file, or the start of the error message.

    The message starts with the number of the line or of the invalid lines.
    """
    lines = re.split(rb"\r\n|\r|\n", content.removeprefix(codecs.BOM_UTF8))
    for number, line in enumerate(lines, start=1):
        # The message about the encoding takes precedence over those about names.
        if line.decode(errors="ignore").encode() != line:
            return f":{number}: not UTF-8"
    names = []
    invalid_lines = []
    for number, line in enumerate(lines, start=1):
        text = line.decode().strip()
        if not text:
            continue
        has_control_character = re.search("[\0-\x1f\x7f-\x9f]", text)
        is_too_long = len(line.decode()) > 200
        if not normalize_name(text) or has_control_character or is_too_long:
            invalid_lines.append(number)
        names.append(normalize_name(text))
    if invalid_lines:
        lines_word = "line" if len(invalid_lines) == 1 else "lines"
        return f"{len(invalid_lines):,} {lines_word} without a valid name: {invalid_lines[0]}:"
    return names or ": contains no names; delete the file, or add one name per line"


@with_random_inputs(3000, content=st.binary() | contents)
def test_file_is_read_or_its_first_invalid_line_is_reported(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "A.txt")
        path.write_bytes(content)
        Path(folder, "B.txt").write_text("Lee")
        expected = read_names_or_error(content)
        if isinstance(expected, list):
            assert read_corpus(Path(folder)) == {"A": expected, "B": ["Lee"]}
            return
        with pytest.raises(UserError) as caught:
            read_corpus(Path(folder))
        message = str(caught.value)
        count, reason, first_line = expected.partition(" without a valid name: ")
        if reason:
            assert message.startswith(f"{folder}: {count}{reason}")
            assert f"\n  {path}:{first_line}" in message
        else:
            assert message.startswith(f"{path}{expected}")


@with_random_inputs(
    3000,
    lines=st.lists(st.tuples(blanks, names, blanks, endings), min_size=1),
    before=st.sampled_from(["", "\N{ZERO WIDTH NO-BREAK SPACE}", "\r\n", "\n "]),
)
def test_blanks_and_line_ends_are_no_part_of_a_name(
    lines: list[tuple[str, str, str, str]], before: str
) -> None:
    with TemporaryDirectory() as folder:
        Path(folder, "A.txt").write_bytes((before + "".join(map("".join, lines))).encode())
        Path(folder, "B.txt").write_text("Lee")
        assert read_corpus(Path(folder))["A"] == [normalize_name(name) for _, name, _, _ in lines]


file_names = st.text(max_size=20) | st.binary(max_size=20).map(os.fsdecode)
file_names = file_names.filter(lambda name: name[:1] != "." and not set(name) & set("/\0"))


@with_random_inputs(1500, categories=st.sets(file_names.filter(bool), min_size=2, max_size=4))
def test_categories_are_printable_names_of_files(categories: set[str]) -> None:
    with TemporaryDirectory() as folder:
        for category in categories:
            Path(folder, f"{category}.txt").write_text("Lee")
        labels = {unicodedata.normalize("NFC", category).strip() for category in categories}
        if all(label and label.isprintable() for label in labels) and len(labels) > 1:
            corpus = read_corpus(Path(folder))
            assert list(corpus) == sorted(labels)
            # A category that is not valid Unicode would raise an error here.
            assert len(fingerprint(corpus)) == 64
        else:
            with pytest.raises(
                UserError, match=f"{folder}: (.* without a category|there is only one category)"
            ):
                read_corpus(Path(folder))


# The split

few_names = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=40)
corpora = st.dictionaries(st.text("XYZ", max_size=3), few_names, min_size=1, max_size=6)
held_out_fractions = st.sampled_from([0, 0.1, 0.25, 0.5]) | st.floats(0, 1, exclude_max=True)
fractions = st.tuples(held_out_fractions, held_out_fractions).filter(lambda both: sum(both) < 1)
seeds = st.integers(0, 2**32 - 1)


def expected_splits(
    corpus: NamesByCategory, fractions: tuple[float, float], seed: int
) -> dict[str, str]:
    """Return the split of each name, computed in a simple and slow way."""
    # A name with several categories counts in the rarest of them.
    rarest: dict[str, tuple[int, str]] = {}
    for category, lines in corpus.items():
        for name in lines:
            size_and_category = (len(set(lines)), category)
            rarest[name] = min(rarest.get(name, size_and_category), size_and_category)
    splits = dict.fromkeys(rarest, "train")
    for home in set(rarest.values()):
        remaining = [name for name in rarest if rarest[name] == home]
        remaining.sort(key=lambda name: sha256(f"{seed} {name}".encode()).hexdigest())
        n_names = len(remaining)
        for split, fraction in (("test", fractions[1]), ("val", fractions[0])):
            # Small categories give a name to each split, as long as one is left.
            n_minimum = 1 if fraction and n_names >= 3 else 0
            n_maximum = len(remaining) - 1  # one name remains for training
            n_held_out = min(max(round(fraction * n_names), n_minimum), n_maximum)
            splits.update(dict.fromkeys(remaining[:n_held_out], split))
            remaining = remaining[n_held_out:]
    return splits


@with_random_inputs(4000, corpus=corpora, fractions=fractions, seed=seeds)
def test_split_equals_that_of_a_simple_implementation(
    corpus: NamesByCategory, fractions: tuple[float, float], seed: int
) -> None:
    val_fraction, test_fraction = fractions
    splits = expected_splits(corpus, fractions, seed)
    untrained = []
    for category, names in corpus.items():
        if all(splits[name] != "train" for name in names):
            untrained.append(category)
    if untrained:
        with pytest.raises(UserError, match=f"^{untrained[0]}: no name is left to train on"):
            hold_out_distinct_names(corpus, val_fraction, test_fraction, seed)
        return
    for key, fraction in zip(("val", "test"), fractions, strict=True):
        if fraction and key not in splits.values():
            with pytest.raises(UserError, match=f"^{key}_fraction={fraction}: too few names"):
                hold_out_distinct_names(corpus, val_fraction, test_fraction, seed)
            return
    train, val, test = hold_out_distinct_names(corpus, val_fraction, test_fraction, seed)
    for category, names in corpus.items():
        assert train[category] == [name for name in names if splits[name] == "train"]
        assert val[category] == sorted({name for name in names if splits[name] == "val"})
        assert test[category] == sorted({name for name in names if splits[name] == "test"})


@with_random_inputs(3000, corpus=corpora, fractions=fractions, seed=seeds, shuffle=st.randoms())
def test_split_depends_neither_on_order_nor_on_repeated_lines(
    corpus: NamesByCategory, fractions: tuple[float, float], seed: int, shuffle: random.Random
) -> None:
    val_fraction, test_fraction = fractions
    try:
        train, val, test = hold_out_distinct_names(corpus, val_fraction, test_fraction, seed)
    except UserError:
        return
    categories = shuffle.sample(list(corpus), len(corpus))
    shuffled = {}
    for category in categories:
        # Three lines of each category are repeated.
        shuffled[category] = corpus[category] + shuffle.choices(corpus[category], k=3)
    for lines in shuffled.values():
        shuffle.shuffle(lines)
    shuffled_split = hold_out_distinct_names(shuffled, val_fraction, test_fraction, seed)
    assert shuffled_split[1:] == (val, test)
    # Repeated lines remain in the training split, where their order is that of the file.
    assert shuffled_split[0].keys() == train.keys()
    for category, names in shuffled_split[0].items():
        assert set(names) == set(train[category])
    assert hold_out_distinct_names(corpus, val_fraction, test_fraction, seed) == (train, val, test)


# The examples

line_counts = st.lists(st.integers(1, 30) | st.integers(1, 10**6), min_size=1)


def first_examples(counts: list[int], seed: int, n_examples: int) -> list[int]:
    """Return the first balanced examples, sampled in a plain loop like the tutorial's."""
    generator = random.Random(seed)
    lines = []
    for _ in range(n_examples):
        category = generator.randint(0, len(counts) - 1)
        first_line = sum(counts[:category])
        lines.append(first_line + generator.randint(0, counts[category] - 1))
    return lines


@with_random_inputs(
    3000,
    counts=line_counts,
    seed=seeds,
    calls=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 50)), max_size=8),
)
def test_examples_from_any_position_are_those_of_a_plain_loop(
    counts: list[int], seed: int, calls: list[tuple[int, int]]
) -> None:
    expected = first_examples(counts, seed, 250)
    examples = RandomExamples(counts, 1, seed)
    for start, count in calls:
        assert examples.take(start, count) == expected[start : start + count]


@with_random_inputs(
    2000,
    counts=line_counts,
    seed=seeds,
    iteration=st.integers(0, 100),
    batch_size=st.integers(1, 4),
    intervals=st.tuples(st.integers(1, 100), st.integers(1, 100), st.integers(1, 100)),
    world_size=st.integers(1, 4),
)
def test_batches_contain_each_example_up_to_the_next_validation_once(
    counts: list[int],
    seed: int,
    iteration: int,
    batch_size: int,
    intervals: tuple[int, int, int],
    world_size: int,
) -> None:
    iterations = 100
    val_every, log_every, chunk_size = intervals
    next_validation = min(iteration - iteration % val_every + val_every, iterations)
    batches_by_rank = []
    for rank in range(world_size):
        sampler = RandomExamples(counts, batch_size, seed)
        position = partial(TrainingPosition, iteration, rank, world_size)
        length = RunLength(iterations, log_every, val_every)
        batches = TrainBatchSampler(sampler, batch_size, chunk_size, position, length)
        batches_by_rank.append(list(batches))
    for parts in zip(*batches_by_rank, strict=True):  # the parts of a batch, by rank
        # The processes take the examples in turn, so the last ones can have one example less.
        lines = [-1] * sum(len(part) for part in parts)
        for rank, part in enumerate(parts):
            lines[rank::world_size] = part
        n_iterations = len(lines) // batch_size
        end = iteration + n_iterations
        expected = first_examples(counts, seed, end * batch_size)
        assert lines == expected[iteration * batch_size :]
        assert 1 <= n_iterations <= chunk_size
        assert end in (next_validation, iteration + chunk_size) or end % log_every == 0
        # No batch contains a log point before its end.
        assert iteration // log_every == (end - 1) // log_every
        iteration = end
    assert iteration == next_validation or not batches_by_rank[0]


@with_random_inputs(2000, corpus=corpora, numbers=st.lists(st.integers(0, 10**6)))
def test_batch_of_a_dataset_equals_its_items(corpus: NamesByCategory, numbers: list[int]) -> None:
    dataset = NamesDataset(corpus)
    lines = [number % len(dataset) for number in numbers]
    batch = dataset.batch(lines)
    encoded_names = torch.split(batch.letters, batch.lengths.tolist())
    pairs: list[tuple[int, str]] = []
    for index, category_names in enumerate(corpus.values()):
        pairs += [(index, name) for name in category_names]
    for line, encoded, category in zip(lines, encoded_names, batch.targets, strict=True):
        item_letters, item_category = dataset[line]
        assert torch.equal(one_hot(encoded).unsqueeze(1), item_letters)
        assert torch.equal(category.reshape(1), item_category)
        assert (int(category), ASCII_ALPHABET.decode(encoded)) == pairs[line]


# The settings

INTEGER_RANGES = {
    "hidden": (1, 4096),
    "iterations": (1, 1_000_000_000),
    "seed": (0, 4_294_967_295),
    "log_every": (1, 1_000_000),
    "print_every": (1, 1_000_000_000),
    "val_every": (1, 1_000_000_000),
    "batch_size": (1, 100_000),
    "layers": (1, 16),
    "embedding": (0, 4096),
    "ngrams": (0, 6),
}
FRACTIONS = (
    "val_fraction test_fraction dropout recurrent_dropout weight_decay label_smoothing"
).split()
BATCHED = ["cell=gru", "backend=autograd"]  # these allow more values than the defaults


def is_allowed(key: str, value: float) -> bool:
    """Return whether a key may have a value."""
    if key in INTEGER_RANGES:
        return INTEGER_RANGES[key][0] - 1 < value < INTEGER_RANGES[key][1] + 1
    if key in FRACTIONS:
        return value == 0 or 0 < value < 1
    return value == 1000 or 0 < value < 1000


def numbers_for(key: str) -> st.SearchStrategy[float]:
    """Return a strategy of numbers inside, outside and at the limits of a key's range."""
    # These have the type `float`, also for keys that are integers.
    not_finite = st.sampled_from([float("nan"), float("inf"), -float("inf")])
    if key in INTEGER_RANGES:
        minimum, maximum = INTEGER_RANGES[key]
        limits = st.sampled_from([minimum - 1, minimum, maximum, maximum + 1])
        return st.integers(minimum, maximum) | limits | st.integers() | not_finite
    # These include the smallest and the next greater number of 64 bits.
    limits = st.sampled_from([0.0, -0.0, 5e-324, 0.5, 1.0, 1000.0, 1000.0000000000001])
    return st.floats(0, 1) | limits | st.floats() | not_finite


number_keys = list(INTEGER_RANGES) + list(FRACTIONS) + ["lr"]
numbers = {key: numbers_for(key) for key in number_keys}


@with_random_inputs(4000, changes=st.fixed_dictionaries({}, optional=numbers))
def test_numbers_are_accepted_if_and_only_if_they_are_in_range(changes: dict[str, Any]) -> None:
    values = default_settings().subset(KEYS) | changes
    invalid_keys = [key for key in changes if not is_allowed(key, changes[key])]
    # The sum is checked only if both fractions are valid.
    has_training_names = values["val_fraction"] + values["test_fraction"] < 1
    if invalid_keys:
        with pytest.raises(UserError, match=f"^({'|'.join(invalid_keys)})="):
            Config(**values)
    elif not has_training_names:
        with pytest.raises(
            UserError, match=r"^val_fraction \+ test_fraction = .*: must be below 1$"
        ):
            Config(**values)
    else:
        assert Config(**values).subset(KEYS) == values


@cache
def default_settings() -> Config:
    """Return the default settings with `BATCHED`."""
    return settings(BATCHED)


one_number = st.one_of([st.tuples(st.just(key), numbers[key]) for key in numbers])


@with_random_inputs(200, n_quick_inputs=4, chosen=one_number)
def test_numbers_of_the_command_line_keep_their_values_and_types(chosen: tuple[str, float]) -> None:
    key, value = chosen
    overrides = BATCHED + [f"{key}={value}"]
    # The sum of the two fractions must be below 1.
    for fraction_key in sorted({"val_fraction", "test_fraction"} - {key}):
        overrides.append(f"{fraction_key}=0")
    if is_allowed(key, value):
        parsed = getattr(settings(overrides), key)
        assert parsed == value
        assert type(parsed) is (int if key in INTEGER_RANGES else float)
    else:
        with pytest.raises((UserError, CompactHydraException), match=key):
            settings(overrides)


keys = list(numbers) + [
    "data_dir",
    "backend",
    "trainer.devices",
    "logger._target_",
    "hydra.run.dir",
]
references = "${ } ${lr} ${oc.env:HOME} ${now:%Y} ${key_help:} ${.}"
grammar = "[ ] { } ( ) : , ' \" \\ = ~ @ choice(1,2) range(3) int(2) tag(a,1) glob(*) 1,2"
values = "??? null true inf nan 1e999 -0 007 1_000 128 0.5"
special_texts = f"{references} {grammar} {values}".split()
pieces = st.text(max_size=5) | st.sampled_from(special_texts)


@with_random_inputs(
    300,
    n_quick_inputs=8,
    sign=st.sampled_from(["", "", "", "+", "++", "~"]),
    # Configuration groups are left out, because Hydra raises a ValueError for `trainer=1`.
    key=st.sampled_from(keys) | st.text(ascii_lowercase, min_size=1, max_size=4),
    value=st.lists(pieces, max_size=4).map("".join),
)
def test_any_override_is_accepted_or_refused(sign: str, key: str, value: str) -> None:
    try:
        config = settings([f"{sign}{key}={value}"])
    except (UserError, CompactHydraException):
        # The program shows these errors as a message.
        return
    assert all(is_allowed(name, getattr(config, name)) for name in numbers)


printable_paths = st.text(st.characters().filter(str.isprintable) | st.sampled_from("\\'\"{}$/ "))


@with_random_inputs(4000, path=printable_paths)
@example(path="a\\b")
@example(path="a\\${b}'")
@example(path="007")
@example(path="null")
def test_quoted_folder_is_unchanged_by_the_shell_and_hydra(path: str) -> None:
    (argument,) = shlex.split(format_folder_override("hydra.run.dir", Path(path)))
    override = OverridesParser.create().parse_override(argument)
    # `str`, because a folder called 7 is read as a number.
    assert Path(str(OmegaConf.create({"dir": override.value()}).dir)) == Path(path)


# CSV files with predictions

CATEGORIES = ["A", 'B, "b"', "Ç"]
ADDED_COLUMNS = ["category_1", "probability_1", "category_2", "probability_2", "reason"]


@cache
def small_model() -> TrainedModel:
    """Return an untrained model."""
    torch.manual_seed(0)
    network = Network(**NETWORK | {"categories": CATEGORIES, "hidden": 4})
    split_record = SplitRecord(DataSource(), 0, 0, 0, {})
    return TrainedModel(Path("a.ckpt"), network.eval(), CATEGORIES, split_record)


def parse_csv(text: str, delimiter: str) -> list[list[str]]:
    """Return the cells of a CSV file, without blank lines."""
    lines = io.StringIO(text.removeprefix("\ufeff"), newline="")
    return [row for row in csv.reader(lines, delimiter=delimiter, strict=True) if row]


def is_valid_table(rows: list[list[str]]) -> bool:
    """Return whether the first column can be classified."""
    if not rows:
        return False
    header = rows[0]
    is_unique = header.count(header[0]) == 1
    is_regular = all(len(row) == len(header) for row in rows)
    return is_unique and is_regular and not set(header) & set(ADDED_COLUMNS)


def check_predictions(folder: Path, content: bytes, encoding: str, delimiter: str) -> None:
    """Check that the first column of a CSV file is classified, or the file is refused.

    The expected predictions are those of single names.
    """
    source = folder / "in.csv"
    target = folder / "out.csv"
    source.write_bytes(content)
    target.write_text("old content")
    try:
        rows = parse_csv(content.decode(encoding), delimiter)
        is_valid = is_valid_table(rows)
    except (UnicodeError, csv.Error):
        is_valid = False
    predict = partial(
        classify_csv_column,
        model=small_model(),
        source=source,
        target=target,
        column=rows[0][0] if is_valid else "name",
        delimiter=delimiter,
        encoding=encoding,
        top_k=2,
        threshold=0.0,
    )
    if not is_valid:
        with pytest.raises(UserError, match=f"^{re.escape(str(source))}:"):
            predict()
        # A refused file leaves the output as it was, and no temporary file.
        assert target.read_text() == "old content"
        assert len(list(folder.iterdir())) == 2
        return
    predict()
    output = target.read_bytes().decode(encoding)
    # The byte-order mark of the input is kept.
    assert output.startswith("\ufeff") == content.decode(encoding).startswith("\ufeff")
    output_rows = parse_csv(output, delimiter)
    header = output_rows.pop(0)
    n_columns = len(rows[0])
    assert header == rows[0] + ADDED_COLUMNS
    assert [row[:n_columns] for row in output_rows] == rows[1:]
    for row in output_rows:
        check_prediction(row[0], added_cells=row[n_columns:])


def check_prediction(name: str, added_cells: list[str]) -> None:
    """Check the cells that were added for a name."""
    category_1, probability_1, category_2, probability_2, reason = added_cells
    normalized = normalize_name(name)
    if not 0 < len(normalized) <= MAX_NAME_LENGTH:
        assert (category_1, probability_1, category_2, probability_2) == ("", "", "", "")
        assert reason == ("more than 200 letters" if normalized else "no letters of the alphabet")
        return
    (probabilities,) = small_model().predict_probabilities([name]).tolist()
    by_category = dict(zip(CATEGORIES, probabilities, strict=True))
    assert reason == ""
    assert category_1 != category_2
    # Probabilities are written with six digits.
    for text in (probability_1, probability_2):
        assert re.fullmatch("[01][.][0-9]{6}", text)
    actual = [float(probability_1), float(probability_2)]
    assert actual == pytest.approx([by_category[category_1], by_category[category_2]], abs=2e-6)
    assert actual == pytest.approx(sorted(probabilities)[:0:-1], abs=2e-6)


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
cells |= st.lists(st.sampled_from('" "" , \n \r \r\n Müller \' ; Lee 王 7 reason'.split(" "))).map(
    "".join
)
cells |= st.integers(MAX_NAME_LENGTH - 2, MAX_NAME_LENGTH + 2).map("x".__mul__)
tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=8)
)
dialects = st.sampled_from(
    [("\r\n", csv.QUOTE_MINIMAL), ("\n", csv.QUOTE_ALL), ("\r", csv.QUOTE_ALL)]
)


@with_random_inputs(
    1500,
    table=tables,
    dialect=dialects,
    encoding=st.sampled_from(["utf-8", "utf-16"]),
    delimiter=st.sampled_from(",;\t"),
)
def test_classified_csv_file_keeps_its_cells(
    table: list[list[str]], dialect: tuple[str, Any], encoding: str, delimiter: str
) -> None:
    text = io.StringIO(newline="")
    end, quoting = dialect
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(table)
    with TemporaryDirectory() as folder:
        check_predictions(Path(folder), text.getvalue().encode(encoding), encoding, delimiter)


@with_random_inputs(
    1500,
    begin=st.sampled_from([b"name\n", b"name,x\r\n", b'"name","x"\r', codecs.BOM_UTF8 + b"name\n"]),
    content=st.lists(
        st.sampled_from([b"\n", b"\r", b"\r\n", b",", b'"', b'""', b" ", b"Lee", b"\xff"])
        | st.binary(max_size=3).filter(lambda content: b"\0" not in content)
    ).map(b"".join),
)
def test_any_csv_file_is_classified_or_refused(begin: bytes, content: bytes) -> None:
    with TemporaryDirectory() as folder:
        check_predictions(Path(folder), begin + content, "utf-8", ",")


# Checkpoints

unusual_tensors = [torch.zeros(()), torch.zeros(3), torch.ones(2, 2).half(), torch.ones(16) * 1j]
# The expanded tensor has one number in the file, but 40 MB if it is copied.
unusual_tensors += [torch.eye(57).long(), torch.zeros(1).expand(10**7), torch.zeros(3).to_sparse()]
plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-1, 10)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(unusual_tensors),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@cache
def valid_checkpoint(cell: str) -> bytes:
    """Return the content of a checkpoint file."""
    # Both kinds of network have their own checks.
    network = GRU_NETWORK | {"embedding": 0, "ngrams": 2} if cell == "gru" else NETWORK
    content = io.BytesIO()
    torch.save(make_checkpoint(network), content)
    return content.getvalue()


def check_loading(content: bytes) -> list[list[float]] | None:
    """Check that a checkpoint is refused in one line, or predicts; return its predictions."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.ckpt")
        path.write_bytes(content)
        try:
            model: TrainedModel | None = load_model(path)
        except UserError as error:
            message = str(error)
            model = None
    if model is None:
        assert re.fullmatch(
            f"{path}: (not a checkpoint|written by another version of this program).*", message
        )
        return None
    probabilities = model.predict_probabilities(["Jones", "Lee", "7"])
    assert probabilities.shape == (3, len(model.categories))
    assert probabilities.dtype == torch.float32
    for row in probabilities[:2]:
        # Changed weights may overflow.
        assert row.isnan().all() or float(row.sum()) == pytest.approx(1, abs=1e-4)
    assert probabilities[2].isnan().all()  # 7 has no letters
    rows: list[list[float]] = probabilities[:2].tolist()
    return rows


@with_random_inputs(1000, content=st.binary(max_size=200))
def test_random_bytes_are_not_a_checkpoint(content: bytes) -> None:
    assert check_loading(content) is None


@with_random_inputs(
    2500,
    changes=st.lists(st.tuples(st.integers(0, 2**16) | st.integers(0, 1200), st.integers(0, 255))),
    size=st.none() | st.integers(0, 2**16),
)
def test_damaged_checkpoint_is_refused_or_predicts_the_same(
    changes: list[tuple[int, int]], size: int | None
) -> None:
    valid_content = valid_checkpoint("tutorial")
    content = bytearray(valid_content)
    for position, byte in changes:
        content[position % len(content)] = byte
    if size is not None:
        content = content[: size % len(content)]
    # The checksums of the archive detect damage of the data, but not of all headers.
    assert check_loading(bytes(content)) in (None, check_loading(valid_content))


def list_key_paths(value: Any) -> list[list[Any]]:
    """Return the keys and indices that lead to each value in nested dictionaries and lists."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    key_paths: list[list[Any]] = [[]]  # the value itself
    for key, inner_value in items:
        for inner_path in list_key_paths(inner_value):
            key_paths.append([key] + inner_path)
    return key_paths


@with_random_inputs(
    2500,
    n_quick_inputs=100,
    value=plain_values,
    cell=st.sampled_from(["tutorial", "gru"]),
    number=st.integers(0),
)
def test_checkpoint_with_any_other_value_in_it_is_refused_or_predicts(
    value: Any, cell: str, number: int
) -> None:
    checkpoint = {"": torch.load(io.BytesIO(valid_checkpoint(cell)), weights_only=True)}
    # The first path is that of the dictionary itself, which has no container.
    key_paths = list_key_paths(checkpoint)[1:]
    key_path = key_paths[number % len(key_paths)]
    container: Any = checkpoint
    for key in key_path[:-1]:
        container = container[key]
    container[key_path[-1]] = value
    content = io.BytesIO()
    torch.save(checkpoint[""], content)
    check_loading(content.getvalue())
