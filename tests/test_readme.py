"""The README's commands and figures: what they name exists."""

import re
import shlex
from collections import Counter

from src import evaluate, predict
from src.data.corpus import read_corpus
from tests.conftest import ROOT, settings
from tests.test_corpus import COUNTS

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_commands_settings_are_valid() -> None:
    commands = re.findall(r"^    python -m src\.train([^#\n]*)", README, re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        words = [word for word in shlex.split(command) if not word.startswith(("-", "resume="))]
        settings(*(re.sub(r"=(?:choice\()?([^,]*),.*", r"=\1", word) for word in words))


def test_the_questions_options_are_valid() -> None:
    questions = re.findall(r"python -m src\.(predict|evaluate)([^#\n`]*)", README)
    assert len(questions) >= 7
    for module, words in questions:
        parser = predict.make_parser() if module == "predict" else evaluate.make_parser()
        parser.parse_args(shlex.split(words))


def test_the_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert len(targets) >= 4
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_corpus_table_is_true() -> None:
    text = (ROOT / "data/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    assert {name: (int(lines), int(distinct)) for name, lines, distinct in rows} == COUNTS

    corpus = read_corpus(ROOT / "data/names")
    categories_of = Counter(name for names in corpus.values() for name in set(names))
    assert len(categories_of) == 17415
    assert sum(count > 1 for count in categories_of.values()) == 477
