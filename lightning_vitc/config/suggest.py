"""The nearest valid key for one that is unknown."""

from collections.abc import Mapping
from typing import Any

from lightning_vitc.errors.suggest import did_you_mean, nearest, unknown_name

__all__ = ["Tree", "did_you_mean", "nearest", "unknown_key", "unknown_name"]

Tree = Mapping[str, Any]  # keys by name; a section maps to a tree, a value to None


def unknown_key(path: tuple[str, ...], tree: Tree) -> str:
    """The message for a key that `tree` lacks: the nearest key there or elsewhere, or all there."""
    *parents, last = path
    section = tree
    for parent in parents:
        section = section[parent]
    meant = [".".join([*parents, name]) for name in nearest(last, section)] or _elsewhere(last, tree)
    if meant:
        return f"{'.'.join(path)}: unknown key; did you mean {' or '.join(map(repr, meant))}?"
    place = f"the keys of '{'.'.join(parents)}'" if parents else "the top-level keys"
    return f"{'.'.join(path)}: unknown key; {place} are {', '.join(section) or 'none'}"


def _elsewhere(last: str, tree: Tree) -> list[str]:
    """Up to two keys of other sections that end in `last`, else the one that is nearest."""
    endings = {key: key.rpartition(".")[2] for key in _leaves(tree) if not key.endswith(".name")}
    proper = {ending for key, ending in endings.items() if not key.startswith("teacher.")}
    endings = {  # the keys of a teacher's recipe repeat those of other sections
        key: ending for key, ending in endings.items() if not (key.startswith("teacher.") and ending in proper)
    }
    near = nearest(last, dict.fromkeys(endings.values()), count=len(endings), cutoff=0.75)
    same = [ending for ending in near if ending == last or ending.endswith(f"_{last}")][:2]
    return [key for ending in same or near[:1] for key in endings if endings[key] == ending][:2]


def _leaves(tree: Tree, prefix: str = "") -> list[str]:
    leaves = []
    for name, below in tree.items():
        leaves += [prefix + name] if below is None else _leaves(below, f"{prefix}{name}.")
    return leaves
