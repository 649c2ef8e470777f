from pathlib import Path

import pytest

from src.data.readers.source import INCLUDED_CORPUS
from src.errors import UserError
from tests.helpers import INCLUDED_COUNTS, read_corpus


def test_included_corpus() -> None:
    corpus = read_corpus(INCLUDED_CORPUS)
    assert list(corpus) == sorted(INCLUDED_COUNTS)
    for category, names in corpus.items():
        assert (len(names), len(set(names))) == INCLUDED_COUNTS[category]
    assert sum(len(names) for names in corpus.values()) == 20054


def test_files_of_various_encodings_and_line_ends_are_read(tmp_path: Path) -> None:
    (tmp_path / "B.txt").write_bytes("\ufeffŚlusàrski \r\n\r\n  Jones\u00a0\r\nJones".encode())
    (tmp_path / "A.txt").write_bytes("Weiß\n\n".encode())
    # Copies from a Mac may have such files next to the actual ones.
    (tmp_path / "._A.txt").write_bytes(b"\xff\xfe resource fork")
    (tmp_path / "notes.md").write_text("no names")
    (tmp_path / "A-B.txt").write_bytes(b"old\rMac\r")
    corpus = read_corpus(tmp_path)
    assert corpus == {"A": ["Weiss"], "A-B": ["old", "Mac"], "B": ["Slusarski", "Jones", "Jones"]}
    # Categories are sorted, not the names of files, of which A-B.txt comes before A.txt.
    assert list(corpus) == ["A", "A-B", "B"]


def test_invalid_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data_dir=.*nowhere: contains no <"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"contains no <Category>\.txt files"):
        read_corpus(tmp_path)
    (tmp_path / "Only.txt").write_text("Jones\n")
    with pytest.raises(
        UserError, match=r": there is only one category \(Only\); at least two are required$"
    ):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Jones\nM\xfcller\n", r"Bad\.txt:2: not UTF-8"),
        (b"Jones\rM\xfcller\r", r"Bad\.txt:2: not UTF-8"),
        (b"", r"Bad\.txt: contains no names; delete the file, or add one name per line$"),
        (b"\n \r\n", r"Bad\.txt: contains no names; delete the file, or add one name per line$"),
        (b"Jones\n\n123\n", r": 1 line without a valid name: .*\n  .*Bad\.txt:3: '123'$"),
        (
            b"Jones\n.;\n",
            r"one letter of the alphabet \(letters=ascii\), at most.*\n.*Bad\.txt:2: '\.;'$",
        ),
        (b"Jones\rLee\tChinese\r", r"no tab or other control.*\n.*Bad\.txt:2: 'Lee\\tChinese'$"),
        (b"Jo\x00nes\n", r"Bad\.txt:1: 'Jo\\x00nes'$"),
        (b"\n\n" + b"x" * 201, r"at most 200 characters, .*\n  .*Bad\.txt:3: 'x{40}'$"),
        (
            b"1\n2\nLee\n3\n4\n5\n6",
            r": 6 lines without a valid name(.*\n){4}.*:5: '4'\n.*:6: '5'$",
        ),
    ],
)
def test_invalid_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "Good.txt").write_text("Jones\n")
    (tmp_path / "Bad.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_corpus(tmp_path)


def test_unprintable_category_is_refused(tmp_path: Path) -> None:
    """A category that is not valid Unicode could neither be printed nor have a fingerprint."""
    (tmp_path / "Good.txt").write_text("Jones\n")
    (tmp_path / "B\udcffd.txt").write_text("Jones\n")
    with pytest.raises(UserError, match=r": 1 line without a category, .*\n.*: 'B\\udcffd'$"):
        read_corpus(tmp_path)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Good.txt").write_text("Jones\n")
    # The test may run as root, who can read every existing file.
    (tmp_path / "Bad.txt").symlink_to("gone")
    with pytest.raises(OSError, match=r"No such file or directory: '.*Bad\.txt'"):
        read_corpus(tmp_path)


def test_names_in_another_script(tmp_path: Path) -> None:
    (tmp_path / "Russian.txt").write_text("Иванов\nПетров\n", encoding="utf-8")
    (tmp_path / "English.txt").write_text("Smith\n")
    with pytest.raises(
        UserError,
        match=r": 2 lines without a valid name: .*; letters=corpus supports all writing systems\n",
    ):
        read_corpus(tmp_path, "tutorial")
    # The default alphabet transliterates names.
    assert read_corpus(tmp_path)["Russian"] == ["Ivanov", "Petrov"]
    assert read_corpus(tmp_path, "corpus")["Russian"] == ["Иванов", "Петров"]


def test_tutorial_normalization_of_files(tmp_path: Path) -> None:
    """The tutorial strips the whole text and splits it into lines; other blanks are kept."""
    (tmp_path / "A.txt").write_bytes("\r\n  Strauß \r\nWałęsa\t\nŚlusàrski  \r Ong \n\n".encode())
    (tmp_path / "B.txt").write_text("Smith ")
    corpus = read_corpus(tmp_path, "tutorial")
    assert corpus == {"A": ["Strau ", "Waesa", "Slusarski  ", " Ong"], "B": ["Smith"]}
