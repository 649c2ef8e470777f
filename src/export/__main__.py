"""Command line of `python -m src.export`, which exports a trained model."""

import signal

if __name__ == "__main__":
    # Until a handler is installed, Ctrl-C ends the program without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from argparse import ArgumentParser, Namespace
from pathlib import Path

from src.errors import UserError
from src.files import check_output_files, write_bytes_atomically
from src.inference import cli


def main(arguments: list[str] | None = None) -> None:
    """Run the program. If the user made a mistake, print one line and exit with status 2.

    Args:
        arguments: the arguments of the command line; by default those of this process.
    """
    cli.run_cli(make_parser(), export_model, arguments, check=check_options)


def make_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    # This adds --checkpoint, --prior and --force, which all programs with a model have.
    parser = cli.make_model_parser(
        "src.export",
        "Export a trained model as a web page or as an ONNX graph.",
    )
    # This is shorter than --checkpoint, and nearly every export needs it.
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="the same as --checkpoint")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE.html",
        help="web page to write; only for cell=tutorial with ngrams=0",
    )
    parser.add_argument(
        "--onnx",
        type=Path,
        metavar="FILE.onnx",
        help="ONNX graph to write; requires the extra `export`",
    )
    return parser


def check_options(options: Namespace) -> None:
    """Check the options before torch is imported.

    Raises:
        UserError: if no file is to be written, or a file exists.
    """
    if not (options.html or options.onnx):
        raise UserError("nothing to write; use --html FILE.html or --onnx FILE.onnx")
    check_output_files(options.html, options.onnx, force=options.force)


def export_model(options: Namespace) -> None:
    """Write the web page, the ONNX file or both, and print their names.

    Raises:
        UserError: if the model cannot be exported.
        OSError: if the checkpoint cannot be read.
    """
    # Imported late: torch takes a second, and a mistyped option should be reported at once.
    from src.export.page import render_page_of_tutorial_cell
    from src.inference.trained_model import load_model

    model = load_model(options.run or options.checkpoint, options.prior)
    # All contents are made before the first file is written, so that a failure leaves no files.
    contents: dict[Path, bytes] = {}
    if options.html:
        contents[options.html] = render_page_of_tutorial_cell(model).encode()
    if options.onnx:
        try:
            # `onnx_graph` imports onnx, which is an optional dependency.
            from src.export.onnx_graph import export_onnx
        except ImportError:
            raise UserError("--onnx requires an extra; run pip install -e '.[export]'") from None
        contents[options.onnx] = export_onnx(model)
    for file, content in contents.items():
        write_bytes_atomically(file, content)
        print(f"Wrote {file} ({len(content) / 1000:,.0f} kB) from {model.title}")
    if options.html:
        print(f"Open {options.html} in a browser.")


if __name__ == "__main__":
    cli.run_cli_and_exit(main)
