"""Ctrl-C and its kin: a run ends where it can be taken up again."""

import signal
from types import FrameType, TracebackType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; what ends a program politely; SLURM's word that time is nearly up."""
PATIENCE = 1.0
"""Seconds in which the present chunk of names may end."""


class Interrupted(BaseException):
    """The program was asked to end; like KeyboardInterrupt, no Exception."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.status = 128 + signum
        """The exit status, as shells report it."""


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Handle a signal by ending the program, in order.

    Raises:
        Interrupted: always.
    """
    raise Interrupted(signum)


def take_over_signals() -> None:
    """Have signals raise Interrupted from now on."""
    for signum in SIGNALS:
        signal.signal(signum, interrupt)


class Interruption:
    """While it is entered, a first signal is a wish, to be granted by `check`.

    A second one ends at once, and so does the first if nobody checks in time.
    """

    def __init__(self) -> None:
        self._signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        """Take over the signals."""
        self._before = {each: signal.getsignal(each) for each in (*SIGNALS, signal.SIGALRM)}
        self.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give them back."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def listen(self) -> None:
        """Take the signals over, from others that have taken them meanwhile, too."""
        for signum in SIGNALS:
            signal.signal(signum, self._wish)
        signal.signal(signal.SIGALRM, self._now)

    @property
    def wished(self) -> bool:
        """Whether a signal came."""
        return self._signum is not None

    def check(self) -> None:
        """End, if a signal came.

        Raises:
            Interrupted: then.
        """
        if self.wished:
            self.end()

    def end(self) -> NoReturn:
        """End because of the signal, or as if SIGTERM had come.

        Raises:
            Interrupted: always.
        """
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Interrupted(self._signum or signal.SIGTERM)

    def _wish(self, signum: int, frame: FrameType | None) -> None:
        if self._signum is not None:
            raise Interrupted(signum)
        self._signum = signum
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def _now(self, signum: int, frame: FrameType | None) -> None:
        self.check()
