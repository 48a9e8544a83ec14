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


class Interrupted(Exception):  # noqa: N818, it is no error
    """A training was stopped by a signal after it had saved where it was.

    Args:
        number: of the signal.
        step: optimizer steps that are saved; `None` between two stages.
    """

    def __init__(self, number: int, step: int | None):
        where = "between two stages" if step is None else f"after step {step}"
        super().__init__(f"{signal.Signals(number).name} {where}; the same command continues from there")
        self.exit_code = 128 + number  # as a shell counts
