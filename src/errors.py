"""The error that programs raise for mistakes that the user can fix."""


class UserError(ValueError):
    """An error that the user can fix. Its message says what is wrong and what is allowed.

    Programs show only the message, without a traceback, and end with a non-zero exit status.
    """
