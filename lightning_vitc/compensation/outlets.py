"""Where the pieces of a branch come together: the layer by which it adds to the stream, and what stands behind that.

P pieces (value dimensions of all heads, hidden units, inner channels), D the width of the stream.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vitc.budget.masks import ATTN, MLP, Masks
from lightning_vitc.budget.stacks import stack_of, stacks_of
from lightning_vitc.networks.branch_layouts import LAST_NORMS, OUTLETS
from lightning_vitc.networks.modules.channels import channel_dim
from lightning_vitc.networks.spec import ArchSpec

Place = tuple[int, int]  # the number of a block, and the position of a branch in it


@dataclass(frozen=True)
class Outlet:
    """Such as `attn.proj` or `mlp.fc2`.

    Attributes:
        layer: linear, or a convolution; its weight is [D, P] or [D, P, h, w].
        behind: the batch norm that follows, where one does.
        gains: of what the branch adds [D] (LayerScale), where there are any.
        inner: a norm of all pieces before the layer, where there is one.
    """

    layer: Any
    behind: nn.BatchNorm2d | None = None
    gains: Tensor | None = None
    inner: Any = None

    @classmethod
    def of(cls, network: Any, place: Place) -> "Outlet":
        """That of a branch of a network."""
        number, position = place
        block, branch = network.blocks[number], network.spec.blocks[number].branches[position]
        kind, inner = branch.kind, None
        layer = block.get_submodule(OUTLETS[kind])
        if kind in LAST_NORMS:
            return cls(layer, block.get_submodule(LAST_NORMS[kind]))
        if getattr(network.spec.options, "mlp_norm" if position == MLP else "attn_norm", False):
            inner = (block.mlp if position == MLP else block.attn).norm
        return cls(layer, gains=block.gains(position), inner=inner)

    @property
    def columns(self) -> Tensor:
        """[D · h w, P] in double precision."""
        weight = self.layer.weight.detach()
        return weight.movedim(1, -1).flatten(0, -2).double()

    @property
    def strengths(self) -> Tensor:
        """[P] squared norms of the columns, as far as the stream gets to see them."""
        columns, scale = self.columns, self._scale()
        if scale is not None:
            columns = columns * scale.double().repeat_interleave(len(columns) // len(scale))[:, None]
        return columns.square().sum(0)

    @property
    def can_shift(self) -> bool:
        """Whether a constant can be added to what the layer gives."""
        return self.behind is not None or self.layer.bias is not None

    @torch.no_grad()
    def shift(self, by: Tensor) -> None:
        """Add a constant [D] to what the layer gives: to its bias, or off the mean of the batch norm behind."""
        if self.layer.bias is not None:
            self.layer.bias.add_(by.to(self.layer.bias))
        elif self.behind is not None:
            self.behind.running_mean.sub_(by.to(self.behind.running_mean))  # type: ignore[union-attr]

    def shift_stream(self, by: Tensor) -> None:
        """Add a constant [D] to what the branch adds; where its gain is zero nothing can be."""
        scale = self._scale()
        self.shift(by if scale is None else torch.where(scale == 0, 0, by / scale))

    def added(self, mean: Tensor) -> Tensor:
        """[D] what the branch adds where pieces are at their means [P]; of a linear layer."""
        given = self.columns @ mean
        given = given if self.layer.bias is None else given + self.layer.bias.detach()
        return given if self.gains is None else given * self.gains.detach()

    @torch.no_grad()
    def write(self, columns: Tensor, kept: Tensor) -> None:
        """Set the columns [D · h w, K] of the pieces that are kept [K]; those of others become zero."""
        weight = self.layer.weight
        rest = weight.shape[:1] + weight.shape[2:]
        weight.zero_()
        weight[:, kept] = columns.unflatten(0, rest).movedim(-1, 1).to(weight)

    @torch.no_grad()
    def silence(self) -> None:
        """Let the branch add nothing."""
        ends = (self.layer.weight, self.layer.bias, *(self.behind.parameters() if self.behind is not None else ()))
        for tensor in ends:
            if tensor is not None:
                tensor.zero_()

    def rows(self, entered: Tensor) -> Tensor:
        """What enters the layer as [n, P], positions of all images one after another."""
        return entered.detach().movedim(channel_dim(self.layer), -1).flatten(0, -2)

    def by_image(self, entered: Tensor, images: int) -> Tensor:
        """The same as [B, n / B, P]: windows of an image lie side by side."""
        last = entered.movedim(channel_dim(self.layer), -1)
        return last.reshape(images, -1, last.shape[-1])

    def _scale(self) -> Tensor | None:
        """[D] what the stream gets of what the layer gives."""
        if self.behind is None:
            return None if self.gains is None else self.gains.detach()
        variance: Any = self.behind.running_var
        return self.behind.weight.detach() / (variance + self.behind.eps).sqrt()


def places_of(spec: ArchSpec) -> Iterator[Place]:
    """The branches whose pieces may go.

    Raises:
        UserError: for a network whose blocks or heads differ within a stage, or that drops tokens.
    """
    stacks = stacks_of(spec)
    for number in range(spec.depth):
        stack = stack_of(stacks, number)
        yield from ((number, position) for position, there in ((ATTN, stack.attn), (MLP, stack.channels)) if there)


def kept_pieces(spec: ArchSpec, masks: Masks, place: Place) -> Tensor:
    """[P] which pieces of a branch stay."""
    number, position = place
    stack = stack_of(stacks_of(spec), number)
    if position == MLP:
        return stack.of_channels(masks.channels)[number - stack.start]
    return stack.of_dims(masks.dims)[number - stack.start].flatten()


def stream_dim(spec: ArchSpec) -> int:
    """Where the channels of a stream are: first behind the images in networks of convolutions alone, else last."""
    return -1 if any(branch.query for _, _, branch in spec.branches()) else 1


def stream_rows(spec: ArchSpec, x: Tensor) -> Tensor:
    """A stream as [n, D]."""
    return x.detach().movedim(stream_dim(spec), -1).flatten(0, -2)
