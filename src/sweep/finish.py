"""What happens at the end of a sweep: its leaderboard is written and printed."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from src.console import BOLD, colorize
from src.errors import UserError
from src.files import write_bytes_atomically
from src.run.messages import format_folder_override
from src.sweep.leaderboard import LeaderboardRow, find_swept_keys, group_and_rank_runs
from src.sweep.leaderboard_files import format_leaderboard_table, write_leaderboard_and_runs_csv
from src.sweep.runs import print_unless_pipe_is_closed, read_ended_runs

ExitStatus = int
"""Exit status of a command: 0 if it succeeded, 1 after an error, and above 128 after a signal."""

TRAIN_COMMAND = ["python", "-m", "src.train"]


def write_and_print_leaderboard(sweep_folder: Path, exit_status: ExitStatus) -> ExitStatus:
    """Write and print the leaderboard of a sweep that has ended, and how to resume the sweep.

    Args:
        sweep_folder: the folder of the sweep.
        exit_status: the exit status of the command so far.

    Returns:
        The exit status of the command: `exit_status`, or 1 if it is 0 and a run has failed or a
        file cannot be written.
    """
    # Interrupted runs are not included. Repeating the command of the sweep resumes them.
    runs = read_ended_runs(sweep_folder)
    n_failed = len([run for run in runs if run.failure])
    is_interrupted = exit_status > 128
    is_written = True
    if runs:
        rows = group_and_rank_runs(runs)
        # The runs of a row differ in their seeds, so a row has no seed.
        keys = [key for key in find_swept_keys(runs) if key != "seed"]
        print_leaderboard_and_commands(sweep_folder, rows, keys)
        try:
            write_leaderboard_files_and_figure(sweep_folder, rows, keys)
        except (UserError, OSError) as error:
            print_unless_pipe_is_closed(f"The leaderboard was not written: {error}")
            is_written = False
    if is_interrupted:
        print_unless_pipe_is_closed(f"Interrupted. Finished runs: {len(runs) - n_failed}")
    if n_failed:
        print_unless_pipe_is_closed(f"Failed: {n_failed} of {len(runs)} runs")
    # Without any run, an error is most likely a mistake in the command, which has to be corrected.
    has_error = exit_status != 0 or not is_written
    has_error_after_runs = has_error and len(runs) > 0
    should_be_resumed = n_failed > 0 or is_interrupted or has_error_after_runs
    if should_be_resumed:
        print_unless_pipe_is_closed(f"Resume         {format_resume_command(sweep_folder)}")
    # An earlier error or signal is more important than failed runs or a missing file.
    if exit_status == 0 and (n_failed > 0 or not is_written):
        return 1
    return exit_status


def print_leaderboard_and_commands(
    sweep_folder: Path, rows: Sequence[LeaderboardRow], keys: Sequence[str]
) -> None:
    """Print the leaderboard, and the commands that use it.

    Args:
        sweep_folder: the folder of the sweep.
        rows: the leaderboard, the best row first.
        keys: the swept keys, without the seed.
    """
    quoted_folder = shlex.quote(str(sweep_folder))
    header, *lines = format_leaderboard_table(rows, keys)
    # Without validation names, no run has a score, so none is the best one.
    has_best_row = rows[0].score is not None
    if has_best_row:
        lines[0] = colorize(lines[0], BOLD, sys.stdout)
    table = "\n".join([header, *lines])
    print_unless_pipe_is_closed(f"\n{table}\n")
    if has_best_row:
        print_unless_pipe_is_closed(f"Best settings  {format_command_with_settings(rows[0])}")
        print_unless_pipe_is_closed(
            f"Best run       python -m src.predict --checkpoint {quoted_folder}"
        )
    print_unless_pipe_is_closed(
        f"Leaderboard    {sweep_folder / 'leaderboard.csv'}, leaderboard.png"
    )
    print_unless_pipe_is_closed(f"TensorBoard    tensorboard --logdir {quoted_folder}")


def write_leaderboard_files_and_figure(
    sweep_folder: Path, rows: Sequence[LeaderboardRow], keys: Sequence[str]
) -> None:
    """Write the CSV files and the picture of a leaderboard.

    Args:
        sweep_folder: the folder of the sweep.
        rows: the leaderboard, the best row first.
        keys: the swept keys, without the seed.

    Raises:
        UserError: if a file cannot be written.
    """
    # Imported late: matplotlib takes half a second.
    from src.run.figures import render_png
    from src.sweep.figure import draw_heat_map_or_panels

    write_leaderboard_and_runs_csv(sweep_folder, rows)
    picture = render_png(draw_heat_map_or_panels(keys, rows))
    write_bytes_atomically(sweep_folder / "leaderboard.png", picture)


def format_command_with_settings(row: LeaderboardRow) -> str:
    """Return the command that trains with the settings of a row again, with all of its seeds."""
    overrides = []
    for key, value in row.settings.items():
        # A single run does not need the cluster of the sweep.
        if key != "cluster":
            overrides.append(f"{key}={value}")
    if row.seeds:
        overrides += ["-m", f"seed={','.join(row.seeds)}"]
    elif "experiment" in row.settings:
        # The experiment may define a sweep, which must not start again. With `-m` for the seeds,
        # the command starts a sweep anyway.
        overrides.append("hydra.mode=RUN")
    return shlex.join(TRAIN_COMMAND + overrides)


def format_resume_command(sweep_folder: Path) -> str:
    """Return the current command with the folder of the sweep, which resumes the sweep."""
    arguments = []
    for argument in sys.argv[1:]:
        if not argument.startswith("hydra.sweep.dir="):
            arguments.append(argument)
    command = shlex.join(TRAIN_COMMAND + arguments)
    return f"{command} {format_folder_override('hydra.sweep.dir', sweep_folder)}"
