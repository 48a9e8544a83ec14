"""Losses against numbers derived by hand, and who teaches which head of a distilled network, method by method."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vitc.budget.prunable import kept_of
from lightning_vitc.budget.target import target_of
from lightning_vitc.config import load_experiment
from lightning_vitc.config.registry import load_method
from lightning_vitc.dynamic.finetuning import GatedFinetuning
from lightning_vitc.dynamic.targets import targets_of
from lightning_vitc.errors import UserError
from lightning_vitc.methods import dense, scala, usdc, uvc
from lightning_vitc.networks.backbone import Backbone, create_backbone, template
from lightning_vitc.networks.compaction import compact_backbone
from lightning_vitc.schema import BudgetConfig, OptimizerConfig
from lightning_vitc.training.losses import distilled_cross_entropy, hard_distilled_cross_entropy
from lightning_vitc.training.module import CompressionModule
from lightning_vitc.training.teacher import Teacher

RECIPE = OptimizerConfig(lr=1e-3)


def odds(*rows: tuple[float, float]) -> Tensor:
    """Logits of two classes whose probabilities are in these proportions."""
    return torch.tensor(rows, dtype=torch.float64).log()


# Two images of two classes. The class head gives (1/4, 3/4) and (4/5, 1/5) where classes 1 and 0 are right:
# CE = (ln 4/3 + ln 5/4) / 2 = (ln 5/3) / 2. The distillation head gives (2/3, 1/3) and (1/2, 1/2), the teacher
# (9/10, 1/10) and (1/4, 3/4): KL = (.9 ln 27/20 + .1 ln 3/10 + 1/4 ln 1/2 + 3/4 ln 3/2) / 2.
CLASS, DISTILLATION, TAUGHT = odds((1, 3), (4, 1)), odds((2, 1), (1, 1)), odds((9, 1), (1, 3))
TARGETS = torch.tensor([1, 0])
CE = 0.2554128119
KL = 0.1402544444


def test_the_numbers_are_what_is_written_beside_them() -> None:
    assert pytest.approx(math.log(5 / 3) / 2, abs=1e-10) == CE
    by_image = 0.9 * math.log(27 / 20) + 0.1 * math.log(3 / 10), math.log(1 / 2) / 4 + 3 / 4 * math.log(3 / 2)
    assert pytest.approx(sum(by_image) / 2, abs=1e-10) == KL


@pytest.mark.parametrize(
    ("share", "temperature", "reduction", "wanted"),
    [
        (0.1, 1.0, "batchmean", 0.2438969751),  # .9 CE + .1 KL
        (0.1, 1.0, "numel", 0.2368842529),  # .9 CE + .1 KL / 2: the authors of UVC divide by classes too
        (0.1, 2.0, "batchmean", 0.2859733084),  # .9 CE + .1 2² KL: the same probabilities at T = 2
        (0.5, 1.0, "batchmean", 0.1978336282),
    ],
)
def test_the_class_head_learns_the_targets_and_the_distillation_head_the_teacher(
    share: float, temperature: float, reduction: Any, wanted: float
) -> None:
    heads, taught = (CLASS, temperature * DISTILLATION), temperature * TAUGHT
    loss = distilled_cross_entropy(heads, TARGETS, taught, share, temperature, reduction)
    assert float(loss) == pytest.approx(wanted, abs=1e-6)


def test_no_loss_pulls_at_the_teacher() -> None:
    taught, heads = TAUGHT.clone().requires_grad_(), (CLASS, DISTILLATION.clone().requires_grad_())
    distilled_cross_entropy(heads, TARGETS, taught, 0.1, 1.0, "batchmean").backward()
    assert heads[1].grad is not None
    assert taught.grad is None


def test_classes_and_images_are_not_confused() -> None:
    """Each image twice: four of two classes, and the same means."""
    heads, taught = (CLASS.repeat(2, 1), DISTILLATION.repeat(2, 1)), TAUGHT.repeat(2, 1)
    for reduction, wanted in (("batchmean", 0.2438969751), ("numel", 0.2368842529)):
        loss = distilled_cross_entropy(heads, TARGETS.repeat(2), taught, 0.1, 1.0, reduction)
        assert float(loss) == pytest.approx(wanted, abs=1e-6)


def test_a_hard_teacher_is_read_by_its_decisions() -> None:
    """It says 0 and 1, for which the distillation head gives 2/3 and 1/2: CE = (ln 3) / 2."""
    loss = hard_distilled_cross_entropy((CLASS, DISTILLATION), TARGETS, TAUGHT.argmax(-1), 0.5)
    assert float(loss) == pytest.approx(0.5 * CE + 0.5 * 0.5493061443, abs=1e-6)


def test_one_head_learns_both() -> None:
    """KL(teacher || class head) = (.9 ln 18/5 + .1 ln 2/15 + 1/4 ln 5/16 + 3/4 ln 15/4) / 2."""
    loss = distilled_cross_entropy(CLASS, TARGETS, TAUGHT, 0.1, 1.0, "batchmean")
    assert float(loss) == pytest.approx(0.9 * CE + 0.1 * 0.8259396682, abs=1e-6)


def test_soft_targets_and_no_teacher() -> None:
    """-(.25 ln 1/4 + .75 ln 3/4 + .5 ln 4/5 + .5 ln 1/5) / 2."""
    soft = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    loss = distilled_cross_entropy(CLASS, soft.float(), None, 0.1, 1.0, "batchmean")
    assert float(loss) == pytest.approx(0.7393129382, abs=1e-6)


# The methods


def network(seed: int) -> Backbone:
    torch.manual_seed(seed)
    small: dict[str, Any] = dict(
        img_size=8, patch_size=4, in_chans=1, embed_dim=48, num_heads=3, depth=3, num_classes=4
    )  # fmt: skip
    model = create_backbone("deit_tiny_distilled_patch16_224", **small)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def teacher(seed: int = 1) -> Teacher:
    return Teacher(network(seed), 4)


def a_dense(**keys: Any) -> dense.Dense:
    return dense.Dense(network(0), RECIPE, teacher(), dense.Arguments(distillation_weight=0.25, **keys))


def a_uvc(**keys: Any) -> uvc.UVC:
    model, budget = network(0), BudgetConfig(macs="50%")
    target = target_of(budget, model.spec, "uvc")
    return uvc.UVC(model, RECIPE, teacher(), uvc.Arguments(distillation=0.25, **keys), budget, target)


def a_usdc(**keys: Any) -> usdc.USDC:
    model, budget, arguments = network(0), BudgetConfig(macs="70%"), usdc.Arguments(distillation=0.25, **keys)
    targets = targets_of(budget, model.spec, arguments.static, arguments.dynamic)
    return usdc.USDC(model, RECIPE, teacher(), arguments, budget, targets)


def a_finetuning() -> GatedFinetuning:
    joint = a_usdc()
    gated = joint.gated()
    small = compact_backbone(gated, kept_of(gated.spec, joint.decide()))
    return GatedFinetuning(small, RECIPE, teacher(), joint.arguments, joint.targets)


def a_scala() -> scala.Scala:
    keys = scala.Arguments(granularity=0.25, hard_distillation=0.25)
    return scala.Scala(network(0), RECIPE, teacher(), keys)


METHODS: dict[str, Callable[[], CompressionModule]] = {
    "dense, hard": a_dense,
    "dense, soft; post-training": lambda: a_dense(distillation="soft"),
    "uvc": a_uvc,
    "usdc": a_usdc,
    "usdc, fine-tuning": a_finetuning,
    "scala": a_scala,
}


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 1, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator)


def head_gradients(build: Callable[[], CompressionModule], taught_by: int, targets: Tensor) -> tuple[Tensor, Tensor]:
    module = build().train()
    module.teacher = teacher(taught_by)
    module.step(batch()[0], targets).loss.backward()
    return module.backbone.head.weight.grad, module.backbone.head_dist.weight.grad


@pytest.mark.parametrize("name", METHODS)
def test_every_method_teaches_each_head_apart(name: str) -> None:
    targets = batch()[1]
    head, distilled = head_gradients(METHODS[name], 1, targets)
    of_other_teacher = head_gradients(METHODS[name], 2, targets)
    of_other_targets = head_gradients(METHODS[name], 1, (targets + 1) % 4)
    torch.testing.assert_close(head, of_other_teacher[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(distilled, of_other_targets[1], rtol=1e-5, atol=1e-7)
    assert not torch.allclose(distilled, of_other_teacher[1], atol=1e-4)
    assert not torch.allclose(head, of_other_targets[0], atol=1e-4)


def written_out(module: CompressionModule, images: Tensor, targets: Tensor) -> Tensor:
    """(1 - a) CE(class head) + a KL(teacher || distillation head), with the heads called one by one."""
    tokens, taught = module.backbone.forward_features(images), module.teacher.network
    cls, dist = module.backbone.head(tokens[:, 0]), module.backbone.head_dist(tokens[:, 1])
    features = taught.forward_features(images)
    average = (taught.head(features[:, 0]) + taught.head_dist(features[:, 1])) / 2
    divergence = F.kl_div(dist.log_softmax(-1), average.softmax(-1), reduction="batchmean")
    return 0.75 * F.cross_entropy(cls, targets) + 0.25 * divergence


@pytest.mark.parametrize("build", [lambda: a_dense(distillation="soft"), lambda: a_uvc(skip="none"),
                                   lambda: a_usdc(dynamic=False)])  # fmt: skip
def test_the_losses_are_the_authors(build: Callable[[], CompressionModule]) -> None:
    module, (images, targets) = build().train(), batch()
    assert float(module.step(images, targets).loss.detach()) == pytest.approx(
        float(written_out(module, images, targets).detach()), abs=1e-6
    )


def test_the_dense_method_reads_its_keys() -> None:
    """A soft teacher by temperature and reduction, a hard one by the likeliest class, both by their share."""
    images, targets = batch()
    module = a_dense(distillation="soft", temperature=2.0, kd_reduction="numel").train()
    heads, taught = module.backbone(images), module.teacher(images)
    soft = distilled_cross_entropy(heads, targets, taught, 0.25, 2.0, "numel")
    torch.testing.assert_close(module.step(images, targets).loss, soft)
    hard = 0.75 * F.cross_entropy(heads[0], targets) + 0.25 * F.cross_entropy(heads[1], taught.argmax(-1))
    torch.testing.assert_close(a_dense().train().step(images, targets).loss, hard)


@pytest.mark.parametrize("name", [name for name in METHODS if "usdc" not in name])  # where all that is dense runs
def test_predictions_stay_the_average_of_both_heads(name: str) -> None:
    module, (images, targets) = METHODS[name](), batch()
    module.train().step(images, targets)
    module.eval()
    tokens = module.backbone.forward_features(images)
    average = (module.backbone.head(tokens[:, 0]) + module.backbone.head_dist(tokens[:, 1])) / 2
    torch.testing.assert_close(module.variants()[-1].forward(images), average)


def test_without_a_teacher_both_heads_learn_the_targets_by_their_average() -> None:
    module, (images, targets) = dense.Dense(network(0), RECIPE).train(), batch()
    tokens = module.backbone.forward_features(images)
    average = (module.backbone.head(tokens[:, 0]) + module.backbone.head_dist(tokens[:, 1])) / 2
    torch.testing.assert_close(module.step(images, targets).loss, F.cross_entropy(average, targets))


def test_a_network_that_was_taught_before_is_no_longer() -> None:
    taught = a_dense()
    assert taught.backbone.distilled_training
    assert not dense.Dense(deepcopy(taught.backbone), RECIPE).backbone.distilled_training


@pytest.mark.parametrize(
    ("experiment", "key", "share", "head"),
    [
        ("uvc_digits", "distillation", 1, "class"),
        ("usdc_digits", "distillation", 1, "class"),
        ("magnitude_digits", "distillation", 1, "class"),
        ("scala_digits", "hard_distillation", 1, "class"),
        ("scala_digits", "hard_distillation", 0, "distillation"),
        ("dense_digits", "distillation_weight", 1, "class"),
        ("dense_digits", "distillation_weight", 0, "distillation"),
    ],
)
def test_a_share_that_leaves_a_head_untrained_is_refused(experiment: str, key: str, share: int, head: str) -> None:
    def plan(model: str) -> None:
        keys = [f"model.name={model}", f"method.{key}={share}", "model.pretrained=true", "teacher.model=regnety_160"]
        chosen = load_experiment(experiment, keys, check_files=False)
        load_method(chosen.method_name).plan(template(chosen.model, 10).spec, chosen)

    plan("deit_tiny_patch16_224")
    name = "deit_tiny_distilled_patch16_224"
    with pytest.raises(UserError) as caught:
        plan(name)
    assert str(caught.value) == (
        f"method.{key}: {share} trains no {head} head of {name}, which predicts by the average of both; "
        "it must be > 0 and < 1"
    )
