"""Plain Vision Transformers of any shape an ArchSpec can describe: timm's model with blocks of our own.

timm's blocks cannot carry an attention scale of another width, value widths that differ from head to head,
or a block without attention. These can; their state-dict keys are timm's.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerScale, Mlp, get_act_layer
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lightning_vitc.architecture import ArchSpec, AttentionSpec, BlockSpec
from lightning_vitc.compilation import Compilable, compiles, method_of
from lightning_vitc.dynamic.gate_networks import GateNetwork
from lightning_vitc.dynamic.skipping import Mode, pooled, skipping
from lightning_vitc.recomputation import recomputed

Decision = Callable[[int, Tensor], Tensor]
Gates = tuple[Tensor, ...] | Decision
Drawn = tuple[Tensor, ...]  # of both branches, what multiplies the images, [B, 1, 1]


class Attention(nn.Module):
    """Multi-head self-attention [B, N, D] -> [B, N, D] with a value width for every head."""

    pad: Tensor | None
    valid: Tensor | None

    def __init__(self, spec: ArchSpec, attn: AttentionSpec, attn_drop: float = 0.0, proj_drop: float = 0.0):
        super().__init__()
        self.num_heads, self.head_dim, self.value_dims = attn.num_heads, attn.head_dim, attn.value_dims
        self.scale = spec.scale
        self.qkv = nn.Linear(spec.embed_dim, 2 * attn.qk_dim + attn.value_dim, bias=spec.qkv_bias)
        self.q_norm = nn.LayerNorm(attn.head_dim, eps=spec.norm_eps) if spec.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(attn.head_dim, eps=spec.norm_eps) if spec.qk_norm else nn.Identity()
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(attn.value_dim, spec.embed_dim, bias=spec.proj_bias)
        self.proj_drop = nn.Dropout(proj_drop)
        self.padded_dim = attn.padded_dim  # padding costs less than doing without fused kernels
        pad, valid = _padding_indices(attn.value_dims, self.padded_dim)
        self.register_buffer("pad", pad, persistent=False)
        self.register_buffer("valid", valid, persistent=False)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend; `attn_mask` and `is_causal` as in timm."""
        heads, qk_dim = self.num_heads, self.num_heads * self.head_dim
        q, k, v = self.qkv(x).split([qk_dim, qk_dim, sum(self.value_dims)], dim=-1)
        q = self.q_norm(q.unflatten(-1, (heads, self.head_dim))).transpose(1, 2)  # [B, H, N, head_dim]
        k = self.k_norm(k.unflatten(-1, (heads, self.head_dim))).transpose(1, 2)
        if self.pad is not None:
            v = F.pad(v, (0, 1)).index_select(-1, self.pad)
        v = v.unflatten(-1, (heads, self.padded_dim)).transpose(1, 2)
        drop = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask, drop, is_causal, scale=self.scale)
        x = x.transpose(1, 2).flatten(2)  # [B, N, H * value_dim]
        if self.valid is not None:
            x = x.index_select(-1, self.valid)
        return self.proj_drop(self.proj(x))


