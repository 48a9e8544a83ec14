"""`${section.key}` takes the value of another key. Nothing else is evaluated: no environment, no resolver."""

from collections.abc import Iterator
from typing import Any

from lightning_vitc.errors import UserError


def resolve(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with every interpolation replaced by what it refers to."""
    texts = list(_interpolations(values))
    if not texts:
        return values  # most experiments have none, and OmegaConf takes a tenth of a second to import
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for key, text in texts:
        _check_grammar(key, text)
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise _user_error(dict(texts), error) from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _interpolations(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _interpolations(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _interpolations(item, f"{key}[{index}]")
    elif isinstance(value, str) and "${" in value:
        yield key, value


def _check_grammar(key: str, text: str) -> None:
    from omegaconf.errors import GrammarParseError
    from omegaconf.grammar_parser import parse

    try:
        tree = parse(text)
    except GrammarParseError:
        problem = r"is not an interpolation ${section.key}; write \${ for a plain ${"
        raise UserError(f"{key}: {text!r} {problem}") from None
    if _has_resolver(tree):
        problem = "calls a resolver; only ${section.key} is allowed, nothing is evaluated"
        raise UserError(f"{key}: {text!r} {problem}")


def _has_resolver(node: Any) -> bool:
    if type(node).__name__ == "InterpolationResolverContext":
        return True
    return any(map(_has_resolver, getattr(node, "children", None) or []))


def _user_error(texts: dict[str, str], error: Exception) -> UserError:
    from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError

    key = str(getattr(error, "full_key", None) or next(iter(texts)))
    if isinstance(error, InterpolationKeyError):
        problem = r"refers to a key that does not exist; write \${ for a plain ${"
    elif isinstance(error, InterpolationToMissingValueError):
        problem = "refers to a value that is missing; set that one first"
    else:  # circles, parents, keys below a plain value
        problem = "cannot be resolved: it must refer to a plain value, and not to itself"
    return UserError(f"{key}: {texts.get(key, '${...}')!r} {problem}")
