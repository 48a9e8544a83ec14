"""What every method trains, around any network: for tests and benchmarks that go through all of them."""

from collections.abc import Callable
from copy import deepcopy
from fractions import Fraction
from typing import Any

import torch

from lightning_vitc.budget.stacks import stacks_of
from lightning_vitc.budget.target import target_of
from lightning_vitc.dynamic.finetuning import GatedFinetuning
from lightning_vitc.dynamic.targets import targets_of
from lightning_vitc.few_shot.adaptors import adapted
from lightning_vitc.few_shot.feature_matching import original_tokens
from lightning_vitc.methods.dcvit import DCViT
from lightning_vitc.methods.dense import Arguments as DenseArguments
from lightning_vitc.methods.dense import Dense
from lightning_vitc.methods.one_shot import OneShot
from lightning_vitc.methods.practise import Practise
from lightning_vitc.methods.scala import Arguments as ScalaArguments
from lightning_vitc.methods.scala import Scala
from lightning_vitc.methods.usdc import USDC
from lightning_vitc.methods.usdc import Arguments as USDCArguments
from lightning_vitc.methods.uvc import UVC
from lightning_vitc.methods.uvc import Arguments as UVCArguments
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.compaction import compact_backbone
from lightning_vitc.networks.dropped_attention import drop_attention
from lightning_vitc.networks.gates.attaching import with_gates
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.schema import BudgetConfig, OptimizerConfig
from lightning_vitc.training.module import CompressionModule
from lightning_vitc.training.teacher import Teacher

RECIPE, BUDGET = OptimizerConfig(lr=1e-3), BudgetConfig(macs="60%")
Training = Callable[..., CompressionModule]


def dense(network: Backbone, **keys: Any) -> Dense:
    """With DeiT's hard distillation where there is a token for it; else with a soft one."""
    keys = {"distillation": "hard" if network.spec.distilled else "soft"} | keys
    return Dense(network, RECIPE, teacher_like(network), DenseArguments(**keys))


def one_shot(network: Backbone) -> OneShot:
    """What its post-training trains: a network cut down, here to half of its width."""
    small = compact_backbone(network, slice_width(network.spec, Fraction(1, 2)))
    return OneShot(small, RECIPE, teacher_like(network), DenseArguments(distillation="soft"))


def scala(network: Backbone, **keys: Any) -> Scala:
    """Four widths in a step."""
    module = Scala(network, RECIPE, None, ScalaArguments(**{"granularity": 0.25, **keys}))
    module.widths = tuple(Fraction(number, 4) for number in (4, 3, 2, 1))
    return module


def uvc(network: Backbone, **keys: Any) -> UVC:
    """The search, at its end where no callback says where it stands."""
    target = target_of(BUDGET, network.spec, "uvc")
    return UVC(network, RECIPE, teacher_like(network), UVCArguments(**keys), BUDGET, target, seed=1)


def usdc(network: Backbone, **keys: Any) -> USDC:
    """The joint stage."""
    arguments = USDCArguments(**{"grouping": "avg-8", "gamma": 5.0, **keys})
    targets = targets_of(BUDGET, network.spec, arguments.static, arguments.dynamic)
    return USDC(network, RECIPE, teacher_like(network), arguments, BUDGET, targets, seed=1)


def usdc_finetuning(network: Backbone, **keys: Any) -> GatedFinetuning:
    """With gates as they are before anything is learned."""
    joint = usdc(network, **keys)
    assert joint.gates is not None
    gated = with_gates(network, joint.gates.winners())
    return GatedFinetuning(gated, RECIPE, joint.teacher, joint.arguments, joint.targets, seed=1)


def dcvit(network: Backbone) -> DCViT:
    """Two trials side by side."""
    spec = network.spec
    images, hidden = torch.randn(2, spec.in_chans, *spec.img_size), stacks_of(spec)[0].channels // 4
    trials = {
        f"block_{block:02d}": drop_attention(network, block, hidden, seed=0, images=images) for block in (1, 2)
    }  # fmt: skip
    return DCViT(trials, RECIPE, original_tokens(deepcopy(network)))


def practise(network: Backbone) -> Practise:
    """One trial: adaptors around a missing block."""
    return Practise({"block_01": adapted(network, 1)}, RECIPE, original_tokens(deepcopy(network)))


def teacher_like(network: Backbone) -> Teacher:
    """The network itself, as it is now."""
    return Teacher(deepcopy(network), network.spec.num_classes)


def search(module: CompressionModule, lr: float) -> None:
    """What follows a step of the weights, where there is no trainer to call it."""
    if isinstance(module, UVC):
        module.search_step(lr)
    elif isinstance(module, USDC):
        module.prune_step(lr)


TRAININGS: dict[str, Training] = {
    "dense": dense,
    "one_shot": one_shot,
    "scala": scala,
    "uvc": uvc,
    "usdc": usdc,
    "usdc_finetuning": usdc_finetuning,
    "dcvit": dcvit,
    "practise": practise,
}
