"""What blocks of convolutions have in common: a branch that may be gone, gated, computed again, compiled.

timm's blocks cannot be without their convolutions, nor skip them by the image. These can.
"""

from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from lightning_vitc.networks.blocks import MLP
from lightning_vitc.networks.blocks import Block as BlockSpec
from lightning_vitc.networks.gates.networks import GateNetwork
from lightning_vitc.networks.gates.skipping import Mode, by_image, skipping
from lightning_vitc.networks.modules.block import Gates
from lightning_vitc.networks.modules.compilation import method_of
from lightning_vitc.networks.modules.recomputation import recomputed


class ConvBlock(nn.Module):
    """[B, C, H, W] -> [B, D, H', W']; a branch that its BlockSpec lacks has no parameters here.

    A family says what the branch computes (`branch`), what becomes of a stream that changes (`changed`), and what
    follows the sum (`finished`). Where the stream keeps its shape the branch adds to it, and may be absent or gated
    (`gate2`, by the mean of the stream over its positions).

    Args:
        block: its branch, in the place of an MLP.
        width: D.
        keeps_stream: whether the stream keeps its shape.
        drop_path: rate of stochastic depth.
    """

    grad_checkpointing = False
    compiled = False  # in training, see `compilation`
    gate1 = None  # there is no attention

    def __init__(self, block: BlockSpec, width: int, keeps_stream: bool, drop_path: float = 0.0):
        super().__init__()
        branch = block.branches[MLP]
        self.keeps_stream, self.has_branch = keeps_stream, branch is not None
        self.gating: Mode = "per_sample"
        gate = None if branch is None else branch.gate
        self.gate2 = None if gate is None else GateNetwork(gate, width)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def entered(self, x: Tensor) -> Tensor:
        """The stream that the branch adds to."""
        return x

    def branch(self, x: Tensor) -> Tensor:
        """What is added to the stream."""
        raise NotImplementedError

    def changed(self, x: Tensor) -> Tensor:
        """The stream of another shape, before `finished`."""
        raise NotImplementedError

    def finished(self, x: Tensor) -> Tensor:
        """What follows the sum."""
        return x

    def forward(self, x: Tensor, gates: Gates | None = None) -> Tensor:
        """[B, C, H, W] -> [B, D, H', W'].

        Args:
            x: the stream.
            gates: weighs the branch, instead of the block's own gate, where the stream keeps its shape: of two scalars
                the second, or a function of the number 1 and of the mean of the stream [B, C] that gives [B].
        """
        decides = callable(gates) or self.gate2 is not None  # which is to happen once
        run = method_of(self, type(self)._run, self.compiled and not decides)
        recomputes = self.grad_checkpointing and torch.is_grad_enabled() and not decides
        return recomputed(self, run, x, gates) if recomputes else run(x, gates)

    def _run(self, x: Tensor, gates: Gates | None) -> Tensor:
        return self.finished(self._added(x, gates) if self.keeps_stream else self.changed(x))

    def _added(self, x: Tensor, gates: Gates | None) -> Tensor:
        if not self.has_branch:
            return x
        if callable(gates):
            return x + by_image(gates(MLP, pooled(x)), x) * self._dropping(x)
        if gates is None and self.gate2 is not None:
            return skipping(x, x, self.gate2(pooled(x)), self.branch, self.gating)
        added = self._dropping(x)
        return x + (added if gates is None else gates[MLP] * added)

    def _dropping(self, x: Tensor) -> Tensor:
        return self.drop_path2(self.branch(x))


def pooled(x: Tensor) -> Tensor:
    """The mean over positions, [B, C, H, W] -> [B, C]."""
    return x.mean((-2, -1))


def convolution(before: int, behind: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """One without bias that keeps the grid, but for its stride."""
    return nn.Conv2d(before, behind, size, stride, size // 2, groups=groups, bias=False)


def norm_of(width: int, eps: float) -> nn.BatchNorm2d:
    """A batch norm: its statistics are buffers of the state dict, which a smaller network has its part of."""
    return nn.BatchNorm2d(width, eps=eps)


def adds_nothing(norm: Any) -> None:
    """Let the last norm of a branch begin as zero, so that the branch does (`zero_init_last` of timm)."""
    nn.init.zeros_(norm.weight)
