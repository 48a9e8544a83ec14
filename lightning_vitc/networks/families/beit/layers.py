"""The blocks of BEiT, under timm's names."""

import torch
from timm.layers import resize_rel_pos_bias_table
from timm.models.beit import gen_relative_position_index
from torch import Tensor, nn

from lightning_vitc.networks.blocks import Branch
from lightning_vitc.networks.families.beit.shape import WITH_CLASS, distances
from lightning_vitc.networks.families.eva import layers as eva
from lightning_vitc.networks.families.plain.layers import attention_arguments
from lightning_vitc.networks.families.plain.shape import grid
from lightning_vitc.networks.modules.attention import Attention
from lightning_vitc.networks.modules.block import Gates
from lightning_vitc.networks.spec import ArchSpec


class BiasedAttention(Attention):
    """Self-attention [B, N, D] -> [B, N, D] with a learned bias for the distance of two patches, and for the class."""

    relative_position_index: Tensor

    def __init__(self, spec: ArchSpec, attn: Branch, attn_drop: float, proj_drop: float):
        super().__init__(**attention_arguments(spec, attn, attn_drop, proj_drop))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(distances(spec), attn.groups))
        self.window = grid(spec)
        self.register_buffer("relative_position_index", _distances(self.window), persistent=False)

    def move(self, grid: tuple[int, int]) -> None:
        """Attend in another grid from now on; the table is resampled."""
        table = self.relative_position_bias_table
        shape = (2 * grid[0] - 1) * (2 * grid[1] - 1) + WITH_CLASS, table.shape[1]
        resized = resize_rel_pos_bias_table(table.detach(), grid, shape, old_window_size=self.window)
        self.relative_position_bias_table = nn.Parameter(resized)
        self.window, self.relative_position_index = grid, _distances(grid).to(table.device)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Attend."""
        count = len(self.relative_position_index)
        bias = self.relative_position_bias_table.index_select(0, self.relative_position_index.flatten())
        return super().forward(x, bias.transpose(0, 1).unflatten(1, (count, count))[None])


def _distances(grid: tuple[int, int]) -> Tensor:
    """[N, N]: the row of the table for a query and a key."""
    return gen_relative_position_index(grid, device=torch.device("cpu"))


class Block(eva.Block):
    """As of timm's Eva class, without rotary positions."""

    def forward(  # type: ignore[override]
        self, x: Tensor, shared_rel_pos_bias: None = None, gates: Gates | None = None
    ) -> Tensor:
        """As of any block; timm gives `None` for a bias that blocks would share."""
        return super(eva.Block, self).forward(x, gates)

    @staticmethod
    def _attention(spec: ArchSpec, attn: Branch, attn_drop: float, proj_drop: float) -> Attention:
        if spec.options.tables:
            return BiasedAttention(spec, attn, attn_drop, proj_drop)
        return eva.Block._attention(spec, attn, attn_drop, proj_drop)
