import gzip
import json
import random
import sys
import unicodedata
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from src import evaluate
from src.data.corpus import read_corpus
from src.data.datamodule import NamesDataModule
from src.data.readers import DataSource, Row, read_rows, records, text
from src.data.sampler import RandomExamples, ShuffledPasses
from src.data.split import split_corpus
from src.errors import UserError
from src.run.messages import error_message
from src.train import train
from tests.helpers import make_corpus, settings

pytestmark = pytest.mark.usefixtures("blank_pictures")

PEOPLE = "surname,country\nSmith,England\nRossi,Italy\nO'Neill,Ireland\nBianchi,Italy\n"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read_pairs(path: Path, **columns: str) -> tuple[list[tuple[str, str]], str]:
    """Return the names and categories of a file, and the report on its columns."""
    lines: list[str] = []
    rows = list(read_rows(source(path, **columns), lines.append))
    (line,) = lines
    return [(row.name, row.category) for row in rows], line.removeprefix(f"data_file={path}: ")


PAIRS = [("Smith", "England"), ("Rossi", "Italy"), ("O'Neill", "Ireland"), ("Bianchi", "Italy")]
COLUMNS_REPORT = "delimiter ',', name_column=1 ('surname'), label_column=2 ('country'), 2 columns"


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".csv.gz", ".csv.GZ"])
def test_tables_in_various_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"people{suffix}"
    path.write_bytes(gzip.compress(PEOPLE.encode()) if "gz" in suffix.lower() else PEOPLE.encode())
    assert read_pairs(path) == (PAIRS, COLUMNS_REPORT)
    rows = list(read_rows(DataSource(data_file=str(path))))
    assert rows[2] == Row("O'Neill", "Ireland", 1, "", f"{path}:4")


@pytest.mark.parametrize(
    ("name", "content", "expected_report"),
    [
        ("a.csv", PEOPLE.replace("\n", "\r\n"), COLUMNS_REPORT),
        ("a.csv", "\ufeff" + PEOPLE.replace("\n", "\n\n"), COLUMNS_REPORT),
        ("a.csv", PEOPLE.replace(",", ";"), COLUMNS_REPORT.replace("','", "';'")),
        ("a.csv", "sep=|\n" + PEOPLE.replace(",", "|"), COLUMNS_REPORT.replace("','", "'|'")),
        ("a.tsv", PEOPLE.replace(",", "\t"), COLUMNS_REPORT.replace("','", r"'\t'")),
        # The header does not help, but categories repeat and names do not.
        ("a.csv", PEOPLE.replace("surname,country", "x,y"), "delimiter ',', name_column=1 ('x')"),
        # There is no header, because the first line has a category of other lines.
        ("a.csv", "".join(f"{n},{c}\n" for n, c in PAIRS[::-1]), "delimiter ',', no header, "),
        # The header contains a comma, but with another delimiter its columns have known names.
        ("a.csv", PEOPLE.replace(",", ";").replace("country", "country, now"), "delimiter ';'"),
    ],
)  # fmt: skip
def test_detected_columns_are_reported(
    tmp_path: Path, name: str, content: str, expected_report: str
) -> None:
    pairs, report = read_pairs(write(tmp_path / name, content))
    assert sorted(pairs) == sorted(PAIRS)
    assert report.startswith(expected_report)


@pytest.mark.parametrize(
    ("header", "columns", "expected_columns"),
    [
        ("id,Last Name,Language", {}, (2, 3)),
        ("CLASS,x,Name", {}, (3, 1)),
        ("a,b,c", {"name_column": "B", "label_column": "3"}, (2, 3)),
        ("name,label,label2", {"label_column": "label2"}, (1, 3)),
    ],
)
def test_columns_selected_by_name_or_number(
    tmp_path: Path, header: str, columns: dict[str, str], expected_columns: tuple[int, int]
) -> None:
    path = write(tmp_path / "a.csv", f"{header}\nu,v,w\nx,y,z\n")
    name, label = expected_columns
    pairs, report = read_pairs(path, **columns)
    assert pairs == [("uvw"[name - 1], "uvw"[label - 1]), ("xyz"[name - 1], "xyz"[label - 1])]
    assert f"name_column={name} " in report
    assert f"label_column={label} " in report


