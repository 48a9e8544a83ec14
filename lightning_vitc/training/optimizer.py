"""The optimizer of the recipes: no-decay groups, linear warm-up, cosine, per step."""

import math
from collections.abc import Mapping
from typing import Any

from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_vitc.errors import UserError
from lightning_vitc.schema import OptimizerConfig


def build_optimizer(
    model: nn.Module,
    recipe: OptimizerConfig,
    total_steps: int,
    warmup_steps: int,
    own_rates: Mapping[str, float] | None = None,
) -> tuple[Optimizer, LambdaLR]:
    """The optimizer over a module's trainable parameters and its schedule.

    Biases, norms and whatever `model.no_weight_decay()` names are not decayed. Parameters in `own_rates` form groups
    of their own, one a rate, with that learning rate in place of `recipe.lr`, on the same schedule, and no decay.
    With `recipe.layer_decay` d, layer l of L has the rate d^(L - 1 - l) `recipe.lr`, by `model.group_matcher` (timm).

    Raises:
        UserError: for an optimizer timm does not know.
    """
    settings: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "eps": recipe.eps}
    if "adam" in recipe.name or "lamb" in recipe.name:
        settings["betas"] = tuple(recipe.betas)
    if recipe.layer_decay is not None:
        settings["layer_decay"] = recipe.layer_decay
    try:
        optimizer = create_optimizer_v2(model, opt=recipe.name, **settings)
    except (AssertionError, ValueError) as error:
        raise UserError(f"optimizer.name: {recipe.name!r} cannot be built by timm.optim ({error})") from None
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)
    by_rate: dict[float, list[nn.Parameter]] = {}
    for name, lr in (own_rates or {}).items():
        by_rate.setdefault(lr, []).append(model.get_parameter(name))
    for lr, parameters in by_rate.items():
        own = set(map(id, parameters))
        for group in optimizer.param_groups:
            group["params"] = [other for other in group["params"] if id(other) not in own]
        optimizer.add_param_group({"params": parameters, "lr": lr, "weight_decay": 0.0})
    return optimizer, LambdaLR(optimizer, lambda step: lr_factor(step, recipe, total_steps, warmup_steps))


def lr_factor(step: int, recipe: OptimizerConfig, total_steps: int, warmup_steps: int) -> float:
    """The learning rate of a step as a fraction of `recipe.lr`: linear warm-up, then half a cosine or one fall."""
    if step < warmup_steps:
        start = recipe.warmup_lr / recipe.lr
        return start + (1 - start) * step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if recipe.schedule == "step":
        return recipe.decay_rate if progress >= recipe.decay_at else 1.0
    end = min(recipe.min_lr / recipe.lr, 1.0)
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * progress))
