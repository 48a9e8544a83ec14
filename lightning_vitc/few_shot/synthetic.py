"""Synthetic images that the original network finds typical of its classes (DC-ViT, eq. 4 and 5).

They are made from noise by gradient descent on the images, kept as float tensors as they come out, and need
neither images nor labels of the data set. An image is a function of (seed, its number): of no other image and of no
batch. r(t) is the roll and flip of iteration t, the same for all images.

Of a network with batch norms a term more pulls the statistics of a batch to the running ones (deep inversion, Yin et
al., CVPR 2020, eq. 4); its images are made together, and each is a function of the batch it is in.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vitc.networks.modules.channels import channel_dim
from lightning_vitc.schema import SyntheticConfig

TINY = 1e-8  # under the root of the total variation, which has no slope at zero


def synthesize(network: nn.Module, recipe: SyntheticConfig, *, shape: Sequence[int], num_classes: int,
               mean: Sequence[float], std: Sequence[float], beta: float, seed: int) -> Tensor:  # fmt: skip
    """Images [count, C, H, W] that minimize CE(f_o(x), y) + R(x) for random classes y, normalized, on the CPU.

    Adam(.5, .9) with a linear warm-up and a cosine; after each step pixels are clipped to what an image can be.

    Args:
        network: the original, images to logits; its parameters are left alone.
        recipe: counts, rates and weights.
        shape: C, H, W.
        num_classes: of the network.
        mean, std: of the normalization, a value a channel; they say what range is valid.
        beta: exponent of the total variation.
        seed: of noise, classes, rolls and flips.
    """
    network.eval().requires_grad_(False)
    device = next(network.parameters()).device
    shift, scale = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))
    made = []
    for first in range(0, recipe.count, recipe.batch):
        numbers = range(first, min(first + recipe.batch, recipe.count))
        starts = [_start(shape, num_classes, seed, number) for number in numbers]
        images = torch.stack([noise for noise, _ in starts]).to(device).requires_grad_()
        labels = torch.tensor([label for _, label in starts], device=device)
        limits = -shift / scale, (1 - shift) / scale
        made.append(_descend(network, images, labels, limits, recipe, beta, seed))
    return torch.cat(made).cpu()


def regularizer(images: Tensor, tv: float, l2: float, beta: float) -> Tensor:
    """R(x) = a_l2 ||x||_2 + a_tv TV_beta(x) of each image [B] (eq. 5)."""
    return l2 * images.flatten(1).norm(dim=1) + tv * total_variation(images, beta)


def total_variation(images: Tensor, beta: float) -> Tensor:
    """TV_beta of each image [B]: the sum over pixels of ((dx)² + (dy)²)^(beta/2) (Mahendran & Vedaldi, 2015)."""
    down, right = images.diff(dim=-2)[..., :, :-1], images.diff(dim=-1)[..., :-1, :]
    return (down.square() + right.square() + TINY).pow(beta / 2).flatten(1).sum(1)


@contextmanager
def batch_norm_distances(network: nn.Module) -> Iterator[list[Tensor]]:
    """What every batch norm of a network in evaluation mode adds to R, of the batches that pass meanwhile.

    || mean(x) - running mean ||_2 + || var(x) - running var ||_2 over its channels, of its input x.
    """
    found: list[Tensor] = []

    def see(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        channels = inputs[0].float().movedim(channel_dim(norm), -1).flatten(0, -2)
        var, mean = torch.var_mean(channels, 0, correction=0)
        found.append((mean - norm.running_mean).norm() + (var - norm.running_var).norm())  # type: ignore[operator]

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(see) for norm in norms]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _descend(network: nn.Module, images: Tensor, labels: Tensor, limits: tuple[Tensor, Tensor],
             recipe: SyntheticConfig, beta: float, seed: int) -> Tensor:  # fmt: skip
    optimizer = torch.optim.Adam([images], lr=recipe.lr, betas=(0.5, 0.9))
    most = round(30 * images.shape[-1] / 224) if recipe.roll is None else recipe.roll
    generator = torch.Generator().manual_seed(zlib.crc32(f"synthetic moves {seed}".encode()))
    for iteration in range(recipe.iterations):
        optimizer.param_groups[0]["lr"] = recipe.lr * _rate(iteration, recipe)
        moved = _moved(images, most, recipe.flip, generator)
        with batch_norm_distances(network) as distances:
            logits = network(moved)
        # a sum over images: what one contributes to its own gradient does not depend on how many there are
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        loss = loss + regularizer(images, recipe.tv, recipe.l2, beta).sum()
        if distances:
            loss = loss + recipe.batch_norm * len(images) * torch.stack(distances).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            images.clamp_(*limits)
    return images.detach()


def _moved(images: Tensor, most: int, flip: bool, generator: torch.Generator) -> Tensor:
    """r(t): rolled by up to `most` pixels both ways, and flipped half of the times."""
    down, right, flipped = (
        int(torch.randint(low, high, (), generator=generator)) for low, high in ((-most, most + 1),) * 2 + ((0, 2),)
    )
    images = images.roll((down, right), dims=(-2, -1))
    return images.flip(-1) if flip and flipped else images


def _rate(iteration: int, recipe: SyntheticConfig) -> float:
    if iteration < recipe.warmup:
        return (iteration + 1) / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * (iteration - recipe.warmup) / max(1, recipe.iterations - recipe.warmup)))


def _start(shape: Sequence[int], num_classes: int, seed: int, number: int) -> tuple[Tensor, int]:
    """Gaussian noise and a class."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"synthetic {seed} {number}".encode()))
    return torch.randn(*shape, generator=generator), int(torch.randint(num_classes, (), generator=generator))
