"""Command line of `python -m src.audit`, which finds problems in a list of names."""

import signal

if __name__ == "__main__":
    # Until a handler is installed, Ctrl-C ends the program without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from src.config import CONFIG_FOLDER, Config
from src.console import colorize_words
from src.errors import UserError
from src.files import check_output_files, write_bytes_atomically
from src.inference import cli
from src.run.compose import build_config
from src.run.messages import error_message


def main(arguments: list[str] | None = None) -> None:
    """Run the program. If the user made a mistake, print one line and exit with status 2.

    Args:
        arguments: the arguments of the command line; by default those of this process.
    """
    # `check` is called before the slow imports of `print_and_write_report`.
    cli.run_cli(make_parser(), print_and_write_report, arguments, check=check_output_can_be_written)


def make_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    description = "Find problems in a list of names before training on it."
    parser = ArgumentParser(prog="python -m src.audit", description=description)
    # The keys are those of src.train, so that they can be copied from its command line.
    parser.add_argument(
        "keys",
        nargs="*",
        metavar="KEY=VALUE",
        help="the same settings as for src.train, such as data_file=people.csv; see "
        "python -m src.train --help",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the report as JSON")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    return parser


def check_output_can_be_written(options: Namespace) -> None:
    """Check that the report can be written.

    This is checked first, because auditing a long list of names takes a while.

    Raises:
        UserError: if the file exists.
    """
    check_output_files(options.out, force=options.force)


def print_and_write_report(options: Namespace) -> None:
    """Audit the names, print the report, and write it to the file that the options name.

    Raises:
        UserError: if a key is wrong, or the names cannot be read.
        OSError: if a file cannot be opened.
    """
    # Imported late: torch takes a second, and a mistyped option should be reported at once.
    from src.audit.audit import audit
    from src.audit.corpus import AuditSettings
    from src.audit.report import format_report

    # The keys are checked like those of a run, so that a mistyped one is reported.
    config = compose_config(options.keys)
    report = audit(AuditSettings.from_config(config))
    print(colorize_words(format_report(report), sys.stdout))
    if options.out:
        content = json.dumps(report.to_dict(), indent=2)
        write_bytes_atomically(options.out, content.encode())


def compose_config(overrides: list[str]) -> Config:
    """Return the settings that `python -m src.train` would have with these overrides.

    Raises:
        UserError: if a key or a value is wrong.
    """
    # `hydra.main` is not used, because it would create a folder for each command.
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return build_config(compose("train", overrides), overrides)
    except HydraException as error:
        raise UserError(error_message(error)) from None


if __name__ == "__main__":
    cli.run_cli_and_exit(main)
