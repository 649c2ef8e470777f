"""What happens at the end of a sweep: its leaderboard is written and printed."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from src.errors import UserError
from src.files import write_bytes
from src.run.messages import shell_override
from src.sweep.leaderboard import LeaderboardRow, find_swept_keys, rank_runs
from src.sweep.leaderboard_files import format_leaderboard, write_leaderboard_files
from src.sweep.runs import print_line, read_runs

TRAIN_COMMAND = ("python", "-m", "src.train")


def finish_sweep(folder: Path, status: int) -> int:
    """Write and print the leaderboard of a sweep, and return the exit status of the command.

    Args:
        folder: the folder of the sweep.
        status: the exit status so far; above 128 after Ctrl-C or another signal.
    """
    runs = read_runs(folder)
    n_failed = sum(bool(run.failure) for run in runs)
    if runs:
        rows = rank_runs(runs)
        keys = [key for key in find_swept_keys(runs) if key != "seed"]
        print_leaderboard(folder, rows, keys)
        try:
            write_leaderboard(folder, rows, keys)
        except (UserError, OSError) as error:
            print_line(f"Not written    {error}")
            status = status or 1
    is_interrupted = status > 128
    if is_interrupted:
        print_line(f"Interrupted; runs done: {len(runs) - n_failed}")
    if n_failed:
        print_line(f"Runs failed: {n_failed} of {len(runs)}")
    has_error = status != 0
    should_be_resumed = n_failed > 0 or is_interrupted or (bool(runs) and has_error)
    if should_be_resumed:
        print_line(f"To go on       {format_resume_command(folder)}")
    if n_failed and not has_error:
        return 1
    return status


def print_leaderboard(folder: Path, rows: Sequence[LeaderboardRow], keys: Sequence[str]) -> None:
    """Print the leaderboard, and the commands that use it.

    Args:
        folder: the folder of the sweep.
        rows: the leaderboard, the best row first.
        keys: the swept keys, without the seed.
    """
    quoted_folder = shlex.quote(str(folder))
    print_line("\n".join(["", *format_leaderboard(rows, keys), ""]))
    if rows[0].score is not None:
        print_line(f"Best settings  {format_best_command(rows[0])}")
        print_line(f"Best run       python -m src.predict --checkpoint {quoted_folder}")
    print_line(f"Leaderboard    {folder}/leaderboard.*")
    print_line(f"TensorBoard    tensorboard --logdir {quoted_folder}")


def write_leaderboard(folder: Path, rows: Sequence[LeaderboardRow], keys: Sequence[str]) -> None:
    """Write the CSV files and the picture of a leaderboard; see `print_leaderboard`.

    Raises:
        UserError: if a file cannot be written.
    """
    # Imported late: matplotlib takes half a second.
    from src.run.figures import as_png
    from src.sweep.figure import sweep_figure

    write_leaderboard_files(folder, rows)
    write_bytes(folder / "leaderboard.png", as_png(sweep_figure(keys, rows)))


def format_best_command(row: LeaderboardRow) -> str:
    """Return the command that trains with the settings of a row again, with all of its seeds."""
    # A single run does not need the cluster.
    overrides = [f"{key}={value}" for key, value in row.settings.items() if key != "cluster"]
    if row.seeds:
        overrides += ["-m", f"seed={','.join(row.seeds)}"]
    elif "experiment" in row.settings:
        overrides.append("hydra.mode=RUN")  # the experiment may define a sweep
    return shlex.join([*TRAIN_COMMAND, *overrides])


def format_resume_command(folder: Path) -> str:
    """Return the current command with the folder of the sweep, which resumes the sweep."""
    arguments = [word for word in sys.argv[1:] if not word.startswith("hydra.sweep.dir=")]
    command = shlex.join([*TRAIN_COMMAND, *arguments])
    return f"{command} {shell_override('hydra.sweep.dir', folder)}"
