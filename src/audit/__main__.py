"""Command line of `python -m src.audit`, which finds problems in a list of names."""

import signal

if __name__ == "__main__":
    # Until a handler is installed, Ctrl-C ends the program without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from src.config import CONFIG_FOLDER, Config
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
    cli.run_cli(make_parser(), print_and_write_report, arguments, check=check_options)


def make_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    description = "Find problems in a list of names before training on it."
    parser = ArgumentParser(prog="python -m src.audit", description=description)
    # The keys are those of src.train, so that they can be copied from its command line.
    parser.add_argument(
        "keys",
        nargs="*",
        metavar="KEY=VALUE",
        help="data_file=, data_dir=, letters= and all others of src.train; its --help explains "
        "them",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write all of it as JSON")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    return parser


def check_options(options: Namespace) -> None:
    """Check that the report can be written, because reading a long list of names takes a while.

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
    print(format_report(report))
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