def test_other_formats_of_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = [{"surname": name, "country": country, "n": 3} for name, country in PAIRS]
    lines = "".join(json.dumps(row) + "\n\n" for row in objects)
    for name in ("a.jsonl", "a.jsonl.gz"):
        pairs, report = read_pairs(write(tmp_path / name, lines))
        assert pairs == PAIRS
        assert report == "name_column=1 ('surname'), label_column=2 ('country'), 3 columns"

    # pyarrow is an extra, so a class with the same interface replaces it.
    class ParquetFile:
        def __init__(self, file: str) -> None:
            assert file.endswith("a.parquet")

        def __enter__(self) -> "ParquetFile":
            return self

        def __exit__(self, *_: object) -> None: ...

        def iter_batches(self, size: int) -> list[SimpleNamespace]:
            assert size == records.PARQUET_BATCH_SIZE
            parts = objects[:1], objects[1:]
            return [SimpleNamespace(to_pylist=lambda part=part: part) for part in parts]

    monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", SimpleNamespace(ParquetFile=ParquetFile))
    path = write(tmp_path / "a.parquet", b"PAR1")
    assert read_pairs(path)[0] == PAIRS
    source_with_counts = source(path, count_column="n")
    counts = [row.count for row in read_rows(source_with_counts)]
    assert counts == [3, 3, 3, 3]
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        UserError, match=r"a\.parquet: Parquet requires an extra; run pip install -e '\."
    ):
        read_pairs(path)


