"""The nearest valid name for one that is unknown."""

from collections.abc import Iterable
from difflib import SequenceMatcher


def nearest(word: str, candidates: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The candidates most like `word`, best first; equals keep their order."""
    scored = [(_similarity(word.lower(), candidate.lower()), candidate) for candidate in candidates]
    scored.sort(key=lambda pair: -pair[0])
    return [candidate for score, candidate in scored[:count] if score >= cutoff]


def did_you_mean(word: str, candidates: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> str:
    """`"; did you mean 'lr'?"`, of up to so many candidates, or nothing where none is near."""
    *others, last = [f"'{candidate}'" for candidate in nearest(word, candidates, count=count, cutoff=cutoff)] or [""]
    named = f"{', '.join(others)} or {last}" if others else last
    return named and f"; did you mean {named}?"


def unknown_name(key: str, kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a method or callback that does not exist."""
    known = sorted(known)
    hint = did_you_mean(name, known)
    listing = f"{hint} Known" if hint else "; known"
    return f"{key}: unknown {kind} '{name}'{listing}: {', '.join(known) or 'none'}"


def _similarity(word: str, candidate: str) -> float:
    if word in (_initials(candidate), candidate) or candidate == _initials(word):
        return 1.0 if word == candidate else 0.9
    return SequenceMatcher(None, word, candidate).ratio()


def _initials(name: str) -> str:
    parts = [part for part in name.split("_") if part]
    return "".join(part[0] for part in parts) if len(parts) > 1 else ""
