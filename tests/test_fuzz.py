"""Properties of any input. `make test` tries each on a few inputs, `make fuzz` on thousands."""

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


def tried(often: int, few: int = 30, **inputs: st.SearchStrategy[Any]) -> Callable[[Property], Any]:
    """Try a property on a few inputs, or often where the profile is `fuzz`; count the tries."""

    def decorate(holds: Property) -> Any:
        @wraps(holds)
        def counted(**drawn: Any) -> None:
            holds(**drawn)
            N_TRIED_INPUTS[holds.__name__] += 1

        number = few if hypothesis.settings().derandomize else often
        return hypothesis.settings(max_examples=number)(given(**inputs)(counted))

    return decorate


# Letters and names

anything = st.characters(exclude_categories=())  # lone surrogates, too
mark = st.characters(categories=["Mn"])
accents = st.text(st.characters(min_codepoint=0x300, max_codepoint=0x362), max_size=3)
names_of_letters = st.text(st.sampled_from("abcXYZ '"))
texts = st.text(anything | st.sampled_from(ASCII_SYMBOLS) | mark)
folded_names = st.text(ASCII_SYMBOLS, min_size=1).filter(lambda name: normalize_name(name) == name)
kinds = st.sampled_from(["ascii", "corpus"])


@tried(4000, text=texts, kind=kinds)
def test_a_folded_name_stays_as_it_is(text: str, kind: AlphabetKind) -> None:
    folded = normalize_name(text, kind)
    assert normalize_name(folded, kind) == folded
    assert folded == " ".join(folded.split()).strip(".,;")
    for c in folded:
        assert c in ASCII_SYMBOLS if kind == "ascii" else c in " .,;'" or c.isprintable()
    assert normalize_name(text, "tutorial") in (
        "",
        "".join(filter(ASCII_SYMBOLS.__contains__, nfd(text))),
    )


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@tried(3000, text=texts, kind=st.sampled_from(["ascii", "corpus", "tutorial"]))
def test_composed_and_decomposed_letters_are_folded_alike(text: str, kind: AlphabetKind) -> None:
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert (
        normalize_name(composed, kind)
        == normalize_name(decomposed, kind)
        == normalize_name(text, kind)
    )


@tried(3000, text=st.text(st.characters(max_codepoint=127)))
def test_ascii_alone_is_folded_as_ascii_among_other_letters(text: str) -> None:
    assert (
        normalize_name(f"é {text} é", "corpus")
        == normalize_name(f"e {text} e").replace("e", "é", 1)[:-1] + "é"
    )


@tried(3000, name=folded_names, wrapped=st.sampled_from(['"{}"', "“{}”", " {}, ", "«{}».", "{};"]))
def test_what_is_around_a_name_goes(name: str, wrapped: str) -> None:
    assert normalize_name(wrapped.format(name)) == name


@tried(3000, letters=st.lists(st.tuples(st.sampled_from(ASCII_SYMBOLS), accents)))
def test_accents_are_dropped(letters: list[tuple[str, str]]) -> None:
    plain = "".join(letter for letter, _ in letters)
    assert normalize_name("".join(map("".join, letters))) == normalize_name(plain)


@tried(3000, name=names_of_letters, style=st.sampled_from([*CASE_STYLES]), always=st.booleans())
def test_a_name_is_read_alike_in_capitals_and_in_lower_case(
    name: str, style: CaseStyle, always: bool
) -> None:
    letters = Alphabet(case_style=style, force_case=always)
    once = letters.normalize(name)
    assert letters.normalize(once) == once
    assert letters.normalize(name.upper()) == letters.normalize(name.lower())
    assert name_key(once) == name_key(normalize_name(name))


@tried(2000, names=st.lists(folded_names))
def test_packed_and_one_hot_names_are_the_names(names: list[str]) -> None:
    letters, lengths = ASCII_ALPHABET.encode(names)
    runs = torch.split(one_hot(letters).argmax(dim=1), lengths.tolist())
    assert [ASCII_ALPHABET.decode(run) for run in runs] == names
    assert (one_hot(letters).sum(dim=1) == 1).all()
    for name, run in zip(names, runs, strict=True):
        assert torch.equal(name_to_tensor(name), one_hot(run).unsqueeze(1))


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