def test_real_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    names, countries = zip(*PAIRS, strict=True)
    table: Any = pyarrow.table({"surname": names, "country": countries, "n": [1, 2, 3, None]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert read_pairs(tmp_path / "a.parquet")[0] == PAIRS
    with pytest.raises(UserError, match=r"a\.parquet:4: count_column: '' is not a whole number"):
        read_pairs(tmp_path / "a.parquet", count_column="n")
    with pytest.raises(UserError, match=r"the file may be damaged or still being written$"):
        read_pairs(write(tmp_path / "b.parquet", b"PAR1"))


def test_categories_of_any_script(tmp_path: Path) -> None:
    """Categories are equal up to surrounding spaces and Unicode normalization, but not case."""
    labels = ["Côte d'Ivoire", " Côte d'Ivoire\t", "日本", "हिन्दी", "Male", "male"]
    # The same text with combining accents is an equal category.
    labels.append(unicodedata.normalize("NFD", labels[0]))
    content = "".join(f"Ann\t{label}\n" for label in labels)
    path = write(tmp_path / "a.tsv", "name\tlabel\n" + content.replace("\t\n", "\n"))
    all_names = read_corpus(source(path)).all_names
    counts = {label: len(names) for label, names in all_names.items()}
    assert counts == {"Côte d'Ivoire": 3, "日本": 1, "हिन्दी": 1, "Male": 1, "male": 1}
    assert list(counts) == sorted(counts)


def source(path: Path, **columns: str) -> DataSource:
    return DataSource(data_file=str(path), **columns)


WIDE = "name,label,n,side\nAnn,A,1,train\nBob,B,2,test\n"


@pytest.mark.parametrize(
    ("name", "content", "columns", "expected_message"),
    [
        ("a.csv", PEOPLE, {"name_column": "no"}, "has no column 'no'; name_column must"),
        ("a.csv", "name,name,label\nx,y,z\n", {"name_column": "name"}, "has 2 columns 'name'; n"),
        ("a.csv", "name,name,label\nx,y,z\n", {}, "and label_column= to two of: 'name', 'name'"),
        ("a.csv", "a,b,c\nx,y,z\n", {}, "and label_column= to two of: 'a', 'b', 'c'"),
        ("a.csv", "a,b\nx,y\n", {}, "a.csv: the columns of names and categories are not clear; "
         "set name_column= and label_column= to two of: 'a', 'b'$"),
        ("a.csv", "name\nx\n", {}, "set name_column= and label_column= to two of: 'name'"),
        ("a.csv", "", {}, "a.csv: the file is empty$"),
        ("a.csv", PEOPLE, {"name_column": "1", "label_column": "surname"}, "set name_column= and"),
        ("a.csv", PEOPLE + "\nLee,Korea,x\n", {}, "a.csv:7: the number of columns is 3, but the"),
        ("a.csv", PEOPLE + "Lee\n", {}, "a.csv:6: the number of columns is 1, but the"),
        ("a.csv", PEOPLE + '"Lee', {}, "a.csv:6: unexpected end of data"),
        ("a.csv", PEOPLE + 'Lee,"Kor', {}, "a.csv:6: unexpected end of data"),
        ("a.csv", PEOPLE + "Lee,\n,Italy\nLi, \n", {}, ": 2 lines without a category, or w"),
        ("a.csv", PEOPLE + "Lee,K\x1b[31m\n", {}, "a.csv:6: 'K\\x1b[31m'"),
        ("a.csv", PEOPLE + 'Lee,"two\nlines"\nLi,\n', {}, "a.csv:6: 'two\\nlines'\n"),
        ("a.csv", PEOPLE + "L\x1bee,Italy\n123,Italy\n", {}, ": 2 lines without a valid name: a"),
        ("a.csv", PEOPLE + "".join(f"{i},Italy\n" for i in range(9)), {}, "a.csv:10: '4'$"),
        ("a.csv", "name,label\nAnn,A\nBob,A\n", {},
         "a.csv: there is only one category (A); at least two are required$"),
        ("a.csv", "name,label\n", {}, "a.csv: the file contains no names$"),
        ("a.csv", "name,label,n\nAnn,A,0\n", {"count_column": "n"},
         "a.csv: the file contains no names$"),
        ("a.csv", PEOPLE.encode() + b"M\xfcller,x\n", {}, "a.csv:6: not UTF-8; save the file"),
        ("a.csv", PEOPLE + "x" * 2000 + ",Italy\n", {},
         "a.csv:6: the line has 1,000 characters or more$"),
        ("a.csv.gz", PEOPLE, {"name_column": "no"}, "has no column 'no'"),
        ("a.csv", WIDE, {"split_column": "n"}, "a.csv:2: split_column: '1' must be one of train, "),
        ("a.csv", WIDE.replace("test", " "), {"split_column": "side"}, "a.csv:3: split_column: "),
        ("a.jsonl", '{"name": "x", "label": "y"}\n[1]\n', {}, "a.jsonl:2: not a JSON object"),
        ("a.jsonl", '{"name": "x", "label": "y"}\n{"name": ', {}, "a.jsonl:2: not a JSON object"),
        ("a.jsonl", '"name"\n', {}, "a.jsonl:1: not a JSON object"),
        ("a.jsonl", "[" * 100_000, {}, "a.jsonl:1: "),
        ("a.jsonl", '{"name": "x", "label": "y"}\n{"name": "x"}\n', {}, ": 1 line without a cate"),
        ("a.jsonl", '{"name": ["x"], "label": "y"}\n', {}, ": 1 line without a valid name: a na"),
        ("a.xlsx", "PK", {}, "a.xlsx: unsupported format; save it as .csv"),
        ("a.ods", "PK", {}, "a.ods: unsupported format; save it as .csv"),
        ("a.txt", "x", {}, "a.txt: unsupported format; save it as .csv, .tsv"),
        ("a.zip", "PK", {}, "a.zip: unsupported format; save it as .csv"),
    ],
)  # fmt: skip
def test_invalid_tables_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str | bytes,
    columns: dict[str, str],
    expected_message: str,
) -> None:
    # The actual limit would require a line of a million letters.
    monkeypatch.setattr(text, "check_lines", partial(text.check_lines, max_length=1000))
    with pytest.raises(UserError) as caught:
        read_corpus(source(write(tmp_path / name, content), **columns))
    message = str(caught.value)
    if expected_message.endswith("$"):
        assert message.endswith(expected_message[:-1])
    else:
        assert expected_message in message
    assert message.count("\n") <= 5


# `str.isdigit` accepts `²`, and a count of ten digits is too large.
@pytest.mark.parametrize("count", ["-1", "1.5", "", "two", "1e3", "9" * 10, "²"])
def test_invalid_counts_are_refused(tmp_path: Path, count: str) -> None:
    path = write(tmp_path / "a.csv", WIDE.replace("2", count))
    with pytest.raises(UserError) as caught:
        read_corpus(source(path, count_column="n"))
    message = str(caught.value)
    assert f"a.csv:3: count_column: '{count}' " in message
    assert message.count("\n") <= 5


# A file may end within the header of gzip, within the data, or within the checksum.
@pytest.mark.parametrize("end", [9, 30, -9])
def test_incomplete_file_is_refused(tmp_path: Path, end: int) -> None:
    content = "name,label\n" + "".join(f"{i:x}name,{i % 2}\n" for i in range(9000))
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(content.encode())[:end])
    with pytest.raises(UserError, match=r"the file may be damaged or still being written$"):
        read_corpus(source(path))
    path.write_bytes(b"no gzip at all")
    with pytest.raises(
        UserError, match=r"cannot be read \(Not a gzipped file .*\); the file may be damaged"
    ):
        read_corpus(source(path))


