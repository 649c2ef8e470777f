"""Shared command-line code of all programs except training: options, errors, signals, exit status.

Imports torch late: it takes a second, and `--help` or a mistyped option should be answered at once.
"""

import csv
import gc
import signal
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from src.data.readers.source import normalize_label
from src.errors import UserError, describe_os_error
from src.models.registry import DEFAULT_PRIOR, PRIORS
from src.run.environment import freeze_objects_and_enable_gc_once
from src.streams import redirect_stdout_to_devnull, replace_closed_streams

EXIT_SIGNAL_NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
EXIT_SIGNALS = [signum for signum in signal.Signals if signum.name in EXIT_SIGNAL_NAMES]
"""The signals other than Ctrl-C that ask a program to end. Windows has only SIGTERM."""


def make_model_parser(program: str, description: str) -> ArgumentParser:
    """Return a parser with the options of all programs that load a model."""
    parser = ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="a .ckpt file, or the folder of a run or sweep (default: the newest run)",
    )
    parser.add_argument(
        "--prior",
        choices=PRIORS,
        default=DEFAULT_PRIOR,
        help="class prior: uniform; corpus, the frequencies in the training corpus; or tempered, a "
        "compromise (default: tempered)",
    )
    parser.add_argument("--force", action="store_true", help="replace existing files")
    return parser


def parse_categories(text: str) -> list[str]:
    """Return the categories in the value of an option, which are separated by commas.

    A category that contains a comma is quoted, as in a CSV file.
    """
    categories = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        categories += [normalize_label(cell) for cell in row]
    return categories


def run_cli_and_exit(main: Callable[[], None]) -> NoReturn:
    """Call the main function of a program and exit with status 0.

    Args:
        main: the main function, which calls `run_cli`.
    """
    main()
    # The garbage collection at exit would take a second with torch loaded. All objects that exist
    # now, and not only those that existed before the work began, are excluded from it.
    gc.freeze()
    sys.exit(0)


def run_cli(
    parser: ArgumentParser,
    execute: Callable[[Namespace], None],
    arguments: list[str] | None,
    check: Callable[[Namespace], None] | None = None,
) -> None:
    """Parse the command line and do the work of a program.

    An error that the user can fix is printed in one line.

    Args:
        parser: the parser of the command line.
        execute: does the work of the program. It is called with torch imported.
        arguments: the command line; if None, that of this process.
        check: checks the options. It is called before torch is imported.

    Raises:
        SystemExit: if an option or a file is invalid, with status 2; or if a signal ends the
            program, with 128 plus its number.
    """
    replace_closed_streams()
    options = parser.parse_args(arguments)
    # The encoding of a terminal or a pipe may lack some letters.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # not in TextIO
    try:
        if check is not None:
            check(options)
        with program_environment():
            execute(options)
        sys.stdout.flush()
    except BrokenPipeError:  # stdout was closed: `… | head`
        redirect_stdout_to_devnull()
    except (UserError, OSError) as error:
        flush_or_discard_stdout()  # so that the error message comes last
        message = describe_os_error(error) if isinstance(error, OSError) else str(error)
        parser.exit(2, f"{parser.prog}: {message}\n")
    except KeyboardInterrupt:
        parser.exit(128 + signal.SIGINT, "\n")  # the terminal has shown ^C without a line end


def flush_or_discard_stdout() -> None:
    """Flush stdout, or discard its buffer and all further output if that fails."""
    try:
        sys.stdout.flush()
    except OSError:  # the disk is full, for example
        redirect_stdout_to_devnull()


@contextmanager
def program_environment() -> Iterator[None]:
    """Let torch use a single thread, and signals raise exceptions, in a `with` block.

    Objects that exist already are excluded from garbage collection; this is not undone.
    """
    # Import torch before installing the handlers of signals, because an exception that a handler
    # raises during this import can crash the program, or be ignored.
    import torch

    previous_n_threads = torch.get_num_threads()
    # For matrices this small, a second thread costs more time than it saves.
    torch.set_num_threads(1)
    # Collecting garbage among the objects of torch would double the time for a long file of names.
    freeze_objects_and_enable_gc_once()
    try:
        with signals_raise_exceptions():
            yield
    finally:
        torch.set_num_threads(previous_n_threads)


@contextmanager
def signals_raise_exceptions() -> Iterator[None]:
    """Let signals raise exceptions in a `with` block, so that temporary files are deleted.

    Ctrl-C raises KeyboardInterrupt; the other signals that ask a program to end raise SystemExit.
    Python handles signals in the main thread only; in other threads, this function does nothing.
    """
    # By default, most of these signals end a program without any cleanup.
    previous_handlers: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        previous_handlers[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
        for signum in EXIT_SIGNALS:
            previous_handlers[signum] = signal.signal(signum, exit_on_signal)
    try:
        yield
    finally:
        for signum, handler in previous_handlers.items():
            signal.signal(signum, handler)


def exit_on_signal(signum: int, _: Any) -> NoReturn:
    """Exit with the status that shells use for a program that was ended by a signal."""
    sys.exit(128 + signum)