def reading(content: bytes) -> list[str] | str:
    lines = re.split(rb"\r\n|\r|\n", content.removeprefix(codecs.BOM_UTF8))
    for number, line in enumerate(lines, start=1):
        if line.decode(errors="ignore").encode() != line:
            return f":{number}: not UTF-8"
    found, bad = [], []
    for number, line in enumerate(lines, start=1):
        text = line.decode().strip()
        if (text and (not normalize_name(text) or re.search("[\0-\x1f\x7f-\x9f]", text))) or (
            len(line.decode()) > 200 and text
        ):
            bad.append(number)
        found += [normalize_name(text)] if text else []
    if bad:
        return f"{len(bad):,} lines {bad[0]}:"
    return found or ": holds no names"


@tried(3000, content=st.binary() | contents)
def test_a_file_is_read_or_refused_with_its_line(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "A.txt")
        path.write_bytes(content)
        Path(folder, "B.txt").write_text("Lee")
        expected = reading(content)
        if isinstance(expected, list):
            assert read_corpus(Path(folder)) == {"A": expected, "B": ["Lee"]}
        else:
            with pytest.raises(UserError) as refused:
                read_corpus(Path(folder))
            count, lines, first = expected.partition(" lines ")
            where = f"{folder}: {count}{lines}" if lines else f"{path}{expected}"
            assert str(refused.value).startswith(where)
            assert f"{path}:{first}" in str(refused.value) or not lines


@tried(
    3000,
    lines=st.lists(st.tuples(blanks, names, blanks, endings), min_size=1),
    before=st.sampled_from(["", "\N{ZERO WIDTH NO-BREAK SPACE}", "\r\n", "\n "]),
)
def test_names_come_back_whatever_is_around_them(
    lines: list[tuple[str, str, str, str]], before: str
) -> None:
    with TemporaryDirectory() as folder:
        Path(folder, "A.txt").write_bytes((before + "".join(map("".join, lines))).encode())
        Path(folder, "B.txt").write_text("Lee")
        assert read_corpus(Path(folder))["A"] == [normalize_name(name) for _, name, _, _ in lines]


file_names = st.text(max_size=20) | st.binary(max_size=20).map(os.fsdecode)
file_names = file_names.filter(lambda name: name[:1] != "." and not set(name) & set("/\0"))


@tried(1500, categories=st.sets(file_names.filter(bool), min_size=2, max_size=4))
def test_categories_are_the_names_of_files_that_can_be_shown(categories: set[str]) -> None:
    with TemporaryDirectory() as folder:
        for category in categories:
            Path(folder, f"{category}.txt").write_text("Lee")
        labels = {unicodedata.normalize("NFC", category).strip() for category in categories}
        if all(label and label.isprintable() for label in labels) and len(labels) > 1:
            corpus = read_corpus(Path(folder))
            assert list(corpus) == sorted(labels)
            assert len(fingerprint(corpus)) == 64
        else:
            with pytest.raises(UserError, match=f"{folder}: (.* have no category|holds one)"):
                read_corpus(Path(folder))


# The split

few_names = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=40)
corpora = st.dictionaries(st.text("XYZ", max_size=3), few_names, min_size=1, max_size=6)
shares = st.sampled_from([0, 0.1, 0.25, 0.5]) | st.floats(0, 1, exclude_max=True)
fractions = st.tuples(shares, shares).filter(lambda both: sum(both) < 1)
seeds = st.integers(0, 2**32 - 1)


