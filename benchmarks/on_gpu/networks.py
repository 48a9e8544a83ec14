"""Checks of logits: of a CPU and a GPU, of masked, sliced and compacted networks, of skipped and masked branches."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_vitc import compact, create_backbone, set_gating
from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.prunable import kept_of, masked_weights
from lightning_vitc.networks.backbone import Backbone, from_spec
from lightning_vitc.networks.gates.attaching import gates_of
from lightning_vitc.networks.gates.shapes import GATES
from lightning_vitc.networks.gates.skipping import noting_decisions
from lightning_vitc.networks.slicing import slice_width
from on_gpu.children import Failed
from on_gpu.place import NAMES, Place

WIDTHS = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))
TOLERANCE = 1e-3  # of the norm of what in the logits depends on the image


def relative(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of what is expected, of which the mean over the images is no part.

    Logits of networks that have hardly been trained are nearly the same for all images: without this, a network that
    ignores its image would be near to them.

    Args:
        found: [images, classes].
        expected: [images, classes].
    """
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / (expected - expected.mean(0)).norm())


def same_logits(place: Place) -> dict[str, Any]:
    """On the CPU and on the device, in single precision without TF32."""
    dense, distilled, gated = network(place), network(place, "deit_small_distilled_patch16_224"), with_gates(place)
    small = {"pruned": compact(dense, kept_of(dense.spec, masks_of(dense)))}
    small |= {f"width {float(width):g}": compact(dense, slice_width(dense.spec, width)) for width in WIDTHS}
    set_gating(gated, "masked")
    images, errors = photographs(place), {}
    with torch.no_grad():
        for name, one in {"dense": dense, "distilled": distilled, "gates, masked": gated, **small}.items():
            expected = one(images)
            errors[name] = relative(one.to(place.device)(images.to(place.device)), expected)
    return judged(errors)


def masked_is_compact(place: Place) -> dict[str, Any]:
    """A network with masked weights and the one that is cut out of it, with and without gates."""
    images, errors = photographs(place).to(place.device), {}
    for name, one in {"plain": network(place), "with gates": with_gates(place)}.items():
        one, masks = one.to(place.device), masks_of(one)
        with torch.no_grad():
            masked = functional_call(one, masked_weights(one, masks), (images,))
            errors[name] = relative(compact(one, kept_of(one.spec, masks))(images), masked)
    return judged(errors)


def sliced_is_compact(place: Place) -> dict[str, Any]:
    """A width of a network and the network of that width, cut at either end."""
    images, one, errors = photographs(place).to(place.device), network(place).to(place.device), {}
    for width in WIDTHS:
        for end in ("leading", "trailing"):
            kept = slice_width(one.spec, width, end=end)  # type: ignore[arg-type]
            with torch.no_grad():
                errors[f"{float(width):g}, {end}"] = relative(compact(one, kept)(images), one(images, kept=kept))
    return judged(errors)


def skipping_is_masked(place: Place) -> dict[str, Any]:
    """Gates that really skip and gates that mask, for every image, for a batch, and for a batch of one."""
    gated, images = with_gates(place).to(place.device), photographs(place).to(place.device)
    run: Callable[..., Tensor] = lambda mode, x: (set_gating(gated, mode), gated(x))[1]  # noqa: E731
    with torch.no_grad():
        with noting_decisions(gated) as found:
            masked = run("masked", images)
        rates = torch.stack([decisions.float().mean() for decisions in found])
        errors = {
            "per_sample": relative(run("per_sample", images), masked),
            "per_sample, one by one": relative(torch.cat([run("per_sample", one[None]) for one in images]), masked),
            "per_batch": relative(run("per_batch", images), gated(images, gates=of_the_batch(gated))),
            "per_batch, one by one": relative(torch.cat([run("per_batch", one[None]) for one in images]), masked),
        }
    mixed = int(((rates > 0) & (rates < 1)).sum())
    if mixed < 2:
        raise Failed(f"the images of the batch agree at all but {mixed} of {len(rates)} gates: nothing was shown")
    return judged(errors) | {"gates_at_which_images_differ": mixed}


def of_the_batch(gated: Backbone) -> Callable[[int, int, Tensor], Tensor]:
    """What `per_batch` decides, as weights of the branches."""

    def decide(block: int, branch: int, pooled: Tensor) -> Tensor:
        owner: Any = gated.blocks[block]
        skip, run = (owner.gate2 if branch else owner.gate1)(pooled).mean(0)
        return (run > skip).float().expand(len(pooled))

    return decide


def judged(errors: dict[str, float]) -> dict[str, Any]:
    """The errors, which must be small.

    Raises:
        Failed: naming those that are not.
    """
    if bad := {name: f"{error:.1e}" for name, error in errors.items() if not error <= TOLERANCE}:
        raise Failed(f"relative errors of more than {TOLERANCE:g}: {bad}")
    return {"relative": errors}


def network(place: Place, name: str = NAMES["DeiT-S"]) -> Backbone:
    """A network of random weights in evaluation mode, in whose process TF32 is off."""
    in_full_precision()
    torch.manual_seed(0)
    small = dict(img_size=32, patch_size=8, embed_dim=192, depth=4, num_heads=3) if place.tiny else {}
    return create_backbone(name, **small).eval()


def in_full_precision() -> None:
    """From now on without TF32, which convolutions would else use."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def with_gates(place: Place) -> Backbone:
    """The same with gates of all kinds that decide by the image."""
    dense, names = network(place), list(GATES)
    pairs = [(names[number % 7], names[(number + 4) % 7]) for number in range(dense.spec.depth)]
    gated = from_spec(dense.spec.with_gates(pairs)).eval()
    for gate in gates_of(gated):
        nn.init.normal_(gate.last.weight, std=5.0)
        nn.init.zeros_(gate.last.bias)
    return gated


def masks_of(one: Backbone) -> Masks:
    """About half of everything, and a whole head less."""
    masks, draw = Masks.full(one.spec), torch.Generator().manual_seed(4)
    masks.dims &= torch.rand(masks.dims.shape, generator=draw) > 0.4
    masks.channels &= torch.rand(masks.channels.shape, generator=draw) > 0.4
    masks.dims[1, 1] = False
    return masks


def photographs(place: Place) -> Tensor:
    """Random images."""
    side = 32 if place.tiny else 224
    return torch.randn(13, 3, side, side, generator=torch.Generator().manual_seed(0))
