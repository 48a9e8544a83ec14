"""Mistakes that a user can correct, and the exit codes of the command line."""

EXIT_USER_ERROR = 2


class UserError(ValueError):
    """The input is wrong: one line that names the key or path and what would be right.

    The command line prints the message without a traceback and exits with code 2.
    """