def side_of_each_name(
    corpus: NamesByCategory, fractions: tuple[float, float], seed: int
) -> dict[str, str]:
    homes = {
        name: min(
            (len(set(other)), category) for category, other in corpus.items() if name in other
        )
        for lines in corpus.values()
        for name in lines
    }
    sides = dict.fromkeys(homes, "train")
    for home in set(homes.values()):
        own = [name for name in homes if homes[name] == home]
        own.sort(key=lambda name: sha256(f"{seed} {name}".encode()).hexdigest())
        size, most = len(own), len(own) - 1
        for side, fraction in (("test", fractions[1]), ("val", fractions[0])):
            least = 1 if fraction and size >= 3 else 0
            count = min(max(round(fraction * size), least), most)
            sides.update(dict.fromkeys(own[:count], side))
            own, most = own[count:], most - count
    return sides


@tried(4000, corpus=corpora, fractions=fractions, seed=seeds)
def test_the_split_is_whole_and_disjoint_and_as_large_as_asked_for(
    corpus: NamesByCategory, fractions: tuple[float, float], seed: int
) -> None:
    sides = side_of_each_name(corpus, fractions, seed)
    bare = [c for c, names in corpus.items() if "train" not in map(sides.get, names)]
    if bare:
        with pytest.raises(UserError, match=f"^{bare[0]}: no name is left to train on"):
            hold_out_distinct_names(corpus, *fractions, seed)
        return
    for key, fraction in zip(("val", "test"), fractions, strict=True):
        if fraction and key not in sides.values():
            with pytest.raises(UserError, match=f"^{key}_fraction={fraction}: too few names"):
                hold_out_distinct_names(corpus, *fractions, seed)
            return
    train, val, test = hold_out_distinct_names(corpus, *fractions, seed)
    for category, names in corpus.items():
        assert train[category] == [name for name in names if sides[name] == "train"]
        assert val[category] == sorted({name for name in names if sides[name] == "val"})
        assert test[category] == sorted({name for name in names if sides[name] == "test"})


@tried(3000, corpus=corpora, fractions=fractions, seed=seeds, shuffle=st.randoms())
def test_neither_order_nor_repeated_lines_move_a_name(
    corpus: NamesByCategory, fractions: tuple[float, float], seed: int, shuffle: random.Random
) -> None:
    try:
        train, val, test = hold_out_distinct_names(corpus, *fractions, seed)
    except UserError:
        return
    categories = shuffle.sample(list(corpus), len(corpus))
    other = {c: corpus[c] + shuffle.choices(corpus[c], k=3) for c in categories}
    for lines in other.values():
        shuffle.shuffle(lines)
    again = hold_out_distinct_names(other, *fractions, seed)
    assert again[1:] == (val, test)
    assert {c: set(names) for c, names in again[0].items()} == {
        c: set(names) for c, names in train.items()
    }
    assert hold_out_distinct_names(corpus, *fractions, seed) == (train, val, test)


# The examples

line_counts = st.lists(st.integers(1, 30) | st.integers(1, 10**6), min_size=1)


def first_examples(counts: list[int], seed: int, number: int) -> list[int]:
    rng = random.Random(seed)
    lines = []
    for _ in range(number):
        category = rng.randint(0, len(counts) - 1)
        lines.append(sum(counts[:category]) + rng.randint(0, counts[category] - 1))
    return lines


@tried(
    3000,
    counts=line_counts,
    seed=seeds,
    calls=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 50)), max_size=8),
)
def test_examples_are_those_of_a_plain_loop_wherever_they_are_taken(
    counts: list[int], seed: int, calls: list[tuple[int, int]]
) -> None:
    expected = first_examples(counts, seed, 250)
    examples = RandomExamples(counts, 1, seed)
    for start, count in calls:
        assert examples.take(start, count) == expected[start : start + count]