class Block(nn.Module):
    """Pre-norm encoder block; a branch its BlockSpec lacks has no parameters here.

    A branch with a gate (`gate1`, `gate2`) is skipped where the gate says so, in the way that `gating` names. With
    `grad_checkpointing` a training keeps what enters the block and computes the rest again; where gates decide by the
    image, what enters each branch.
    """

    grad_checkpointing = False
    compiled = False  # in training, see `compilation`

    def __init__(self, spec: ArchSpec, block: BlockSpec, proj_drop: float = 0.0, attn_drop: float = 0.0,
                 drop_path: float = 0.0):  # fmt: skip
        super().__init__()
        self.norm1: Any = None
        self.attn: Any = None
        self.ls1: Any = None
        self.drop_path1: Any = None
        self.norm2: Any = None
        self.mlp: Any = None
        self.ls2: Any = None
        self.drop_path2: Any = None
        self.gating: Mode = "per_sample"
        self.gate1, self.gate2 = (None if name is None else GateNetwork(name, spec.embed_dim) for name in block.gates)
        if block.attn is not None:
            self.norm1, self.ls1, self.drop_path1 = _frame(spec, drop_path)
            self.attn = Attention(spec, block.attn, attn_drop, proj_drop)
        if block.hidden is not None:
            self.norm2, self.ls2, self.drop_path2 = _frame(spec, drop_path)
            act = get_act_layer(spec.act)
            self.mlp = Mlp(spec.embed_dim, block.hidden, spec.embed_dim, act, bias=spec.proj_bias, drop=proj_drop)
            if block.hidden == 0:  # timm reads 0 as "not given"
                self.mlp.fc1 = nn.Linear(spec.embed_dim, 0, bias=spec.proj_bias)
                self.mlp.fc2 = nn.Linear(0, spec.embed_dim, bias=spec.proj_bias)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, gates: Gates | None = None
    ) -> Tensor:
        """[B, N, D] -> [B, N, D].

        Args:
            x: tokens.
            attn_mask, is_causal: as in timm.
            gates: weighs what attention (0) and MLP (1) add, instead of the block's own gates: two scalars, or a
                function of that number and of the mean normalized token [B, D] that gives [B].
        """
        decides = callable(gates) or self.gate1 is not None or self.gate2 is not None  # which is to happen once
        run = self._method(Block._run, not decides)
        arguments = x, attn_mask, is_causal, gates, None if decides else self._drawn(x)
        return recomputed(self, run, *arguments) if self._recomputes() and not decides else run(*arguments)

    def _run(
        self, x: Tensor, attn_mask: Tensor | None, is_causal: bool, gates: Gates | None, drawn: Drawn | None
    ) -> Tensor:
        if self.attn is not None:
            x = self._add(x, 0, Block._attend, gates, drawn, attn_mask=attn_mask, is_causal=is_causal)
        if self.mlp is not None:
            x = self._add(x, 1, Block._feed, gates, drawn)
        return x

    def _add(
        self, x: Tensor, number: int, function: Callable[..., Tensor], gates: Gates | None, drawn: Drawn | None,
        **options: Any,
    ) -> Tensor:  # fmt: skip
        if callable(gates):
            return self._decided(x, number, partial(self._method(function), **options), gates)

        def branch(normed: Tensor) -> Tensor:
            added = function(self, normed, **options)
            return self._drop(number, added) if drawn is None else drawn[number] * added

        gate, normed = self.gate2 if number else self.gate1, self._norm(number, x)
        if gates is None and gate is not None:
            return skipping(x, normed, gate, branch, self.gating)
        return x + (branch(normed) if gates is None else gates[number] * branch(normed))

    def _decided(self, x: Tensor, number: int, branch: Callable[[Tensor], Tensor], gates: Decision) -> Tensor:
        """What decides is no part of a graph: it is another one's business, and differs from block to block."""
        normed, seen = self._method(Block._see)(number, x)
        weight = gates(number, seen)[:, None, None]
        added = recomputed(self, branch, normed) if self._recomputes() else branch(normed)
        return x + weight * self._drop(number, added)

    def _see(self, number: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """What a branch and its gate get."""
        normed = self._norm(number, x)
        return normed, pooled(normed)

    def _norm(self, number: int, x: Tensor) -> Tensor:
        return self.norm2(x) if number else self.norm1(x)

    def _attend(self, normed: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
        return self.ls1(self.attn(normed, attn_mask=attn_mask, is_causal=is_causal))

    def _feed(self, normed: Tensor) -> Tensor:
        return self.ls2(self.mlp(normed))

    def _drop(self, number: int, added: Tensor) -> Tensor:
        return self.drop_path2(added) if number else self.drop_path1(added)

    def _drawn(self, x: Tensor) -> Drawn | None:
        """Stochastic depth for a graph, which would have a rate as a constant: each block has another one."""
        if not compiles(self.compiled) or not isinstance(self.drop_path2 or self.drop_path1, DropPath):
            return None
        ones = x.new_ones(len(x), 1, 1)
        return tuple(ones if drop is None else drop(ones) for drop in (self.drop_path1, self.drop_path2))

    def _method(self, function: Callable[..., Any], compiled: bool = True) -> Callable[..., Any]:
        return method_of(self, function, self.compiled and compiled)

    def _recomputes(self) -> bool:
        return self.grad_checkpointing and torch.is_grad_enabled()


class Described:
    """A timm model that says what it is, whatever timm's methods make of it.

    Attributes:
        spec: the architecture.
    """

    spec: ArchSpec

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """timm's."""
        super().set_input_size(*args, **kwargs)  # type: ignore[misc]
        self.spec = ArchSpec.of(self)

    def reset_classifier(self, *args: Any, **kwargs: Any) -> None:
        """timm's."""
        super().reset_classifier(*args, **kwargs)  # type: ignore[misc]
        self.spec = ArchSpec.of(self)


class PlainViT(Described, Compilable, VisionTransformer):
    """timm's model with blocks of our own."""


class PlainDistilledViT(Described, Compilable, VisionTransformerDistilled):
    """The same with a distillation token."""


def build(
    spec: ArchSpec, model_class: type[VisionTransformer] | None = None, rates: Mapping[str, float] | None = None
) -> VisionTransformer:
    """A model of the described shape, weights not yet set (see `initialize`).

    Args:
        spec: the architecture.
        model_class: a subclass of timm's class that fits the spec; default a plain one.
        rates: timm's `drop_rate`, `proj_drop_rate`, `attn_drop_rate`, `drop_path_rate`.
    """
    rates = rates or {}
    if model_class is None:
        model_class = PlainDistilledViT if spec.distilled else PlainViT
    model = model_class(**_timm_arguments(spec), drop_rate=rates.get("drop_rate", 0.0))
    drop_path = torch.linspace(0, rates.get("drop_path_rate", 0.0), spec.depth, device="cpu").tolist()
    drops = {"proj_drop": rates.get("proj_drop_rate", 0.0), "attn_drop": rates.get("attn_drop_rate", 0.0)}
    model.spec = spec  # type: ignore[assignment]
    model.blocks = nn.Sequential(
        *(Block(spec, block, drop_path=rate, **drops) for block, rate in zip(spec.blocks, drop_path, strict=True))
    )
    return model


def place_buffers(model: VisionTransformer, device: torch.device) -> None:
    """Move the index buffers, which `build` makes on the CPU, to where the weights are."""
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(device))


def initialize(model: VisionTransformer) -> None:
    """Draw fresh weights in place, as timm does for a new model."""
    model.weight_init_mode = ""  # `build` told timm to skip it, which timm remembers
    model.init_weights()


def _timm_arguments(spec: ArchSpec) -> dict[str, Any]:
    return dict(
        img_size=spec.img_size, patch_size=spec.patch_size, in_chans=spec.in_chans, num_classes=spec.num_classes,
        global_pool=spec.global_pool, embed_dim=spec.embed_dim, depth=0, class_token=spec.class_token,
        pos_embed="learn" if spec.pos_embed else "none", no_embed_class=spec.no_embed_class,
        reg_tokens=spec.reg_tokens, pre_norm=spec.pre_norm, final_norm=spec.final_norm, fc_norm=spec.fc_norm,
        pool_include_prefix=spec.pool_include_prefix, weight_init="skip",
        norm_layer=lambda dim, **kwargs: nn.LayerNorm(dim, eps=spec.norm_eps, **kwargs),
    )  # fmt: skip


def _frame(spec: ArchSpec, drop_path: float) -> tuple[nn.Module, nn.Module, nn.Module]:
    return (
        nn.LayerNorm(spec.embed_dim, eps=spec.norm_eps),
        LayerScale(spec.embed_dim) if spec.layer_scale else nn.Identity(),
        DropPath(drop_path) if drop_path > 0 else nn.Identity(),
    )


def _padding_indices(dims: tuple[int, ...], width: int) -> tuple[Tensor | None, Tensor | None]:
    """Where each column of heads of `width` comes from (the last one is zero), and which of them are real."""
    total = sum(dims)
    if width * len(dims) == total:
        return None, None
    live = torch.arange(width, device="cpu") < torch.tensor(dims, device="cpu")[:, None]  # [H, width]
    pad = torch.full(live.shape, total, device="cpu")
    pad[live] = torch.arange(total, device="cpu")
    return pad.flatten(), live.flatten().nonzero().flatten()
