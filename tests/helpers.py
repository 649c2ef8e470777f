"""Helpers for the tests: small corpora, checkpoints, settings and results of runs."""

import csv
import json
import re
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.config import RUN_KEYS, Config
from src.data import corpus
from src.data.alphabet import ASCII_ALPHABET
from src.data.batch import Batch
from src.data.corpus import NamesByCategory
from src.data.datamodule import NamesDataModule
from src.data.normalize import AlphabetKind
from src.data.readers import DataSource
from src.launch import train_all_seeds_unless_finished
from src.models.checkpoint import VERSION
from src.models.classifier import NameClassifier
from src.models.network import Network
from src.models.registry import SCORE
from src.run.compose import build_config
from src.run.run_folder import read_result_or_empty
from src.train import train
from tests.processes import ROOT as ROOT
from tests.processes import Result

# Corpora

INCLUDED_COUNTS = {
    "Arabic": (2000, 108),
    "Chinese": (268, 246),
    "Czech": (519, 502),
    "Dutch": (297, 286),
    "English": (3668, 3668),
    "French": (277, 273),
    "German": (724, 683),
    "Greek": (203, 193),
    "Irish": (232, 226),
    "Italian": (713, 704),
    "Japanese": (991, 990),
    "Korean": (94, 94),
    "Polish": (139, 138),
    "Portuguese": (74, 74),
    "Russian": (9384, 9340),
    "Scottish": (100, 100),
    "Spanish": (298, 293),
    "Vietnamese": (73, 71),
}
"""The number of lines and of distinct lines of each category of the included corpus."""


