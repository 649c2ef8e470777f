"""The one kind of error that is the user's to mend."""


class UserError(ValueError):
    """A setting, a file or a run went wrong; the message says which and what is allowed.

    Programs show the message alone, without a traceback, and end with a non-zero exit status.
    """
