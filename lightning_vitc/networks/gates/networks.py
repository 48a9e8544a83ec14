"""Gate networks: from the mean token of a branch's normalized input to the logits of skipping and of running it."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vitc.networks.gates.shapes import GATES

START = 0.9  # probability that a branch runs, before anything is learned
STD = 0.02  # of the last layer's first weights: small, so that every gate starts near `START`
MOMENTUM = 0.1  # of the running statistics, as in torch's BatchNorm


class GateNetwork(nn.Module):
    """Pooled tokens [B, D] -> logits (skip, run) [B, 2].

    Args:
        name: one of `gates.shapes.GATES`.
        dim: D.
    """

    def __init__(self, name: str, dim: int):
        super().__init__()
        self.name, self.dim, shape = name, dim, GATES[name]
        widths = shape.widths(dim)
        layers: list[nn.Module] = []
        for number, (fan_in, fan_out) in enumerate(pairwise(widths), 1):
            layers.append(nn.Linear(fan_in, fan_out))
            if number < shape.layers:
                norms = {"layer": nn.LayerNorm, "batch": RunningNorm}
                layers += [norms[shape.norm](fan_out)] if shape.norm else []
                # The approximation takes a fifth of the time for one image.
                layers.append(nn.ReLU() if shape.activation == "relu" else nn.GELU("tanh"))
        self.layers = nn.Sequential(*layers)

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the logits."""
        return self.layers[-1]  # type: ignore[return-value]

    def start(self) -> "GateNetwork":
        """First weights: torch's own, and such a last layer that the branch runs with probability `START`."""
        nn.init.trunc_normal_(self.last.weight, std=STD)
        with torch.no_grad():
            self.last.bias.copy_(torch.tensor([0.0, math.log(START / (1 - START))]))
        return self

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits."""
        return self.layers(pooled)


class RunningNorm(nn.Module):
    """Batch normalization by running statistics, in training as in evaluation: [B, D] -> [B, D].

    Ours: with the statistics of the batch at hand a gate would decide otherwise in training than in evaluation, and
    on a last batch of one image it could not decide at all. The batches seen in training are summed up; `settle`
    moves the statistics after the optimizer step, the same way on every rank.

    Args:
        shape: D; with more before it, that of several norms, which have `note` and `affine` alone.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, *shape: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))
        self.seen: Tensor | None = None  # sums since the last optimizer step: of x, of its squares, of ones

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, and note what was seen in training."""
        if self.training:
            self.note(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    @torch.no_grad()
    def note(self, x: Tensor) -> None:
        """Sum up what is seen, [..., B, D]."""
        wide = x.float()
        ones = wide.new_full((*wide.shape[:-2], 1), wide.shape[-2])
        sums = torch.cat([wide.sum(-2), wide.square().sum(-2), ones], dim=-1)
        self.seen = sums if self.seen is None else self.seen + sums

    def affine(self) -> tuple[Tensor, Tensor]:
        """The norm as a scale and a shift, differentiable."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, torch.addcmul(self.bias, self.running_mean, scale, value=-1)


@torch.no_grad()
def settle(network: nn.Module) -> None:
    """Move the statistics of every `RunningNorm` towards those of the batches seen, over all processes."""
    by_width: dict[int, list[RunningNorm]] = {}
    for module in network.modules():
        if isinstance(module, RunningNorm) and module.seen is not None:
            by_width.setdefault(module.seen.shape[-1], []).append(module)
    for norms in by_width.values():
        _settle(norms)


def _settle(norms: list[RunningNorm]) -> None:
    """All of one width."""
    seen = torch.cat([norm.seen.view(-1, norm.seen.shape[-1]) for norm in norms])  # type: ignore[union-attr]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(seen)
    found_means, found_squares = (seen[:, :-1] / seen[:, -1:].clamp_min(1)).chunk(2, dim=1)
    means, variances = (
        [row for norm in norms for row in getattr(norm, name).view(-1, found_means.shape[-1])]
        for name in ("running_mean", "running_var")
    )
    squares = torch._foreach_addcmul(variances, means, means)
    torch._foreach_lerp_(squares, list(found_squares), MOMENTUM)  # variances would leave out how batches differ
    torch._foreach_lerp_(means, list(found_means), MOMENTUM)
    torch._foreach_copy_(variances, torch._foreach_addcmul(squares, means, means, value=-1))
    torch._foreach_clamp_min_(variances, 0)
    for norm in norms:
        norm.seen = None
