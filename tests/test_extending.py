"""Apply the changes on docs/extending.md exactly as they are written, and run its commands."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.processes import Programs

RUN_COMMANDS = """
import json, sys
import src.train
from src.launch import run_cli

for command in json.loads(sys.argv[1]):
    sys.argv = ["train.py", *command]
    assert run_cli(src.train.main) == 0, command
"""


def apply_changes(page: str, project: Path) -> list[str]:
    """Apply the changes that a page describes, and return the names of the changed files.

    A block of the language `diff` changes a file: lines with a space must occur there, next to each
    other, lines with `-` are removed, and lines with `+` are added. Any other block with the name
    of a file is the content of a new file.
    """
    names = []
    for language, name, content in re.findall(r"^```(\w+) (\S+)\n(.*?)^```$", page, re.M | re.S):
        file = project / name
        names.append(name)
        if language != "diff":
            # The page must not replace a file without a description of the change.
            assert not file.exists(), name
            file.write_text(content)
            continue
        lines = content.splitlines(keepends=True)
        old = ""
        new = ""
        for line in lines:
            if line[0] in " -":
                old += line[1:]
            if line[0] in " +":
                new += line[1:]
        text = file.read_text()
        # A reader must know at which place of the file the change is made.
        assert text.count(old) == 1, (name, old)
        file.write_text(text.replace(old, new))
    return names


@pytest.mark.slow
def test_changes_on_the_page_about_extending(tmp_path: Path, programs: Programs) -> None:
    """A new interpreter, because it imports the changed code. All recipes go together."""
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    for name in ("src", "configs", "data"):
        shutil.copytree(ROOT / name, tmp_path / name)
    assert len(apply_changes(page, tmp_path)) == 11
    commands = []
    for block in re.findall(r"^```shell\n(.*?)^```$", page, re.M | re.S):
        for line in block.splitlines():
            commands.append(shlex.split(line.removeprefix("python -m src.train ")))
    # If the expression for code blocks no longer matched, nothing would be tested.
    assert len(commands) == 9

    result = programs.run(
        [sys.executable, "-c", RUN_COMMANDS, json.dumps(commands)], cwd=tmp_path, is_forked=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("weighted f1") == len(commands)
    runs = sorted(tmp_path.glob("outputs/*/*"))
    assert len(runs) == len(commands)
    overrides = [" ".join(command) for command in commands]
    assert any("momentum=0.9" in override for override in overrides)
    assert len(list(tmp_path.glob("outputs/*/*/mine/metrics.csv"))) == 1
