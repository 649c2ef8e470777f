"""Tests of announcements and colored output."""

import io
import logging
import sys
import threading

import pytest

from src import console
from src.console import BOLD, RED, ColorFormatter, colorize, colorize_words

REPORT = """\
error     Alpha.txt is empty
warning   3 names are repeated
suspect   2 names look alike
info      18 categories
1000  Smith / English CORRECT
2000  Lee / Korean WRONG (Chinese)
An error, a warning and CORRECT names: only whole fields are colored
"""
COLORED_REPORT = """\
\033[31merror\033[0m     Alpha.txt is empty
\033[33mwarning\033[0m   3 names are repeated
\033[33msuspect\033[0m   2 names look alike
info      18 categories
1000  Smith / English \033[32mCORRECT\033[0m
2000  Lee / Korean \033[31mWRONG (Chinese)\033[0m
An error, a warning and CORRECT names: only whole fields are colored
"""


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


@pytest.fixture(autouse=True)
def color_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment variables of a terminal with colors."""
    # The environment of the tests may disable colors.
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_text_is_colored_in_a_terminal() -> None:
    assert colorize("Result", BOLD, Terminal()) == "\033[1mResult\033[0m"
    assert colorize_words(REPORT, Terminal()) == COLORED_REPORT


def test_text_is_plain_in_a_pipe() -> None:
    assert colorize("Result", BOLD, io.StringIO()) == "Result"
    assert colorize_words(REPORT, io.StringIO()) == REPORT


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_environment_can_disable_colors(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert colorize("Result", RED, Terminal()) == "Result"
    assert colorize_words(REPORT, Terminal()) == REPORT


def test_empty_no_color_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """See https://no-color.org: the variable has an effect if it is not empty."""
    monkeypatch.setenv("NO_COLOR", "")
    assert colorize_words(REPORT, Terminal()) == COLORED_REPORT


def test_log_messages_are_colored_if_standard_output_is_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = logging.makeLogRecord({"msg": "warning   %d names", "args": (3,)})
    formatter = ColorFormatter("%(message)s")
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert formatter.format(record) == "\033[33mwarning\033[0m   3 names"
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert formatter.format(record) == "warning   3 names"


def test_slow_step_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    is_announced = threading.Event()

    def record(message: str) -> None:
        messages.append(message)
        is_announced.set()

    monkeypatch.setattr(console.log, "info", record)
    # A step that ends in time is not announced.
    with console.announce_if_slow("Not slow"):
        pass
    monkeypatch.setattr(console, "MAX_SILENT_SECONDS", 0.0)
    with console.announce_if_slow("Slow"):
        # The message is logged by a timer, in another thread.
        assert is_announced.wait(timeout=60)
    assert messages == ["Slow"]
