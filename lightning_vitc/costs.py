"""Multiply-accumulates and parameters of one image, in closed form from an ArchSpec. Exact integers.

`full` counts every matrix product and convolution, QKᵀ, AV, patch embedding and classifiers included; norms,
softmax, activations, biases and residual additions count zero. A `paper` convention counts what the authors
of a method counted, so that published budgets can be checked to the last digit:

- `uvc` (Yu et al., ICLR 2022): no classifier; value rows of pruned head dimensions are not credited.
- `dcvit` (Zhang et al., CVPR 2024): linear layers and convolutions, every LayerNorm as 4·tokens·width, QKᵀ and
  AV not counted, the classifier on one token, the norm of a removed attention not counted.
- `scala` and `usdc` count as `full` does.
"""

from collections.abc import Callable

from lightning_vitc.architecture import ArchSpec, BlockSpec
from lightning_vitc.dynamic.gate_shapes import gate_macs, gate_params
from lightning_vitc.errors import UserError

Parts = dict[str, int]
PART_NAMES = ("patch_embed", "qkv", "qk", "av", "proj", "mlp", "norm", "classifier", "gates")
DEFAULT_PAPER = "dcvit"


def macs(spec: ArchSpec, convention: str = "full", method: str = DEFAULT_PAPER) -> int:
    """Multiply-accumulates of one image; of a network with gates, where every branch runs.

    Args:
        spec: the architecture.
        convention: `full`, or `paper` for what the authors of `method` counted.
        method: whose paper; read only with `paper`.
    """
    return sum(parts(spec, convention, method).values())


def executed(spec: ArchSpec) -> int:
    """`macs`, and those of the zeros that the values of narrow heads are padded with: what really runs."""
    attns = [block.attn for block in spec.blocks if block.attn is not None]
    padding = sum(attn.num_heads * attn.padded_dim - attn.value_dim for attn in attns)
    return macs(spec) + spec.num_tokens**2 * padding


def executed_beside(spec: ArchSpec) -> dict[str, int]:
    """`executed_macs`, for a record or a table, where they are not those that are counted."""
    return {} if (run := executed(spec)) == macs(spec) else {"executed_macs": run}


def parts(spec: ArchSpec, convention: str = "full", method: str = DEFAULT_PAPER) -> Parts:
    """`macs` by part of the network: patch_embed, qkv, qk, av, proj, mlp, norm, classifier.

    Raises:
        UserError: for an unknown convention or method.
    """
    if convention not in ("full", "paper"):
        raise UserError(f"convention: {convention!r} is not one of full, paper")
    if convention == "full":
        return _full(spec)
    if method not in PAPERS:
        raise UserError(f"method: {method!r} has no convention of its own; known: {', '.join(PAPERS)}")
    return PAPERS[method](spec)


def params(spec: ArchSpec) -> int:
    """Parameters of the network."""
    dim, prefix = spec.embed_dim, spec.num_prefix_tokens
    patch = spec.in_chans * spec.patch_size[0] * spec.patch_size[1]
    embed = dim * (patch + (0 if spec.pre_norm else 1)) + prefix * dim
    if spec.pos_embed:
        embed += dim * (spec.num_patches + (0 if spec.no_embed_class else prefix))
    norms = 2 * dim * (int(spec.pre_norm) + int(spec.final_norm))
    heads = spec.num_heads_out * spec.num_classes * (dim + 1) if spec.num_classes else 0
    return embed + norms + heads + sum(_block_params(spec, block) for block in spec.blocks)


def _block_params(spec: ArchSpec, block: BlockSpec) -> int:
    dim, total = spec.embed_dim, 0
    per_branch = 2 * dim + (dim if spec.layer_scale else 0)  # LayerNorm and LayerScale
    if block.attn is not None:
        rows = 2 * block.attn.qk_dim + block.attn.value_dim
        total += rows * (dim + int(spec.qkv_bias)) + dim * (block.attn.value_dim + int(spec.proj_bias))
        total += per_branch + (4 * block.attn.head_dim if spec.qk_norm else 0)
    if block.hidden is not None:
        total += block.hidden * (2 * dim + int(spec.proj_bias)) + dim * int(spec.proj_bias) + per_branch
    return total + sum(gate_params(gate, dim) for gate in block.gates if gate)


def _full(spec: ArchSpec) -> Parts:
    count = dict.fromkeys(PART_NAMES, 0)
    dim, tokens = spec.embed_dim, spec.num_tokens
    count["patch_embed"] = spec.num_patches * dim * spec.in_chans * spec.patch_size[0] * spec.patch_size[1]
    for block in spec.blocks:
        if block.attn is not None:
            count["qkv"] += tokens * dim * (2 * block.attn.qk_dim + block.attn.value_dim)
            count["qk"] += tokens * tokens * block.attn.qk_dim
            count["av"] += tokens * tokens * block.attn.value_dim
            count["proj"] += tokens * dim * block.attn.value_dim
        count["mlp"] += 2 * tokens * dim * (block.hidden or 0)
        count["gates"] += sum(gate_macs(gate, dim) for gate in block.gates if gate)
    count["classifier"] = spec.num_heads_out * dim * spec.num_classes
    return count


def _uvc(spec: ArchSpec) -> Parts:
    count = _full(spec) | {"classifier": 0}
    for block in spec.blocks:
        if block.attn is not None:  # a pruned value dimension still costs its row of the value projection
            uncredited = block.attn.qk_dim - block.attn.value_dim
            count["qkv"] += spec.num_tokens * spec.embed_dim * uncredited
    return count


def _dcvit(spec: ArchSpec) -> Parts:
    branches = sum((block.attn is not None) + (block.hidden is not None) for block in spec.blocks)
    norms = branches + int(spec.pre_norm) + int(spec.final_norm)
    return _full(spec) | {"qk": 0, "av": 0, "norm": 4 * spec.num_tokens * spec.embed_dim * norms}


PAPERS: dict[str, Callable[[ArchSpec], Parts]] = {
    "dcvit": _dcvit, "practise": _dcvit, "uvc": _uvc, "one_shot": _uvc, "scala": _full, "usdc": _full,
}  # fmt: skip
