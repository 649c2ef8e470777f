"""The keys of train.yaml: defaults, allowed values, error messages and `--help`."""

import inspect
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from omegaconf import OmegaConf

from src.config import (
    ALL_TRAINER_ARGUMENTS,
    CONFIG_FOLDER,
    RUN_KEYS,
    SET_BY_PROGRAM,
    USE_INSTEAD,
    Config,
)
from src.data.readers import DataSource
from src.errors import UserError
from src.run.messages import format_folder_override
from src.run.resolvers import HELP_SECTIONS, format_overrides_for_folder_name, read_key_docstrings
from tests.helpers import ROOT, compose_settings, settings
from tests.processes import Programs, Result


def test_defaults_are_those_of_the_tutorial() -> None:
    config = compose_settings([])
    assert config.subset(RUN_KEYS) == {
        "lr": 0.005,
        "hidden": 128,
        "iterations": 100_000,
        "passes": None,
        "seed": 0,
        "seeds": 1,
        "log_every": 1000,
        "print_every": 5000,
        "val_every": 5000,
        "val_fraction": 0.1,
        "test_fraction": 0.1,
        **dict.fromkeys(DataSource._fields),
        "letters": "ascii",
        "init_from": None,
        "batch_size": 1,
        "cell": "tutorial",
        "layers": 1,
        "bidirectional": False,
        "embedding": 0,
        "pooling": "last",
        "dropout": 0,
        "recurrent_dropout": 0,
        "ngrams": 0,
        "sampling": "balanced",
        "optimizer": "sgd",
        "schedule": "constant",
        "clip": 500,
        "weight_decay": 0,
        "label_smoothing": 0,
        "backend": "compiled",
    }
    disabled_arguments = ("enable_progress_bar", "enable_model_summary", "enable_autolog_hparams")
    assert config.non_null_trainer_arguments == {
        "accelerator": "cpu",
        "devices": 1,
        **dict.fromkeys(disabled_arguments, False),
    }
    assert config.is_online
    assert list(config.logger) == ["tensorboard"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["lr=0.01", "hidden=64", "iterations=300"],
        ["experiment=best", "iterations=200", "letters=corpus"],
        ["lr=1e-3", "logger=[tensorboard,csv]", "passes=null", "trainer.deterministic=true"],
    ],
)
def test_settings_helper_equals_hydra(overrides: list[str]) -> None:
    assert settings(overrides) == compose_settings(overrides)


def test_overrides_and_groups() -> None:
    assert compose_settings(["lr=0.01", "hidden=64"]).lr == 0.01
    gpu = compose_settings(["trainer=gpu", "backend=autograd", "batch_size=2"])
    assert gpu.non_null_trainer_arguments["accelerator"] == "gpu"
    double = compose_settings(["trainer.precision=64", "backend=autograd"])
    assert double.non_null_trainer_arguments["precision"] == 64
    assert list(compose_settings(["logger=csv"]).logger) == ["csv"]
    assert list(compose_settings(["logger=[tensorboard,csv]"]).logger) == ["tensorboard", "csv"]
    assert compose_settings(["logger=[]"]).logger == {}


def test_every_trainer_argument_is_passed_or_refused() -> None:
    from lightning.pytorch import Trainer

    # A new version of Lightning may have new arguments, about which the program must decide.
    assert sorted(ALL_TRAINER_ARGUMENTS) == sorted(inspect.signature(Trainer).parameters)
    messages = {name: f"cannot be set; use {key} instead" for name, key in USE_INSTEAD.items()}
    messages.update(dict.fromkeys(SET_BY_PROGRAM, "cannot be set, because the program sets it"))
    for name, message in messages.items():
        with pytest.raises(UserError) as caught:
            settings([f"trainer.{name}=1"])
        assert str(caught.value) == f"trainer.{name}: {message}"


def test_every_experiment_can_be_overridden() -> None:
    for experiment in (ROOT / "configs/experiment").iterdir():
        assert compose_settings([f"experiment={experiment.stem}", "lr=0.25"]).lr == 0.25


