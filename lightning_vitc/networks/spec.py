"""ArchSpec: the one description of a network, dense or compressed: stages of blocks of branches.

A *stream* runs through a network, of one width in each stage. *Branches* read it and add to it: attentions, MLPs,
convolutions. A branch has *groups* (the heads of an attention; one elsewhere) of *pieces* (value dimensions, hidden
units, inner channels). All that the methods decide is about these; what else a network is made of, its family knows.

It imports no torch, so that it can be read and counted where none is installed.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NoReturn

from lightning_vitc.errors import UserError
from lightning_vitc.networks import families
from lightning_vitc.networks.blocks import Block, Branch, Stage, as_ratio
from lightning_vitc.networks.spec_json import fields_of


@dataclass(frozen=True)
class ArchSpec:
    """A network: its stages, and the options that only its family reads.

    Attributes:
        name: timm's name, or that of the network it was cut from.
        family: a folder of `networks/families/`.
        img_size: height and width of an image.
        in_chans: its channels.
        num_classes: of the classifier; 0 for none.
        stages: with their blocks.
        options: of the family: tokens, norms, activation, attention scale, ...
    """

    name: str
    family: str
    img_size: tuple[int, int]
    in_chans: int
    num_classes: int
    stages: tuple[Stage, ...]
    options: Any

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Of all stages; their numbers here are those that users read and write."""
        return tuple(block for stage in self.stages for block in stage.blocks)

    @property
    def depth(self) -> int:
        """Blocks of all stages."""
        return sum(len(stage.blocks) for stage in self.stages)

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return tuple(len(stage.blocks) for stage in self.stages)

    @property
    def embed_dim(self) -> int:
        """The width of the stream, where it is one.

        Raises:
            UserError: for a network of several stages.
        """
        if len(self.stages) != 1:
            raise UserError(f"model.name: {self.name} has {len(self.stages)} stages, each of a width of its own")
        return self.stages[0].width

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the stream in each stage."""
        return tuple(stage.width for stage in self.stages)

    @property
    def feature_width(self) -> int:
        """Of the stream where the classifier reads it."""
        return self.stages[-1].width

    @property
    def distilled(self) -> bool:
        """Whether it has a distillation token, and a second classifier for it (DeiT)."""
        return getattr(self.options, "distilled", False)

    @property
    def has_inner_norms(self) -> bool:
        """Whether a norm inside of a branch sees all of its pieces, so that those are not gone by being masked."""
        return any(getattr(self.options, name, False) for name in ("attn_norm", "mlp_norm"))

    @property
    def has_class_token(self) -> bool:
        """Whether the first of its tokens is one of the class, and not a patch."""
        return bool(getattr(self.options, "class_token", False))

    @property
    def drops_tokens(self) -> bool:
        """Whether which tokens its blocks compute depends on the image, so that no block can do without a branch."""
        return bool(getattr(self.options, "light", False))

    @property
    def is_gated(self) -> bool:
        """Whether a branch may be skipped by the image."""
        return any(branch.gate for _, _, branch in self.branches())

    def branches(self) -> Iterator[tuple[int, int, Branch]]:
        """Every branch with the number of its block and its position there."""
        for number, block in enumerate(self.blocks):
            for position, branch in enumerate(block):
                if branch is not None:
                    yield number, position, branch

    def place(self, number: int) -> tuple[int, int]:
        """The stage of a block, and its number there."""
        return place_of(number, self.depths)

    def width_at(self, number: int) -> int:
        """The width of the stream at a block."""
        return self.stages[self.place(number)[0]].width

    def with_blocks(self, blocks: Sequence[Block | None]) -> "ArchSpec":
        """The same network with these blocks in the place of its own, one by one; `None` removes one."""
        left, stages = iter(blocks), []
        for stage in self.stages:
            kept = [next(left) for _ in stage.blocks]
            stages.append(dataclasses.replace(stage, blocks=tuple(block for block in kept if block is not None)))
        return dataclasses.replace(self, stages=tuple(stages))

    def without_branches(self) -> "ArchSpec":
        """The same network with nothing in its blocks but what is no branch."""
        return self.with_blocks([Block((None,) * len(block.branches)) for block in self.blocks])

    def with_block(self, number: int, block: Block | None) -> "ArchSpec":
        """The same network with another block there, or none."""
        return self.with_blocks([block if at == number else own for at, own in enumerate(self.blocks)])

    def without_blocks(self) -> "ArchSpec":
        """The same network with nothing but its stem, what is between its stages, and its classifier."""
        return self.with_blocks([None] * self.depth)

    def with_stage(self, *blocks: Block) -> "ArchSpec":
        """The same network with these blocks in its only stage."""
        return dataclasses.replace(self, stages=(Stage(self.embed_dim, blocks),))

    def with_gates(self, gates: Sequence[Sequence[str | None]]) -> "ArchSpec":
        """The same network with these gates, block by block."""
        return self.with_blocks([block.with_gates(names) for block, names in zip(self.blocks, gates, strict=True)])

    def with_options(self, **changed: Any) -> "ArchSpec":
        """The same network with other options of its family."""
        return dataclasses.replace(self, options=dataclasses.replace(self.options, **changed))

    def with_img_size(self, size: tuple[int, int]) -> "ArchSpec":
        """The same network for images of `size` (height, width) pixels.

        Raises:
            UserError: for a size that its family cannot take.
        """
        return families.shape(self.family).at_size(self, size)

    def at_width(self, width: Fraction | float, *, cut: str = "dims") -> "ArchSpec":
        """The uniformly narrower network (Scala).

        Args:
            width: ratio in (0, 1] of the full width.
            cut: `dims` keeps every head and narrows it, `heads` keeps whole heads.

        Raises:
            UserError: where a width does not come out whole.
        """
        ratio = as_ratio(width)
        if not 0 < ratio <= 1:
            raise UserError(f"width: {width} is out of range; it must be > 0 and <= 1")
        return families.shape(self.family).narrow(self, ratio, cut)

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
        """Build from the plain values of `dataclasses.asdict`, or from those of an earlier version; raises likewise."""
        return cls(**fields_of(values))

    @classmethod
    def of(cls, model: Any) -> "ArchSpec":
        """Describe a timm model, or any model this library builds from a spec.

        Raises:
            UserError: for a kind of model that is not supported, by its name.
        """
        found = (family.read(model) for family in families.each_network())
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None:
            refuse(name_of(model), f"a {type(model).__name__}")
        return spec


def refuse(name: str, why: str) -> NoReturn:
    """Raise the one-line refusal of a model kind."""
    raise UserError(
        f"model.name: {name} is not supported: {why}; the families that are, with models of them: "
        f"{families.supported()}"
    )


def name_of(model: Any) -> str:
    """The name of a model of this library or of timm, or its class's name."""
    spec = getattr(model, "spec", None)
    if isinstance(spec, ArchSpec):
        return spec.name
    config = getattr(model, "pretrained_cfg", None) or {}
    return config.get("architecture") or type(model).__name__


def place_of(number: int, depths: Sequence[int]) -> tuple[int, int]:
    """The stage of a block of a network whose stages have so many blocks, and its number there."""
    for stage, depth in enumerate(depths):
        if number < depth:
            return stage, number
        number -= depth
    raise IndexError(number)
