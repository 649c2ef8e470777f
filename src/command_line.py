"""The command line, before Hydra sees it: extras, and what goes on from an earlier command."""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

from src.errors import UserError
from src.experiment_files import CONFIGS, check_experiments
from src.sweeps.sweep import SWEEP

EXTRAS = {
    "hydra/launcher=joblib": ("hydra-joblib-launcher", "sweep"),
    "hydra/sweeper=optuna": ("hydra-optuna-sweeper", "sweep"),
    "experiment=search": ("hydra-optuna-sweeper", "sweep"),
    "hydra/launcher=ray": ("hydra-ray-launcher", "cluster"),
    "cluster=ray": ("hydra-ray-launcher", "cluster"),
    "hydra/launcher=submitit_local": ("hydra-submitit-launcher", "cluster"),
    "hydra/launcher=submitit_slurm": ("hydra-submitit-launcher", "cluster"),
    "cluster=slurm": ("hydra-submitit-launcher", "cluster"),
}
"""Words of the command line, the package each needs, and the extra that brings it."""


def completed(words: list[str]) -> list[str]:
    """Return the command line as Hydra is to see it: `resume=` replaced by what it means.

    Raises:
        UserError: if a word asks for an extra that is not installed, or for an experiment that may
            not be trusted, or goes on with nothing, or with other settings.
    """
    check_experiments(words)
    check_groups(words)
    for word in set(words) & set(EXTRAS):
        package, extra = EXTRAS[word]
        try:
            distribution(package)
        except PackageNotFoundError:
            raise UserError(f"{word}: is not installed; pip install -e '.[{extra}]'") from None
    for key, resumed in (("resume_sweep=", resumed_sweep), ("resume=", resumed_run)):
        folders = [word.removeprefix(key) for word in words if word.startswith(key)]
        if folders:
            others = [word for word in words if not word.startswith(key)]
            before = resumed(Path(folders[-1]), others)
            check_experiments(before)  # the folder may be a stranger's
            return [*before, "hydra.callbacks.preflight.resumes=true"]
    return words


def check_groups(words: list[str]) -> None:
    """Check that groups such as `trainer` are given names; Hydra itself fails on other values.

    Raises:
        UserError: naming the word.
    """
    groups = {"hydra", *(folder.name for folder in CONFIGS.iterdir() if folder.is_dir())}
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException:
            continue  # a flag, or something that Hydra explains
        except ValueError:
            raise UserError(f"{word[:40]}…: has a number of too many digits") from None
        a_name = override.is_delete() or override.is_sweep_override()
        a_name |= isinstance(override.value(), str | QuotedString | dict)
        if not override.key_or_group or (override.key_or_group in groups and not a_name):
            raise UserError(f"{word}: must be a name, as in trainer=cpu")


def resumed_sweep(folder: Path, words: list[str]) -> list[str]:
    """Return the command line that a sweep was started with; its launcher may be another."""
    before = overrides(folder / SWEEP, f"resume_sweep={folder}: holds no sweep that can be read")
    for word in words:
        if word not in (*before, "-m", "--multirun") and not word.startswith(LAUNCHER):
            raise UserError(f"{word}: is not what the sweep in {folder} was started with")
    launched = [word for word in words if word.startswith(LAUNCHER)]
    if not any(word.startswith(LAUNCHER[0]) for word in launched):  # settings of the same one
        launched = [*(word for word in before if word.startswith(LAUNCHER)), *launched]
    return [
        "--multirun",
        *(word for word in before if not word.startswith((*OWN, *LAUNCHER))),
        *launched,
        f"hydra.sweep.dir={quoted(folder)}",
    ]


def resumed_run(folder: Path, words: list[str]) -> list[str]:
    """Return the command line that a run was started with; its iterations may be others."""
    if folder.suffix == ".ckpt":
        folder = folder.parent.parent
    problem = f"resume={folder}: holds no run that can be read"
    before = overrides(folder / ".hydra/hydra.yaml", problem)
    for word in words:
        if word not in before and not word.startswith("iterations="):
            raise UserError(
                f"{word}: a run goes on with the settings it has; only iterations can be raised"
            )
    longer = [word for word in words if word.startswith("iterations=")]
    # What was said to Hydra itself is of no use here, and may come from a stranger's folder.
    settings = [word for word in before if not word.lstrip("+~").startswith("hydra")]
    return [
        *(word for word in settings if not (longer and word.startswith("iterations="))),
        *longer,
        f"hydra.run.dir={quoted(folder)}",
        "hydra.mode=RUN",
    ]


OWN = ("hydra.run.dir=", "hydra.sweep.dir=", "hydra.callbacks.preflight.")
LAUNCHER = ("hydra/launcher=", "hydra.launcher.")


def overrides(file: Path, problem: str) -> list[str]:
    """Return the command line's words that Hydra noted in a file.

    Raises:
        UserError: saying what the problem is, if there are none.
    """
    try:
        saved: Any = OmegaConf.load(file).hydra.overrides
        return [*saved.task, *saved.hydra]
    except Exception:  # whatever a file that is none provokes
        raise UserError(problem) from None


def quoted(folder: Path) -> str:
    """Return a folder's name as Hydra reads it, whatever letters are in it."""
    no_reference = re.sub(r"(\\*)\$\{", r"\1\1\\${", str(folder))  # \${ is OmegaConf's word for ${
    return QuotedString(no_reference, Quote.single).with_quotes()
