"""A tiny network of every family whose pieces may go, every weight and statistic of it of effect."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.stacks import stacks_of
from lightning_vitc.networks.backbone import Backbone, create_backbone
from tests.networks import conv_nets

PLAIN = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
EVA = PLAIN | {"embed_dim": 32, "num_heads": 2}
GRID = {"img_size": 32, "num_classes": 5}
UNIFORMER = GRID | {"embed_dim": [8, 16, 16, 24], "depths": [2, 1, 2, 1], "num_heads": [2, 3]}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain, distilled": ("deit_tiny_distilled_patch16_224", PLAIN),
    "plain, gains": ("vit_small_patch14_dinov2", PLAIN),
    "eva, inner norms": ("eva02_base_patch16_clip_224", EVA | {"mlp_ratio": 2}),
    "eva, gated units": ("vit_small_plus_patch16_dinov3_qkvb", EVA | {"mlp_ratio": 2}),
    "beit": ("beit_base_patch16_224", PLAIN),
    "swin": ("swin_tiny_patch4_window7_224", GRID | {
        "window_size": 3, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2]}),
    "t2t": ("t2t_vit_14", GRID | {"embed_dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 2}),
    "uniformer": ("uniformer_small", UNIFORMER),
    **{kind: (kind, {}) for kind in conv_nets.SPECS},
}  # fmt: skip


def network(kind: str) -> Backbone:
    """In evaluation mode."""
    if kind in conv_nets.SPECS:
        return conv_nets.network(kind)
    torch.manual_seed(0)
    name, keys = KINDS[kind]
    model = create_backbone(name, **keys).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if not value.is_floating_point() or key.endswith(".w") or "kqv" in key:
                continue
            gain = "gamma" in key or (("norm" in key or "bn" in key) and key.endswith("weight"))
            value.normal_(1.0 if gain else 0.0, 0.1)
            if key.endswith("running_var"):
                value.uniform_(0.5, 2.0)
    return model


def images(model: Backbone, count: int = 24) -> Tensor:
    """Always the same."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, model.spec.in_chans, *model.spec.img_size, generator=generator)


def thinned(model: Backbone, share: float = 0.6, seed: int = 2) -> Masks:
    """Random masks of a part of the pieces, a whole head among them where there are several, and a block without."""
    generator, full = torch.Generator().manual_seed(seed), Masks.full(model.spec)
    dims, channels = (
        mask & (torch.rand(mask.shape, generator=generator) < share) for mask in (full.dims, full.channels)
    )
    for stack in stacks_of(model.spec):
        stack.of_channels(channels)[:, :1] = True
        stack.of_dims(dims)[:, :1, :1] = True
        if stack.heads > 1:
            stack.of_dims(dims)[:, -1] = False
    return Masks(dims, channels, full.branches)


def outlets(model: Any) -> Iterator[tuple[int, int]]:
    """The branches whose pieces may go."""
    for stack in stacks_of(model.spec):
        for number in range(stack.start, stack.stop):
            yield from ((number, at) for at, there in ((0, stack.heads), (1, stack.channels)) if there)
