"""How the argparse programs, predict and evaluate, begin and end."""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from src.errors import UserError
from src.models.decision import DEFAULT_PRIOR, PRIORS


def run_program(main: Callable[[], None]) -> None:
    """Run a program's main function so that signals end it in order."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    main()
    gc.freeze()  # or Python looks through all of torch before it ends


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model is asked, and under which prior."""
    parser.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="a .ckpt or a run's folder (newest run)"
    )
    parser.add_argument(
        "--prior",
        choices=PRIORS,
        default=DEFAULT_PRIOR,
        help="how common the categories are taken to be. uniform: all equally; corpus: as in the "
        "run's corpus; tempered: between the two, where macro F1 is best (tempered)",
    )


def run_command(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], None],
    arguments: list[str] | None,
) -> None:
    """Do the work; end with one line and exit status 2 if something is the user's to mend."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the program
            nowhere = Path(os.devnull).open("r+", encoding="utf-8")  # noqa: SIM115 # for good
            setattr(sys, name, nowhere)
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # a file
    try:
        work(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `… | head` has seen enough
        drop_output()
    except (UserError, OSError) as error:
        try:
            sys.stdout.flush()
        except OSError:  # the disk under the output is full
            drop_output()
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\n")


def drop_output() -> None:
    """Let what is still to be printed vanish, so that Python does not complain at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
