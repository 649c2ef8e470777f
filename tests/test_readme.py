"""README.md and docs/: commands and options are valid, links have a target, examples run."""

import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import configuration
from src import evaluate, predict
from src.audit import __main__ as audit
from src.config import KEYS
from src.export import __main__ as export
from src.run.run_folder import RunResult, Status, write_result
from tests.helpers import INCLUDED_COUNTS, ROOT, read_corpus, settings, write_checkpoint

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
NOTEBOOK = ROOT / "docs/walkthrough.ipynb"


def read_notebook_text(file: Path) -> str:
    """Return the text of a notebook without its code."""
    texts = []
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown":
            texts.append("".join(cell["source"]))
    return "\n".join(texts)


MARKDOWN_FILES = [README, ROOT / "CONTRIBUTING.md"] + DOCS
PAGES = {file: file.read_text(encoding="utf-8") for file in MARKDOWN_FILES}
PAGES[NOTEBOOK] = read_notebook_text(NOTEBOOK)
TEXT = "\n".join(PAGES.values())
GROUPS = ("trainer", "logger", "callbacks")
"""Keys whose values are groups of settings."""


def read_commands() -> list[list[str]]:
    """Return the commands in all code blocks of the language `bash`, without comments."""
    commands = []
    for block in re.findall(r"^ *```bash\n(.*?)^ *```$", TEXT, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            commands.append(shlex.split(line, comments=True))
    return commands


def find_arguments(module: str) -> list[list[str]]:
    """Return the arguments of all commands that run a module."""
    arguments = []
    for command in read_commands():
        # Some programs are part of a pipe, or their input is redirected.
        parts: list[list[str]] = [[]]
        for word in command:
            if word in ("|", "<"):
                parts.append([])
            else:
                parts[-1].append(word)
        for part in parts:
            if part[:3] == ["python", "-m", module]:
                arguments.append(part[3:])
    return arguments


def find_links(page: Path) -> list[tuple[Path, str]]:
    """Return the files that a page links to, each with its anchor or an empty text."""
    links = []
    for target in re.findall(r"\]\((?!https:)([^)\s]+)\)", PAGES[page]):
        path, _, anchor = target.partition("#")
        # A link without a path is to a heading of the same page.
        file = (page.parent / path).resolve() if path else page
        links.append((file, anchor))
    return links


def find_anchors(text: str) -> set[str]:
    """Return the anchors that GitHub generates from a page's headings."""
    anchors = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        letters = re.sub(r"[^\w -]", "", heading.lower())
        anchors.add(letters.replace(" ", "-"))
    return anchors


def is_for_cluster(overrides: list[str]) -> bool:
    """Return whether a command needs the extra `cluster`."""
    return "cluster=ray" in overrides or "cluster=slurm" in overrides


@pytest.mark.parametrize(
    "on_cluster", [False, pytest.param(True, marks=pytest.mark.cluster)], ids=["here", "cluster"]
)
def test_settings_of_train_commands_are_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_cluster: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("path/to/folder").mkdir(parents=True)
    Path("people.csv").touch()
    commands = find_arguments("src.train")
    # If the expression for code blocks no longer matched, all commands would be valid.
    assert len(commands) >= 40
    audits = find_arguments("src.audit")
    assert len(audits) >= 3
    commands += [audit.make_parser().parse_args(arguments).keys for arguments in audits]
    commands = [command for command in commands if is_for_cluster(command) == on_cluster]
    assert commands
    for command in commands:
        overrides = []
        for word in command:
            if not word.startswith(("-", "resume=", "init_from=")):
                # Of several values, the first one is checked. A list in brackets is one value.
                several_values = r"=(?:choice\(|interval\()?([^,\[]*),.*"
                overrides.append(re.sub(several_values, r"=\1", word))
        settings(overrides)


def test_options_of_other_commands_are_valid() -> None:
    programs = {"src.predict": predict, "src.evaluate": evaluate, "src.export": export}
    n_commands = 0
    for module, program in programs.items():
        for arguments in find_arguments(module):
            program.make_parser().parse_args(arguments)
            n_commands += 1
    assert n_commands >= 20


def test_links_have_a_target() -> None:
    for page in PAGES:
        for file, anchor in find_links(page):
            assert file.exists(), (page, file)
            assert not anchor or anchor in find_anchors(PAGES[file]), (page, file, anchor)
    index = ROOT / "docs/README.md"
    linked_pages = {file for file, _ in find_links(README) + find_links(index)}
    # Each page can be reached from the first page or from the index.
    assert linked_pages >= set(PAGES) - {README}
    linked_files: set[Path] = set()
    for page in PAGES:
        linked_files.update(file for file, _ in find_links(page))
    assert linked_files >= set((ROOT / "benchmarks/pictures").iterdir())


def test_benchmarks_and_make_targets_exist() -> None:
    for module in re.findall(r"python -m (benchmarks\.\w+)", TEXT):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    mentioned = re.findall(r"(?:^|`)make (\w+)", TEXT, re.MULTILINE)
    assert len(mentioned) >= 6
    assert set(mentioned) <= set(targets)


def test_map_lists_all_files() -> None:
    text = PAGES[ROOT / "docs/architecture.md"]
    package = ROOT / "src"
    listed_files = set()
    for indent, name in re.findall(r"^( +)([\w/]+(?:/|\.py)) +", text, re.MULTILINE):
        if name.endswith("/"):
            package = ROOT / "src" / name
        elif len(indent) > 2:
            # The files of a package are indented below its name.
            listed_files.add(package / name)
        else:
            listed_files.add(ROOT / "src" / name)
    files = {file for file in (ROOT / "src").rglob("*.py") if file.name != "__init__.py"}
    assert listed_files == files


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning:lightning")
def test_python_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first_run = tmp_path / "outputs/2026-11-22/first"
    write_checkpoint(first_run / "checkpoints/last.ckpt")
    write_result(first_run, RunResult(Status.FINISHED, {}, ""))

    def read_examples(page: str) -> list[str]:
        text = PAGES[ROOT / page]
        return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    (short_example,) = read_examples("README.md")
    exec(short_example, {})
    assert "Prediction(category=" in capsys.readouterr().out

    predict_example, train_example = read_examples("docs/python.md")
    names: dict[str, Any] = {}
    exec(predict_example, names)
    predict.main(["--json", "O'Neill", "Müller", "Иванов"])
    expected = []
    for line in capsys.readouterr().out.splitlines():
        predictions = json.loads(line)["predictions"]
        expected.append([tuple(prediction.values()) for prediction in predictions])
    assert names["answers"] == expected

    export.main(["--onnx", "model.onnx"])
    (onnx_example,) = read_examples("docs/export.md")
    exec(onnx_example, names)
    expected = names["model"].predict_probabilities(names["names"])
    np.testing.assert_allclose(names["probabilities"], expected, atol=1e-5)

    # A tenth of the iterations is enough to show that the example works.
    exec(train_example.replace("20_000", "2_000"), names)
    n_test_names = sum(len(answers) for answers in names["answers"])
    assert n_test_names == 1799


def test_configuration_page_is_up_to_date() -> None:
    assert PAGES[ROOT / "docs/configuration.md"] == configuration.format_page()
    rows = re.findall(r"^\| `(\w+)` \| `", PAGES[ROOT / "docs/configuration.md"], re.MULTILINE)
    assert rows[: len(KEYS) - 3] == [key for key in KEYS if key not in GROUPS]


def test_corpus_table_has_the_right_numbers() -> None:
    text = (ROOT / "data/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    counts = {}
    for category, n_lines, n_distinct_lines in rows:
        counts[category] = (int(n_lines), int(n_distinct_lines))
    assert counts == INCLUDED_COUNTS

    n_categories_by_name: Counter[str] = Counter()
    for names in read_corpus(ROOT / "data/names").values():
        n_categories_by_name.update(set(names))
    # The page mentions the number of names and that of ambiguous names.
    assert len(n_categories_by_name) == 17415
    n_ambiguous_names = sum(count > 1 for count in n_categories_by_name.values())
    assert n_ambiguous_names == 477