@tried(
    2000,
    counts=line_counts,
    seed=seeds,
    at=st.integers(0, 100),
    size=st.integers(1, 4),
    every=st.tuples(st.integers(1, 100), st.integers(1, 100), st.integers(1, 100)),
    processes=st.integers(1, 4),
)
def test_batches_hold_each_example_up_to_the_next_validation_once(
    counts: list[int],
    seed: int,
    at: int,
    size: int,
    every: tuple[int, int, int],
    processes: int,
) -> None:
    total, (val_every, log_every, chunk_size) = 100, every
    stop = min(at - at % val_every + val_every, total)
    shared = []
    for process in range(processes):
        order = RandomExamples(counts, size, seed)
        position = partial(TrainingPosition, at, process, processes)
        length = RunLength(total, log_every, val_every)
        shared.append(list(TrainBatchSampler(order, size, chunk_size, position, length)))
    for parts in zip(*shared, strict=True):  # a batch, by process
        most = max(map(len, parts))
        padded = [[*part, None][:most] for part in parts]
        lines = [line for row in zip(*padded, strict=True) for line in row if line is not None]
        count = len(lines) // size
        assert lines == first_examples(counts, seed, (at + count) * size)[at * size :]
        assert 1 <= count <= chunk_size
        ends = at + count
        assert ends in (stop, at + chunk_size) or ends % log_every == 0
        assert at // log_every == (ends - 1) // log_every
        at = ends
    assert at == stop or not shared[0]


@tried(2000, corpus=corpora, numbers=st.lists(st.integers(0, 10**6)))
def test_many_items_at_once_are_the_items_one_by_one(
    corpus: NamesByCategory, numbers: list[int]
) -> None:
    dataset = NamesDataset(corpus)
    lines = [number % len(dataset) for number in numbers]
    batch = dataset.batch(lines)
    runs = torch.split(batch.letters, batch.lengths.tolist())
    named = [(c, name) for c, names in enumerate(corpus.values()) for name in names]
    for line, run, category in zip(lines, runs, batch.targets, strict=True):
        letters, number = dataset[line]
        assert torch.equal(one_hot(run).unsqueeze(1), letters)
        assert torch.equal(category.reshape(1), number)
        assert (int(category), ASCII_ALPHABET.decode(run)) == named[line]


# The settings

