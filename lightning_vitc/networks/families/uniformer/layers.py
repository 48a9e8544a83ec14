"""The layers of a UniFormer, under the names of the authors' files. All of them take a grid [B, H, W, D].

The width is last, as in what has tokens: so gates, adaptors and losses see all stages alike. It costs nothing, for
to a convolution this is an image in the memory format that it prefers.
"""

from timm.layers import get_act_layer
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vitc.networks.blocks import Block as BlockSpec
from lightning_vitc.networks.blocks import Branch
from lightning_vitc.networks.families.uniformer.shape import MIXED, POSITION, is_convolutional
from lightning_vitc.networks.modules import attention
from lightning_vitc.networks.modules import block as blocks
from lightning_vitc.networks.modules.block import frame_of, mlp_of
from lightning_vitc.networks.spec import ArchSpec

PATCH_EPS = 1e-5  # of the norms behind patches, whatever that of the blocks is; the authors'
STRIDES = (4, 2, 2, 2)  # of patches


class Convolution(nn.Conv2d):
    """[B, H, W, D] -> [B, H', W', D']."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class BatchNorm(nn.BatchNorm2d):
    """[B, H, W, D] -> [B, H, W, D], over all positions of all images."""

    channels_last = True

    def forward(self, x: Tensor) -> Tensor:
        """Normalize."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Pointwise(nn.Conv2d):
    """A convolution of one pixel, which is a linear layer: [B, ..., D] -> [B, ..., D']."""

    channels_last = True

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, 1)

    @property
    def in_features(self) -> int:
        """D."""
        return self.in_channels

    @property
    def out_features(self) -> int:
        """D'."""
        return self.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map."""
        return F.linear(x, self.weight.flatten(1), self.bias)


class PointwiseMlp(nn.Module):
    """[B, ..., D] -> [B, ..., D]."""

    def __init__(self, width: int, hidden: int, act: str, drop: float):
        super().__init__()
        self.fc1, self.fc2 = Pointwise(width, hidden), Pointwise(hidden, width)
        self.act, self.drop = get_act_layer(act)(), nn.Dropout(drop)  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """Map."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Attention(attention.Attention):
    """Among all positions of a grid."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Attend."""
        return super().forward(x.flatten(1, 2)).unflatten(1, x.shape[1:3])


class Block(blocks.Block):
    """A position, then two branches: a mixer or an attention, and an MLP.

    The position is a depthwise convolution that is added to the stream, with whatever branches there are.
    """

    def __init__(self, spec: ArchSpec, stage: int, block: BlockSpec, proj_drop: float = 0.0, attn_drop: float = 0.0,
                 drop_path: float = 0.0):  # fmt: skip
        width, in_images = spec.stages[stage].width, is_convolutional(stage)
        super().__init__(block, width)
        first, mlp = block.branches
        self.pos_embed = depthwise(width, POSITION)
        if first is not None:
            self.norm1, self.ls1, self.drop_path1 = _frame(spec, stage, drop_path)
            self._mix(width, first) if in_images else self._look(spec, width, first, attn_drop, proj_drop)
        if mlp is not None:
            self.norm2, self.ls2, self.drop_path2 = _frame(spec, stage, drop_path)
            act = spec.options.act
            self.mlp = (PointwiseMlp(width, mlp.width, act, proj_drop) if in_images
                        else mlp_of(width, mlp.width, act, drop=proj_drop))  # fmt: skip

    def _mix(self, width: int, mixer: Branch) -> None:
        self.conv1, self.conv2 = Pointwise(width, mixer.width), Pointwise(mixer.width, width)
        self.attn = depthwise(mixer.width, MIXED)

    def _look(self, spec: ArchSpec, width: int, attn: Branch, attn_drop: float, proj_drop: float) -> None:
        self.conv1 = self.conv2 = None  # type: ignore[assignment]
        self.attn = Attention(width, attn, spec.options.scale, attn_drop=attn_drop, proj_drop=proj_drop)

    def entered(self, x: Tensor) -> Tensor:
        """With the position."""
        return x + self.pos_embed(x)

    def _attend(self, normed: Tensor) -> Tensor:  # type: ignore[override]
        mixed = self.attn(normed) if self.conv1 is None else self.conv2(self.attn(self.conv1(normed)))
        return self.ls1(mixed)


class PatchEmbed(nn.Module):
    """Patches, each a linear layer and a norm: a stage's entrance."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.proj = Convolution(before, width, stride, stride)
        self.norm = nn.LayerNorm(width, eps=PATCH_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Enter."""
        return self.norm(self.proj(x))


class ConvolutionalEntrance(nn.Module):
    """The same by convolutions with batch norms, each of which halves the grid; `inside` are channels of a stem."""

    def __init__(self, before: int, width: int, inside: int = 0):
        super().__init__()
        first = (_halving(before, inside), BatchNorm(inside), nn.GELU()) if inside else ()
        self.proj = nn.Sequential(*first, _halving(inside or before, width), BatchNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        """Enter."""
        return self.proj(x)


def entrance(spec: ArchSpec, stage: int) -> nn.Module:
    """What is before the blocks of a stage."""
    before = spec.stages[stage - 1].width if stage else spec.in_chans
    width, inside = spec.stages[stage].width, spec.options.stem
    if not inside or (spec.options.light and stage):
        return PatchEmbed(before, width, STRIDES[stage])
    return ConvolutionalEntrance(before, width, 0 if stage else inside)


def _halving(before: int, width: int) -> Convolution:
    return Convolution(before, width, 3, stride=2, padding=1)


def depthwise(width: int, pixels: int) -> Convolution:
    """Of so many pixels, whose grid is as large as before."""
    side = round(pixels**0.5)
    return Convolution(width, width, side, padding=side // 2, groups=width)


def _frame(spec: ArchSpec, stage: int, drop_path: float) -> tuple[nn.Module, nn.Module, nn.Module]:
    width = spec.stages[stage].width
    norm, gains, drop = frame_of(width, spec.options.norm_eps, False, drop_path)
    return (BatchNorm(width) if is_convolutional(stage) else norm), gains, drop
