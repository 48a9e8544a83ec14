"""Uniform width slicing (Scala, Zhang et al., NeurIPS 2024, Section 3): which weights a width ratio keeps."""

from fractions import Fraction
from functools import lru_cache
from typing import Literal

import torch

from lightning_vitc.architecture import ArchSpec, AttentionSpec
from lightning_vitc.errors import UserError
from lightning_vitc.kept import AttentionKept, BlockKept, Heads, Index, Kept

Rule = Literal["per_head", "per_qkv", "official", "heads"]
End = Literal["leading", "trailing"]
RULES: tuple[Rule, ...] = ("per_head", "per_qkv", "official", "heads")


@lru_cache(maxsize=256)
def slice_width(
    spec: ArchSpec, width: Fraction, rule: Rule = "per_head", end: End = "leading", heads: Heads = "both"
) -> Kept:
    """Keep `width` times every dimension of a uniform network.

    Args:
        spec: the full-width architecture; every head of a block has the same widths.
        width: ratio of the full width, exact.
        rule: how the attention matrices are cut. `per_head`: inside each head of q, k and v; `per_qkv`: inside
            each of q, k and v; `official`: the fused 3D x D matrix as one, as the released code does;
            `heads`: whole heads.
        end: which end of every dimension is kept.
        heads: which classifiers of a distilled network predict.

    Raises:
        UserError: where a width does not come out whole.
    """
    if rule not in RULES:
        raise UserError(f"slice: {rule!r} is not one of {', '.join(RULES)}")
    if heads != "both" and not (heads == "distillation" and spec.distilled):
        raise UserError(f"heads: {heads!r} are not heads of {spec.name}")
    small = spec.at_width(width, cut="heads" if rule == "heads" else "dims")
    blocks = []
    for number, (full, kept) in enumerate(zip(spec.blocks, small.blocks, strict=True)):
        attn = None if full.attn is None else _cut_attention(full.attn, kept.attn, rule, end)
        hidden = None if full.hidden is None else _cut(full.hidden, kept.hidden, end)
        blocks.append(BlockKept(number, attn, hidden))
    return Kept(small, _cut(spec.embed_dim, small.embed_dim, end), tuple(blocks), heads)


def _cut(size: int, keep: int | None, end: End) -> slice:
    assert keep is not None
    return slice(0, keep) if end == "leading" else slice(size - keep, size)


def _cut_attention(full: AttentionSpec, kept: AttentionSpec | None, rule: Rule, end: End) -> AttentionKept:
    assert kept is not None
    assert full.qk_dim == full.value_dim, "slicing starts from a uniform network"
    inner = _cut(full.head_dim, kept.head_dim, end)
    columns: Index = _cut(full.qk_dim, kept.qk_dim, end)
    if rule == "official":
        return AttentionKept(_cut(3 * full.qk_dim, 3 * kept.qk_dim, end), columns, inner)
    if rule == "per_head" and kept.head_dim < full.head_dim:
        heads = torch.arange(full.num_heads)[:, None] * full.head_dim
        columns = (heads + torch.arange(inner.start, inner.stop)).flatten()
    if kept == full:
        return AttentionKept(slice(0, 3 * full.qk_dim), columns, inner)
    positions = torch.arange(columns.start, columns.stop) if isinstance(columns, slice) else columns
    rows = (torch.arange(3)[:, None] * full.qk_dim + positions).flatten()
    return AttentionKept(rows, columns, inner)
