"""YAML in and out: plain data only, no tag is ever constructed, numbers as YAML 1.2 writes them.

PyYAML alone reads `1e-3` as a string and `24:00:00` as 86400; here they are a number and a string.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from lightning_vitc.errors import UserError
from lightning_vitc.files.records import opened_text, sealed_text
from lightning_vitc.schema import Experiment

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
_FLOAT = re.compile(
    r"([-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)


class _Loader(yaml.SafeLoader):
    """Builds dict, list, str, int, float, bool and None, and refuses everything else."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if tag := getattr(event, "tag", None):  # written out: an object, a date, a set, bytes, a cast
            problem = f"the tag {tag.replace('tag:yaml.org,2002:', '!!')} is not allowed"
            raise yaml.constructor.ConstructorError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            problem = self._problem_of_key(key)
            if problem is None and key.value in seen:
                problem = f"duplicate key '{key.value}'"
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def _problem_of_key(self, key: yaml.Node) -> str | None:
        if key.tag == "tag:yaml.org,2002:merge":
            return None
        if key.tag != "tag:yaml.org,2002:str":
            return f"the key {key.value if isinstance(key.value, str) else '[...]'} is not a string"
        section, dot, last = key.value.rpartition(".")
        return f"'{key.value}': in a file, write '{last}' inside the section '{section}'" if dot else None


class _Dumper(yaml.SafeDumper):
    """Quotes every string that would not be read as a string."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal lists twice rather than an anchor and an alias."""
        return True


def _kept_resolvers() -> dict[str, list[Any]]:
    """What PyYAML reads as null, boolean or `<<`; its numbers and dates are not wanted."""
    kept = ("null", "bool", "merge")
    return {
        first: [(tag, pattern) for tag, pattern in pairs if tag.rpartition(":")[2] in kept]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.yaml_implicit_resolvers = _kept_resolvers()
for _class in (_Loader, _Dumper):  # the dumper keeps PyYAML's own too: its strings are safe in any reader
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    _class.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))


def read_file(path: Path, *, shown: str) -> dict[str, Any]:
    """The mapping in the file at `path`, named `shown` in messages."""
    try:
        text = opened_text(path.read_bytes().decode())
    except OSError as error:
        raise UserError(f"{shown}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{shown}: not a YAML file: it is not UTF-8 text") from None
    except ValueError as error:
        raise UserError(f"{shown}: {error}") from None
    values = parse(text, shown=shown, lines=True)
    if values is None:
        raise UserError(f"{shown}: the file is empty; an experiment needs at least 'base' or 'model'")
    if not isinstance(values, dict):
        raise UserError(f"{shown}: a mapping of keys is expected, not a {type(values).__name__}")
    return values


def parse(text: str, *, shown: str, lines: bool = False) -> Any:
    """The data of a YAML text; a fault names the place as `shown`, or `shown:line`."""
    try:
        values = yaml.load(text, Loader=_Loader)
        json.dumps(values)  # an anchor that holds its own alias would never end
        return values
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark and lines else ""
        raise UserError(f"{shown}{line}: {_one_line(error.problem or error.context)}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{shown}: {_one_line(error)}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{shown}: the YAML contains itself or is nested too deeply") from None


def inline(value: Any) -> str:
    """A value as it is written behind its key."""
    text = yaml.dump(_escape(value), Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


def dump(experiment: Experiment) -> str:
    """The resolved experiment as YAML with a digest; loading it again gives the same experiment."""
    values = _escape(experiment.to_container())
    return sealed_text(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


def _escape(value: Any) -> Any:
    """Protect a literal `${`, which loading would take for an interpolation."""
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)
    return value


def _one_line(text: Any) -> str:
    return "invalid YAML: " + " ".join(str(text).split())