def test_endless_line_is_not_read_completely() -> None:
    # A file of a single endless line must not fill the memory.
    sizes: list[int] = []

    def readline(size: int) -> str:
        sizes.append(size)
        return "x" * size

    endless = SimpleNamespace(readline=readline, encoding="UTF-8")
    with pytest.raises(UserError, match="endless:1: the line has 1,000,000 characters or more"):
        next(text.check_lines(endless, "endless"))
    assert sizes == [1_000_000]


# Folders


def test_unusual_folders(tmp_path: Path) -> None:
    """All texts of a subfolder, also `.TXT`, are of one category. Hidden files are ignored."""
    write(tmp_path / "A.TXT", "Ann\n")
    write(tmp_path / "B/one.txt", "Bob\n")
    write(tmp_path / "B/deep/two.txt", "Ben\n")
    write(tmp_path / "B.txt", "Bo\n")
    write(tmp_path / ".git/C.txt", "Cid\n")
    write(tmp_path / "B/.D.txt", "Dan\n")
    write(tmp_path / "E/notes.md", "Eve\n")
    names = read_corpus(DataSource(str(tmp_path)))
    assert names.all_names == {"A": ["Ann"], "B": ["Ben", "Bob", "Bo"]}
    assert list(names.splits) == [""]


@pytest.mark.parametrize("nested", [False, True])
def test_folders_with_a_given_split(tmp_path: Path, nested: bool) -> None:
    letters_by_split = {"Training": "lmn", "dev": "op", "TEST": "qr"}
    for split, letters in letters_by_split.items():
        for category in "AB":
            file = f"{category}/{split}.txt" if nested else f"{category}.txt"
            write(tmp_path / split / file, "".join(f"{category}{n}\n" for n in letters * 2))
    # A file next to the folders of a split is not read.
    write(tmp_path / "README.txt", "Not a name")
    names = read_corpus(DataSource(str(tmp_path)))
    train, val, test = split_corpus(names, 0.5, 0.5, 0)
    assert train == {"A": ["Al", "Am", "An"] * 2, "B": ["Bl", "Bm", "Bn"] * 2}
    assert val == {"A": ["Ao", "Ap"], "B": ["Bo", "Bp"]}
    assert test == {"A": ["Aq", "Ar"], "B": ["Bq", "Br"]}
    # If one folder has not the name of a split, all folders are categories.
    (tmp_path / "TEST").rename(tmp_path / "tests")
    categories = list(read_corpus(DataSource(str(tmp_path))).all_names)
    assert categories == ["README", "Training", "dev", "tests"]


# Splits and counts


def test_given_splits_are_kept(tmp_path: Path) -> None:
    lines = []
    for category in "AB":
        lines += [f"{category}{letter},{category},Train" for letter in "klmn"]
    lines += ["Ax,A,VALID", "Ax,A,dev", "Bx,B,validation", "Ak,A,test", "B K,B,Test"]
    path = write(tmp_path / "a.csv", "name,label,fold\n" + "\n".join(lines))
    names = read_corpus(source(path, split_column="fold"))
    train, val, test = split_corpus(names, 0.9, 0.9, 0)
    assert train == {"A": ["Ak", "Al", "Am", "An"], "B": ["Bk", "Bl", "Bm", "Bn"]}
    assert val == {"A": ["Ax"], "B": ["Bx"]}
    # Test names are kept, although they are also training names.
    assert test == {"A": ["Ak"], "B": ["B K"]}

    content = path.read_text()
    for name in ("VALID", "dev", "validation"):
        content = content.replace(name, "train")
    without_validation = write(tmp_path / "b.csv", content)
    names = read_corpus(source(without_validation, split_column="fold"))
    train, val, test = split_corpus(names, 0.3, 0.9, 0)
    n_val_names = {category: len(names) for category, names in val.items()}
    # Each category has five names, of which 30 % are held out.
    assert n_val_names == {"A": 2, "B": 2}
    assert test == {"A": ["Ak"], "B": ["B K"]}
    assert set(train["A"] + val["A"]) == {"Ak", "Al", "Am", "An", "Ax"}

    # A category whose only name is a test name cannot be learned.
    single_names = write(tmp_path / "c.csv", "name,label,fold\nAnn,A,train\nBob,B,test\n")
    with pytest.raises(UserError, match=r"^B: no name is left to train on"):
        NamesDataModule(data_file=single_names, split_column="fold")


