"""What ends a command other than success: mistakes that a user can correct, failures of a run, and signals."""

import signal

EXIT_USER_ERROR = 2
EXIT_FAILURE = 1


class UserError(ValueError):
    """The input is wrong: one line that names the key or path and what would be right.

    The command line prints the message without a traceback and exits with code 2.
    """


class RunFailure(RuntimeError):  # noqa: N818, not an error of the program
    """A run cannot go on, for what lies outside of the program: one line that says what, and what is saved.

    The command line prints the message without a traceback and exits with code 1.
    """


class Interrupted(BaseException):
    """A command was stopped by a signal: no error, and nothing that handles errors may take it for one.

    Args:
        number: of the signal.
        where: of a run, which has saved how far it is: `after step 12`.
    """

    def __init__(self, number: int, where: str | None = None):
        left = f" {where}; the same command continues from there" if where else "; nothing is half written"
        super().__init__(f"{signal.Signals(number).name}{left}")
        self.exit_code = 128 + number  # as a shell counts
