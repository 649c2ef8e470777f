"""Output for people who wait or read in a terminal: announcements and colors."""

import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

MAX_SILENT_SECONDS = 1.0
"""A step that takes longer is announced."""

log = logging.getLogger(__name__)

# Escape sequences of ANSI terminals.
BOLD = "1"
RED = "31"
GREEN = "32"
YELLOW = "33"

WORD_COLORS = {
    r"\bCORRECT$": GREEN,
    r"\bWRONG \(.*\)$": RED,
    r"^error\b": RED,
    r"^warning\b": YELLOW,
    r"^suspect\b": YELLOW,
}
"""Patterns of words in messages, and their colors."""


@contextmanager
def announce_if_slow(message: str) -> Iterator[None]:
    """Log a message if a `with` block takes more than `MAX_SILENT_SECONDS`, while it is running."""
    timer = threading.Timer(MAX_SILENT_SECONDS, log.info, [message])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def supports_color(stream: TextIO) -> bool:
    """Return whether colored text may be written to a stream.

    This is the case in a terminal, unless the environment variable `NO_COLOR` is set or `TERM` is
    `dumb`.
    """
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def colorize(text: str, color: str, stream: TextIO) -> str:
    """Return a text with escape sequences for a color, if the stream supports them."""
    if not supports_color(stream):
        return text
    return f"\033[{color}m{text}\033[0m"


def colorize_words(text: str, stream: TextIO) -> str:
    """Return a text in which the matches of `WORD_COLORS` are colored."""
    if not supports_color(stream):
        return text
    for pattern, color in WORD_COLORS.items():
        colored_match = colorize(r"\g<0>", color, stream)  # \g<0> stands for the match
        text = re.sub(pattern, colored_match, text, flags=re.MULTILINE)
    return text


class ColorFormatter(logging.Formatter):
    """Formats messages for the console, with colored words."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, with colors if standard output is a terminal."""
        return colorize_words(super().format(record), sys.stdout)
