"""A block without its attention: which hidden units stay, from which weights it starts, what is trained around it.

The compressed block computes y = x + FC2'(GELU(FC1'(LN2(x)))); LayerScale and the norm's epsilon stay as they are.
"""

import zlib
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor

from lightning_vitc.networks.axes import Inner
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.blocks import ATTN, MLP, Block
from lightning_vitc.networks.compaction import compact_backbone
from lightning_vitc.networks.families.family import shape_of
from lightning_vitc.networks.kept import Kept
from lightning_vitc.networks.least_squares import fit_second_layer
from lightning_vitc.networks.modules.channels import channel_dim
from lightning_vitc.networks.spec import ArchSpec

Units = Literal["random", "activation"]
Init = Literal["reuse", "reinit", "least_squares"]
REAR = ("head", "head_dist", "fc_norm", "attn_pool", "fc", "classifier")  # of all families
OUTLETS = {"basic": "conv2", "inverted": "conv_pwl", "separable": "conv_pw"}
SEEN_AT_ONCE = 50  # images in a forward pass that trains nothing


def drop_attention(
    network: Backbone, block: int, hidden: int | Tensor, *, seed: int, images: Tensor, units: Units = "random",
    init: Init = "reuse",
) -> Backbone:  # fmt: skip
    """A copy of the network whose block has lost its attention and all but `hidden` units of its MLP.

    Args:
        network: dense, or with other blocks compressed; not changed.
        block: its number.
        hidden: h, or the positions [h] of the units that stay, sorted.
        seed: of what is drawn, together with the number of the block.
        images: [M, C, H, W], seen where units or weights are chosen by what they do.
        units: how h units are chosen, see `units_that_stay`.
        init: keep the units' weights; `reinit` draws new ones; `least_squares` keeps them and then fits FC2' to
            what the removed part of the block contributed (ours).
    """
    if isinstance(hidden, int):
        hidden = units_that_stay(network, block, hidden, seed=seed, images=images, units=units)
    small = compact_backbone(network, without_attention(network, block, hidden))
    if init == "reinit":
        _draw(small, block, seed)
    elif init == "least_squares":
        fit_second_layer(network, small, block, images)
    return small


def units_that_stay(
    network: Backbone, block: int, hidden: int, *, seed: int, images: Tensor, units: Units = "random"
) -> Tensor:
    """Sorted positions [hidden] in the MLP of a block.

    Args:
        network: before the block is compressed.
        block: its number.
        hidden: h.
        seed: of random units, together with the number of the block.
        images: [M, C, H, W], seen where units are chosen by what they do.
        units: random ones, or those with the largest mean activation after GELU.
    """
    if units == "random":
        branch = network.spec.blocks[block].branches[MLP]
        return random_units(branch.width if branch else 0, hidden, seed, block)
    return active_units(network, block, hidden, images)


def without_attention(network: Backbone, block: int, positions: Tensor) -> Kept:
    """The sub-network that keeps everything but the attention of a block and all but some of its hidden units.

    Of a block of convolutions, which has none, all but some of its inner channels.
    """
    branch = network.spec.blocks[block].branches[MLP]
    assert branch is not None
    smaller = network.spec.with_block(block, Block((None, branch.of_pieces(len(positions)))))
    return Kept.of(network.spec, smaller, {Inner(block, MLP, "pieces"): positions})


def without_blocks(network: Backbone, dropped: tuple[int, ...]) -> Kept:
    """The sub-network that lacks whole blocks."""
    spec = network.spec
    left = tuple(number for number in range(spec.depth) if number not in dropped)
    smaller = spec.with_blocks([block if number in left else None for number, block in enumerate(spec.blocks)])
    return Kept.of(spec, smaller, {}, left)


def random_units(total: int, count: int, seed: int, block: int) -> Tensor:
    """Sorted positions [count] of `total` hidden units; a function of (seed, block) alone."""
    return torch.randperm(total, generator=_generator("units", seed, block))[:count].sort().values


def outlet_of(spec: ArchSpec, block: int) -> str:
    """The name, within a block, of the layer that reads its hidden units."""
    branch = spec.blocks[block].branches[MLP]
    return OUTLETS.get(branch.kind if branch else "mlp", "mlp.fc2")


@torch.no_grad()
def active_units(network: Backbone, block: int, count: int, images: Tensor) -> Tensor:
    """Sorted positions [count] of the units whose activation is largest on average over all positions."""
    network = deepcopy(network).eval()
    sums: list[Tensor] = []
    outlet = network.blocks[block].get_submodule(outlet_of(network.spec, block))
    dim = channel_dim(outlet)
    outlet.register_forward_pre_hook(
        lambda _, inputs: sums.append(inputs[0].movedim(dim, -1).flatten(1, -2).mean(1).sum(0))
    )
    for part in images.split(SEEN_AT_ONCE):
        network.forward_features(part.to(next(network.parameters()).device))
    return torch.stack(sums).sum(0).topk(count).indices.sort().values.cpu()


def behind_attentions(spec: ArchSpec) -> int:
    """The number of the block behind the last one that has lost its attention; 0 where none has."""
    return 1 + max((number for number, block in enumerate(spec.blocks) if block.branches[ATTN] is None), default=-1)


def train_around(network: Backbone, behind: int, beyond: int | None = 1) -> None:
    """Let gradients reach the embedding, the blocks up to the last compressed one and beyond, and the final norm.

    Everything else is frozen, what leads into a stage of frozen blocks too; the classifier always: no loss reaches it.

    Args:
        network: with compressed blocks, or without some.
        behind: the number of the block behind the last of these.
        beyond: blocks from there on that are trained; `None` for all.
    """
    spec, shape = network.spec, shape_of(network.spec)
    first = spec.depth if beyond is None else behind + beyond  # that rests
    after = [shape.block_prefix(*spec.place(number)) for number in range(first, spec.depth)]
    starts = [sum(spec.depths[:stage]) for stage in range(len(spec.stages))]
    after += [prefix for stage, start in enumerate(starts) if stage and start >= first for prefix in shape.entry(stage)]
    network.train_only(lambda name: not is_rear(name) and not name.startswith(tuple(after)))


def is_rear(name: str) -> bool:
    """Whether a weight stands behind the features that are compared."""
    return name.partition(".")[0] in REAR


@torch.no_grad()
def _draw(network: Backbone, block: int, seed: int) -> None:
    """New MLP weights as timm draws them; biases are zero, but FC2's stays whole."""
    mlp = network.blocks[block].mlp
    generator = _generator("weights", seed, block)
    layers = [layer for name, layer in mlp.named_children() if name.startswith("fc")]
    for layer in layers:
        weight = layer.weight
        weight.copy_(torch.nn.init.trunc_normal_(torch.empty(weight.shape), std=0.02, generator=generator))
    for layer in layers[:-1]:
        if layer.bias is not None:
            layer.bias.zero_()


def _generator(purpose: str, seed: int, block: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{purpose} {seed} {block}".encode()))
