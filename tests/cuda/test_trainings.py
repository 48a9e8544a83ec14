"""Every method trains and validates on CUDA with no tensor on the wrong device, and without waiting for it.

What the host waits for is named here: in every step for the forward pass, to see that the loss is finite
(`FiniteLoss`, while the device has the backward pass to do); in fp16 for whether the step overflowed; at steps that are
logged; and once a run where gates are frozen.
"""

from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from fitting import ANSWERS, FREEZING, OF_EVERY_STEP, OF_FP16, OF_LOGGING, STEPS, fit, schedules
from lightning.pytorch import Callback, Trainer
from trainings import dcvit, dense, one_shot, practise, scala, usdc, usdc_finetuning, uvc  # of benchmarks/

from lightning_vitc.dynamic.grouping import GROUPINGS
from lightning_vitc.networks.backbone import Backbone, create_backbone

pytestmark = pytest.mark.slow

RATES = {"drop_path_rate": 0.4, "drop_rate": 0.1, "proj_drop_rate": 0.1, "attn_drop_rate": 0.1}
one_gate = partial(usdc, gate_search="fixed:relu_bn")
CASES: dict[str, Any] = {
    "dense": dense, "dense, soft": partial(dense, distillation="soft"), "one-shot": one_shot,
    "scala": partial(scala, granularity=0.125), "scala, heads": partial(scala, slice="heads", granularity=0.5, s=0.5),
    "dcvit": dcvit, "practise": practise,
    "uvc": partial(uvc, gate_every=2), "uvc, branches": partial(uvc, skip="sublayer", gate_every=1),
    "uvc, no gates": partial(uvc, skip="none"), "uvc, gates alone": partial(uvc, prune=False),
    "usdc": usdc, "usdc, static": partial(usdc, dynamic=False), "usdc, dynamic": partial(one_gate, static=False),
    "usdc, groupings": one_gate, "usdc's fine-tuning, groupings": usdc_finetuning,
    "usdc's fine-tuning, in groups": partial(usdc_finetuning, finetune_per_sample=0.0),
}  # fmt: skip
DEPTHS = {"scala": 1, "dcvit": 3, "usdc": 1, "usdc's fine-tuning": 1}


def backbone(depth: int) -> Backbone:
    torch.manual_seed(3)
    return create_backbone("deit_small_distilled_patch16_224", img_size=8, patch_size=4, in_chans=1, embed_dim=48,
                           depth=depth, num_heads=6, num_classes=10, **RATES)  # fmt: skip


class Groupings(Callback):
    """Every one in turn, after the step that nobody watches."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.arguments.grouping = GROUPINGS[batch_idx - 1]


@pytest.mark.parametrize("case", CASES)
def test_a_training_and_its_validation(case):
    make, method = CASES[case], case.partition(",")[0]
    module = make(backbone(DEPTHS.get(method, 2)))
    more, steps = ([Groupings()], 1 + len(GROUPINGS)) if case.endswith("groupings") else ([], STEPS)
    device = fit(module, *FREEZING.get(method, []), precision="bf16-mixed", callbacks=[*schedules(module), *more],
                 soft=case == "dense, soft", answer=int(ANSWERS.get(method, 1)), steps=steps)  # fmt: skip
    assert all(tensor.is_cuda for tensor in (*module.parameters(), *module.buffers()))
    waits = Counter(device.waits)
    assert (waits.pop(OF_EVERY_STEP), waits.pop(OF_LOGGING) > 0) == (steps - 1, True)
    once = [] if case in ("uvc, no gates", "usdc, static") else FREEZING.get(method, [])
    assert waits == dict.fromkeys(once, 1)


FAMILIES: dict[str, dict[str, Any]] = {
    "swin_tiny_patch4_window7_224": dict(patch_size=2, depths=(2, 1), num_heads=(1, 2), window_size=2, embed_dim=16),
    "beit_base_patch16_224": dict(patch_size=4, depth=1, num_heads=2, embed_dim=32),
    "vit_small_patch16_dinov3": dict(patch_size=4, depth=1, num_heads=2, embed_dim=32),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_scala_on_other_families(name):
    torch.manual_seed(3)
    network = create_backbone(name, img_size=16, in_chans=1, num_classes=10, **FAMILIES[name])
    module = scala(network, granularity=0.5, s=0.5)
    module.widths = module.grid[::-1]
    device = fit(module, precision="bf16-mixed")
    assert device.waits.count(OF_EVERY_STEP) == STEPS - 1
    assert set(device.waits) == {OF_EVERY_STEP, OF_LOGGING}


@pytest.mark.parametrize(("case", "precision"), [
    ("scala, heads", "16-mixed"), ("uvc", "16-mixed"), ("usdc, dynamic", "16-mixed"), ("dcvit", "16-mixed"),
    ("uvc", "32-true"), ("usdc, dynamic", "32-true"),
])  # fmt: skip
def test_in_other_precisions(case, precision):
    make, method = CASES[case], case.partition(",")[0]
    module = make(backbone(DEPTHS.get(method, 2)))
    device = fit(module, *FREEZING.get(method, []), precision=precision, callbacks=schedules(module),
                 answer=int(ANSWERS.get(method, 1)))  # fmt: skip
    assert Counter(device.waits)[OF_FP16] == (STEPS - 1 if precision == "16-mixed" else 0)
