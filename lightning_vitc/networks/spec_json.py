"""An ArchSpec as JSON, the `architecture` of an exported model; also as versions before wrote it.

Format 2 has stages of blocks of branches. Format 1 knew plain Vision Transformers alone, with an attention and a
hidden width a block, and all of the family's options beside them.
"""

import dataclasses
from typing import Any, get_args, get_origin, get_type_hints

from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.networks import families
from lightning_vitc.networks.blocks import Block, Branch, Stage, attention, mlp
from lightning_vitc.networks.gates.shapes import GATES

WORDS: dict[Any, str] = {int: "a whole number >= 0", float: "a number >= 0", bool: "true or false", str: "a text"}
KINDS: dict[str, Any] = {
    "name": str, "family": str, "img_size": tuple[int, int], "in_chans": int, "num_classes": int,
    "stages": tuple[Stage, ...], "options": object,
}  # fmt: skip
FIELDS = ("name", "img_size", "in_chans", "num_classes")  # of format 1 that are not the family's


def fields_of(values: dict[str, Any]) -> dict[str, Any]:
    """What an ArchSpec is built from, of the plain values of either format.

    Raises:
        UserError: where a key is missing, unknown or of another kind.
    """
    try:
        values = values if "stages" in values else _of_format_1(values)
        options = families.shape(values["family"]).Options(**_tuples(values["options"]))
        stages = tuple(Stage(stage["width"], tuple(map(_block, stage["blocks"]))) for stage in values["stages"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"architecture: {error}; expected the fields of ArchSpec") from None
    if values.keys() != KINDS.keys():
        named = ", ".join(sorted(values.keys() ^ KINDS.keys()))
        raise UserError(f"architecture: {named}; expected the fields of ArchSpec")
    found = _tuples(values) | {"stages": stages, "options": options}
    _check(found)
    return found


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _block(values: dict[str, Any]) -> Block:
    return Block(tuple(None if branch is None else Branch(**_tuples(branch)) for branch in values["branches"]))


def _of_format_1(values: dict[str, Any]) -> dict[str, Any]:
    """The same in format 2."""
    given = dict(values)
    common = {key: given.pop(key) for key in FIELDS}
    stage = {"width": given.pop("embed_dim"), "blocks": [_block_of_format_1(block) for block in given.pop("blocks")]}
    return {**common, "family": "plain", "stages": [stage], "options": given}


def _block_of_format_1(block: dict[str, Any]) -> dict[str, Any]:
    of_attn, of_mlp = block.get("gates") or (None, None)  # older files have none
    attn, hidden = block["attn"], block["hidden"]
    return dataclasses.asdict(
        Block((
            None if attn is None else attention(attn["head_dim"], attn["value_dims"], of_attn),
            None if hidden is None else mlp(hidden, of_mlp),
        ))
    )  # fmt: skip


def _check(fields: dict[str, Any]) -> None:
    """Refuse values of another kind than the fields have.

    Raises:
        UserError: naming the first.
    """
    for name, kind in KINDS.items():
        _check_value(name, fields[name], kind)
    blocks = [block for stage in fields["stages"] for block in stage.blocks]
    branches = [branch for block in blocks for branch in block if branch is not None]
    for part in (fields["options"], *fields["stages"], *branches):
        for name, kind in get_type_hints(type(part)).items():
            _check_value(name, getattr(part, name), kind)
    for name in ("img_size", "patch_size"):
        size: Any = fields.get(name) or getattr(fields["options"], name, (1, 1))
        if min(size) < 1:
            raise UserError(f"architecture: {name}: {list(size)} is not a pair of numbers > 0")
    for branch in branches:
        if branch.gate is not None and branch.gate not in GATES:
            raise UserError(f"architecture: gate: {branch.gate!r} is not one of {', '.join(GATES)}")


def _check_value(name: str, value: Any, kind: Any) -> None:
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        endless = kinds[-1] is Ellipsis
        if not isinstance(value, tuple) or not (endless or len(value) == len(kinds)):
            shown = list(value) if isinstance(value, tuple) else value
            of = "" if endless else f" of {counted(len(kinds), 'value')}"
            raise UserError(f"architecture: {name}: {shown!r} is not a list{of}")
        for item in value:
            _check_value(name, item, kinds[0])
        return
    allowed = [one for one in (get_args(kind) or (kind,)) if one in WORDS or one is type(None)]
    fits = type(value) in allowed or (float in allowed and type(value) is int)
    if allowed and (not fits or (isinstance(value, int | float) and not value >= 0)):
        raise UserError(f"architecture: {name}: {value!r} is not {WORDS.get(allowed[0], 'nothing')}")
