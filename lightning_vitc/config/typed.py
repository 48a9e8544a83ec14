"""Plain values into dataclasses, strictly: nothing is guessed, and a fault names the full key."""

from collections.abc import Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields, is_dataclass
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lightning_vitc.errors import UserError
from lightning_vitc.files.paths import expanded
from lightning_vitc.schema import MISSING

from .suggest import did_you_mean

_NOUNS = {int: "integer", float: "number", str: "string", bool: "boolean"}
_COMPARE = {
    "ge": (">=", float.__ge__),
    "gt": (">", float.__gt__),
    "le": ("<=", float.__le__),
    "lt": ("<", float.__lt__),
}


def keys(schema: type) -> list[Field[Any]]:
    """The fields of a dataclass that an experiment may set."""
    return [field for field in fields(schema) if field.init and field.metadata.get("key", True)]


def key_tree(schema: type) -> dict[str, Any]:
    """The keys of a dataclass by name; a section maps to its own tree, a value to None."""
    types = get_type_hints(schema)
    return {
        field.name: key_tree(types[field.name]) if is_dataclass(types[field.name]) else None
        for field in keys(schema)
    }  # fmt: skip


def defaults(schema: type) -> dict[str, Any]:
    """The default of every key as plain data; a key without one is missing."""
    types = get_type_hints(schema)
    return {
        field.name: defaults(types[field.name]) if is_dataclass(types[field.name]) else _default(field)
        for field in keys(schema)
    }


def build(schema: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A `schema` of these values, each converted to the type of its field; all keys must be there."""
    types = get_type_hints(schema)
    return schema(**{
        field.name: _field_value(field, types[field.name], values[field.name], prefix + field.name)
        for field in keys(schema)
    })  # fmt: skip


def show(value: Any) -> str:
    """A value as the user would write it in YAML."""
    if isinstance(value, dict):
        return "a section of keys"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not NO_DEFAULT:
        return field.default_factory()
    return MISSING if field.default is NO_DEFAULT else field.default


def _field_value(field: Field[Any], kind: Any, value: Any, key: str) -> Any:
    if isinstance(value, str) and value == MISSING:
        raise UserError(f"{key}: missing; set it in the experiment or on the command line")
    if is_dataclass(kind):
        return build(kind, value, f"{key}.")
    expected = field.metadata.get("expected")
    try:
        converted = _convert(value, kind, key)
    except UserError:
        if expected is None:
            raise
        raise UserError(f"{key}: {show(value)} is not {expected}") from None
    if expected and converted is not None and not field.metadata["check"](converted):
        raise UserError(f"{key}: {show(value)} is not {expected}")
    _check_range(value, field.metadata, key)
    is_path = field.metadata.get("path") and isinstance(converted, str)
    return expanded(converted, key) if is_path else converted


def _convert(value: Any, kind: Any, key: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _convert_union(value, get_args(kind), key)
    if origin is Literal:
        return _convert_literal(value, get_args(kind), key)
    if origin is list and isinstance(value, list):
        (item,) = get_args(kind)
        return [_convert(element, item, f"{key}[{index}]") for index, element in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {name: _convert(item, get_args(kind)[1], f"{key}.{name}") for name, item in value.items()}
    return _convert_scalar(value, kind, key)


def _convert_scalar(value: Any, kind: Any, key: str) -> Any:
    if isinstance(value, str) and not _is_text(value):
        raise UserError(f"{key}: {show(value)} is not UTF-8 text")
    if type(value) is kind and (kind is not float or isfinite(value)):
        return value
    if type(value) is int and kind in (float, str):  # a whole number is a number, and `run_name=7` a name
        return kind(value)
    finite = "a finite number" if kind is float and isinstance(value, float) else _noun(kind)
    raise UserError(f"{key}: {show(value)} is not {finite}")


def _convert_union(value: Any, members: tuple[Any, ...], key: str) -> Any:
    if value is None and NoneType in members:
        return None
    members = tuple(member for member in members if member is not NoneType)
    if len(members) == 1:
        return _convert(value, members[0], key)
    exact = [member for member in members if type(value) is member]
    for member in [*exact, *members]:
        try:
            return _convert(value, member, key)
        except UserError:
            continue
    raise UserError(f"{key}: {show(value)} is not {' or '.join(map(_noun, members))}")


def _convert_literal(value: Any, options: tuple[Any, ...], key: str) -> Any:
    for option in options:
        same = value == option and type(value) is type(option)
        if same or (type(value) is int and option == str(value)):  # `precision: 32`
            return option
    hint = did_you_mean(str(value), map(str, options))
    raise UserError(f"{key}: {show(value)} is not one of {', '.join(map(str, options))}{hint}")


def _is_text(value: str) -> bool:
    """Whether files can hold it: bytes of another encoding on the command line are half characters here."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _noun(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"a list of {_NOUNS.get(get_args(kind)[0], 'value')}s"
    if get_origin(kind) is Literal:
        return " or ".join(map(show, get_args(kind)))
    if kind is bool:
        return "true or false"
    noun = _NOUNS.get(kind, "section of keys")
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _check_range(value: Any, limits: Mapping[str, Any], key: str) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_range(item, limits, f"{key}[{index}]")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    bounds = [(symbol, limits[name], holds) for name, (symbol, holds) in _COMPARE.items() if name in limits]
    if not all(holds(float(value), float(limit)) for _, limit, holds in bounds):
        rule = " and ".join(f"{symbol} {limit}" for symbol, limit, _ in bounds)
        raise UserError(f"{key}: {show(value)} is out of range; it must be {rule}")
