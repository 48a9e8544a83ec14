"""ArchSpec: the one description of a Vision Transformer, dense or compressed.

Counting, compaction, export, plots, reports and reload all read it. It imports no torch, so that it can be
read and counted where none is installed.
"""

import dataclasses
import json
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_vitc.dynamic.gate_shapes import GATES
from lightning_vitc.errors import UserError


@dataclass(frozen=True)
class AttentionSpec:
    """Multi-head self-attention: the query/key width of a head and the value width of every head."""

    head_dim: int
    value_dims: tuple[int, ...]

    @property
    def num_heads(self) -> int:
        """Heads kept."""
        return len(self.value_dims)

    @property
    def qk_dim(self) -> int:
        """Rows of the query (and of the key) projection."""
        return self.num_heads * self.head_dim

    @property
    def value_dim(self) -> int:
        """Rows of the value projection, columns of the output projection."""
        return sum(self.value_dims)

    @property
    def padded_dim(self) -> int:
        """The width that the values of every head are padded to with zeros: fused kernels want that of the queries."""
        return max(self.head_dim, *self.value_dims)


@dataclass(frozen=True)
class BlockSpec:
    """One encoder block. A branch that is `None` is gone, together with its norm."""

    attn: AttentionSpec | None
    hidden: int | None  # MLP hidden units
    gates: tuple[str | None, str | None] = (None, None)  # that let attention and MLP run, by `gate_shapes.GATES`


@dataclass(frozen=True)
class ArchSpec:
    """A plain Vision Transformer: what timm's `VisionTransformer` is told, and what is left of each block.

    Attributes use timm's names. `scale` is the factor on QKᵀ: a sub-network may carry that of the network it
    was cut from. `act` is a name that timm's `get_act_layer` knows.
    """

    name: str
    img_size: tuple[int, int]
    patch_size: tuple[int, int]
    in_chans: int
    num_classes: int
    embed_dim: int
    blocks: tuple[BlockSpec, ...]
    scale: float
    class_token: bool = True
    distilled: bool = False
    reg_tokens: int = 0
    no_embed_class: bool = False
    pos_embed: bool = True
    global_pool: str = "token"
    pool_include_prefix: bool = False
    qkv_bias: bool = True
    qk_norm: bool = False
    proj_bias: bool = True
    layer_scale: bool = False
    pre_norm: bool = False
    final_norm: bool = True
    fc_norm: bool = False
    norm_eps: float = 1e-6
    act: str = "gelu"

    @property
    def depth(self) -> int:
        """Encoder blocks."""
        return len(self.blocks)

    @property
    def is_gated(self) -> bool:
        """Whether a branch may be skipped by the image."""
        return any(any(block.gates) for block in self.blocks)

    @property
    def num_patches(self) -> int:
        """Patch tokens of one image."""
        return (self.img_size[0] // self.patch_size[0]) * (self.img_size[1] // self.patch_size[1])

    @property
    def num_prefix_tokens(self) -> int:
        """Class, distillation and register tokens."""
        return int(self.class_token) + int(self.distilled) + self.reg_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens that run through the blocks."""
        return self.num_patches + self.num_prefix_tokens

    @property
    def num_heads_out(self) -> int:
        """Classifiers: two with a distillation token, else one."""
        return 2 if self.distilled else 1

    def with_img_size(self, size: tuple[int, int]) -> "ArchSpec":
        """The same network for images of `size` (height, width) pixels."""
        for side, patch in zip(size, self.patch_size, strict=True):
            if side <= 0 or side % patch:
                below, above = side // patch * patch, max(side // patch + 1, 1) * patch
                near = f"{below} or {above}" if below > 0 else f"{above}"
                raise UserError(f"img_size: {side} is not a multiple of the patch size {patch}; try {near}")
        return dataclasses.replace(self, img_size=size)

    def at_width(self, width: Fraction | float, *, cut: str = "dims") -> "ArchSpec":
        """The uniformly narrower network: `width` times the embedding, attention and hidden widths (Scala).

        Args:
            width: ratio in (0, 1] of the full width.
            cut: `dims` keeps every head and narrows it, `heads` keeps whole heads.

        Raises:
            UserError: where a width does not come out whole.
        """
        ratio = as_ratio(width)
        if not 0 < ratio <= 1:
            raise UserError(f"width: {width} is out of range; it must be > 0 and <= 1")
        embed_dim = _scaled(self.embed_dim, ratio, "the embedding width")
        return dataclasses.replace(
            self, embed_dim=embed_dim, blocks=tuple(_narrow(block, ratio, cut) for block in self.blocks)
        )

    def to_json(self) -> str:
        """A JSON object; `from_json` gives an equal spec."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "ArchSpec":
        """Read `to_json`'s text.

        Raises:
            UserError: where a key is missing, unknown or of another kind.
        """
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise UserError(f"architecture: not JSON ({error})") from None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ArchSpec":
        """Build from the plain values of `dataclasses.asdict`; raises as `from_json` does."""
        try:
            blocks = tuple(_block_from_dict(block) for block in values["blocks"])
            sizes = {key: tuple(int(side) for side in values[key]) for key in ("img_size", "patch_size")}
            spec = cls(**{**values, **sizes, "blocks": blocks})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"architecture: {error}; expected the fields of ArchSpec") from None
        _check_kinds(spec)
        return spec

    @classmethod
    def of(cls, model: Any) -> "ArchSpec":
        """Describe a timm VisionTransformer, or any model this library builds from a spec.

        Raises:
            UserError: for a kind of model that is not supported, by its name.
        """
        from lightning_vitc.inspection import spec_of  # it knows timm, hence torch

        return spec_of(model)


