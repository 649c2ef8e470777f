"""Names from standard input: typed at a prompt, or piped with one name per line."""

import select
import sys
from collections.abc import Iterator
from contextlib import suppress

from src.data.readers.columns import NAME_WORDS, is_usual_name
from src.data.readers.records import BYTE_ORDER_MARK
from src.data.readers.text import check_lines

MAX_NAMES_AT_ONCE = 4096
"""Maximum number of names that are classified together: enough for speed, few enough for memory."""
MAX_LETTERS_AT_ONCE = 1_000_000
"""A batch of names ends at the latest when it has this many letters. The last name may exceed this
number."""
MAX_LINE_LENGTH = 10**8
"""Maximum length of a line, or of a cell of a CSV file, in characters. Without a limit, a quotation
mark that is never closed would make all the rest of a file one cell."""
ENCODING_REMEDY = "set --encoding"
"""What users can do if a file cannot be decoded."""


def read_typed_names_until_quit() -> Iterator[list[str]]:
    """Yield the names that a user types at a prompt, one by one, until `quit` or Ctrl-D."""
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr] # not in TextIO
    with suppress(ImportError):  # Windows has no such module, but its terminal can edit lines
        import readline  # as a side effect, lets `input` edit lines

        # Ignore keys that readline does not know, instead of inserting their codes.
        readline.parse_and_bind(r'"\e[": skip-csi-sequence')
    print('Type a surname, or "quit" to end.', file=sys.stderr)
    try:
        while True:
            name = input("Surname: ").strip()
            if name == "quit":
                break
            if name:
                yield [name]
    except (EOFError, KeyboardInterrupt):
        print()  # the shell's prompt starts on a new line


def read_piped_names(encoding: str) -> Iterator[list[str]]:
    """Yield the lines of standard input in batches.

    A batch ends when no more input has arrived yet, so that slow input is answered line by line.
    The user is told if the first line looks like a header.

    Raises:
        UserError: if a line is too long or cannot be decoded.
    """
    # With `newline="\n"`, a carriage return within a line does not end it.
    sys.stdin.reconfigure(encoding=encoding, errors="surrogateescape", newline="\n")  # type: ignore[union-attr] # not in TextIO
    lines = check_lines(sys.stdin, "standard input", ENCODING_REMEDY, MAX_LINE_LENGTH)
    batch: list[str] = []
    n_letters = 0
    for number, line in enumerate(lines, start=1):
        name = line.removesuffix("\n").removesuffix("\r")
        if number == 1:
            name = name.removeprefix(BYTE_ORDER_MARK)
            warn_about_header(name)
        batch.append(name)
        n_letters += len(name)
        # Large batches are fast, but another program may be waiting for the answer to this line.
        is_full = len(batch) == MAX_NAMES_AT_ONCE or n_letters >= MAX_LETTERS_AT_ONCE
        if is_full or not is_input_ready():
            yield batch
            batch = []
            n_letters = 0
    if batch:
        yield batch


def is_input_ready() -> bool:
    """Return whether more of standard input can be read without waiting.

    Lines that Python has read already, but not yet returned, are not considered. A batch may
    therefore end earlier than necessary, which is harmless.
    """
    try:
        ready, _, _ = select.select([sys.stdin], [], [], 0)
    except OSError:  # on Windows, `select` supports sockets only
        return False
    return bool(ready)


def warn_about_header(line: str) -> None:
    """Tell the user if the first line of a pipe looks like the header of a column of names."""
    if is_usual_name(line, NAME_WORDS):
        print(f"{line.strip()!r} looks like a header, but is classified as a name", file=sys.stderr)
