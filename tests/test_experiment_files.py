from pathlib import Path

import pytest

from src.command_line import completed, resumed_run
from src.errors import UserError
from src.experiment_files import CONFIGS, check_experiments, check_file
from tests.conftest import ROOT, run_train

GLOBAL = "# @package _global_\n"


@pytest.mark.parametrize("file", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=str)
def test_the_shipped_files_are_allowed(file: Path) -> None:
    check_file(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hydra:\n  callbacks:\n    x: {_target_: os.getcwd}", "hydra.callbacks: is not allowed"),
        ("hydra: {launcher: {setup: [touch x]}}", "hydra.launcher: is not allowed here"),
        ("hydra: {job_logging: {handlers: {x: {(): os.getcwd}}}}", "hydra.job_logging: is not"),
        ("hydra: {run: {dir: /tmp/x}}", "hydra.run: is not allowed here, only mode, sweeper"),
        ("hydra: {searchpath: [/tmp]}", "hydra.searchpath: is not allowed here"),
        ("hydra: {job: {env_set: {A: b}}}", "hydra.job: is not allowed here"),
        ("hydra: {sweeper: {_target_: os.getcwd}}", "hydra.sweeper._target_: is not allowed"),
        ("hydra: {sweeper: {custom_search_space: os.getcwd}}", "hydra.sweeper.custom_search"),
        ("hydra: {sweeper: {storage: 'sqlite:///x'}}", "hydra.sweeper.storage: is not allowed"),
        ("hydra: {sweeper: {sampler: {_target_: os.getcwd}}}", "_target_: os.getcwd: is not"),
        ("logger: {a: [{_target_: lightning.pytorch.Trainer}]}", "_target_: lightning.pytorch.T"),
        ("logger: {_target_: 5}", "_target_: 5: is not allowed here"),
        ("defaults: [override /hydra/launcher: x]", "defaults: {'override /hydra/launcher'"),
        ("defaults: [{/logger@hydra.callbacks.x: csv}]", "defaults: {'/logger@hydra.callbacks"),
        ("defaults: [{override /logger: ../../x}]", "defaults: {'override /logger': '../../x'}"),
        ("defaults: [../x]", "defaults: ../x: is not allowed here"),
        ("defaults: {logger: csv}", "defaults: is no list"),
        ("# @package hydra.callbacks\nx: 1", "@package hydra.callbacks: must be _global_"),
        ("a: &a [1]\nb: [*a, *a]", "holds an alias (*name)"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor for the tag"),
        ("hydra: 5", "hydra: is no mapping"),
        ("- 1", "the file: is no mapping"),
        ("a: {", "while parsing a flow"),
        ("[" * 500 + "]" * 500, "maximum recursion depth exceeded"),
        ("a: " + "x" * 20_000, "is larger than 20,000 bytes"),
        ("a: \a", "special characters are not allowed"),
    ],
)
def test_what_may_run_code_or_leave_its_folder_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "experiment/bad.yaml"
    file.parent.mkdir()
    file.write_text(text if "@package" in text else GLOBAL + text)
    for words in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        with pytest.raises(UserError) as caught:
            check_experiments([*words, "experiment=bad"])
        assert str(caught.value).startswith(f"{file}: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_strangers_experiment_runs_no_code(tmp_path: Path) -> None:
    folder = tmp_path / "theirs/experiment"
    folder.mkdir(parents=True)
    callback = "{_target_: builtins.open, file: made, mode: w}"
    (folder / "bad.yaml").write_text(f"{GLOBAL}hydra: {{callbacks: {{x: {callback}}}}}\n")
    ran = run_train("--config-dir", "theirs", "experiment=bad", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("theirs/experiment/bad.yaml: hydra.callbacks: is not allowed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]


def test_a_strangers_experiment_that_is_allowed_runs(tmp_path: Path) -> None:
    folder = tmp_path / "theirs/experiment"
    folder.mkdir(parents=True)
    text = f"{GLOBAL}defaults: [{{override /logger: csv}}]\nhidden: 8\niterations: 100\n"
    (folder / "good.yaml").write_text(text)
    words = [f"data_dir={ROOT}/data/names", "hydra.run.dir=run"]
    ran = run_train("-cd", "theirs", "experiment=good", *words, cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "run/metrics.csv").exists()


def test_an_experiment_elsewhere_is_refused() -> None:
    with pytest.raises(UserError, match=r"experiment=\.\./x: must be in configs/experiment"):
        check_experiments(["experiment=../x"])


@pytest.mark.parametrize("key", ["resume", "resume_sweep"])
def test_a_strangers_run_has_no_experiment_from_elsewhere(tmp_path: Path, key: str) -> None:
    (tmp_path / ".hydra").mkdir()
    note = "hydra:\n  overrides:\n    task: [experiment=../../x]\n    hydra: []\n"
    (tmp_path / ".hydra/hydra.yaml").write_text(note)
    (tmp_path / "multirun.yaml").write_text(note)
    with pytest.raises(UserError, match=r"experiment=\.\./\.\./x: must be in configs/experiment"):
        completed([f"{key}={tmp_path}"])


def test_a_strangers_run_says_nothing_to_hydra(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    note = (
        "hydra:\n  overrides:\n"
        "    task: [lr=0.1, +hydra.callbacks.x._target_=os.getcwd]\n"
        "    hydra: [hydra.callbacks.y._target_=os.getcwd, hydra.run.dir=/etc]\n"
    )
    (tmp_path / ".hydra/hydra.yaml").write_text(note)
    words = resumed_run(tmp_path, [])
    assert words == ["lr=0.1", f"hydra.run.dir='{tmp_path}'", "hydra.mode=RUN"]
