"""A sweep: each of its runs, and what remains to be done when it ends.

The runs may take place in other processes and on other machines. What is known of them is what
they leave in their folders.
"""

import json
import logging
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from src.errors import UserError
from src.leaderboard import SCORE, Row, Run, ranked, swept_keys, table, write_files

log = logging.getLogger(__name__)

WORST = 0.0
"""The score of a failed run: a search is to keep away from there."""
SWEEP = "multirun.yaml"
"""In a sweep's folder: its settings, as Hydra writes them."""
FAILED = "failed.txt"
"""In a failed run's folder: the reason."""
LEFT = (FAILED, "events.out.tfevents.*", "hparams.yaml", "metrics.csv", "*.png", ".*.part")
"""What else an unfinished run may leave, beside checkpoints, its settings and its log."""


def run_of_sweep(run: Callable[[], float | None], folder: Path, number: int) -> float | None:
    """Do one run of a sweep in its folder, unless it is there already; return its score.

    A run that goes wrong, as far as a user can mend it, leaves its reason and scores 0; the sweep
    goes on. Its lines go to its log; the console gets one.
    """
    for handler in logging.getLogger().handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.setLevel(logging.WARNING)
    metrics = folder / "metrics.json"
    if metrics.exists():
        print(f"\t#{number} : done before", flush=True)
        return _read_json(metrics).get(SCORE)
    clear(folder)
    try:
        score = run()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        (folder / FAILED).write_text(f"{reason}\n", encoding="utf-8")
        log.info(f"Failed: {reason}")
        print(f"\t#{number} : failed: {reason}", flush=True)
        if not isinstance(error, UserError | OSError):
            raise  # a bug: Hydra shows where it is
        return WORST
    seconds = _read_json(metrics)["seconds"]
    shown = "done" if score is None else f"validation balanced accuracy {score:.4f}"
    print(f"\t#{number} : {shown}, {seconds:.1f} s", flush=True)
    return score


def clear(folder: Path) -> None:
    """Delete what an interrupted or failed run left in its folder; its log stays."""
    for pattern in LEFT:
        for path in folder.glob(pattern):
            path.unlink()
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def read_runs(sweep: Path) -> list[Run]:
    """Return the runs of a sweep that ended, failed ones too, in the order of their numbers."""
    runs = []
    for file in sweep.glob("**/.hydra/overrides.yaml"):
        folder = file.parent.parent
        metrics, reason = folder / "metrics.json", folder / FAILED
        if metrics.exists() or reason.exists():
            failed = reason.read_text(encoding="utf-8").strip() if reason.exists() else ""
            numbers = _read_json(metrics) if metrics.exists() else {}
            words = cast("list[str]", OmegaConf.to_container(OmegaConf.load(file)))
            parsed = OverridesParser.create().parse_overrides(words)
            settings = {
                override.get_key_element(): override.get_value_element_as_str()
                for override in parsed
            }
            runs.append(Run(folder.relative_to(sweep).as_posix(), settings, numbers, failed))
    return sorted(runs, key=lambda run: (len(run.name), run.name))


def finish_sweep(folder: Path, status: int) -> int:
    """Print and write the leaderboard of the runs in `folder`; return the exit status.

    Args:
        folder: of the sweep.
        status: the exit status so far: 0, or 130 after Ctrl-C.
    """
    runs = read_runs(folder)
    failed = sum(bool(run.failed) for run in runs)
    if runs:
        rows = ranked(runs)
        keys = [key for key in swept_keys(runs) if key != "seed"]
        write_files(folder, rows, keys)
        print("\n".join(["", *table(rows, keys), "", *directions(folder, rows)]), flush=True)
    if status == 130:
        print(f"Interrupted; runs done: {len(runs)}")
    if failed:
        print(f"Runs failed: {failed} of {len(runs)}")
    if failed or (runs and status) or status == 130:
        print(f"To go on       python -m src.train resume_sweep={shlex.quote(str(folder))}")
    return status or int(failed > 0)


def directions(folder: Path, rows: Sequence[Row]) -> list[str]:
    """Return what to do next: run the best settings, open the files, start TensorBoard."""
    lines = []
    best = rows[0]
    if best.score is not None:
        words = [f"{key}={value}" for key, value in best.settings.items() if key != "cluster"]
        if "hydra.mode=MULTIRUN" not in OmegaConf.load(folder / SWEEP).hydra.overrides.hydra:
            words.append("hydra.mode=RUN")  # the recipe in `experiment` asks for a sweep
        lines.append(f"Best settings  {shlex.join(['python', '-m', 'src.train', *words])}")
    return [
        *lines,
        f"Leaderboard    {folder}/leaderboard.csv, {folder}/leaderboard.png",
        f"TensorBoard    tensorboard --logdir {shlex.quote(str(folder))}",
    ]
