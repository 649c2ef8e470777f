"""Everything that the YAML files refer to: the schema of train.yaml and OmegaConf resolvers.

Importing this module registers them. The worker processes of a sweep also import it, with
`src.train`, before they compose a configuration.
"""

import inspect
import re
from ast import AnnAssign, Constant, Expr, parse
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from secrets import token_hex
from textwrap import fill
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from src.config import Config

HELP_SECTIONS = {
    "data_dir": "Data",
    "cell": "Model",
    "lr": "Optimization",
    "log_every": "Logging",
    "resume": "Resuming and fine-tuning",
}
"""Headings of `--help`, by the first key below each."""
HELP_WIDTH = 80
"""Number of columns of a terminal."""
HELP_ASSIGNMENT_WIDTH = 21
"""Width of the column of `--help` that contains `key=value`."""
MAX_RUN_NAME_LENGTH = 60
"""Maximum length of the part of a folder's name that shows the overrides."""
KEYS_NOT_IN_RUN_NAME = ("resume", "logger", "cluster")
"""Keys that are left out of the names of folders."""


def register_schema_and_resolvers() -> None:
    """Register `Config` as the schema of train.yaml, and the functions that YAML files call."""
    ConfigStore.instance().store(name="schema", node=Config)
    resolvers: dict[str, Any] = {
        "key_help": format_key_help,
        "run_name": format_overrides_for_folder_name,
        "default_launcher": find_default_launcher,
        # WandB and MLflow name a run after its folder, which is the last component of a path.
        "last_component": lambda path: Path(path).name,
        # A resumed run continues in its own folder: `hydra.run.dir` is `resume`, if that is set.
        "first_set": lambda value, default: value or default,
        # `hydra.output_subdir` is null if `resume` is set, so that .hydra is not overwritten.
        "null_if_set": lambda value, default: None if value else default,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
    # A random suffix. It is cached, so that it is the same wherever a run refers to it.
    OmegaConf.register_new_resolver("unique", lambda: token_hex(4), use_cache=True, replace=True)


def read_key_docstrings() -> dict[str, str]:
    """Return the docstring under each key of `Config`, on one line."""
    docstrings = {}
    # Python does not keep the docstrings of fields, so they are read from the source: a field such
    # as `lr: float = key_field(…)` is followed by a statement that is only a text.
    class_definition: Any = parse(inspect.getsource(Config)).body[0]
    for statement, following in pairwise(class_definition.body):
        is_field = isinstance(statement, AnnAssign)
        is_text = isinstance(following, Expr) and isinstance(following.value, Constant)
        if is_field and is_text:
            key = statement.target.id
            docstring = following.value.value
            docstrings[key] = " ".join(docstring.split())
    return docstrings


def format_key_help(_root_: DictConfig) -> str:
    """Return a paragraph for each key: its current value, its meaning and the allowed values.

    Args:
        _root_: the whole configuration; OmegaConf passes it to an argument of this name.
    """
    indent = "  "
    # All lines of a paragraph start below the docstring, which follows `key=value` and a space.
    hanging_indent = indent + " " * (HELP_ASSIGNMENT_WIDTH + 1)
    lines = []
    for key, docstring in read_key_docstrings().items():
        if key in HELP_SECTIONS:
            lines.append(f"\n{HELP_SECTIONS[key]}\n")
        # YAML writes the value as users would type it: `false` and `null`. It adds a second line,
        # which is dropped.
        value = yaml.safe_dump(OmegaConf.select(_root_, key)).partition("\n")[0]
        allowed = Config.__dataclass_fields__[key].metadata["allowed"]
        assignment = f"{key}={value}"
        text = f"{assignment:<{HELP_ASSIGNMENT_WIDTH}} {docstring} ({allowed})"
        lines.append(
            fill(text, HELP_WIDTH, initial_indent=indent, subsequent_indent=hanging_indent)
        )
    return "\n".join(lines)


def format_overrides_for_folder_name(overrides: Iterable[str]) -> str:
    """Return the part of a run folder's name that shows the overrides: `-lr_0.01-hidden_64`.

    A path is represented by its last component, and so is a key: `data_dir=/home/me/names/` becomes
    `-data_dir_names`, and `trainer.max_time=1` becomes `-max_time_1`.
    """
    name = ""
    for override in overrides:
        # Hydra adds keys with `+`, and removes them with `~`.
        key, _, value = override.lstrip("+~").partition("=")
        if key not in KEYS_NOT_IN_RUN_NAME:
            short_key = key.rpartition(".")[2]
            short_value = value.rstrip("/").rpartition("/")[2]
            name += f"-{short_key}_{short_value}"
    # These characters need no quotes in a shell and are allowed in all file systems.
    safe_name = re.sub(r"[^A-Za-z0-9._+-]+", "_", name)
    return safe_name[:MAX_RUN_NAME_LENGTH].rstrip("._-")


def find_default_launcher() -> str:
    """Return the Hydra launcher that `cluster=cores` uses: joblib's if its plugin is installed."""
    # `find_spec` raises an error if the package of the module does not exist.
    has_plugins = find_spec("hydra_plugins") is not None
    if has_plugins and find_spec("hydra_plugins.hydra_joblib_launcher") is not None:
        return "joblib"
    return "basic"


register_schema_and_resolvers()