COUNTS = {"A": {"Ann": 7, "Abe": 1, "Amy": 2}, "B": {"Bob": 1, "Ben": 4}}


def write_counts(path: Path) -> Path:
    """Write the names of COUNTS, one of each in upper case, and names with a count of 0."""
    lines = []
    for label, counts in COUNTS.items():
        lines += [f"{name},{label},{count - 1}" for name, count in counts.items()]
    for label, counts in COUNTS.items():
        lines += [f"{name.upper()},{label},1" for name in counts]
    return write(path, "name,label,n\n" + "\n".join(lines + ["Zoe,B,0", "Zed,C,0"]))


def test_count_column_repeats_rows(tmp_path: Path) -> None:
    """A row with a count of 0 is ignored."""
    names = read_corpus(source(write_counts(tmp_path / "a.csv"), count_column="n"))
    expected: dict[str, dict[str, int]] = {}
    for category, counts in COUNTS.items():
        expected[category] = {name: count - 1 for name, count in counts.items() if count > 1}
        for name in counts:
            expected[category][name.upper()] = 1
    assert names.line_counts == expected
    assert names.all_names == {category: list(counts) for category, counts in expected.items()}


@pytest.mark.parametrize("sampling", ["balanced", "natural"])
def test_names_are_sampled_in_proportion_to_their_counts(tmp_path: Path, sampling: str) -> None:
    path = write_counts(tmp_path / "a.csv")
    arguments: dict[str, Any] = {"sampling": sampling, "count_column": "n", "iterations": 6000}
    arguments |= {"batch_size": 8, "log_every": 6000, "val_every": 6000}
    data = NamesDataModule(None, 0, 0, **arguments, data_file=path)
    n_samples: Counter[tuple[str, int]] = Counter()
    for batch in data.train_dataloader():
        encoded_names = torch.split(batch.letters, batch.lengths.tolist())
        names = [data.alphabet.decode(letters).title() for letters in encoded_names]
        n_samples.update(zip(names, batch.targets.tolist(), strict=True))
    for category, counts in enumerate(COUNTS.values()):
        for name, count in counts.items():
            expected = count / 15
            if sampling == "balanced":
                # Each of the two categories is drawn equally often.
                expected = count / sum(counts.values()) / 2
            actual = n_samples[name, category] / n_samples.total()
            assert actual == pytest.approx(expected, rel=0.05), name
    prior = [10 / 15, 5 / 15] if sampling == "natural" else [0.5, 0.5]
    assert data.train_prior == pytest.approx(prior)
    # The corpus prior counts each spelling once. A has five of them, and B has three.
    assert data.corpus_prior == [5 / 8, 3 / 8]


def test_counted_draws_equal_repeated_lines() -> None:
    # The categories have 3, 1 and 2 names, and thus 6, 1 and 5 lines.
    weights = [2, 1, 3, 1, 1, 4]
    lines = []
    for name, weight in enumerate(weights):
        lines += [name] * weight
    sampled_lines = RandomExamples([6, 1, 5], 1, 7).take(0, 500)
    expected = [lines[index] for index in sampled_lines]
    assert RandomExamples([6, 1, 5], 1, 7, weights).take(0, 500) == expected


@pytest.mark.parametrize("seed", range(5))
def test_pass_in_proportion_to_lines(seed: int) -> None:
    """Each name is sampled its expected number of times, rounded up or down."""
    rng = random.Random(seed)
    weights = [rng.choice([1, 1, 2, 50, 1000]) for _ in range(60)]
    passes = ShuffledPasses([5] * 60, 7, seed, weights)
    for number in range(3):
        names = []
        for batch in range(9):
            names += passes.take(7 * (9 * number + batch), 7)
        n_samples = Counter(names)
        assert len(names) == 60
        for name, weight in enumerate(weights):
            assert abs(n_samples[name] - 60 * weight / sum(weights)) < 1
    assert ShuffledPasses([5] * 60, 7, seed, weights).take(7 * 9, 7) == passes.take(7 * 9, 7)