def test_tutorial_experiment_holds_nothing_out() -> None:
    tutorial = compose_settings(["experiment=tutorial"])
    # The tutorial trains on all names and clips no gradients.
    assert (tutorial.val_fraction, tutorial.test_fraction, tutorial.clip) == (0, 0, 0)
    assert tutorial.is_online
    # An experiment is a set of defaults, which overrides replace.
    assert compose_settings(["experiment=tutorial", "val_fraction=0.1"]).val_fraction == 0.1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=0", "lr=0.0: must be above 0 and at most 1,000"),
        ("lr=-1", "lr=-1.0: must be above 0 and at most 1,000"),
        ("lr=nan", "lr=nan: must be above 0 and at most 1,000"),
        ("lr=inf", "lr=inf: must be above 0 and at most 1,000"),
        ("hidden=0", "hidden=0: must be an integer from 1 to 4,096"),
        ("iterations=0", "iterations=0: must be an integer from 1 to 1,000,000,000"),
        ("seed=-1", "seed=-1: must be an integer from 0 to 4,294,967,295"),
        ("log_every=-1", "log_every=-1: must be an integer from 0 to 1,000,000"),
        ("print_every=-1", "print_every=-1: must be an integer from 0 to 1,000,000,000"),
        ("val_every=-1", "val_every=-1: must be an integer from 0 to 1,000,000,000"),
        ("passes=0", "passes=0.0: must be above 0, or null"),
        ("val_fraction=1", "val_fraction=1.0: must be at least 0 and below 1"),
        ("test_fraction=-0.1", "test_fraction=-0.1: must be at least 0 and below 1"),
        ("data_dir=''", "data_dir=: must be an existing folder, or null"),
        ("backend=fast", "backend=fast: must be compiled or autograd"),
        ("trainer=gpu", "trainer.accelerator=gpu: must be cpu with backend=compiled"),
        ("batch_size=0", "batch_size=0: must be an integer from 1 to 100,000"),
        ("batch_size=2", "batch_size=2: must be 1 unless backend=autograd"),
        ("cell=gru", "cell=gru: must be tutorial unless backend=autograd"),
        ("cell=mlp", "cell=mlp: must be tutorial, rnn, gru or lstm"),
        ("dropout=1.0", "dropout=1.0: must be at least 0 and below 1"),
        ("dropout=0.5", "dropout=0.5: must be 0 unless cell=rnn, gru or lstm"),
        ("optimizer=adam", "optimizer=adam: must be sgd or adamw"),
        ("clip=inf", "clip=inf: must be finite and at least 0"),
        ("trainer.devices=2", "trainer.devices=2: must be 1 with backend=compiled"),
        ("trainer.strategy=fsdp", "trainer.strategy=fsdp: must be "),
        ("trainer.precision=16", "trainer.precision=16: must be 32-true with"),
        ("+colour=red", "colour: unknown key; --help lists all keys"),
        ("lr=???", "lr: has no value; use lr=VALUE"),
        ("lr=${nowhere}", "lr: Interpolation key 'nowhere' not found"),
        ("~lr", "lr: has no value; use lr=VALUE"),
    ],
)
def test_value_out_of_range_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        settings([override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.accelerator=cpu"], "trainer.strategy=ddp: must be "),
        (["backend=autograd"], "trainer.strategy=ddp: must be auto with backend=autograd"),
        (["backend=autograd", "trainer.strategy=auto"], "trainer.devices=auto: must be 1 with"),
    ],
)
def test_online_training_with_several_processes_is_refused(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        compose_settings(["trainer=ddp"] + overrides)
    assert message in str(caught.value)


def test_strategies_other_than_ddp_are_refused() -> None:
    with pytest.raises(UserError, match=r"trainer\.strategy=ddp_spawn: must be ddp or auto"):
        compose_settings(["experiment=best", "trainer.strategy=ddp_spawn"])


def test_held_out_fractions_must_be_below_one() -> None:
    with pytest.raises(UserError, match=r"val_fraction \+ test_fraction = 1\.1: must be below 1"):
        # Each fraction alone would be valid.
        compose_settings(["val_fraction=0.9", "test_fraction=0.2"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lr=0"], "lr=0.0: must be above 0 and at most 1,000"),
        (["hidden_size=64"], "hidden_size: unknown key; did you mean hidden? See --help"),
        (["hiden=64"], "hiden: unknown key; did you mean hidden? See --help"),
        (["+depth=3"], "depth: unknown key; --help lists all keys"),
        (
            ["trainer.precisoin=16"],
            "trainer.precisoin: unknown key; did you mean trainer.precision? See --help",
        ),
        (["trainer.max_epochs=3"], "trainer.max_epochs: cannot be set; use iterations instead"),
        (
            ["trainer=null"],
            "the value of a configuration group cannot be empty or a dictionary; use for example "
            "trainer=cpu, ",
        ),
        (["logger=null"], "logger=[tensorboard,csv], logger=[] for no logger, or cluster=cores\n"),
        (["-m", "cluster=null"], "logger=[] for no logger, or cluster=cores\n"),
        (["lr=" + "9" * 5000], "Exceeds the limit (4300 digits) for integer string conversion"),
        (["lr=abc"], "lr=abc: must be above 0 and at most 1,000\n"),
        (["hidden=1.5"], "hidden=1.5: must be an integer from 1 to 4,096\n"),
        (
            ["experiment=tutoral"],
            "experiment=tutoral: unknown option; did you mean experiment=tutorial? Available: best",
        ),
        (["val_fraction=0.9", "test_fraction=0.2"], "test_fraction = 1.1: must be below 1"),
        (["lr=???"], "lr: has no value; use lr=VALUE\n"),
        (["data_dir=nowhere"], "nowhere: must be an existing folder, or null\n"),
        (["hydra.run.dir=${nowhere}"], "hydra.run.dir: Interpolation key 'nowhere' not found"),
        (
            ["-m", "resume=a,b"],
            "resume: cannot be used with -m; to resume a sweep, set hydra.sweep.dir\n",
        ),
        (
            ["-m", "trainer=ddp", "seed=1,2"],
            "trainer.devices: must be 1 in a sweep, because each run has one process\n",
        ),
        (
            ["-m", "hydra.sweep.dir=${nowhere}", "lr=0.1,0.2"],
            "hydra.sweep.dir: Interpolation key 'nowhere' not",
        ),
        (["-m", "--cfg", "job"], "Only one of --run, --multirun"),
        (["hydra.run.dir=taken/run"], "taken/run: Not a directory"),
        (["-m", "seed=0,1", "hydra.sweep.dir=taken/run"], "taken/run: Not a directory"),
        (
            ["hydra.run.dir=old"],
            "old: already contains a run; use another folder, or resume=./old\n",
        ),
    ],
)
def test_invalid_settings_produce_a_message_and_write_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train_in_process: Callable[..., Result],
    overrides: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    # A file cannot be a folder of runs, and a folder with checkpoints is that of a run.
    (tmp_path / "taken").write_text("a file, no folder")
    (tmp_path / "old/checkpoints").mkdir(parents=True)
    result = train_in_process(overrides)
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    # The file and the two folders of the test are all there is.
    assert len([path for path in tmp_path.rglob("*") if path.name != ".lock"]) == 3


GROUP_MESSAGE = (
    "the value of a configuration group cannot be empty or a dictionary; use for example "
    "trainer=cpu, logger=[tensorboard,csv], logger=[] for no logger, or cluster=cores"
)
CELL_OPTIONS_MESSAGE = "must be tutorial, rnn, gru or lstm"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hidden_size=64", "hidden_size: unknown key; did you mean hidden? See --help"),
        ("depth=3", "depth: unknown key; --help lists all keys"),
        ("+depth=3", "depth: unknown key; --help lists all keys"),
        (
            "trainer.precison=64",
            "trainer.precison: unknown key; did you mean trainer.precision? See --help",
        ),
        ("trainer={speed: 1}", "trainer.speed: unknown key; --help lists all keys"),
        ("+trainer.speed=1", "trainer.speed: unknown key; --help lists all keys"),
        ("hidden=abc", "hidden=abc: must be an integer from 1 to 4,096"),
        ("hidden=", "hidden=: must be an integer from 1 to 4,096"),
        ("bidirectional=maybe", "bidirectional=maybe: must be true or false"),
        ("cell=[gru]", f"cell=[gru]: {CELL_OPTIONS_MESSAGE}"),
        ("lr=null", "lr=null: must be above 0 and at most 1,000"),
        ("hidden", "hidden: overrides have the form key=value, for example hidden=64"),
        (
            "data_file=people (1).csv",
            """data_file=people (1).csv: the value must be quoted: "data_file='people (1).csv'\"""",
        ),
        ("lr=0.1,0.2", "lr=0.1,0.2: has several values; use -m to start a sweep over them"),
        (
            "logger=tensorboard,csv",
            "logger=tensorboard,csv: a list must be in brackets; use logger=[tensorboard,csv]",
        ),
        (
            "+hidden=3",
            "+hidden: already has a value; use hidden= without the plus sign to replace it",
        ),
        (
            "+experiment=best",
            "+experiment: already has a value; use experiment= without the plus sign to replace it",
        ),
        ("logger=csw", "logger=csw: unknown option; did you mean logger=csv? Available: csv, "),
        (
            "trainer=tpu",
            "trainer=tpu: unknown option; did you mean trainer=gpu? Available: cpu, ddp, gpu",
        ),
        ("cluster=lsf", "cluster=lsf: unknown option; available: cores, ray, slurm"),
        ("trainer=null", GROUP_MESSAGE),
        ("~lr", "lr: has no value; use lr=VALUE"),
        ("~depth", "Could not delete from config. 'depth' does not exist."),
    ],
)
def test_message_of_a_mistake_in_the_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train_in_process: Callable[..., Result],
    override: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = train_in_process([override])
    # All other options follow, which need not be repeated here.
    if message.endswith(", "):
        message += "mlflow, tensorboard, wandb"
    assert result == (1, "", f"{message}\n")


