"""A branch that really is skipped: by control flow, by gathering the images that run it, or for a whole batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_vitc.networks.gates.networks import GateNetwork

Mode = Literal["per_sample", "per_batch", "masked"]
Branch = Callable[[Tensor], Tensor]


def skipping(x: Tensor, normed: Tensor, logits: Tensor, branch: Branch, mode: Mode) -> Tensor:
    """`x + branch(normed)` for the images whose gate says run, and `x` for the others.

    In an exported or compiled graph the branch is skipped where no image of the batch runs it, which for a batch of
    one is control flow (`torch.cond`, in ONNX `If`); otherwise it is masked. That is exact for any batch.

    Args:
        x: the stream [B, ...].
        normed: what the branch gets of it, [B, ...].
        logits: of the gate, (skip, run) [B, 2].
        branch: what is added, [B, ...] -> [B, ...] for any B.
        mode: `per_sample` decides for every image and computes those that run; `per_batch` decides once, by the mean
            of the logits; `masked` decides for every image and computes all, the reference of the others.
    """
    if mode == "masked" or torch.compiler.is_compiling():  # a graph must not ask for the size of its batch
        run = runs(logits, mode)
        weight = by_image(run.to(x.dtype), x)
        if mode == "masked":
            return x + weight * branch(normed)
        add, leave = lambda x, normed, w: x + w * branch(normed), lambda x, normed, w: x.clone()  # noqa: ARG005
        return torch.cond(run.any(), add, leave, (x, normed, weight))
    if len(x) == 1:  # in as few kernels as can be
        return x + branch(normed) if logits.argmax() else x
    running = runs(logits, mode).nonzero().flatten()
    if len(running) == 0:
        return x
    if len(running) == len(x):
        return x + branch(normed)
    return x.index_add(0, running, branch(normed[running]).to(x.dtype))


def runs(logits: Tensor, mode: Mode) -> Tensor:
    """Which images run a branch, booleans [B], by the logits (skip, run) [B, 2] of its gate."""
    if mode == "per_batch":
        logits = logits.mean(0, keepdim=True).expand_as(logits)
    return logits.argmax(-1).bool()


def pooled(normed: Tensor) -> Tensor:
    """The mean of normalized tokens, [B, ..., D] -> [B, D]; in fewer kernels than `mean`, which one image notices."""
    tokens = normed.flatten(1, -2)
    return tokens.sum(1) * (1 / tokens.shape[1])


def by_image(weights: Tensor, x: Tensor) -> Tensor:
    """A number an image, [B], as [B, 1, ..., 1], which multiplies x [B, ...]."""
    return weights[(slice(None), *(None,) * (x.ndim - 1))]


def set_gating(network: nn.Module, mode: Mode) -> None:
    """How a network's gates decide from now on; see `skipping`.

    Raises:
        ValueError: for an unknown mode.
    """
    if mode not in ("per_sample", "per_batch", "masked"):
        raise ValueError(f"{mode!r} is not one of per_sample, per_batch, masked")
    for module in network.modules():
        if hasattr(module, "gating"):
            module.gating = mode  # type: ignore[assignment]


@contextmanager
def noting_decisions(network: nn.Module) -> Iterator[list[Tensor]]:
    """Within it, every forward pass appends the decisions of each gate, in order: booleans [B], true is run."""
    found: list[Tensor] = []
    handles = [
        gate.register_forward_hook(lambda _, __, logits, block=block: found.append(runs(logits, block.gating)))
        for block in network.modules() if hasattr(block, "gating")
        for gate in (block.gate1, block.gate2) if isinstance(gate, GateNetwork)
    ]  # fmt: skip
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
