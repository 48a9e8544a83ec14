"""Multiply-accumulates and parameters of one image, in closed form from an ArchSpec. Exact integers.

`full` counts every matrix product and convolution, QKᵀ, AV, patch embedding and classifiers included; norms,
softmax, activations, biases and residual additions count zero. A `paper` convention counts what the authors
of a method counted, so that published budgets can be checked to the last digit:

- `uvc` (Yu et al., ICLR 2022): no classifier; value rows of pruned head dimensions are not credited.
- `dcvit` (Zhang et al., CVPR 2024): linear layers and convolutions, every LayerNorm as 4·tokens·width, QKᵀ and
  AV not counted, the classifier on one token, the norm of a removed attention not counted.
- `scala` and `usdc` count as `full` does.
"""

from lightning_vitc.errors import UserError
from lightning_vitc.networks.families.family import Parts, shape_of
from lightning_vitc.networks.spec import ArchSpec

DEFAULT_PAPER = "dcvit"
PAPERS = ("dcvit", "practise", "uvc", "one_shot", "scala", "usdc")  # methods; a family may know fewer


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
    pairs = shape_of(spec).attended(spec)
    padding = 0
    for number, _, branch in spec.branches():
        if branch.query:
            padding += pairs[spec.place(number)[0]] * (branch.groups * branch.padded - branch.width)
    return macs(spec) + padding


def executed_beside(spec: ArchSpec) -> dict[str, int]:
    """`executed_macs`, for a record or a table, where they are not those that are counted."""
    return {} if (run := executed(spec)) == macs(spec) else {"executed_macs": run}


def parts(spec: ArchSpec, convention: str = "full", method: str = DEFAULT_PAPER) -> Parts:
    """`macs` by part of the network: patch_embed, qkv, qk, av, proj, mlp, norm, classifier, gates, ...

    Raises:
        UserError: for an unknown convention or method.
    """
    if convention not in ("full", "paper"):
        raise UserError(f"convention: {convention!r} is not one of full, paper")
    shape = shape_of(spec)
    if convention == "full":
        return shape.parts(spec)
    if method not in shape.PAPERS:
        raise UserError(f"method: {method!r} has no convention of its own; known: {', '.join(shape.PAPERS)}")
    return shape.PAPERS[method](spec)


def params(spec: ArchSpec) -> int:
    """Parameters of the network, frozen ones included; statistics of batch norms are none."""
    return shape_of(spec).params(spec)
