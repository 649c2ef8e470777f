"""A sweep: each of its runs, and the leaderboard when it ends.

The runs may take place in other processes and on other machines. What the leaderboard knows of
them is what it finds in their folders.
"""

import csv
import json
import logging
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import mean, stdev
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from src.errors import UserError
from src.files import written_whole

log = logging.getLogger(__name__)

SCORE = "val/balanced_accuracy"
WORST = 0.0
"""The score of a failed run: a search is to keep away from there."""
SWEEP = "multirun.yaml"
"""In a sweep's folder: its settings, as Hydra writes them."""
FAILED = "failed.txt"
"""In a failed run's folder: the reason."""
SHOWN = {
    SCORE: "val balanced",
    "test/balanced_accuracy": "test balanced",
    "test/accuracy": "test accuracy",
    "test/macro_f1": "test macro F1",
    "test/top3_accuracy": "test top-3",
}
"""Metrics of the printed table, and their titles."""


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
    for path in folder.iterdir():
        if path.is_dir() and path.name != ".hydra":
            shutil.rmtree(path)
        elif path.is_file() and path.suffix != ".log":
            path.unlink()


def _read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


@dataclass(frozen=True)
class Run:
    """What the folder of an ended run says."""

    name: str
    """Its folder, seen from the sweep's."""
    settings: dict[str, str]
    """The overrides of its command line: key → value, as they were typed."""
    metrics: dict[str, float]
    """Empty if it failed."""
    failed: str
    """The reason; empty if it did not."""


@dataclass(frozen=True)
class Row:
    """Runs whose settings are equal but for the seed."""

    settings: dict[str, str]
    runs: list[Run]

    @property
    def failures(self) -> list[str]:
        """The reasons of the failed runs."""
        return [run.failed for run in self.runs if run.failed]

    def values(self, metric: str) -> list[float]:
        """Return the metric of each run that has it."""
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]

    @property
    def score(self) -> float | None:
        """The mean validation score, if there is one."""
        scores = self.values(SCORE)
        return mean(scores) if scores else None


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


def swept_keys(runs: Sequence[Run]) -> list[str]:
    """Return the keys whose values differ among the runs, in the order of the command line."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]


def ranked(runs: Sequence[Run]) -> list[Row]:
    """Gather runs that differ in the seed alone; best validation score first.

    Settings of which a run failed come after those that never fail, and those without a score
    last. The test has no say.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    repeated = "seed" in swept_keys(runs)
    for run in runs:
        settings = {k: v for k, v in run.settings.items() if not (repeated and k == "seed")}
        groups.setdefault(tuple(settings.items()), []).append(run)
    rows = [Row(dict(settings), members) for settings, members in groups.items()]

    def order(row: Row) -> tuple[bool, bool, float]:
        return row.score is None, bool(row.failures), -(row.score or 0)

    return sorted(rows, key=order)


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
        print(f"Interrupted; {len(runs)} runs are done")
    if failed:
        print(f"{failed} of {len(runs)} runs failed")
    if status == 130 or failed:
        print(f"To go on     python -m src.train resume_sweep={shlex.quote(str(folder))}")
    return status or int(failed > 0)


def table(rows: Sequence[Row], keys: Sequence[str]) -> list[str]:
    """Return the lines of the printed leaderboard."""
    metrics = [metric for metric in SHOWN if any(row.values(metric) for row in rows)]
    lines = [["", *keys, *(SHOWN[metric] for metric in metrics), "seconds", "run"]]
    for rank, row in enumerate(rows, start=1):
        settings = [_short(row.settings.get(key, "")) for key in keys]
        failed = " ".join(run.name for run in row.runs if run.failed)
        reason = f"failed: {failed} ({row.failures[0]})" if failed else ""
        finished = " ".join(run.name for run in row.runs if not run.failed)
        if not finished:
            lines.append(["", *settings, reason])
            continue
        lines.append(
            [
                "" if row.score is None else str(rank),
                *settings,
                *(_spread(row.values(metric), ".3f") for metric in metrics),
                _spread(row.values("seconds"), ".1f"),
                ", ".join(filter(None, (finished, reason))),
            ]
        )
    # The last cell of a line may be of any length.
    columns = zip_longest(*(line[:-1] for line in lines), fillvalue="")
    widths = [max(map(len, column)) for column in columns]
    return ["  ".join(map(str.ljust, line, [*widths, 0])).rstrip() for line in lines]


def _short(value: str) -> str:
    try:
        return f"{float(value):.4g}" if "." in value else value
    except ValueError:
        return value


def _spread(values: Sequence[float], digits: str) -> str:
    if not values:
        return ""
    spread = f" ± {stdev(values):{digits}}" if len(values) > 1 else ""
    return f"{mean(values):{digits}}{spread}"


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


def write_files(folder: Path, rows: Sequence[Row], keys: Sequence[str]) -> None:
    """Write leaderboard.csv, a line a row; runs.csv, a line a run; and leaderboard.png."""
    runs = [run for row in rows for run in row.runs]
    settings = list(dict.fromkeys(key for run in runs for key in run.settings))
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    metrics = [name for name in metrics if name not in settings]  # `iterations` is both
    lines: list[dict[str, Any]] = []
    for rank, row in enumerate(rows, start=1):
        line: dict[str, Any] = {"rank": "" if row.score is None else rank, **row.settings}
        for name in metrics:
            values = row.values(name)
            line[name] = mean(values) if values else ""
            line[f"{name}_std"] = stdev(values) if len(values) > 1 else ""
        line["runs"], line["failed"] = len(row.runs), len(row.failures)
        line["reason"] = "; ".join(dict.fromkeys(row.failures))
        line["folders"] = " ".join(run.name for run in row.runs)
        lines.append(line)
    _write_csv(folder / "leaderboard.csv", lines)
    _write_csv(
        folder / "runs.csv",
        [
            {"run": run.name}
            | {key: run.settings.get(key, "") for key in settings}
            | {name: run.metrics.get(name, "") for name in metrics}
            | {"failed": run.failed}
            for run in runs
        ],
    )

    from src.pictures import Point, as_png, sweep_figure  # takes half a second

    points = [
        Point([row.settings.get(key, "") for key in keys], row.values(SCORE), bool(row.failures))
        for row in rows
    ]
    with written_whole(folder / "leaderboard.png", "wb") as file:
        file.write(as_png(sweep_figure(keys, points, "validation balanced accuracy")))


def _write_csv(file: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write lines of equal keys; columns without any value are left out."""
    columns = [key for key in lines[0] if any(line[key] != "" for line in lines)]
    with written_whole(file, "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
