"""Lightning's loggers for wandb and mlflow, with mocks of these packages."""

import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from omegaconf import OmegaConf

from src.errors import UserError
from src.train import train
from tests.helpers import ROOT, settings

pytestmark = pytest.mark.usefixtures("blank_pictures")

TINY = ["hidden=8", "lr=0.05", "iterations=100", "log_every=50", "val_every=50", "logger=[]"]


def load_logger_config(name: str, folder: Path) -> dict[str, Any]:
    """Return the contents of configs/logger/NAME.yaml, for a run in a folder."""
    text = (ROOT / f"configs/logger/{name}.yaml").read_text(encoding="utf-8")
    return dict(OmegaConf.create(text.replace("${hydra:runtime.output_dir}", str(folder))))


class MockWandb:
    """A mock of wandb, which records what is logged to it.

    A run that is not finished receives the values of the next run.
    """

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.module = SimpleNamespace(run=None, init=self.init)

    def init(self, **arguments: Any) -> Any:
        """Start a run."""
        record: dict[str, Any] = {"config": {}, "points": []}
        record["name"] = arguments["name"]
        record["dir"] = arguments["dir"]
        self.runs.append(record)

        def finish() -> None:
            self.module.run = None

        run = SimpleNamespace(
            finish=finish,
            log=lambda values, **_: record["points"].append(dict(values)),
            config=SimpleNamespace(update=lambda values, **_: record["config"].update(values)),
            summary=SimpleNamespace(update=lambda *_: None),
        )
        self.module.run = run
        return run


def test_each_run_is_a_separate_wandb_run(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock = MockWandb()
    monkeypatch.setitem(sys.modules, "wandb", mock.module)
    # Lightning imports these modules for the types of the runs that it accepts.
    for name in ("wandb.sdk", "wandb.sdk.lib", "wandb.wandb_run"):
        module: Any = ModuleType(name)
        module.RunDisabled = module.Run = type("Run", (), {})
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    for lr in (0.05, 0.02):
        config = settings(TINY + [f"lr={lr}", f"data_dir={corpus_dir}"])
        # Hydra would resolve the folder of the run in the configuration.
        config.logger = load_logger_config("wandb", tmp_path / f"0-lr_{lr}")
        train(config, tmp_path / f"0-lr_{lr}")
    assert [run["name"] for run in mock.runs] == ["0-lr_0.05", "0-lr_0.02"]
    assert [run["config"]["lr"] for run in mock.runs] == [0.05, 0.02]
    for run in mock.runs:
        assert run["dir"] == str(tmp_path / run["name"])
        loss_points = [point for point in run["points"] if "train/loss" in point]
        steps = [point["trainer/global_step"] for point in loss_points]
        assert steps == [50, 100]
        # The scores of the test are logged after the training.
        assert any("test/loss" in point for point in run["points"])


def test_each_run_is_a_separate_mlflow_run(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MagicMock()
    client.create_run.side_effect = lambda **arguments: SimpleNamespace(
        info=SimpleNamespace(run_id=arguments["tags"]["name"])
    )
    # Lightning uses only these attributes of the package.
    attributes_by_module: dict[str, dict[str, Any]] = {
        "mlflow": {"set_tracking_uri": lambda uri: None},
        "mlflow.tracking": {"MlflowClient": lambda uri: client},
        "mlflow.entities": {"Param": SimpleNamespace, "Metric": SimpleNamespace},
        "mlflow.utils.mlflow_tags": {"MLFLOW_RUN_NAME": "name"},
    }
    for name, attributes in attributes_by_module.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE", True)
    monkeypatch.setattr(
        "lightning.pytorch.loggers.mlflow._get_resolve_tags", lambda: lambda tags: tags
    )
    for number in (0, 1):
        config = settings(TINY + [f"data_dir={corpus_dir}"])
        config.logger = load_logger_config("mlflow", tmp_path / f"{number}-run")
        train(config, tmp_path / f"{number}-run")
    batches = [call.kwargs for call in client.log_batch.call_args_list]
    for number in (0, 1):
        params = {}
        steps: dict[str, list[int]] = defaultdict(list)
        for batch in batches:
            if batch["run_id"] == f"{number}-run":
                for param in batch.get("params", []):
                    params[param.key] = param.value
                for metric in batch.get("metrics", []):
                    steps[metric.key].append(metric.step)
        assert params["lr"] == "0.05"
        assert steps["train/loss"] == [50, 100]
        assert 100 in steps["test/loss"]


class MissingPackageFlag:
    """A replacement of the flag by which Lightning knows whether a package is installed."""

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return "not installed"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_error_names_a_logger_that_is_not_installed(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    flag = f"lightning.pytorch.loggers.{name}._{name.upper()}_AVAILABLE"
    monkeypatch.setattr(flag, MissingPackageFlag())
    config = settings(TINY + [f"data_dir={corpus_dir}"])
    config.logger = load_logger_config(name, tmp_path / "run")
    with pytest.raises(UserError, match=rf"^logger\.{name}: .*not installed"):
        train(config, tmp_path / "run")


def test_loggers_compose() -> None:
    names = ["tensorboard", "wandb", "mlflow"]
    assert list(settings([f"logger=[{','.join(names)}]"]).logger) == names
