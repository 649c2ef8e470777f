import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from src.config import Config
from src.errors import UserError
from tests.conftest import ROOT, run_train, settings


def test_defaults_are_the_tutorials() -> None:
    assert asdict(settings()) == {
        "lr": 0.005,
        "hidden": 128,
        "iterations": 100_000,
        "seed": 0,
        "log_every": 1000,
        "print_every": 5000,
        "val_every": 5000,
        "checkpoint_every": 0,
        "val_fraction": 0.1,
        "test_fraction": 0.1,
        "data_dir": "data/names",
        **{"batch_size": 1, "cell": "tutorial", "layers": 1, "bidirectional": False},
        **{"embedding": 0, "pooling": "last", "dropout": 0, "recurrent_dropout": 0, "ngrams": 0},
        **{"sampling": "balanced", "optimizer": "sgd", "schedule": "constant", "clip": 0},
        **{"weight_decay": 0, "label_smoothing": 0},
        "backend": "compiled",
        "trainer": {"accelerator": "cpu", "devices": 1},
        "logger": {
            "_target_": "lightning.pytorch.loggers.TensorBoardLogger",
            "name": "",
            "version": "",
            "default_hp_metric": False,
        },
    }


def test_overrides_and_groups() -> None:
    assert settings("lr=0.01", "hidden=64").lr == 0.01
    assert settings("trainer=gpu", "backend=autograd").trainer["accelerator"] == "gpu"
    assert settings("logger=csv").logger["_target_"] == "lightning.pytorch.loggers.CSVLogger"


def test_every_recipe_composes_and_is_tested() -> None:
    recipes = {path.stem for path in (ROOT / "configs/experiment").glob("*.yaml")}
    single = {"tutorial", "best", "pytorch_tutorial_2024"}  # as in test_train.py
    assert recipes == single | {"learning_rate", "capacity", "search"}  # as in test_sweep.py
    for recipe in recipes:
        assert settings(f"experiment={recipe}", "lr=0.25").lr == 0.25


def test_the_tutorial_recipe_holds_nothing_out() -> None:
    tutorial = settings("experiment=tutorial")
    assert (tutorial.val_fraction, tutorial.test_fraction) == (0, 0)
    assert settings("experiment=tutorial", "val_fraction=0.1").val_fraction == 0.1


