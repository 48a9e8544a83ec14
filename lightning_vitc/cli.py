"""The command `vitc`: finds the command's module, and turns what goes wrong into exit codes.

0 done; 2 the user's input is wrong, one line on stderr; 1 anything else: one line for a failure of the machine or of a
training, a traceback for a fault of the program.
"""

import argparse
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from lightning_vitc import __version__
from lightning_vitc.commands import COMMANDS
from lightning_vitc.errors import EXIT_FAILURE, EXIT_USER_ERROR, Interrupted, RunFailure, UserError
from lightning_vitc.errors.failures import explained, ignore_in_threads
from lightning_vitc.errors.messages import one_line, show_warning
from lightning_vitc.errors.signals import answered
from lightning_vitc.errors.suggest import did_you_mean

EXIT_BROKEN_PIPE = 1
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    warnings.showwarning, threading.excepthook = show_warning, ignore_in_threads
    try:
        with answered():
            code = _dispatch(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
        return code
    except UserError as error:
        return _answer(error, EXIT_USER_ERROR)
    except RunFailure as error:
        return _answer(error, EXIT_FAILURE)
    except Interrupted as stop:
        print(f"stopped by {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        print("interrupted", file=sys.stderr)  # Lightning shuts down on Ctrl-C, then exits with 1
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
        return EXIT_BROKEN_PIPE
    except Exception as error:
        if (line := explained(error)) is None:
            raise
        return _answer(line, EXIT_FAILURE)


def _answer(problem: object, code: int) -> int:
    print(f"error: {one_line(problem)}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing the usage: a mistake is answered in one line."""

    def error(self, message: str) -> NoReturn:
        """Answer a mistake in the arguments."""
        raise UserError(f"{self.prog}: {message}; see '{self.prog} --help'")


def _dispatch(argv: list[str]) -> int:
    if argv and not argv[0].startswith("-"):
        return _run_command(argv[0], argv[1:])
    parser = _main_parser()
    try:
        parser.parse_args(argv)
    except SystemExit:  # --help and --version
        return 0
    parser.error("a command is missing")


def _run_command(name: str, argv: list[str]) -> int:
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f"; the commands are {', '.join(COMMANDS)}"
        raise UserError(f"{name}: unknown command{hint}")
    module = import_module(f"lightning_vitc.commands.{name}")
    parser = _Parser(prog=f"vitc {name}", description=_sentence(COMMANDS[name]), allow_abbrev=False)
    module.add_arguments(parser)
    try:
        args = parser.parse_intermixed_args(argv)  # options may stand between key=value arguments
    except SystemExit:
        if named := [word for word in argv[:1] if not word.startswith("-") and hasattr(module, "more_help")]:
            print(f"\n{module.more_help(*named)}")
        return 0
    return module.run(args)


def _main_parser() -> _Parser:
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())
    parser = _Parser(
        prog="vitc",
        usage="vitc COMMAND ...",
        description="Compress Vision Transformers with published methods.",
        epilog=f"commands:\n{table}\n\n'vitc COMMAND --help' explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vitc {__version__}")
    return parser


def _sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:]}."
