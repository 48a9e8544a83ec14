"""The blocks of a Swin Transformer, under timm's names: attention in shifted windows, and an MLP."""

import torch
import torch.nn.functional as F
from timm.layers import resize_rel_pos_bias_table, trunc_normal_
from torch import Tensor, nn

from lightning_vitc.networks.blocks import Block as BlockSpec
from lightning_vitc.networks.blocks import Branch
from lightning_vitc.networks.families.swin.shape import grids, shifts, windows
from lightning_vitc.networks.modules.attention import Attention
from lightning_vitc.networks.modules.block import Block as AnyBlock
from lightning_vitc.networks.modules.block import frame_of, mlp_of
from lightning_vitc.networks.spec import ArchSpec

APART = -100.0  # what is added between positions that only rolling has brought together; upstream's
Size = tuple[int, int]


class WindowAttention(Attention):
    """Self-attention in windows of a grid, [B, H, W, D] -> [B, H, W, D], with a learned bias for every distance.

    The grid is rolled by the shift, padded to whole windows, cut into them, and put together again. The shift is the
    one that the block was trained with, wherever it stands now.
    """

    relative_position_index: Tensor
    regions: Tensor | None

    def __init__(self, spec: ArchSpec, stage: int, attn: Branch, attn_drop: float = 0.0, proj_drop: float = 0.0):
        o = spec.options
        super().__init__(
            spec.stages[stage].width, attn, o.scale, qkv_bias=o.qkv_bias, attn_drop=attn_drop, proj_drop=proj_drop
        )
        self.register_buffer("relative_position_index", None, persistent=False)
        self.register_buffer("regions", None, persistent=False)
        self._place(grids(spec)[stage], windows(spec)[stage], shifts(spec, stage, attn))
        self.relative_position_bias_table = nn.Parameter(torch.empty(self._offsets(), attn.groups))

    def reset_parameters(self) -> None:
        """A new table, as timm draws it."""
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def move(self, grid: Size, window: Size, shift: Size) -> None:
        """Attend in another grid from now on; the table is resampled where the window is another one."""
        before, device = self.window, self.relative_position_index.device
        self._place(grid, window, shift)
        self.relative_position_index = self.relative_position_index.to(device)
        self.regions = None if self.regions is None else self.regions.to(device)
        if window != before:
            table = self.relative_position_bias_table
            shape = self._offsets(), table.shape[1]
            resized = resize_rel_pos_bias_table(table.detach(), window, shape, old_window_size=before)
            self.relative_position_bias_table = nn.Parameter(resized)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Attend."""
        (down, across), shifted, images = self.shift, any(self.shift), x.shape[0]  # `len` is no symbol
        if shifted:
            x = x.roll((-down, -across), (1, 2))
        x = self._joined(super().forward(self._windows(x), self._bias(images)), images)
        return x.roll((down, across), (1, 2)) if shifted else x

    def _windows(self, x: Tensor) -> Tensor:
        """[B, H, W, D] -> [B n, A, D] for n windows of A positions."""
        (height, width), (high, wide) = self.grid, self.window
        if height % high or width % wide:
            x = F.pad(x, (0, 0, 0, -width % wide, 0, -height % high))
        return x.unflatten(2, (-1, wide)).unflatten(1, (-1, high)).transpose(2, 3).flatten(0, 2).flatten(1, 2)

    def _joined(self, x: Tensor, images: int) -> Tensor:
        """The other way round, for B images: of a graph's they must not be reckoned back from windows."""
        (height, width), (high, wide) = self.grid, self.window
        rows, columns = -(-height // high), -(-width // wide)
        x = (
            x.unflatten(1, (high, wide))
            .unflatten(0, (images, rows, columns))
            .transpose(2, 3)
            .flatten(3, 4)
            .flatten(1, 2)
        )
        return x[:, :height, :width]

    def _bias(self, images: int) -> Tensor:
        """What is added to QKᵀ: [1, H, A, A], or with a shift [B n, H, A, A]."""
        area = self.window[0] * self.window[1]
        bias = self.relative_position_bias_table.index_select(0, self.relative_position_index.flatten())
        bias = bias.unflatten(0, (area, area)).permute(2, 0, 1)[None]
        if self.regions is None:
            return bias
        bias = bias + self.regions[:, None]
        return bias.expand(images, *bias.shape).flatten(0, 1)

    def _place(self, grid: Size, window: Size, shift: Size) -> None:
        self.grid, self.window, self.shift = grid, window, shift
        self.relative_position_index = _distances(window)
        self.regions = _regions(grid, window, shift) if any(shift) else None

    def _offsets(self) -> int:
        return (2 * self.window[0] - 1) * (2 * self.window[1] - 1)


class Block(AnyBlock):
    """Attention and MLP over a grid [B, H, W, D]."""

    def __init__(self, spec: ArchSpec, stage: int, block: BlockSpec, proj_drop: float = 0.0, attn_drop: float = 0.0,
                 drop_path: float = 0.0):  # fmt: skip
        width, o = spec.stages[stage].width, spec.options
        super().__init__(block, width)
        attn, mlp = block.branches
        if attn is not None:
            self.norm1, self.ls1, self.drop_path1 = frame_of(width, o.norm_eps, False, drop_path)
            self.attn = WindowAttention(spec, stage, attn, attn_drop, proj_drop)
        if mlp is not None:
            self.norm2, self.ls2, self.drop_path2 = frame_of(width, o.norm_eps, False, drop_path)
            self.mlp = mlp_of(width, mlp.width, o.act, drop=proj_drop)


def _distances(window: Size) -> Tensor:
    """[A, A]: the row of the table for a query and a key of a window."""
    high, wide = window
    places = torch.cartesian_prod(torch.arange(high, device="cpu"), torch.arange(wide, device="cpu"))
    apart = places.view(-1, 1, 2) - places.view(1, -1, 2) + torch.tensor([high - 1, wide - 1], device="cpu")
    return apart[..., 0] * (2 * wide - 1) + apart[..., 1]


def _regions(grid: Size, window: Size, shift: Size) -> Tensor:
    """[n, A, A]: `APART` between positions of a window that were no neighbors before the grid was rolled."""
    sides = []
    for side, size, moved in zip(grid, window, shift, strict=True):
        padded = -(-side // size) * size
        positions = torch.arange(padded, device="cpu")
        region = (positions >= padded - size).long() + (positions >= padded - moved).long() * (moved > 0)
        sides.append(region.view(-1, size))
    rows, columns = sides
    number = 3 * rows[:, None, :, None] + columns[None, :, None, :]  # [n rows, n columns, h, w]
    number = number.flatten(2).flatten(0, 1)
    return APART * (number[:, :, None] != number[:, None, :]).float()
