"""Uniform width slicing (Scala, Zhang et al., NeurIPS 2024, Section 3): which weights a width ratio keeps."""

from fractions import Fraction
from functools import lru_cache
from typing import Literal

import torch

from lightning_vitc.errors import UserError
from lightning_vitc.networks.axes import Inner, branch_sizes, sizes
from lightning_vitc.networks.blocks import Branch
from lightning_vitc.networks.families.family import shape_of
from lightning_vitc.networks.kept import Heads, Index, Kept
from lightning_vitc.networks.spec import ArchSpec

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
    if rule != "per_head" and not any(branch.query for _, _, branch in spec.branches()):
        raise UserError(f"slice: {rule} says how attention is cut, and {spec.name} has none; leave it out")
    small, queries = spec.at_width(width, cut="heads" if rule == "heads" else "dims"), None
    if (paired := getattr(shape_of(spec), "paired", None)) is not None:
        small, queries = paired(spec, small, rule, end)
    full, left = sizes(spec), sizes(small)
    indices: dict[str | Inner, Index] = {axis: _cut(size, left[axis], end) for axis, size in full.items()}
    for (number, position, branch), (_, _, kept) in zip(spec.branches(), small.branches(), strict=True):
        if branch.query:
            cuts = _cut_attention(branch, kept, rule, end, queries)
            indices |= {Inner(number, position, what): index for what, index in cuts.items()}
    return Kept.of(spec, small, indices, heads=heads)


def _cut(size: int, keep: int, end: End) -> slice:
    return slice(0, keep) if end == "leading" else slice(size - keep, size)


def _cut_attention(
    full: Branch, kept: Branch, rule: Rule, end: End, paired: tuple[int, ...] | None
) -> dict[str, Index]:
    """`paired` are the dimensions of a head's queries and keys, where not those at the end are kept."""
    assert full.query_width == full.width, "slicing starts from a uniform network"
    whole, left = branch_sizes(full), branch_sizes(kept)
    queries, columns = _cut(whole["queries"], left["queries"], end), _cut(whole["values"], left["values"], end)
    if rule == "official" or left == whole:
        return {"qkv": _cut(whole["qkv"], left["qkv"], end), "values": columns, "queries": queries}
    positions = torch.arange(columns.start, columns.stop)
    of_queries = torch.arange(queries.start, queries.stop)
    turned = of_queries if paired is None else torch.tensor(paired)
    rows_of_queries = positions
    if rule == "per_head":
        heads = torch.arange(full.groups)[:, None] * whole["queries"]
        positions, rows_of_queries = (heads + of_queries).flatten(), (heads + turned).flatten()
    rows = torch.cat([rows_of_queries, full.width + rows_of_queries, 2 * full.width + positions])
    values = positions if rule == "per_head" else columns
    return {"qkv": rows, "values": values, "queries": queries if paired is None else turned}
