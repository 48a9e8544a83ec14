"""Every folder of the package imports from those before it and from none behind, as docs/architecture.md draws them."""

import ast
from collections.abc import Container, Iterator
from pathlib import Path

import pytest

import lightning_vitc

PACKAGE = Path(lightning_vitc.__file__).parent
CALLBACKS = (PACKAGE / "callbacks").resolve()
FOLDERS = (
    "errors", "files", "schema", "images", "networks", "artifacts", "figures", "data", "config", "runs", "budget",
    "latency", "compensation", "training", "callbacks", "pipeline", "few_shot", "dynamic", "methods", "exporting",
    "measuring", "reporting", "sweeping", "commands",
)  # fmt: skip


def imports(text: str) -> Iterator[tuple[int, str]]:
    """The line and the dotted name of everything that is imported from the package, wherever in a file it is."""
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from ((node.lineno, name) for name in names if name and name.startswith("lightning_vitc."))


def files(folder: str) -> list[Path]:
    """All of a folder; `callbacks` is a link, which `rglob` would not follow."""
    return sorted((PACKAGE / folder).resolve().rglob("*.py"))


def upward(folder: str, text: str) -> list[str]:
    """What a file of the folder imports that lies above it."""
    above = FOLDERS[FOLDERS.index(folder) + 1 :]
    return [f"{line}: {name}" for line, name in imports(text) if name.split(".")[1] in (*above, "cli")]


def name_of(path: Path) -> str:
    """`lightning_vitc.budget.masks`."""
    root = PACKAGE if path.is_relative_to(PACKAGE) else CALLBACKS.parent
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(("lightning_vitc", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def module_of(name: str, modules: Container[str]) -> str | None:
    """The file that an imported name comes from: a module, or what it defines."""
    return next((found for found in (name, name.rpartition(".")[0]) if found in modules), None)


def test_every_folder_has_its_place():
    there = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert there == {*FOLDERS}
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "cli.py"}
    picture = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    assert all(f"{folder}/" in picture for folder in FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_imported_from_above(folder):
    found = {path.name: names for path in files(folder) if (names := upward(folder, path.read_text()))}
    assert not found


def test_no_files_import_each_other():
    """Not even in a function, or for types alone: each can be read by itself."""
    modules = {name_of(path): path for folder in FOLDERS for path in files(folder)}
    needs = {
        name: {
            found for _, text in imports(path.read_text()) if (found := module_of(text, modules)) not in (None, name)
        }
        for name, path in modules.items()
    }
    while leaves := [name for name, needed in needs.items() if not needed & needs.keys()]:
        for name in leaves:
            del needs[name]
    assert not needs, f"these import each other, or what does: {sorted(needs)}"


@pytest.mark.parametrize("text", [
    "from lightning_vitc.methods.dense import Dense", "import lightning_vitc.methods",
    "from lightning_vitc import methods",
    "if TYPE_CHECKING:\n    from lightning_vitc.pipeline.pipeline import Pipeline",
    "def f():\n    from lightning_vitc.cli import main",
])  # fmt: skip
def test_what_is_imported_from_above_is_found(text):
    assert upward("budget", text)
    assert not upward("commands", text.replace("lightning_vitc.cli", "lightning_vitc.pipeline"))
