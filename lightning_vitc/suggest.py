"""Did you mean?"""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`"; did you mean 'x'?"` for the nearest known word (shown behind `prefix`), or nothing."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{prefix}{matches[0]}'?" if matches else ""
