"""A hand-written recurrent network that says which language a surname comes from."""

import gc
import signal
import sys

# A program of this package is about to import for some seconds (Python's word for that is "-m").
if sys.argv[:1] == ["-m"]:
    gc.disable()  # all of that stays; it is enabled again when the work begins
    # Nothing can be lost yet: Ctrl-C ends it at once, without the traceback of a KeyboardInterrupt.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
