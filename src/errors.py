"""The error that programs raise for mistakes that the user can fix."""


class UserError(ValueError):
    """An error that the user can fix. Its message says what is wrong and what is allowed.

    Programs show only the message, without a traceback, and end with a non-zero exit status.
    """


def describe_os_error(error: OSError) -> str:
    """Return the message of an error of the operating system, without its number."""
    if not error.strerror:
        return str(error)
    # An error of a stream, such as standard output, has no file name.
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