def as_ratio(width: Fraction | float | str) -> Fraction:
    """An exact ratio from its decimal text: `0.3125` is 5/16, `"1/3"` is 1/3.

    Raises:
        UserError: for anything that is not a number.
    """
    try:
        return width if isinstance(width, Fraction) else Fraction(str(width))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"width: {width!r} is not a number; give a ratio such as 0.5") from None


_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number >= 0"), float: ((int, float), "a number >= 0"),
    bool: ((bool,), "true or false"), str: ((str,), "a text"),
}  # fmt: skip


def _check_kinds(spec: ArchSpec) -> None:
    for field in dataclasses.fields(spec):
        kinds, expected = _KINDS.get(field.type, ((tuple,), ""))
        value = getattr(spec, field.name)
        if type(value) not in kinds or (isinstance(value, int | float) and not value >= 0):
            raise UserError(f"architecture: {field.name}: {value!r} is not {expected}")
    for name in ("img_size", "patch_size"):
        if len(getattr(spec, name)) != 2 or min(getattr(spec, name)) < 1:
            raise UserError(f"architecture: {name}: {list(getattr(spec, name))} is not a pair of numbers > 0")


def _scaled(size: int, ratio: Fraction, what: str) -> int:
    scaled = size * ratio
    if scaled.denominator != 1:
        raise UserError(f"width: {float(ratio):g} of {what} {size} is {float(scaled):g}, not a whole number")
    return scaled.numerator


def _narrow(block: BlockSpec, ratio: Fraction, cut: str) -> BlockSpec:
    attn = block.attn
    if attn is not None and cut == "heads":
        heads = _scaled(attn.num_heads, ratio, "the number of heads")
        attn = AttentionSpec(attn.head_dim, attn.value_dims[:heads])
    elif attn is not None:
        attn = AttentionSpec(
            _scaled(attn.head_dim, ratio, "the head width"),
            tuple(_scaled(dim, ratio, "the value width") for dim in attn.value_dims),
        )
    hidden = None if block.hidden is None else _scaled(block.hidden, ratio, "the hidden width")
    return BlockSpec(attn, hidden)


def _block_from_dict(values: dict[str, Any]) -> BlockSpec:
    attn = values["attn"]
    if attn is not None:
        attn = AttentionSpec(int(attn["head_dim"]), tuple(int(dim) for dim in attn["value_dims"]))
    gates = values.get("gates") or (None, None)  # older files have none
    if len(gates) != 2 or any(gate is not None and gate not in GATES for gate in gates):
        raise ValueError(f"gates: {gates!r} is not a pair of {', '.join(GATES)}")
    return BlockSpec(attn, None if values["hidden"] is None else int(values["hidden"]), tuple(gates))
