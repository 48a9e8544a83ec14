"""Sub-networks cut and differentiated for all blocks at once are those that are cut weight by weight."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from lightning_vitc.networks.backbone import Backbone, create_backbone
from lightning_vitc.networks.kept import Kept, gather
from lightning_vitc.networks.shared_weights import kinds_of, shared
from lightning_vitc.networks.slicing import RULES, slice_width

TINY = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 48, "num_heads": 4, "depth": 3, "num_classes": 10}
Cut = Callable[..., dict[str, Tensor]]


def network(name: str = "deit_tiny_distilled_patch16_224", **keys: Any) -> Backbone:
    torch.manual_seed(0)
    return create_backbone(name, **TINY, **keys)


def gradients(model: Backbone, cuts: list[Kept | None], cut: Cut, start: bool = False) -> dict[str, Tensor | None]:
    """Of the passes one after another, as a step of Scala adds them up."""
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight) if start else None
    for kept in cuts:
        if kept is None:
            logits = model(images)
        else:
            weights = cut(dict(model.named_parameters()), kept)
            logits = functional_call(model._skeleton(kept.spec, images.device), weights, (images,))
        logits.square().sum().backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("keys", [{}, {"init_values": 0.5}, {"qk_norm": True}], ids=["DeiT", "LayerScale", "qk-norm"])
def test_the_gradients_of_a_step_are_those_of_cutting_weight_by_weight(rule: Any, keys: dict[str, Any]) -> None:
    if keys.get("qk_norm") and rule == "official":
        pytest.skip("qk-norm is cut with its heads")
    model = network(**keys)
    cuts = [slice_width(model.spec, Fraction(3, 4), rule), slice_width(model.spec, Fraction(1, 4), rule, "trailing")]
    for passes, start in (([None, *cuts], False), ([*cuts, None, cuts[0]], True)):
        wanted = {name: grad.clone() for name, grad in gradients(model, passes, gather, start).items()}
        found = gradients(model, passes, shared, start)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_network_is_run_with_it() -> None:
    model, images = network("deit_tiny_patch16_224"), torch.randn(3, 1, 8, 8)
    kept = slice_width(model.spec, Fraction(1, 2))
    logits = model(images, kept=kept)
    assert "_CutBackward" in _nodes(logits.grad_fn)
    small = functional_call(model._skeleton(kept.spec, images.device), gather(dict(model.named_parameters()), kept),
                            (images,))  # fmt: skip
    assert torch.equal(logits, small)


def test_where_some_are_missing_weights_are_cut_one_by_one() -> None:
    model = network("deit_tiny_patch16_224")
    weights, half = dict(model.named_parameters()), slice_width(model.spec, Fraction(1, 2))
    assert kinds_of(weights, half) is not None
    fewer = half.spec.with_block(2, None)
    assert kinds_of(weights, Kept.of(model.spec, fewer, half.indices, (0, 1))) is None
    assert kinds_of(weights, Kept.of(model.spec, half.spec, half.indices, heads="distillation")) is None


def test_what_takes_no_part_in_a_loss_has_a_gradient_of_zero() -> None:
    """The second and third block's hidden units, beside those of the first; so that DDP waits for none."""
    model = network("deit_tiny_patch16_224")
    pieces = shared(dict(model.named_parameters()), slice_width(model.spec, Fraction(1, 2)))
    pieces["blocks.0.mlp.fc1.weight"].sum().backward()
    first, *others = (block.mlp.fc1.weight.grad for block in model.blocks)
    assert float(first.sum()) == 96 * 24
    assert all(grad is not None and not grad.any() for grad in others)


def test_frozen_weights_get_no_gradient() -> None:
    model = network("deit_tiny_patch16_224")
    model.blocks[0].mlp.fc1.weight.requires_grad_(False)
    model.head.requires_grad_(False)
    cuts = [slice_width(model.spec, Fraction(1, 2))]
    wanted, found = (gradients(model, [*cuts, *cuts], cut) for cut in (gather, shared))
    for name, grad in wanted.items():
        assert found[name] is None if grad is None else torch.equal(found[name], grad)
    assert found["head.weight"] is None
    assert found["blocks.1.mlp.fc1.weight"] is not None


def _nodes(root: Any) -> set[str]:
    """Names of all nodes of a graph."""
    found, stack = set(), [root]
    while stack:
        node = stack.pop()
        found.add(type(node).__name__)
        stack += [following for following, _ in node.next_functions if following is not None]
    return found