@pytest.mark.parametrize(
    ("val_every", "log_every", "epoch_size"), [(5000, 1000, 5000), (5000, 3000, 6000), (1, 7, 7)]
)
def test_an_epoch_is_whole_chunks(val_every: int, log_every: int, epoch_size: int) -> None:
    config = settings(f"val_every={val_every}", f"log_every={log_every}")
    assert config.epoch_size == epoch_size


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=0", "lr=0.0: must be above 0, at most 1,000"),
        ("lr=-1", "lr=-1.0: must be above 0, at most 1,000"),
        ("lr=nan", "lr=nan: must be above 0, at most 1,000"),
        ("lr=inf", "lr=inf: must be above 0, at most 1,000"),
        ("hidden=0", "hidden=0: must be 1 to 4,096"),
        ("iterations=0", "iterations=0: must be 1 to 1,000,000,000"),
        ("seed=-1", "seed=-1: must be 0 to 4,294,967,295"),
        ("log_every=0", "log_every=0: must be 1 to 1,000,000"),
        ("print_every=0", "print_every=0: must be 1 to 1,000,000,000"),
        ("val_every=0", "val_every=0: must be 1 to 1,000,000,000"),
        ("val_fraction=1", "val_fraction=1.0: must be at least 0, below 1"),
        ("test_fraction=-0.1", "test_fraction=-0.1: must be at least 0, below 1"),
        ("data_dir=''", "data_dir=: must be a folder"),
        ("backend=fast", "backend=fast: must be compiled or autograd"),
        ("trainer=gpu", "use backend=autograd or trainer=cpu"),
        ("batch_size=0", "batch_size=0: must be 1 to 100,000"),
        ("batch_size=2", "batch_size=2 backend=compiled: backend=compiled needs batch_size=1; use"),
        (
            "cell=gru",
            "cell=gru backend=compiled: backend=compiled needs cell=tutorial; use backend",
        ),
        ("cell=mlp", "cell=mlp: must be tutorial, rnn, gru or lstm"),
        ("dropout=1.0", "dropout=1.0: must be at least 0, below 1"),
        ("dropout=0.5", "dropout=0.5 cell=tutorial: cell=tutorial needs dropout=0; use cell=rnn"),
        ("optimizer=adam", "optimizer=adam: must be sgd or adamw"),
        ("clip=inf", "clip=inf: must be at least 0"),
        ("trainer.devices=2", "trainer.devices=2: must be 1, or more with trainer=ddp"),
        ("+trainer.strategy=fsdp", "trainer.strategy=fsdp: must be auto or ddp"),
        ("+trainer.benchmark=foo", "trainer.benchmark=foo: must be true or false"),
        ("+trainer.deterministic=foo", "trainer.deterministic=foo: must be true or false or warn"),
        ("trainer=ddp", "backend=compiled trainer.accelerator=gpu: the compiled backend runs on"),
        ("+trainer.max_epochs=9", "trainer.max_epochs: must be one of accelerator, devices"),
        ("logger._target_=os.system", "logger._target_=os.system: must be a class of lightning."),
        ("lr=???", "lr: Missing mandatory value: lr"),
        ("lr=${nowhere}", "lr: Interpolation key 'nowhere' not found"),
        ("~lr", "lr: "),
    ],
)
def test_out_of_range(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        settings(override)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.accelerator=cpu"], "backend=compiled trainer.strategy=ddp: a step a name"),
        (["backend=autograd"], "backend=autograd trainer.strategy=ddp: a step a name"),
        (["trainer.devices=0"], "trainer.devices=0: must be auto or 1 to 1024"),
        (["trainer.devices=two"], "trainer.devices=two: must be auto or 1 to 1024"),
    ],
)
def test_what_several_processes_cannot_do(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        settings("trainer=ddp", *overrides)
    assert message in str(caught.value)


def test_a_folder_that_cannot_be_handed_on(tmp_path: Path) -> None:
    words = ["trainer=ddp", "trainer.accelerator=cpu", "backend=autograd", "batch_size=2"]
    ran = run_train(*words, f"data_dir={ROOT}/data/names", "hydra.run.dir='a\"b'", cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.startswith('hydra.run.dir=a"b: with trainer=ddp no')
    assert not list(tmp_path.iterdir())


def test_fractions_that_leave_nothing() -> None:
    with pytest.raises(UserError, match=r"val_fraction=0\.9 test_fraction=0\.2: must add up"):
        settings("val_fraction=0.9", "test_fraction=0.2")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lr=0"], "lr=0.0: must be"),
        (["trainer=null"], "trainer=null: must be a name, as in trainer=cpu"),
        (["lr=" + "9" * 5000], "has a number of too many digits"),
        (["lr=nan"], "lr=nan: must be"),
        (["lr=abc"], "Value 'abc' of type 'str' could not be converted to Float"),
        (["hidden=1.5"], "Value '1.5' of type 'float' could not be converted to Integer"),
        (["hiden=64"], "Key 'hiden' not in"),
        (["experiment=tutoral"], "Could not find 'experiment/tutoral'"),
        (["val_fraction=0.9", "test_fraction=0.2"], "must add up to less than 1"),
        (["trainer=gpu"], "backend=compiled trainer.accelerator=gpu"),
        (["lr=???"], "lr: Missing mandatory value: lr"),
        (["data_dir=nowhere"], "data_dir=nowhere: no such folder"),
        (
            ["hydra.run.dir=${nowhere}", f"data_dir={ROOT}/data/names"],
            "hydra.run.dir: Interpolation key 'nowhere' not found",
        ),
        (["-m", "lr=0.1,0.2", "hidden=0"], "hidden=0: must be 1 to 4,096"),
    ],
)
def test_a_wrong_setting_ends_in_a_message_and_writes_nothing(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    ran = run_train(*overrides, cwd=tmp_path)
    assert ran.returncode == 1
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
def test_an_output_folder_that_cannot_be_written(tmp_path: Path, key: str) -> None:
    (tmp_path / "taken").write_text("a file, no folder")
    mode = ["-m", "seed=0,1"] if "sweep" in key else []
    ran = run_train(*mode, f"{key}=taken/run", f"data_dir={ROOT}/data/names", cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr == f"{key}=taken/run: Not a directory; choose another\n"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_folder_that_holds_a_run(tmp_path: Path) -> None:
    (tmp_path / "old/checkpoints").mkdir(parents=True)
    ran = run_train("hydra.run.dir=old", f"data_dir={ROOT}/data/names", cwd=tmp_path)
    assert ran.returncode == 1
    told = "holds a run already; choose another, or go on with that one: resume=old"
    assert ran.stderr == f"hydra.run.dir=old: {told}\n"


def test_a_multirun_is_checked_for_what_its_jobs_share(tmp_path: Path) -> None:
    """The default val_fraction does not go with test_fraction=0.95, but no job uses it."""
    (tmp_path / "taken").write_text("a file, no folder")
    words = ["val_fraction=0.01,0.02", "test_fraction=0.95", "hydra.sweep.dir=taken/sweep"]
    ran = run_train("-m", *words, f"data_dir={ROOT}/data/names", cwd=tmp_path)
    assert ran.stderr.startswith("hydra.sweep.dir=")  # what is checked after the fractions


def test_help_documents_every_key() -> None:
    ran = run_train("--help", "hidden=77")
    assert ran.returncode == 0
    for each in fields(Config):
        if each.metadata:
            assert f"\n  {each.name}=" in ran.stdout
            assert each.metadata["explained"] in ran.stdout
    assert "hidden=77 " in ran.stdout
    assert (
        "experiment: best, capacity, learning_rate, pytorch_tutorial_2024, search, tutorial"
        in ran.stdout
    )


def test_settings_are_checked_before_torch_is_imported() -> None:
    code = "import sys, src.train; print({'torch', 'lightning', 'numba'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == "set()\n"
