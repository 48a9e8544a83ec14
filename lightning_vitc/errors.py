"""Mistakes that a user can correct, and the exit codes of the command line."""

import signal

EXIT_USER_ERROR = 2


class UserError(ValueError):
    """The input is wrong: one line that names the key or path and what would be right.

    The command line prints the message without a traceback and exits with code 2.
    """


class Interrupted(Exception):  # noqa: N818, it is no error
    """A training was stopped by a signal after it had saved where it was.

    Args:
        number: of the signal.
        step: optimizer steps that are saved.
    """

    def __init__(self, number: int, step: int):
        super().__init__(f"{signal.Signals(number).name} after step {step}; the same command continues from there")
        self.exit_code = 128 + number  # as a shell counts