def make_corpus(folder: Path) -> Path:
    """Write three categories of 20, 12 and 6 distinct names.

    The name `bata` is in two categories, and is repeated in one of them.
    """
    folder.mkdir()
    vowels = "aeiou"
    names_by_category: dict[str, list[str]] = {"Alpha": [], "Beta": [], "Gamma": []}
    for first in vowels:
        # All names have a regular form, so that a network learns them within a few hundred steps.
        names_by_category["Alpha"] += [f"{first}l{last}" for last in vowels[:4]]
    for first in vowels[:4]:
        names_by_category["Beta"] += [f"b{first}t{last}" for last in vowels[:3]]
    names_by_category["Gamma"] += [f"g{vowel}mm" for vowel in vowels]
    for category in ("Beta", "Gamma"):
        names_by_category[category].append("bata")
    for category, names in names_by_category.items():
        (folder / f"{category}.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def read_corpus(folder: Path, kind: AlphabetKind = "ascii") -> NamesByCategory:
    """Return all names of a folder, normalized for an alphabet."""
    return corpus.read_corpus(DataSource(str(folder)), kind).all_names


def make_batch(names: list[str]) -> Batch:
    """Return a batch of names, whose categories are 0, 1, 2, 0, 1, 2, and so on."""
    letters, lengths = ASCII_ALPHABET.encode(names)
    return Batch(letters, lengths, torch.arange(len(names)) % 3)


# Checkpoints

CALIBRATION = {
    "trained_prior": [0.2, 0.3, 0.5],
    "corpus_prior": [0.9, 0.06, 0.04],
    "temperature": 1.5,
    "strength": 0.4,
    "curves": {},
}
"""A calibration for a network with three categories, as a checkpoint stores it."""

PRECISION_CURVE = [[0.25, 0.8, 1.0], [0.5, 0.9, 0.75], [0.75, 0.9375, 0.5]]
"""Points of threshold, precision and coverage, as a checkpoint stores them."""

NETWORK: dict[str, Any] = {
    "alphabet": ASCII_ALPHABET.to_dict(),
    "categories": ["A", "B", "C"],
    "train_prior": None,
    "cell": "tutorial",
    "hidden": 16,
    "ngrams": 0,
}
"""The hyperparameters of a network with the tutorial's cell, as a checkpoint stores them."""

GRU_NETWORK: dict[str, Any] = NETWORK | {
    "train_prior": [1 / 3] * 3,
    "cell": "gru",
    "hidden": 8,
    "layers": 1,
    "bidirectional": True,
    "embedding": 4,
    "pooling": "last",
    "dropout": 0.5,
    "recurrent_dropout": 0.0,
}
"""The hyperparameters of a bidirectional GRU."""

CHECKPOINT_SUMMARY = (
    "cell=tutorial letters=ascii, 1,200 iterations, validation balanced accuracy 0.625"
)
"""How the programs describe `make_checkpoint(NETWORK)`."""


def make_checkpoint(network: dict[str, Any] = NETWORK) -> dict[str, Any]:
    """Return the content of a checkpoint of an untrained network."""
    # Tests compare the predictions of checkpoints, so the weights must be equal in every run.
    torch.manual_seed(0)
    weights = Network(**network).state_dict()
    return {
        "version": VERSION,
        "hyper_parameters": {"network": network, "lr": 0.005},
        "state_dict": {f"network.{name}": weight for name, weight in weights.items()},
        "NamesDataModule": {
            "data_dir": None,
            "seed": 0,
            "val_fraction": 0.1,
            "test_fraction": 0.1,
            "longest_train_name": 8,
            "all": "",
            "train": "",
            "val": "",
            "test": "",
        },
        "iteration": 1200,
        "history": [(600, {SCORE: 0.5}), (1200, {"train/loss": 1.0}), (1200, {SCORE: 0.625})],
    }


def write_checkpoint(path: Path, **changes: object) -> Path:
    """Write the checkpoint of an untrained network, with some entries replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(make_checkpoint() | changes, path)
    return path


OLD_WEIGHT_NAMES = {
    "log_train_prior": "log_shares",
    "input_vectors": "letters",
    "letter_ngrams": "counted",
    "tfidf": "weighed",
    "log_beta": "log_strength",
    "log_delta": "log_pooled_strength",
    "logit_mu": "own_share",
}
"""Names in state dicts, and their names in early checkpoints of version 4."""


def with_old_names(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a checkpoint with the names of early checkpoints of version 4.

    Args:
        checkpoint: the content of a checkpoint with a calibration; it is not changed.
    """
    older = deepcopy(checkpoint)
    older["decision"] = older.pop("calibration")
    network = older["hyper_parameters"]["network"]
    network["letters"] = network.pop("alphabet")
    network["shares"] = network.pop("train_prior")
    older["state_dict"] = {}
    for key, weight in checkpoint["state_dict"].items():
        names = [OLD_WEIGHT_NAMES.get(name, name) for name in key.split(".")]
        older["state_dict"][".".join(names)] = weight
    return older


NETWORK_PATH = "hyper_parameters network"
"""Where a checkpoint stores the hyperparameters of its network, for `replace_value`."""


def replace_value(content: Any, path: str, value: Any) -> Any:
    """Return nested dictionaries and lists with one value replaced.

    Args:
        content: dictionaries and lists; they are not changed.
        path: keys and indices, separated by spaces: `NamesDataModule seed`.
        value: the new value.
    """
    if not path:
        return value
    key, _, rest = path.partition(" ")
    if isinstance(content, list):
        changed_list = list(content)
        changed_list[int(key)] = replace_value(content[int(key)], rest, value)
        return changed_list
    return {**content, key: replace_value(content.get(key), rest, value)}


# Training

QUICK_RUN = ["iterations=200", "log_every=50", "print_every=100", "val_every=100"]


def settings(overrides: list[str]) -> Config:
    """Return the settings that `python -m src.train` would run with.

    Hydra takes a third of a second to compose them. Therefore, a composed configuration is kept for
    each choice of groups, and plain values are set in a copy of it. `test_config.py` compares the
    result with that of `compose_settings`.
    """
    values: dict[str, Any] = {}
    other_overrides = []
    # Hydra itself parses everything but plain values of known keys.
    for override in overrides:
        key, _, value = override.partition("=")
        if (key in RUN_KEYS or key.startswith("trainer.")) and re.fullmatch(r"[\w./+-]+", value):
            values[key] = OverridesParser.create().parse_override(override).value()
        else:
            other_overrides.append(override)
    cfg = deepcopy(_compose_once(tuple(other_overrides)))
    try:
        for key, value in values.items():
            OmegaConf.update(cfg, key, value)
    except OmegaConfBaseException:
        return compose_settings(overrides)  # Hydra's message is the one that users see
    return build_config(cfg, overrides)


def _compose(overrides: Sequence[str]) -> DictConfig:
    HydraConfig.instance().cfg = None  # a command that this process ran may have set it
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", list(overrides))


@cache
def _compose_once(overrides: tuple[str, ...]) -> DictConfig:
    return _compose(overrides)


def compose_settings(overrides: list[str]) -> Config:
    """Compose the settings with Hydra, as the program does."""
    return build_config(_compose(overrides), overrides)


def make_trainer(**arguments: Any) -> Trainer:
    """Return an ordinary trainer on the CPU; the model ends the training."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": -1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return Trainer(**defaults | arguments)


def fit(model: NameClassifier, data: NamesDataModule) -> Trainer:
    """Train a model with an ordinary trainer, and return the trainer."""
    trainer = make_trainer(num_sanity_val_steps=0)
    trainer.fit(model, data)
    return trainer


def flat_weights(model: NameClassifier) -> torch.Tensor:
    """Return all weights of a model in one vector."""
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def train_unless_finished(config: Config, folder: Path) -> float | None:
    """Train as `python -m src.train` does: each seed, unless the folder has a finished run."""
    return train_all_seeds_unless_finished(train, config, folder)


# Results of runs


def read_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the curves in a run's TensorBoard log: for each tag, its steps and values."""
    # A size of 0 keeps all points instead of a sample.
    log = EventAccumulator(str(run), size_guidance={"scalars": 0})
    log.Reload()
    curves = {}
    for tag in log.Tags()["scalars"]:
        curves[tag] = [(event.step, event.value) for event in log.Scalars(tag)]
    return curves


def timeless_metrics(run: Path) -> dict[str, Any]:
    """Return the content of a run's metrics.json that does not depend on the machine's speed."""
    metrics = json.loads((run / "metrics.json").read_text())
    # These depend on the machine and its load.
    del metrics["seconds"], metrics["names_per_second"]
    return dict(metrics)


def load_checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    """Return the content of one of a run's checkpoints, `last` or `best`."""
    checkpoint: dict[str, Any] = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return checkpoint


def read_metrics_values(run: Path) -> dict[str, float]:
    """Return the numbers in a run's metrics.json."""
    return read_result_or_empty(run).metrics


def read_csv(file: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file by the names of its columns."""
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def without_times(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows of a leaderboard without the columns that contain times."""
    reduced_rows = []
    for row in rows:
        reduced_rows.append({key: value for key, value in row.items() if "second" not in key})
    return reduced_rows


def find_run(sweep: Path, number: int) -> Path:
    """Return the folder of one run of a sweep."""
    (folder,) = sweep.glob(f"{number}-*")
    return folder


class Sweep(NamedTuple):
    """A finished sweep: `python -m src.train -m …`."""

    cwd: Path
    """The folder in which the command was run."""
    folder: Path
    """The folder of the sweep."""
    overrides: list[str]
    """The arguments of the command."""
    common_overrides: list[str]
    """The overrides that all runs have in common."""
    result: Result


def assert_equal_runs(actual: Path, expected: Path) -> None:
    """Assert that two runs have the same weights, bit for bit, the same metrics and curves."""
    # Equal predictions are not enough, because a resumed run must be the same run.
    for name in ("last", "best"):
        weights = dict(load_checkpoint(actual, name)["state_dict"])
        expected_weights = dict(load_checkpoint(expected, name)["state_dict"])
        torch.testing.assert_close(weights, expected_weights, atol=0, rtol=0)
    assert timeless_metrics(actual) == timeless_metrics(expected)
    assert read_curves(actual) == read_curves(expected)
