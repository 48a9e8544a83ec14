"""Folding pieces that go into those that stay: a ridge regression in closed form.

Legend, for one branch whose outlet computes y = W a + b of its P pieces a, with a' the K pieces that stay as the
pruned branch has them (where a norm of all pieces stands before the outlet they are not those of the dense one): with
C = Cov(a'), X = Cov(a, a') and the ridge r, the new columns W' minimize

    E |W (a - E a) - W' (a' - E a')|² + r |W' - W_K|²,   r = ridge · tr C / K,

whose gradient is zero at W' = W_K + (W X - W_K C) (C + r I)^-1, and the constant W E a - W' E a' goes into the bias.
Without a norm a' is a part of a, and W X - W_K C is W_R Cov(a_R, a'), R the pieces that go: what these contribute,
regressed onto what stays. Affine compensation by ridge regression is that of CORP (Zhang & Yang, arXiv 2602.05243),
there for the hidden units of MLPs and for attention logits; the ridge relative to the trace, its center at the
columns that were there, and its use for value dimensions, heads, convolutions and inner norms are ours. An outlet
without any bias takes second moments in the place of covariances, so that means are regressed too. Of a convolution
of several pixels the same map of channels is used at all of them."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_vitc.compensation.outlets import Outlet

Fold = Literal["regression", "mean", "none"]  # none: what goes is cut off, as in one-shot pruning


@dataclass
class Joint:
    """Moments of the pieces [P] of a dense branch and of those [K] that stay, in double precision.

    Attributes:
        mean, mean_kept: [P] and [K].
        cross: [P, K], E[a a'ᵀ] without the means' part.
        own: [K, K], E[a' a'ᵀ] likewise.
    """

    mean: Tensor
    mean_kept: Tensor
    cross: Tensor
    own: Tensor

    def uncentered(self) -> "Joint":
        """With second moments in the place of covariances, and no means."""
        cross = self.cross + torch.outer(self.mean, self.mean_kept)
        own = self.own + torch.outer(self.mean_kept, self.mean_kept)
        return Joint(torch.zeros_like(self.mean), torch.zeros_like(self.mean_kept), cross, own)


def ridge_columns(columns: Tensor, kept: Tensor, joint: Joint, ridge: float) -> Tensor:
    """W' [D, K] of the columns W [D, P]; see the head of this file."""
    stay = columns[:, kept]
    return stay + regressed(columns @ joint.cross - stay @ joint.own, joint.own, ridge)


def regressed(lacking: Tensor, own: Tensor, ridge: float) -> Tensor:
    """B [D, K] that minimizes E |y - B a'|² + r |B|², from Cov(y, a') [D, K] and Cov(a') [K, K] with r as above."""
    scale = own.diagonal().mean()
    if not scale > 0:
        return torch.zeros_like(lacking)
    system = own + ridge * scale * torch.eye(len(own), dtype=own.dtype, device=own.device)
    return torch.linalg.solve(system, lacking.T).T


def fold(outlet: Outlet, kept: Tensor, joint: Joint, how: Fold, ridge: float) -> None:
    """Write into an outlet what becomes of its columns when only the pieces `kept` [K] are left."""
    columns = outlet.columns
    if how != "none" and not outlet.can_shift:
        joint = joint.uncentered()
    new = ridge_columns(columns, kept, joint, ridge) if how == "regression" else columns[:, kept]
    outlet.write(new, kept)
    if how != "none":
        constant = columns @ joint.mean - new @ joint.mean_kept
        outlet.shift(constant.unflatten(0, (len(outlet.layer.weight), -1)).sum(-1))