def test_message_of_a_missing_main_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_in_process: Callable[..., Result]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = train_in_process(["--config-name", "other"])
    message = f"--config-name other: there is no such file in {CONFIG_FOLDER}\n"
    assert result == (1, "", message)


def test_unknown_key_in_a_new_interpreter(tmp_path: Path, programs: Programs) -> None:
    command = [sys.executable, "-m", "src.train", "hidden_size=64"]
    result = programs.run(command, cwd=tmp_path, is_forked=False)
    message = "hidden_size: unknown key; did you mean hidden? See --help\n"
    assert result == (1, "", message)
    assert not any(tmp_path.iterdir())


def test_folder_names_contain_the_overrides() -> None:
    format_name = format_overrides_for_folder_name
    assert format_name(["lr=0.01", "hidden=64"]) == "-lr_0.01-hidden_64"
    # Keys that do not change the result of a run are left out.
    assert format_name(["experiment=best", "resume=x", "logger=[csv]"]) == "-experiment_best"
    # Of a path or a dotted key, only the last part is kept.
    name = format_name(["data_dir=/some/where/my names/", "+trainer.precision=16"])
    assert name == "-data_dir_my_names-precision_16"
    assert format_name(["lr=choice(1,2)", "~x"]) == "-lr_choice_1_2_-x"
    assert format_name([]) == ""
    # File systems limit the length of names, and shells have special characters.
    assert len(format_name([f"hidden={size}" for size in range(99)])) <= 60
    assert not re.search(r"[^A-Za-z0-9._+-]", format_name(["a='{b: [1, 2]}'", "c=ü=,$x"]))


