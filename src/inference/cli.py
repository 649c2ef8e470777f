"""How the argparse programs, all but train, begin and end."""

import csv
import gc
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from src.data.readers.source import normalize_label
from src.errors import UserError
from src.models.registry import DEFAULT_PRIOR, PRIORS
from src.run.environment import exclude_existing_objects_from_garbage_collection
from src.streams import redirect_stdout_to_devnull, replace_closed_streams


def run_program(main: Callable[[], None]) -> None:
    """Run a program's main function so that signals end it in order."""
    exclude_existing_objects_from_garbage_collection()
    torch.set_num_threads(1)  # matrices this small lose more to a second thread than they gain
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for each in signal.Signals:  # these would end it at once, and leave what it was writing
        if each.name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
            signal.signal(each, lambda number, _: sys.exit(128 + number))
    main()
    gc.freeze()  # or Python looks through all of torch before it ends


def make_parser(name: str, description: str) -> ArgumentParser:
    """Return the parser of a program that asks a model, under a prior."""
    parser = ArgumentParser(prog=f"python -m {name}", description=description)
    add: Any = parser.add_argument
    add("--checkpoint", type=Path, help="a .ckpt, or a run's or a sweep's folder (the newest run)")
    about = "how common categories are: uniform, as in the run's corpus, or in between (tempered)"
    add("--prior", choices=PRIORS, default=DEFAULT_PRIOR, help=about)
    add("--force", action="store_true", help="replace files that exist")
    return parser


def listed(text: str) -> list[str]:
    """Return the categories that an option names, cells of a CSV row: one may hold a comma."""
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    return [normalize_label(cell) for row in rows for cell in row]


def run_command(
    parser: ArgumentParser, work: Callable[[Namespace], None], arguments: list[str] | None
) -> None:
    """Do the work; end with one line and exit status 2 if something is the user's to mend."""
    replace_closed_streams()
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # a file
    try:
        work(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `… | head` has seen enough
        redirect_stdout_to_devnull()
    except (UserError, OSError) as error:
        try:
            sys.stdout.flush()
        except OSError:  # the disk under the output is full
            redirect_stdout_to_devnull()
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\n")