WHOLE = {
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
BATCHED = ("cell=gru", "backend=autograd")  # the tutorial's training leaves less to choose


def allowed(key: str, value: float) -> bool:
    if key in WHOLE:
        return WHOLE[key][0] - 1 < value < WHOLE[key][1] + 1
    if key in FRACTIONS:
        return value == 0 or 0 < value < 1
    return value == 1000 or 0 < value < 1000


def numbers_for(key: str) -> st.SearchStrategy[float]:
    odd = st.sampled_from([float("nan"), float("inf"), -float("inf")])
    if key in WHOLE:
        least, most = WHOLE[key]
        edges = st.sampled_from([least - 1, least, most, most + 1])
        return st.integers(least, most) | edges | st.integers() | odd
    edges = st.sampled_from([0.0, -0.0, 5e-324, 0.5, 1.0, 1000.0, 1000.0000000000001])
    return st.floats(0, 1) | edges | st.floats() | odd


numbers = {key: numbers_for(key) for key in (*WHOLE, *FRACTIONS, "lr")}


@tried(4000, changes=st.fixed_dictionaries({}, optional=numbers))
def test_numbers_are_accepted_within_their_ranges_alone(changes: dict[str, Any]) -> None:
    values = default_settings().subset(KEYS) | changes
    bad = [key for key in changes if not allowed(key, changes[key])]
    if not bad and values["val_fraction"] + values["test_fraction"] >= 1:
        bad = ["val_fraction"]
    if bad:
        with pytest.raises(UserError, match=f"^({'|'.join(bad)})="):
            Config(**values)
    else:
        assert Config(**values).subset(KEYS) == values


@cache
def default_settings() -> Config:
    return settings(*BATCHED)


one_number = st.one_of([st.tuples(st.just(key), numbers[key]) for key in numbers])


@tried(200, few=4, chosen=one_number)
def test_numbers_of_the_command_line_arrive_as_they_are(chosen: tuple[str, float]) -> None:
    key, value = chosen
    others = {"val_fraction", "test_fraction"} - {key}
    words = [*BATCHED, f"{key}={value}", *(f"{other}=0" for other in others)]
    if allowed(key, value):
        arrived = getattr(settings(*words), key)
        assert arrived == value
        assert type(arrived) is (int if key in WHOLE else float)
    else:
        with pytest.raises((UserError, CompactHydraException), match=key):
            settings(*words)


keys = [*numbers, "data_dir", "backend", "trainer.devices", "logger._target_", "hydra.run.dir"]
references = "${ } ${lr} ${oc.env:HOME} ${now:%Y} ${key_help:} ${.}"
grammar = "[ ] { } ( ) : , ' \" \\ = ~ @ choice(1,2) range(3) int(2) tag(a,1) glob(*) 1,2"
values = "??? null true inf nan 1e999 -0 007 1_000 128 0.5"
words = f"{references} {grammar} {values}".split()
pieces = st.text(max_size=5) | st.sampled_from(words)


@tried(
    300,
    few=8,
    sign=st.sampled_from(["", "", "", "+", "++", "~"]),
    # No groups: of trainer=1 Hydra makes a traceback.
    key=st.sampled_from(keys) | st.text(ascii_lowercase, min_size=1, max_size=4),
    value=st.lists(pieces, max_size=4).map("".join),
)
def test_any_word_of_the_command_line_is_obeyed_or_refused(sign: str, key: str, value: str) -> None:
    try:
        config = settings(f"{sign}{key}={value}")
    except (UserError, CompactHydraException):  # the program shows these as a message
        return
    assert all(allowed(each, getattr(config, each)) for each in numbers)


printable_paths = st.text(st.characters().filter(str.isprintable) | st.sampled_from("\\'\"{}$/ "))


@tried(4000, path=printable_paths)
@example(path="a\\b")
@example(path="a\\${b}'")
@example(path="007")
@example(path="null")
def test_a_shell_and_hydra_read_a_typed_folder_as_it_is(path: str) -> None:
    (word,) = shlex.split(format_folder_override("hydra.run.dir", Path(path)))
    override = OverridesParser.create().parse_override(word)
    assert Path(str(OmegaConf.create({"dir": override.value()}).dir)) == Path(path)  # 7, too


# CSV files with answers

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
    """Check that a CSV file gets the answers for its first column, or is refused.

    The expected answers are those of single names.
    """
    source, target = folder / "in.csv", folder / "out.csv"
    source.write_bytes(content)
    target.write_text("precious")
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
        assert target.read_text() == "precious"
        assert len(list(folder.iterdir())) == 2
        return
    predict()
    output = target.read_bytes().decode(encoding)
    assert output.startswith("\ufeff") == content.decode(encoding).startswith("\ufeff")
    header, *output_rows = parse_csv(output, delimiter)
    n_columns = len(rows[0])
    assert header == rows[0] + ADDED_COLUMNS
    assert [row[:n_columns] for row in output_rows] == rows[1:]
    for row in output_rows:
        check_answer(row[0], *row[n_columns:])


def check_answer(
    name: str, category_1: str, probability_1: str, category_2: str, probability_2: str, reason: str
) -> None:
    """Check the cells that were added for a name."""
    normalized = normalize_name(name)
    if not 0 < len(normalized) <= MAX_NAME_LENGTH:
        assert (category_1, probability_1, category_2, probability_2) == ("", "", "", "")
        assert reason == ("longer than 200 letters" if normalized else "no letters I know")
        return
    (probabilities,) = small_model().probabilities([name]).tolist()
    by_category = dict(zip(CATEGORIES, probabilities, strict=True))
    assert reason == ""
    assert category_1 != category_2
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


@tried(
    1500,
    table=tables,
    dialect=dialects,
    encoding=st.sampled_from(["utf-8", "utf-16"]),
    delimiter=st.sampled_from(",;\t"),
)
def test_a_csv_file_keeps_its_cells_and_gets_answers(
    table: list[list[str]], dialect: tuple[str, Any], encoding: str, delimiter: str
) -> None:
    text = io.StringIO(newline="")
    end, quoting = dialect
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(table)
    with TemporaryDirectory() as folder:
        check_predictions(Path(folder), text.getvalue().encode(encoding), encoding, delimiter)


@tried(
    1500,
    begin=st.sampled_from([b"name\n", b"name,x\r\n", b'"name","x"\r', codecs.BOM_UTF8 + b"name\n"]),
    content=st.lists(
        st.sampled_from([b"\n", b"\r", b"\r\n", b",", b'"', b'""', b" ", b"Lee", b"\xff"])
        | st.binary(max_size=3).filter(lambda some: b"\0" not in some)
    ).map(b"".join),
)
def test_any_csv_file_gets_answers_or_is_refused(begin: bytes, content: bytes) -> None:
    with TemporaryDirectory() as folder:
        check_predictions(Path(folder), begin + content, "utf-8", ",")


# Checkpoints

odd_tensors = [torch.zeros(()), torch.zeros(3), torch.ones(2, 2).half(), torch.ones(16) * 1j]
odd_tensors += [torch.eye(57).long(), torch.zeros(1).expand(10**7), torch.zeros(3).to_sparse()]
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-1, 10)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(odd_tensors),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@cache
def whole_checkpoint(cell: str) -> bytes:
    network = GRU_NETWORK | {"embedding": 0, "ngrams": 2} if cell == "gru" else NETWORK
    content = io.BytesIO()
    torch.save(make_checkpoint(network), content)
    return content.getvalue()