@pytest.mark.parametrize(
    "folder",
    ["outputs/2026-01-01/10-00-00-lr_0.1-ab12", "a, b", "it's", 'q"', "${x}", "\\${x}", "ü 王"],
)
def test_quoted_folder_override_is_parsed_back(folder: str) -> None:
    (argument,) = shlex.split(format_folder_override("resume", Path(folder)))
    override = OverridesParser.create().parse_override(argument)
    config = OmegaConf.create({"resume": None})
    value = override.value()
    # Hydra removes the quotes of a quoted string later.
    text = value.text if isinstance(value, QuotedString) else value
    OmegaConf.update(config, "resume", text)
    assert Path(config.resume) == Path(folder)


def test_help_documents_every_key(train_in_process: Callable[..., Result]) -> None:
    result = train_in_process(["--help", "hidden=77"])
    assert result.returncode == 0
    # The list of experiments is not wrapped.
    lines = [line for line in result.stdout.splitlines() if not line.startswith("experiment: ")]
    assert max(map(len, lines)) <= 80
    # Descriptions are wrapped, so they are compared without line breaks.
    text_without_line_breaks = " ".join(result.stdout.split())
    for field in fields(Config):
        if field.metadata:
            assert f"\n  {field.name}=" in result.stdout
            description = f"{read_key_docstrings()[field.name]} ({field.metadata['allowed']})"
            assert description in text_without_line_breaks
    assert "\n  hidden=77 " in result.stdout
    # Booleans are shown as they are written in a command, not as in Python.
    assert "\n  bidirectional=false " in result.stdout
    # Examples come first, because most users look for them.
    examples = result.stdout.index("python -m")
    first_section = result.stdout.index("\nData\n")
    assert examples < result.stdout.index("resume=FOLDER") < first_section
    for heading in HELP_SECTIONS.values():
        assert f"\n\n{heading}\n\n" in result.stdout
    for experiment in (ROOT / "configs/experiment").iterdir():
        assert experiment.stem in result.stdout


def test_settings_are_checked_before_torch_is_imported(programs: Programs) -> None:
    code = (
        "import sys, src.train, src.run.preflight; print({'torch', 'lightning'} & {*sys.modules})"
    )
    result = programs.run([sys.executable, "-c", code], cwd=ROOT, is_forked=False)
    assert result == (0, "set()\n", "")
