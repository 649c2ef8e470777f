"""Everything that the YAML files refer to: the schema of train.yaml and OmegaConf resolvers.

Importing this module registers them. The worker processes of a sweep also import it, with
`src.train`, before they compose a configuration.
"""

import inspect
import re
from ast import AnnAssign, Constant, Expr, Name, parse
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
    "lr": "The experiment",
    "log_every": "What is seen of it",
    "val_fraction": "Names, and going on",
    "cell": "The network",
    "sampling": "Its training",
}
"""Headings of `--help`, by the first key below each."""
HELP_WIDTH = 80
MAX_RUN_NAME_LENGTH = 60
KEYS_NOT_IN_RUN_NAME = ("resume", "logger", "cluster")


def register() -> None:
    """Register the schema and the resolvers."""
    ConfigStore.instance().store(name="schema", node=Config)
    resolvers: dict[str, Any] = {
        "key_help": format_key_help,
        "run_name": format_run_name,
        "default_launcher": find_default_launcher,
        "last_component": lambda path: Path(path).name,
        "first_set": lambda value, default: value or default,
        "null_if_set": lambda value, default: None if value else default,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
    # The cache makes it the same for all references within one run.
    OmegaConf.register_new_resolver("unique", lambda: token_hex(4), use_cache=True, replace=True)


def read_key_docstrings() -> dict[str, str]:
    """Return the docstring under each key of `Config`, on one line."""
    docstrings = {}
    class_definition: Any = parse(inspect.getsource(Config)).body[0]
    for statement, following in pairwise(class_definition.body):
        match statement, following:
            case AnnAssign(target=Name(id=key)), Expr(value=Constant(value=str(docstring))):
                docstrings[key] = " ".join(docstring.split())
    return docstrings


def format_key_help(_root_: DictConfig) -> str:
    """Return a paragraph for each key: its current value, its meaning and the allowed values.

    Args:
        _root_: the whole configuration; OmegaConf passes it to an argument of this name.
    """
    lines = []
    for key, docstring in read_key_docstrings().items():
        if key in HELP_SECTIONS:
            lines.append(f"\n{HELP_SECTIONS[key]}\n")
        # YAML writes the value as one would type it: `false` and `null`.
        value = yaml.safe_dump(OmegaConf.select(_root_, key)).partition("\n")[0]
        allowed = Config.__dataclass_fields__[key].metadata["allowed"]
        assignment = f"{key}={value}"
        text = f"{assignment:<21} {docstring} ({allowed})"
        lines.append(fill(text, HELP_WIDTH, initial_indent="  ", subsequent_indent=" " * 24))
    return "\n".join(lines)


def format_run_name(overrides: Iterable[str]) -> str:
    """Return the part of a run folder's name that shows the overrides: `-lr_0.01-hidden_64`.

    A path is represented by its last component.
    """
    name = ""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key not in KEYS_NOT_IN_RUN_NAME:
            last_component = value.rstrip("/").rpartition("/")[2]
            name += f"-{key.rpartition('.')[2]}_{last_component}"
    safe_name = re.sub(r"[^A-Za-z0-9._+-]+", "_", name)
    return safe_name[:MAX_RUN_NAME_LENGTH].rstrip("._-")


def find_default_launcher() -> str:
    """Return the Hydra launcher that `cluster=cores` uses: joblib's if its plugin is installed."""
    has_plugins = find_spec("hydra_plugins") is not None
    if has_plugins and find_spec("hydra_plugins.hydra_joblib_launcher") is not None:
        return "joblib"
    return "basic"


register()
