"""Which methods and callbacks exist: one file each, read without importing what the file imports.

A file's `Arguments` dataclass types its keys in an experiment. Importing the file would import torch, so only
the part that `Arguments` needs is executed: see `_executable`.
"""

import __future__

import ast
import builtins
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning_vitc.errors import UserError
from lightning_vitc.errors.suggest import unknown_name

_PACKAGE = Path(__file__).resolve().parents[1]
METHODS = _PACKAGE / "methods"
CALLBACKS = _PACKAGE / "callbacks"

_LIGHT_MODULES = sys.stdlib_module_names | {"lightning_vitc.errors", "lightning_vitc.schema"}
_DEFINITIONS = (ast.Assign, ast.AnnAssign, ast.ClassDef, ast.FunctionDef)


@dataclass
class NoKeys:
    """The arguments of a file that defines none."""


@dataclass(frozen=True)
class Entry:
    """A method or callback: its name, file, one-line description and typed keys."""

    name: str
    path: Path
    description: str
    arguments: type


def methods(folder: Path = METHODS) -> dict[str, Entry]:
    """The methods by name, in alphabetical order."""
    return dict(_entries(folder))


def callbacks(folder: Path = CALLBACKS) -> dict[str, Entry]:
    """The callbacks that experiments may set, by name: those with `Arguments`; others the framework sets itself."""
    return {name: entry for name, entry in _entries(folder).items() if entry.arguments is not NoKeys}


def load_method(name: str) -> type[Any]:
    """Import `methods/<name>.py` and return its LightningModule class."""
    if name not in methods():
        raise UserError(unknown_name("method.name", "method", name, methods()))
    base = import_module("lightning_vitc.training.module").CompressionModule
    return public_class(import_module(f"lightning_vitc.methods.{name}"), base)


def load_callback(name: str) -> type[Any]:
    """Import `callbacks/<name>.py` and return its Callback class."""
    if name not in callbacks():
        raise UserError(unknown_name(f"callbacks.{name}", "callback", name, callbacks()))
    base = import_module("lightning.pytorch").Callback
    return public_class(import_module(f"lightning_vitc.callbacks.{name}"), base)


def public_class(module: ModuleType, base: type[Any]) -> type[Any]:
    """The one public subclass of `base` that `module` itself defines."""
    found = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base)
        and value.__module__ == module.__name__ and not name.startswith("_")
    ]  # fmt: skip
    assert len(found) == 1, f"{module.__file__} must define one public {base.__name__}, not {len(found)}"
    return found[0]


@cache
def _entries(folder: Path) -> dict[str, Entry]:
    files = sorted(file for file in folder.glob("*.py") if not file.name.startswith("_"))
    return {file.stem: _entry(file) for file in files}


def _entry(path: Path) -> Entry:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    description = (ast.get_docstring(tree) or "").partition("\n")[0]
    return Entry(path.stem, path, description, _arguments(tree, path))


def _arguments(tree: ast.Module, path: Path) -> type:
    if not any(isinstance(node, ast.ClassDef) and node.name == "Arguments" for node in tree.body):
        return NoKeys
    # dataclasses and get_type_hints look a class up in sys.modules, so the part needs a module of its own
    module = ModuleType(f"{__name__}.{path.parent.name}.{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    flags = 0
    for node in _executable(tree, vars(module)):
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            flags |= sum(getattr(__future__, alias.name).compiler_flag for alias in node.names)
        code = compile(ast.Module([node], []), str(path), "exec", flags, dont_inherit=True)
        exec(code, vars(module))
    return vars(module)["Arguments"]


def _executable(tree: ast.Module, namespace: dict[str, Any]) -> Iterator[ast.stmt]:
    """The light imports, and every later statement that needs nothing beyond them, as far as `Arguments`."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            if _is_light(node):
                yield node
        elif isinstance(node, ast.ClassDef) and node.name == "Arguments":
            yield node  # a name that is not light is a NameError here: a fault of the file, not of a user
        elif isinstance(node, _DEFINITIONS) and _names(node) <= {*namespace, *vars(builtins)}:
            yield node


def _is_light(node: ast.Import | ast.ImportFrom) -> bool:
    if isinstance(node, ast.ImportFrom):
        names = [node.module or ""] if node.level == 0 else [""]
    else:
        names = [alias.name for alias in node.names]
    return all(name in _LIGHT_MODULES or name.partition(".")[0] in _LIGHT_MODULES for name in names)


def _names(node: ast.AST) -> set[str]:
    """The names that executing a definition reads; the body of a function runs later."""
    parts: list[ast.AST | None] = [node]
    if isinstance(node, ast.ClassDef):
        return set().union(*map(_names, [*node.bases, *node.decorator_list, *node.body]))
    if isinstance(node, ast.FunctionDef):
        parts = [node.args, node.returns, *node.decorator_list]
    names = [found for part in parts if part for found in ast.walk(part) if isinstance(found, ast.Name)]
    own = {name.id for name in names if isinstance(name.ctx, ast.Store)}  # the target, or of a comprehension
    return {name.id for name in names} - own
