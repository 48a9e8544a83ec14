"""What messages look like when they are printed: values of users and names of files do what they like only there."""

import re
import sys
from typing import Any

LONGEST, LONGEST_WORD = 800, 200  # characters
JOINERS = "\u200c\u200d"  # within words of some scripts, and within emoji


def one_line(message: object) -> str:
    """The message as a single printable line, see `printable`."""
    return printable(" ".join(str(message).splitlines()))


def printable(text: str) -> str:
    """The text without control characters, half characters and bidirectional overrides: escaped as in Python.

    Words and texts that are longer than a line or a paragraph lose their middle; how a message begins, which names the
    key, and how it ends, which says what would be right, stay.
    """
    shown = "".join(char if char.isprintable() or char in "\n" + JOINERS else ascii(char)[1:-1] for char in text)
    shown = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda match: _without_middle(match[0], LONGEST_WORD), shown)
    return _without_middle(shown, LONGEST)


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 image`, `1,281,167 images`: never "1 images".

    Args:
        count: how many.
        one: of them, with a verb where it says more: `line is`.
        many: of them; default: the regular plural of a noun.
    """
    if count == 1:
        return f"1 {one}"
    return f"{count:,} {many or one + ('es' if one.endswith(('s', 'ch')) else 's')}"


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """`warnings.showwarning` of a command: one line, without the place in the code.

    Python asks for this one; what it calls `formatwarning` is replaced by Lightning when that is imported.
    """
    print(f"warning: {one_line(message)}", file=sys.stderr, flush=True)


def _without_middle(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    end = length // 3
    return f"{text[: length - end]} ... {text[-end:]}"
