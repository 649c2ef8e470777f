"""What README.md and docs/ say: commands, options, links, files and the examples run or exist."""

import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src import evaluate, predict
from src.audit import __main__ as audit
from src.export import __main__ as export
from src.run.run_folder import RunResult, Status, write_result
from tests.helpers import INCLUDED_COUNTS, ROOT, read_corpus, settings, write_checkpoint

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
NOTEBOOK = ROOT / "docs/walkthrough.ipynb"
PAGES = {
    page: page.read_text(encoding="utf-8") for page in (README, ROOT / "CONTRIBUTING.md", *DOCS)
}
PAGES[NOTEBOOK] = "\n".join(
    "".join(cell["source"])
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "markdown"
)
TEXT = "\n".join(PAGES.values())


def links(page: Path) -> list[tuple[Path, str]]:
    """Return what a page links to: the file, and the anchor or nothing."""
    targets = re.findall(r"\]\(([^)\s]+)\)", PAGES[page])
    parts = [target.partition("#") for target in targets]
    return [((page.parent / file).resolve() if file else page, to) for file, _, to in parts]


def anchors(text: str) -> set[str]:
    """Return the anchors that a forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_for_cluster(command: str) -> bool:
    """Return whether a command needs the extra `cluster`."""
    return "cluster=ray" in command or "cluster=slurm" in command


@pytest.mark.parametrize(
    "on_cluster", [False, pytest.param(True, marks=pytest.mark.cluster)], ids=["here", "cluster"]
)
def test_settings_of_train_commands_are_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_cluster: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("path/to/folder").mkdir(parents=True)
    Path("people.csv").touch()
    commands = re.findall(r"^    python -m src\.train([^#\n]*)", TEXT, re.MULTILINE)
    assert len(commands) >= 24
    audits = re.findall(r"^    python -m src\.audit([^#\n]*)", TEXT, re.MULTILINE)
    assert len(audits) >= 3
    parsed = (audit.make_parser().parse_args(shlex.split(words)) for words in audits)
    commands += [shlex.join(options.keys) for options in parsed]
    commands = [command for command in commands if is_for_cluster(command) == on_cluster]
    assert commands
    for command in commands:
        words = [
            word
            for word in shlex.split(command)
            if not word.startswith(("-", "resume=", "init_from="))
        ]
        one = r"=(?:choice\(|interval\()?([^,\[]*),.*"  # of several values; a list is one
        settings(*(re.sub(one, r"=\1", word) for word in words))


def test_options_of_other_commands_are_valid() -> None:
    questions = re.findall(r"python -m src\.(predict|evaluate|export)([^#\n`]*)", TEXT)
    assert len(questions) >= 9
    programs = {"predict": predict, "evaluate": evaluate, "export": export}
    for module, words in questions:
        programs[module].make_parser().parse_args(shlex.split(words))


def test_links_have_a_target() -> None:
    for page in PAGES:
        for file, anchor in links(page):
            assert file.exists(), (page, file)
            assert not anchor or anchor in anchors(PAGES[file]), (page, file, anchor)
    assert {file for file, _ in links(README)} >= set(PAGES) - {README}
    pictures = {file for page in PAGES for file, _ in links(page)}
    assert pictures >= set((ROOT / "benchmarks/pictures").iterdir())


def test_benchmarks_and_make_targets_exist() -> None:
    for module in re.findall(r"python -m (benchmarks\.\w+)", TEXT):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    said = re.findall(r"(?:^    |`)make (\w+)", TEXT, re.MULTILINE)
    assert len(said) >= 6
    assert {*said} <= {*targets}


def test_map_lists_all_files() -> None:
    text = PAGES[ROOT / "docs/architecture.md"]
    room, shown = ROOT / "src", set()
    for indent, name in re.findall(r"^    ( +)([\w/]+(?:/|\.py)) +", text, re.MULTILINE):
        if name.endswith("/"):
            room = ROOT / "src" / name
        else:
            shown.add((room if len(indent) > 2 else ROOT / "src") / name)
    files = {file for file in (ROOT / "src").rglob("*.py") if file.name != "__init__.py"}
    assert shown == files


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning:lightning")
def test_python_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    other, ask, train = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    write_checkpoint(tmp_path / "outputs/run/checkpoints/last.ckpt")
    write_result(tmp_path / "outputs/run", RunResult(Status.FINISHED, {}, ""))
    names: dict[str, Any] = {}
    exec(ask, names)
    predict.main(["--json", "O'Neill", "Müller", "Иванов"])
    printed = map(json.loads, capsys.readouterr().out.splitlines())
    expected = [[tuple(each.values()) for each in answer["predictions"]] for answer in printed]
    assert names["answers"] == expected

    export.main(["--onnx", "model.onnx"])
    exec(other, names)
    expected = names["model"].probabilities(names["names"])
    np.testing.assert_allclose(names["probabilities"], expected, atol=1e-5)

    exec(train.replace("20_000", "2_000"), names)
    assert sum(map(len, names["answers"])) == 1799


def test_corpus_table_has_the_right_numbers() -> None:
    text = (ROOT / "data/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    assert {name: (int(lines), int(distinct)) for name, lines, distinct in rows} == INCLUDED_COUNTS

    corpus = read_corpus(ROOT / "data/names")
    categories_of = Counter(name for names in corpus.values() for name in set(names))
    assert len(categories_of) == 17415
    assert sum(count > 1 for count in categories_of.values()) == 477
