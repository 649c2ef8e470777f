"""What TensorBoard shows of runs and sweeps, according to the API that its web page uses."""

import json
import shutil
import urllib.parse
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from src.models.registry import SCORE
from src.run.loggers import convert_to_hparam, to_tensorboard_tag
from tests.helpers import (
    QUICK_RUN,
    Sweep,
    find_run,
    read_metrics_values,
    settings,
    train_unless_finished,
)

# TensorBoard's server runs in threads of this process. Exceptions in them, and files that
# they leave open at the end of a request, are not errors of this program.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


def request_json(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def start_tensorboard(folder: Path) -> str:
    """Start TensorBoard, which runs until this process ends, and return the URL of its data."""
    arguments = [
        "--logdir",
        str(folder),
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--load_fast",
        "false",
    ]
    # All files are read before the first request.
    arguments += ["--reload_interval", "0", "--reload_task", "blocking"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports html5lib, which uses a deprecated function
        board = program.TensorBoard()
        board.configure([""] + arguments)
    return f"{board.launch()}data"


def read_session_groups(url: str) -> list[dict[str, Any]]:
    """Return the rows of TensorBoard's HParams tab."""
    statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    columns = [{"metric": {"tag": SCORE, "group": ""}, "order": "ORDER_DESC"}]
    body: dict[str, Any] = {"experimentName": "", "startIndex": 0, "sliceSize": 100}
    body |= {"allowedStatuses": statuses, "colParams": columns}
    groups = request_json(f"{url}/plugin/hparams/session_groups", body)["sessionGroups"]
    for group in groups:
        group["metrics"] = {}
        for metric in group["metricValues"]:
            group["metrics"][metric["name"]["tag"]] = metric["value"]
    return list(groups)


PAIRS = [("0.01", "4"), ("0.01", "8"), ("0.05", "4"), ("0.05", "8")]
"""Values of `lr` and `hidden`."""


@pytest.fixture(scope="module")
def logs(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four runs, and one without validation, `tutorial`."""
    folder = tmp_path_factory.mktemp("logs")
    common = QUICK_RUN + [f"data_dir={corpus_dir}"]
    for number, (lr, hidden) in enumerate(PAIRS, start=1):
        config = settings([f"lr={lr}", f"hidden={hidden}"] + common)
        train_unless_finished(config, folder / f"{number}-lr_{lr}-hidden_{hidden}")
    train_unless_finished(settings(["experiment=tutorial"] + common), folder / "tutorial")
    return folder


# TensorBoard takes the columns from the summary of one of the runs.
@pytest.mark.parametrize("tutorial_name", ["0-tutorial", "9-tutorial"])
def test_hparams_of_a_sweep_and_a_run_without_validation(
    logs: Path, tmp_path: Path, tutorial_name: str
) -> None:
    folder = tmp_path / "logs"
    shutil.copytree(logs, folder)
    (folder / "tutorial").rename(folder / tutorial_name)
    url = start_tensorboard(folder)
    experiment = request_json(f"{url}/plugin/hparams/experiment", {"experimentName": ""})
    shown = [info["name"] for info in experiment["hparamInfos"]]
    # By default, the tab shows five columns: these settings, sorted by TensorBoard, and the score.
    assert shown == ["data_dir", "hidden", "iterations", "lr"]
    metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
    titles = [info["displayName"] for info in experiment["metricInfos"]]
    assert titles == [
        SCORE,
        "val/loss",
        "train/loss",
        "test/balanced_accuracy",
        "test/accuracy",
        "val/accuracy",
        "val/macro_f1",
        "val/top3_accuracy",
        "test/loss",
        "test/macro_f1",
        "test/top3_accuracy",
    ]
    # The prefix only determines the order of the groups on the page.
    assert [tag.removeprefix("z_") for tag in metrics] == titles
    rows = {row["sessions"][0]["name"]: row for row in read_session_groups(url)}
    assert len(rows) == 5
    # The tutorial holds no names out, so it has only a training loss.
    assert rows[tutorial_name]["metrics"].keys() == {"train/loss"}
    for number, (lr, hidden) in enumerate(PAIRS, start=1):
        row = rows[f"{number}-lr_{lr}-hidden_{hidden}"]
        assert (row["hparams"]["lr"], row["hparams"]["hidden"]) == (float(lr), hidden)
        assert sorted(row["hparams"]) == shown
        assert row["metrics"].keys() == set(metrics)
    images = request_json(f"{url}/plugin/images/tags")
    for run_images in images.values():
        assert set(run_images) == {"visualization/confusion_matrix", "visualization/loss"}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["seed=3"], ["lr", "hidden", "seed", "iterations"]),
        pytest.param(
            ["cell=gru", "backend=autograd"],
            ["lr", "hidden", "cell", "backend"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_hparams_are_lr_hidden_and_the_settings_of_the_command_line(
    corpus_dir: Path, tmp_path: Path, overrides: list[str], expected: list[str]
) -> None:
    overrides = overrides + ["print_every=100", "trainer.benchmark=false"]
    config = settings(overrides + ["experiment=debug"])
    config.iterations = 50
    config.data_dir = str(corpus_dir)
    train_unless_finished(config, tmp_path)
    # The experiment `debug` has enabled this for the whole process.
    torch.use_deterministic_algorithms(False)
    log = EventAccumulator(str(tmp_path))
    log.Reload()
    content = log.SummaryMetadata("_hparams_/experiment").plugin_data.content
    infos = HParamsPluginData.FromString(content).experiment.hparam_infos
    assert [info.name for info in infos] == expected


def test_scalars_and_hparams_of_a_sweep(sweep: Sweep) -> None:
    url = start_tensorboard(sweep.folder)
    runs = [find_run(sweep.folder, number) for number in range(6)]
    assert {run.name for run in runs} <= set(request_json(f"{url}/runs"))
    assert [len(list(run.glob("events.out.tfevents.*"))) for run in runs] == [1] * 6
    # Lightning would write this file, which repeats config.yaml.
    assert not list(sweep.folder.glob("**/hparams.yaml"))
    tags = request_json(f"{url}/plugin/scalars/tags")
    assert {"train/loss", SCORE, "z_test/balanced_accuracy"} <= set(tags[runs[0].name])
    # The scores under each prior are in metrics.json only, as they would crowd the page.
    assert not any("uniform" in tag for tag in tags[runs[0].name])
    query = urllib.parse.urlencode({"run": runs[0].name, "tag": SCORE})
    points = request_json(f"{url}/plugin/scalars/scalars?{query}")
    assert [step for _, step, _ in points] == [100, 200]
    assert points[-1][2] == pytest.approx(read_metrics_values(runs[0])[SCORE])

    rows = {}
    for row in read_session_groups(url):
        rows[row["hparams"]["lr"], row["hparams"]["seed"]] = row
    numbers = {(0.01, "0"): 0, (0.01, "1"): 1, (0.2, "0"): 2, (0.2, "1"): 3}
    for key, number in numbers.items():
        metrics = read_metrics_values(runs[number])
        for name in (SCORE, "test/macro_f1", "train/loss"):
            tag = to_tensorboard_tag(name)
            assert rows[key]["metrics"][tag] == pytest.approx(metrics[name], abs=1e-6)


@pytest.mark.parametrize(
    ("value", "expected"), [(True, "true"), (128, "128"), (0.05, 0.05), ("gru", "gru")]
)
def test_hparams_are_shown_as_typed(value: Any, expected: Any) -> None:
    assert convert_to_hparam(value) == expected