def test_pass_with_equal_counts_contains_each_name(tmp_path: Path) -> None:
    passes = ShuffledPasses([3, 4, 5, 6], 4, 0, [2, 2, 2, 2])
    assert sorted(passes.take(0, 4)) == sorted(passes.take(4, 4)) == [0, 1, 2, 3]


# A run


@pytest.fixture(scope="module")
def table_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a table with the distinct lines of the small corpus and unknown column names."""
    folder = tmp_path_factory.mktemp("own")
    names = make_corpus(folder / "names")
    lines = set()
    for file in names.glob("*.txt"):
        for name in file.read_text().split():
            lines.add(f"{name},{file.stem},2")
    write(folder / "own.csv", "wer,woher,n\n" + "\n".join(sorted(lines)))
    arguments = ["hidden=4", "iterations=20", "log_every=10", "val_every=10", "logger=[]"]
    arguments += [
        f"data_file={folder}/own.csv",
        "name_column=1",
        "label_column=woher",
        "count_column=n",
    ]
    train(settings(arguments), folder / "run")
    return folder


def test_checkpoint_contains_the_data_source(
    table_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = torch.load(table_folder / "run/checkpoints/last.ckpt", weights_only=True)
    stored = {key: checkpoint["NamesDataModule"][key] for key in DataSource._fields}
    expected_source = DataSource(None, f"{table_folder}/own.csv", "1", "woher", "n", None)
    assert stored == expected_source._asdict()
    evaluate.main([f"--checkpoint={table_folder}/run"])
    assert f"\nNames: {table_folder}/own.csv, test set\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected_message"),
    [
        (["--data-dir={}/names"], "names: not the names of the run, or they"),
        (["--data-dir={}/names", "--split=all"], ""),
        (["--data-file={}/own.csv", "--split=val"], ""),
        (["--data-file={}/other.tsv"], "other.tsv: has no column 'woher'; label_column"),
        (["--data-file={}/other.tsv", "--label-column=2", "--count-column=9"], "count_column must"),
        (["--data-file={}/gone.csv"], "gone.csv: No such file or directory\n"),
        (["--data-file={}/own.csv", "--data-dir={}/names"], "not allowed with argument"),
        (["--data-file={}/own.xlsx"], "save it as .csv"),
        (["--data-dir={}/own.csv"], "own.csv: contains no <"),
    ],
)  # fmt: skip
def test_evaluation_of_other_sources(
    table_folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected_message: str,
) -> None:
    write(table_folder / "other.tsv", "name\tlabel\nbata\tAlpha\nbita\tBeta\n")
    arguments = [argument.format(table_folder) for argument in arguments]
    if expected_message:
        with pytest.raises(SystemExit):
            evaluate.main([f"--checkpoint={table_folder}/run"] + arguments)
        assert expected_message in capsys.readouterr().err
    else:
        evaluate.main([f"--checkpoint={table_folder}/run"] + arguments)
        assert "accuracy" in capsys.readouterr().out


def test_run_on_a_table_is_resumed_unless_the_table_changed(
    table_folder: Path, tmp_path: Path
) -> None:
    columns: Any = {"name_column": "wer", "label_column": "2", "count_column": "3"}
    state = NamesDataModule(data_file=table_folder / "own.csv", **columns).state_dict()
    moved = write(tmp_path / "moved.csv", (table_folder / "own.csv").read_text())
    NamesDataModule(data_file=moved, **columns).load_state_dict(state)
    write(moved, moved.read_text().replace(",2\n", ",13\n"))
    with pytest.raises(UserError, match="the names or their split have changed"):
        NamesDataModule(data_file=moved, **columns).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "expected_message"),
    [
        (["data_dir=own.csv"], "own.csv: must be an existing folder, or null"),
        (["data_file=names"], "names: must be an existing file, or null"),
        (["data_file=gone.csv"], "gone.csv: must be an existing file, or null"),
        (["data_file=own.xlsx"], "own.xlsx: unsupported format; save it as .csv"),
        (["data_file=own.csv", "data_dir=names"], "names: set only one of the two"),
        (["name_column=surname"], "data_dir="),
        (["data_file=own.csv", "name_column='a\u200bb'"], "b: must be the name or number of a"),
    ],
)  # fmt: skip
def test_conflicting_source_settings_are_refused(
    table_folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected_message: str
) -> None:
    monkeypatch.chdir(table_folder)
    write(table_folder / "own.xlsx", "PK")
    with pytest.raises(UserError) as caught:
        settings(arguments)
    assert expected_message in error_message(caught.value)
