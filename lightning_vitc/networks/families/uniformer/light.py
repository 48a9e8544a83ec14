"""The light UniFormers, XS and XXS: in stages with attention half of the tokens are computed, as in Evo-ViT.

A class token runs beside the grid. What it attends to is an importance of every position, the global attention [B, N].
A block computes the class token, the half of the positions that is more important, and one token that stands for the
others: their mean, weighed by importance. What is added to that one is added to all of them (Xu et al., AAAI 2022).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vitc.networks.blocks import Block as BlockSpec
from lightning_vitc.networks.families.uniformer import layers
from lightning_vitc.networks.modules import attention
from lightning_vitc.networks.modules.block import frame_of, mlp_of
from lightning_vitc.networks.modules.compilation import method_of
from lightning_vitc.networks.modules.recomputation import recomputed
from lightning_vitc.networks.spec import ArchSpec

KEPT = 0.5  # of the importance: the rest is what the block at hand attends to
State = tuple[Tensor, Tensor, Tensor]  # grid [B, H, W, D], class token [B, 1, D], global attention [B, N]


class Attention(attention.Attention):
    """Among tokens [B, N, D], the first of which is the class; and what that attends to, [B, N - 1], over heads."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Attend, without a fused kernel, which would not say to what."""
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self._projected(x))
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        mixed = (self.attn_drop(weights) @ v).transpose(1, 2).flatten(2)
        return self.proj_drop(self.proj(mixed)), weights[:, :, 0, 1:].mean(1)


class Block(nn.Module):
    """A position, then attention and MLP among some of the tokens; see `State`.

    Args:
        spec: of the network.
        stage: its stage.
        block: an attention and an MLP.
        first: of its network: it computes all tokens, and what the class attends to there is the first importance.
        last: of its stage, after which importances are pooled for a grid of half the size.
        proj_drop, attn_drop, drop_path: rates of dropping.
    """

    grad_checkpointing = False
    compiled = False
    keeps_stream = True

    def __init__(self, spec: ArchSpec, stage: int, block: BlockSpec, first: bool, last: bool, proj_drop: float = 0.0,
                 attn_drop: float = 0.0, drop_path: float = 0.0):  # fmt: skip
        super().__init__()
        width, o, (attn, mlp) = spec.stages[stage].width, spec.options, block.branches
        assert attn is not None
        assert mlp is not None
        self.first, self.last = first, last
        self.pos_embed = layers.depthwise(width, layers.POSITION)
        self.norm1, _, self.drop_path1 = frame_of(width, o.norm_eps, False, drop_path)
        self.attn = Attention(width, attn, o.scale, attn_drop=attn_drop, proj_drop=proj_drop)
        self.norm2, _, self.drop_path2 = frame_of(width, o.norm_eps, False, drop_path)
        self.mlp = mlp_of(width, mlp.width, o.act, drop=proj_drop)

    def forward(self, grid: Tensor, token: Tensor, importance: Tensor) -> State:
        """The next state; the first block does not read the importance."""
        run: Any = method_of(self, Block._run, self.compiled)
        recomputes = self.grad_checkpointing and torch.is_grad_enabled()
        return recomputed(self, run, grid, token, importance) if recomputes else run(grid, token, importance)  # type: ignore[return-value]

    def _run(self, grid: Tensor, token: Tensor, importance: Tensor) -> State:
        grid = grid + self.pos_embed(grid)
        size, x = (grid.shape[1], grid.shape[2]), grid.flatten(1, 2)
        token, x, importance = self._all(token, x) if self.first else self._half(token, x, importance)
        return x.unflatten(1, size), token, pooled(importance, size) if self.last else importance

    def _all(self, token: Tensor, x: Tensor) -> State:
        _, out, attended = self._computed(torch.cat([token, x], dim=1))
        return out[:, :1], out[:, 1:], attended

    def _half(self, token: Tensor, x: Tensor, importance: Tensor) -> State:
        count = x.shape[1] // 2
        order = importance.argsort(dim=1, descending=True)
        x, importance = _taken(x, order), importance.gather(1, order)
        rest, weight = x[:, count:], importance[:, count:]
        merged = ((weight / weight.sum(1, keepdim=True))[..., None] * rest).sum(1, keepdim=True)
        added, out, attended = self._computed(torch.cat([token, x[:, :count], merged], dim=1))
        kept = (1 - KEPT) * importance[:, :count] + KEPT * attended[:, :-1]
        back = order.argsort(dim=1)
        x = torch.cat([out[:, 1:-1], rest + added[:, -1:]], dim=1)
        return out[:, :1], _taken(x, back), torch.cat([kept, weight], dim=1).gather(1, back)

    def _computed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What both branches add, not dropped, what becomes of the tokens, and what the class attends to."""
        mixed, attended = self.attn(self.norm1(x))
        x = x + self.drop_path1(mixed)
        fed = self.mlp(self.norm2(x))
        return mixed + fed, x + self.drop_path2(fed), attended


def pooled(importance: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, N] of a grid -> [B, N / 4], with the same sum."""
    fewer = F.avg_pool2d(importance.unflatten(1, size)[:, None], 2).flatten(1)
    return fewer * (importance.sum(1, keepdim=True) / fewer.sum(1, keepdim=True))


def _taken(x: Tensor, order: Tensor) -> Tensor:
    """Tokens [B, N, D] in an order [B, N]."""
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))
