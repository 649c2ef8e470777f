"""What an experiment file may ask for, as it may come from a stranger: no code runs from it.

Hydra makes whatever objects a configuration names with `_target_`. So a file names only classes
that this project knows, and of Hydra's own settings only what belongs to a sweep.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from src.errors import UserError

CONFIGS = Path(__file__).parent.parent / "configs"
LARGEST = 20_000  # bytes
TARGETS = re.compile(r"(lightning\.pytorch\.loggers|optuna\.samplers)\.\w+")
GROUP = re.compile(r"((override|optional) )*/?(trainer|logger|cluster|hydra/sweeper)")
OPTION = re.compile(r"[\w-]+")
HYDRA = ("mode", "sweeper")
SWEEPER = ("params", "sampler", "direction", "n_trials", "n_jobs", "study_name", "max_failure_rate")


def check_experiments(words: list[str]) -> None:
    """Check every file that the words of a command line may select an experiment from.

    Raises:
        UserError: naming the file and what it may not hold.
    """
    foreign = [Path(after) for word, after in pairwise(words) if word in ("--config-dir", "-cd")]
    foreign += [Path(word.partition("=")[2]) for word in words if word.startswith("--config-dir=")]
    experiments = [word for word in words if "experiment" in word]
    for word in experiments:
        if ".." in word:
            raise UserError(f"{word}: must be in configs/experiment or under a --config-dir")
    for folder in [*foreign, *([CONFIGS / "experiment"] if experiments else [])]:
        for file in sorted(folder.glob("**/*.yaml")):
            try:
                check_file(file)
            except OSError as error:
                raise UserError(f"{file}: {error.strerror}") from None
            except (ValueError, yaml.YAMLError, RecursionError) as error:
                raise UserError(f"{file}: {' '.join(str(error).split())}") from None


def check_file(file: Path) -> None:
    """Check one file.

    Raises:
        ValueError: saying what it may not hold.
        yaml.YAMLError: if it is not YAML.
        OSError: if it cannot be read.
    """
    if file.stat().st_size > LARGEST:
        raise ValueError(f"is larger than {LARGEST:,} bytes")
    text = file.read_text(encoding="utf-8")
    for package in re.findall(r"^\s*#\s*@package\s+(.*?)\s*$", text, re.MULTILINE):
        if package != "_global_":
            raise ValueError(f"@package {package}: must be _global_")
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise ValueError("holds an alias (*name); write the value out")  # copies can grow for ever
    content = mapping(yaml.safe_load(text), "the file")
    defaults = content.get("defaults") or []
    if not isinstance(defaults, list):
        raise ValueError("defaults: is no list")
    for entry in defaults:
        pairs = entry.items() if isinstance(entry, dict) else [("trainer", entry)]
        for group, option in pairs:
            if not GROUP.fullmatch(str(group)) or not OPTION.fullmatch(str(option)):
                raise ValueError(f"defaults: {entry}: is not allowed here")
    hydra = mapping(content.get("hydra"), "hydra")
    sweeper = mapping(hydra.get("sweeper"), "hydra.sweeper")
    for key, settings, allowed in (("hydra", hydra, HYDRA), ("hydra.sweeper", sweeper, SWEEPER)):
        for name in settings:
            if name not in allowed:
                raise ValueError(f"{key}.{name}: is not allowed here, only {', '.join(allowed)}")
    for target in targets(content):
        if not (isinstance(target, str) and TARGETS.fullmatch(target)):
            raise ValueError(f"_target_: {target}: is not allowed here")


def mapping(content: Any, what: str) -> dict[Any, Any]:
    """Return what maps keys to values; empty if there is nothing.

    Raises:
        ValueError: if it is something else.
    """
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{what}: is no mapping of keys to values")
    return content or {}


def targets(content: Any) -> Iterator[Any]:
    """Yield what a file would have made, however deep it says so."""
    if isinstance(content, dict):
        yield from (value for key, value in content.items() if key == "_target_")
        content = list(content.values())
    if isinstance(content, list):
        for value in content:
            yield from targets(value)
