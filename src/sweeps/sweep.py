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
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from src.errors import UserError
from src.files import remove_parts
from src.metrics import FILE, SCORE, read_metrics
from src.sweeps.leaderboard import Row, Run, ranked, swept_keys, table, write_files

log = logging.getLogger(__name__)

WORST = 0.0
"""The score of a failed run: a search is to keep away from there."""
SWEEP = "multirun.yaml"
"""In a sweep's folder: its settings, as Hydra writes them."""
FAILED = "failed.txt"
"""In a failed run's folder: the reason."""
RAN = "overrides.json"
"""In a run's folder: the overrides that it really ran with."""
LEFT = (
    FAILED,
    FILE,
    "events.out.tfevents.*",
    "hparams.yaml",
    "metrics.csv",
    "*.png",
)
"""What else an unfinished run may leave, beside checkpoints, its settings and its log."""


def run_of_sweep(
    run: Callable[[], float | None], folder: Path, number: int, overrides: Sequence[str]
) -> float | None:
    """Do one run of a sweep in its folder, unless it is there already; return its score.

    A run that goes wrong, as far as a user can mend it, leaves its reason and scores 0; the sweep
    goes on. Its lines go to its log; the console gets one.

    Args:
        run: does it.
        folder: for its files.
        number: of the run in its sweep.
        overrides: its settings, `key=value` each.
    """
    for handler in logging.getLogger().handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.setLevel(logging.WARNING)
    ran = folder / RAN
    same = ran.exists() and _read_json(ran) == list(overrides)
    if same and (metrics := read_metrics(folder)):
        print(f"\t#{number} : done before", flush=True)
        return metrics.get(SCORE)
    if not same:
        clear(folder)
        ran.write_text(json.dumps(list(overrides)), encoding="utf-8")
    (folder / FAILED).unlink(missing_ok=True)
    try:
        score = run()
    except Exception as error:  # whatever it is, it is this run's failure
        reason = " ".join(str(error).split()) or type(error).__name__
        (folder / FAILED).write_text(f"{reason}\n", encoding="utf-8")
        log.info(f"Failed: {reason}")
        print(f"\t#{number} : failed: {reason}", flush=True)
        if not isinstance(error, UserError | OSError):
            raise  # a bug: Hydra shows where it is
        return WORST
    seconds = read_metrics(folder)["seconds"]
    shown = "done" if score is None else f"validation balanced accuracy {score:.4f}"
    print(f"\t#{number} : {shown}, {seconds:.1f} s", flush=True)
    return score


def clear(folder: Path) -> None:
    """Delete what an earlier run of the sweep left in its folder; its log stays."""
    if (folder / RAN).exists():
        for pattern in LEFT:
            for path in folder.glob(pattern):
                path.unlink()
        remove_parts(folder)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def read_runs(sweep: Path) -> list[Run]:
    """Return the runs of a sweep that ended, failed ones too, in the order of their numbers."""
    runs = []
    for file in sweep.glob(f"**/{RAN}"):
        folder = file.parent
        reason = folder / FAILED
        failed = reason.read_text(encoding="utf-8").strip() if reason.exists() else ""
        numbers = {} if failed else read_metrics(folder)
        if failed or numbers:
            parsed = OverridesParser.create().parse_overrides(_read_json(file))
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
        status: the exit status so far; above 128 after Ctrl-C or another signal.
    """
    runs = read_runs(folder)
    failed = sum(bool(run.failed) for run in runs)
    if runs:
        rows = ranked(runs)
        keys = [key for key in swept_keys(runs) if key != "seed"]
        print("\n".join(["", *table(rows, keys), "", *directions(folder, rows)]), flush=True)
        try:
            write_files(folder, rows, keys)
        except (UserError, OSError) as error:
            print(f"Not written    {error}")
            status = status or 1
    if status > 128:
        print(f"Interrupted; runs done: {len(runs) - failed}")
    if failed:
        print(f"Runs failed: {failed} of {len(runs)}")
    if failed or (runs and status) or status > 128:
        print(f"To go on       python -m src.train resume_sweep={shlex.quote(str(folder))}")
    return status or int(failed > 0)


def directions(folder: Path, rows: Sequence[Row]) -> list[str]:
    """Return what to do next: run the best settings, open the files, start TensorBoard."""
    lines = []
    best = rows[0]
    if best.score is not None:
        words = [f"{key}={value}" for key, value in best.settings.items() if key != "cluster"]
        if "experiment" in best.settings:
            words.append("hydra.mode=RUN")  # a recipe may ask for a sweep
        lines.append(f"Best settings  {shlex.join(['python', '-m', 'src.train', *words])}")
    return [
        *lines,
        f"Leaderboard    {folder}/leaderboard.csv, {folder}/leaderboard.png",
        f"TensorBoard    tensorboard --logdir {shlex.quote(str(folder))}",
    ]