def check_loading(content: bytes) -> list[list[float]] | None:
    """Check that a checkpoint is refused in a line, or answers; return the answers."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.ckpt")
        path.write_bytes(content)
        try:
            model: TrainedModel | None = load_model(path)
        except UserError as error:
            refused = str(error)
            model = None
    if model is None:
        assert re.fullmatch(f"{path}: (not a checkpoint|is of an older version).*", refused)
        return None
    answers = model.probabilities(["Jones", "Lee", "7"])
    assert answers.shape == (3, len(model.categories))
    assert answers.dtype == torch.float32
    for name in answers[:2]:
        assert name.isnan().all() or float(name.sum()) == pytest.approx(1, abs=1e-4)
    assert answers[2].isnan().all()
    rows: list[list[float]] = answers[:2].tolist()
    return rows


@tried(1000, content=st.binary(max_size=200))
def test_any_bytes_are_no_checkpoint(content: bytes) -> None:
    assert check_loading(content) is None


@tried(
    2500,
    changes=st.lists(st.tuples(st.integers(0, 2**16) | st.integers(0, 1200), st.integers(0, 255))),
    cut=st.none() | st.integers(0, 2**16),
)
def test_a_damaged_checkpoint_is_refused_or_answers_as_if_it_were_not(
    changes: list[tuple[int, int]], cut: int | None
) -> None:
    whole = whole_checkpoint("tutorial")
    content = bytearray(whole)
    for at, byte in changes:
        content[at % len(content)] = byte
    answers = check_loading(bytes(content[: cut and cut % len(content)]))
    assert answers in (None, check_loading(whole))


def places(value: Any) -> list[list[Any]]:
    """Return the way to each value in plain values."""
    items: Any = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    return [[], *([key, *rest] for key, inner in items for rest in places(inner))]


@tried(2500, few=100, junk=plain, cell=st.sampled_from(["tutorial", "gru"]), number=st.integers(0))
def test_a_checkpoint_with_anything_else_in_it_is_refused_or_answers(
    junk: Any, cell: str, number: int
) -> None:
    checkpoint = {"": torch.load(io.BytesIO(whole_checkpoint(cell)), weights_only=True)}
    ways = places(checkpoint)[1:]
    *way, last = ways[number % len(ways)]
    inside: Any = checkpoint
    for key in way:
        inside = inside[key]
    inside[last] = junk
    content = io.BytesIO()
    torch.save(checkpoint[""], content)
    check_loading(content.getvalue())
