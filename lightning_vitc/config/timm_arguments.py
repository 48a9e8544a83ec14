"""`key=value` for a timm model that no experiment describes, as in `vitc cost`."""

from collections.abc import Iterable
from dataclasses import make_dataclass
from typing import Any

from lightning_vitc.errors import UserError
from lightning_vitc.schema import ModelConfig, bounded

from . import typed
from .overrides import parse_overrides
from .suggest import nearest, unknown_key

_Arguments = make_dataclass("_Arguments", [("num_classes", int | None, bounded(None, gt=0))], bases=(ModelConfig,))
_NAMED_ELSEWHERE = {"name": "elsewhere", "pretrained": False}


def parse_arguments(arguments: Iterable[str]) -> dict[str, Any]:
    """The keyword arguments of timm that `["depth=6", "img_size=32"]` gives, checked as in `model:`."""
    given = parse_overrides(arguments)
    tree = {key: None for key in typed.key_tree(_Arguments) if key not in _NAMED_ELSEWHERE}
    for key in given:
        if key not in tree and nearest(key, tree):
            raise UserError(unknown_key((key,), tree))
        if key not in tree:
            raise UserError(f"{key}: no argument of the model; known: {', '.join(tree)}")
    model = typed.build(_Arguments, typed.defaults(_Arguments) | _NAMED_ELSEWHERE | given)
    return {key: getattr(model, key) for key in given if getattr(model, key) is not None}
