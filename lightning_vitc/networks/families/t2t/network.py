"""T2T-ViTs of any shape an ArchSpec can describe. State-dict keys are those of the authors' files."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.families.t2t.layers import Block, Performer, TokensToToken, sinusoid
from lightning_vitc.networks.families.t2t.shape import grid_sides, positions
from lightning_vitc.networks.modules.buffers import place_buffers as place_buffers
from lightning_vitc.networks.modules.classifying import STD, Classifying, draw_linear
from lightning_vitc.networks.modules.notes import renew_notes
from lightning_vitc.networks.spec import ArchSpec


class T2TViT(Classifying):
    """Images [B, C, H, W] -> logits [B, classes], by timm's conventions.

    Positions and the performers' random features are parameters that are not trained.

    Attributes:
        spec: the architecture.
        grid_size: tokens of the blocks, down and across.
        antialias_positions: where they are interpolated to another image size, which the authors do without.
    """

    antialias_positions = False

    def __init__(self, spec: ArchSpec, rates: Mapping[str, float]):
        super().__init__(spec, rates)
        dim, side = spec.embed_dim, grid_sides(spec)[-1]
        self.embed_dim, self.grid_size = dim, (side, side)
        self.tokens_to_token = TokensToToken(spec)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(sinusoid(positions(spec)[0], dim), requires_grad=False)
        drop, attn_drop = rates.get("proj_drop_rate", 0.0), rates.get("attn_drop_rate", 0.0)
        drop_path = torch.linspace(0, rates.get("drop_path_rate", 0.0), spec.depth, device="cpu").tolist()
        pairs = zip(spec.blocks, drop_path, strict=True)
        self.blocks = nn.Sequential(*(Block(spec, block, drop, attn_drop, rate) for block, rate in pairs))
        self.norm = nn.LayerNorm(dim, eps=spec.options.norm_eps)
        self.head = self.classifier_of(dim)

    def embed(self, x: Tensor) -> Tensor:
        """Images -> the class token and the others, with their positions [B, N, D]."""
        x = self.tokens_to_token(x)
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed

    def features(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] after the final norm."""
        return self.norm(self.blocks(self.embed(x)))

    def pooled(self, x: Tensor) -> Tensor:
        """The class token."""
        return x[:, 0]

    def draw(self, layer: nn.Module) -> None:
        """As the authors do."""
        if isinstance(layer, Performer):
            layer.draw()
        draw_linear(layer)

    def set_input_size(self, img_size: tuple[int, int]) -> None:
        """For images of another size: positions are interpolated, as from a file of weights.

        Raises:
            UserError: for a size that the network cannot take.
        """
        self.spec = self.spec.with_img_size(img_size)
        before, side = self.grid_size, grid_sides(self.spec)[-1]
        self.grid_size = (side, side)
        position = resample_abs_pos_embed(
            self.pos_embed.data, list(self.grid_size), list(before), antialias=self.antialias_positions
        )
        self.pos_embed = nn.Parameter(position, requires_grad=False)
        renew_notes(self)

    def no_weight_decay(self) -> set[str]:
        """timm's convention."""
        return {"cls_token"}

    @property
    def constants(self) -> frozenset[str]:
        """Names of the parameters that are never trained."""
        performers = (name for name, module in self.named_modules() if isinstance(module, Performer))
        return frozenset({"pos_embed", *(f"{name}.w" for name in performers)})

    def requires_grad_(self, requires_grad: bool = True) -> "T2TViT":
        """Of all but the constants."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(requires_grad and name not in self.constants)
        return self


class T2TBackbone(Backbone, T2TViT):  # type: ignore[misc]
    """The one that is trained."""

    constants = T2TViT.constants

    def stem(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D]."""
        return self.embed(x)

    def tail(self, x: Tensor) -> Tensor:
        """The final norm."""
        return self.norm(x)


def read(model: Any) -> ArchSpec | None:
    """The architecture, which a model of this family always has with it."""
    return model.spec if isinstance(model, T2TViT) else None


def build(spec: ArchSpec, rates: Mapping[str, float] | None = None, trained: bool = False) -> T2TViT:
    """A model of the described shape, weights not yet set; `rates` are timm's."""
    return (T2TBackbone if trained else T2TViT)(spec, rates or {})


def initialize(model: T2TViT) -> None:
    """Draw fresh weights in place, as the authors do."""
    nn.init.trunc_normal_(model.cls_token, std=STD)
    for module in model.modules():
        model.draw(module)
