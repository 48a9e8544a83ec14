"""What the kinds of branches cost, written once for all families. Every branch is affine in its groups and pieces."""

from collections import Counter

from lightning_vitc.networks.blocks import Branch
from lightning_vitc.networks.gates.shapes import gate_macs, gate_params
from lightning_vitc.networks.spec import ArchSpec


def attention_macs(branch: Branch, width: int, positions: int, attended: int | None = None) -> Counter[str]:
    """Of queries, keys and values, of QKᵀ and AV, and of the output projection.

    Args:
        branch: the attention.
        width: of the stream.
        positions: that have queries.
        attended: keys that each of them sees; default: all positions.
    """
    attended = positions if attended is None else attended
    return Counter(
        qkv=positions * width * (2 * branch.query_width + branch.width),
        qk=positions * attended * branch.query_width,
        av=positions * attended * branch.width,
        proj=positions * width * branch.width,
    )


def mlp_macs(branch: Branch, width: int, positions: int) -> Counter[str]:
    """Of an MLP, or of a gated one, which has a third matrix."""
    return Counter(mlp=(3 if branch.kind == "glu" else 2) * positions * width * branch.width)


def gates_macs(spec: ArchSpec) -> int:
    """Of all gates."""
    return sum(gate_macs(branch.gate, spec.width_at(number)) for number, _, branch in spec.branches() if branch.gate)


def gates_params(spec: ArchSpec) -> int:
    """Of all gates."""
    return sum(gate_params(branch.gate, spec.width_at(number)) for number, _, branch in spec.branches() if branch.gate)


def attention_params(
    branch: Branch, width: int, qkv_bias: bool = True, proj_bias: bool = True, key_bias: bool = True
) -> int:
    """Of the projections of queries, keys and values, and the output projection."""
    rows = 2 * branch.query_width + branch.width
    biases = qkv_bias * (rows - (0 if key_bias else branch.query_width))
    return rows * width + biases + width * (branch.width + proj_bias)


def mlp_params(branch: Branch, width: int, bias: bool = True) -> int:
    """Of two layers; of a gated MLP the first is twice as high."""
    rows = branch.width * (2 if branch.kind == "glu" else 1)
    return rows * (width + bias) + width * (branch.width + bias)
