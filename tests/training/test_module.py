"""The base class under Lightning's Trainer: gradients, steps, precision, teacher, metrics and logs."""

import copy
import math
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from lightning_vitc.data import VisionData
from lightning_vitc.errors import UserError
from lightning_vitc.methods.dense import Dense
from lightning_vitc.methods.scala import Arguments, Scala
from lightning_vitc.networks.backbone import Backbone, create_backbone
from lightning_vitc.schema import DataConfig, OptimizerConfig
from lightning_vitc.training.module import CompressionModule, StepResult, Variant
from lightning_vitc.training.optimizer import lr_factor
from lightning_vitc.training.teacher import Teacher

RECIPE = OptimizerConfig(lr=1e-2, warmup_epochs=0.5, weight_decay=0.1)
QUARTERS = tuple(Fraction(number, 4) for number in (4, 3, 2, 1))


def backbone(seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return create_backbone(
        "deit_tiny_distilled_patch16_224", img_size=8, patch_size=4, in_chans=1, embed_dim=24, depth=1, num_heads=6,
        num_classes=10,
    )  # fmt: skip


def dense(recipe: OptimizerConfig = RECIPE) -> Dense:
    return Dense(backbone(), recipe)


def scala(recipe: OptimizerConfig = RECIPE, teacher: Teacher | None = None) -> Scala:
    module = Scala(backbone(), recipe, teacher, Arguments(granularity=0.25))
    module.widths = QUARTERS
    return module


def digits(batch_size: int = 32, images: int = 128, accumulate: int = 1, **keys: Any) -> VisionData:
    options = dict(batch_size=batch_size, num_samples=images, no_aug=True, mean=[0.5], std=[0.5], smoothing=0.1) | keys
    return VisionData(DataConfig(name="digits", **options), img_size=8, in_chans=1, accumulate=accumulate)


def fit(module: CompressionModule, data: Any = None, *callbacks: Callback, **options: Any) -> Trainer:
    options = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "limit_val_batches": 0} | options
    trainer = Trainer(
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, callbacks=list(callbacks), **options,
    )  # fmt: skip
    trainer.fit(module, data or digits(accumulate=trainer.accumulate_grad_batches))
    return trainer


class Steps(Callback):
    """Notes the gradient that each optimizer step was taken with, and its learning rate."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.rates: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        def note(optimizer: Any, *_: Any) -> None:
            self.gradients.append({name: p.grad.clone() for name, p in pl_module.backbone.named_parameters()})
            self.rates.append(optimizer.param_groups[0]["lr"])

        trainer.optimizers[0].register_step_post_hook(note)


def norm(gradients: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))


def gradient_of_the_sum(module: Scala, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Of all passes in one graph and one backward."""
    module, losses = copy.deepcopy(module), []
    module.accumulate = losses.append  # type: ignore[assignment, method-assign]
    losses.append(module.train().step(images, targets).loss)
    sum(losses).backward()
    return {name: parameter.grad for name, parameter in module.backbone.named_parameters()}


def first_batch(data: VisionData) -> tuple[Tensor, Tensor]:
    return data.mixer(*next(iter(data.train_dataloader())), 0, 0, 0)


# Steps


def test_optimizer_groups_by_name():
    trainer = fit(dense(), max_steps=1)
    groups = trainer.optimizers[0].param_groups
    names = {id(parameter): name for name, parameter in trainer.lightning_module.named_parameters()}
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    spared = {names[id(p)] for group in groups if not group["weight_decay"] for p in group["params"]}
    block = "backbone.blocks.0."
    assert decayed == {
        "backbone.patch_embed.proj.weight", f"{block}attn.qkv.weight", f"{block}attn.proj.weight",
        f"{block}mlp.fc1.weight", f"{block}mlp.fc2.weight", "backbone.head.weight", "backbone.head_dist.weight",
    }  # fmt: skip
    assert spared == set(names.values()) - decayed
    assert {"backbone.cls_token", "backbone.dist_token", "backbone.pos_embed", "backbone.norm.weight"} <= spared
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}


SCHEDULES = [
    # trainer options, total steps, warm-up steps; 4 steps an epoch
    ({"max_epochs": 3}, 12, 2),
    ({"max_epochs": 3, "max_steps": 5}, 5, 2),
    ({"max_epochs": -1, "max_steps": 6}, 6, 2),
    ({"max_epochs": 2, "accumulate_grad_batches": 2}, 8, 2),
    ({"max_epochs": 3, "limit_train_batches": 2}, 6, 1),
    ({"max_epochs": 2, "limit_train_batches": 0.5}, 4, 1),
    ({"max_epochs": 2, "limit_train_batches": 0.7}, 4, 1),  # 2.8 batches are 2, as Lightning counts
    ({"max_epochs": 3, "overfit_batches": 3}, 9, 1),
]


@pytest.mark.parametrize(("options", "total", "warmup"), SCHEDULES)
def test_learning_rate_of_every_step(options, total, warmup):
    steps = Steps()
    fit(dense(), None, steps, **options)
    assert steps.rates == pytest.approx([RECIPE.lr * lr_factor(step, RECIPE, total, warmup) for step in range(total)])


def test_a_plain_loader_has_the_same_schedule():
    steps = Steps()
    fit(dense(), torch.utils.data.DataLoader([(torch.zeros(1, 8, 8), 0)] * 12, batch_size=3), steps, max_epochs=2)
    assert steps.rates == pytest.approx([RECIPE.lr * lr_factor(step, RECIPE, 8, 2) for step in range(8)])


def test_clipping_clips_the_gradient_of_all_passes():
    data, module, steps = digits(), scala(), Steps()
    expected = gradient_of_the_sum(module, *first_batch(data))
    clip = norm(expected) / 3
    fit(module, data, steps, max_steps=1, gradient_clip_val=clip)
    assert norm(steps.gradients[0]) == pytest.approx(clip, rel=1e-4)
    for name, gradient in steps.gradients[0].items():
        torch.testing.assert_close(gradient, expected[name] / 3, rtol=1e-4, atol=1e-6)


def test_small_gradients_are_not_clipped():
    data, module, steps = digits(), scala(), Steps()
    expected = gradient_of_the_sum(module, *first_batch(data))
    fit(module, data, steps, max_steps=1, gradient_clip_val=norm(expected) * 1.01)
    for name, gradient in steps.gradients[0].items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [dense, scala])
def test_accumulated_batches_equal_one_larger_batch(make):
    """Five steps; plain SGD, because Adam's first steps blow rounding up to the learning rate."""
    recipe = OptimizerConfig(name="momentum", lr=1e-2)
    weights = []
    for accumulate in (1, 2, 4):
        data, module = digits(images=160, accumulate=accumulate), make(recipe)
        trainer = fit(module, data, accumulate_grad_batches=accumulate, gradient_clip_val=1.0)
        assert trainer.global_step == 5
        weights.append(dict(module.backbone.named_parameters()))
    for other in weights[1:]:
        for name, weight in other.items():
            torch.testing.assert_close(weight, weights[0][name], rtol=0, atol=1e-6)


def test_nothing_is_left_of_a_steps_gradient():
    class Empty(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            assert all(parameter.grad is None for parameter in module.parameters())

    assert fit(scala(), None, Empty()).global_step == 4


# Precision


class Scaling(Precision):
    """What a GradScaler does to the loss, and nothing else."""

    def pre_backward(self, tensor: Tensor, module: Any) -> Tensor:  # type: ignore[override]
        return super().pre_backward(tensor * 1024, module)


def test_every_pass_is_scaled():
    data, module, steps = digits(), scala(), Steps()
    expected = gradient_of_the_sum(module, *first_batch(data))
    fit(module, data, steps, max_steps=1, plugins=[Scaling()])
    for name, gradient in steps.gradients[0].items():
        torch.testing.assert_close(gradient / 1024, expected[name], rtol=1e-4, atol=1e-6)


def test_fp16_unscales_all_of_the_gradient_before_it_clips():
    data, module, steps = digits(), scala(), Steps()
    expected = gradient_of_the_sum(module, *first_batch(data))
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))
    fit(module, data, steps, max_steps=1, plugins=[plugin], gradient_clip_val=norm(expected) / 2)
    assert norm(steps.gradients[0]) == pytest.approx(norm(expected) / 2, rel=1e-3)
    for name, gradient in steps.gradients[0].items():
        torch.testing.assert_close(gradient, expected[name] / 2, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_train(precision):
    module, before = scala(), backbone().state_dict()
    trainer, usual = fit(module, max_epochs=2, precision=precision), fit(scala(), max_epochs=2)
    assert trainer.global_step == usual.global_step == 8
    loss, expected = (run.lightning_module.finite_loss.last for run in (trainer, usual))
    assert loss == pytest.approx(expected, rel=0.01)
    assert all(
        not torch.equal(weight.to(before[name]), before[name]) for name, weight in module.backbone.state_dict().items()
    )


def test_bf16_gives_nearly_the_gradient_of_the_sum():
    data, module, steps = digits(), scala(), Steps()
    expected = gradient_of_the_sum(module, *first_batch(data))
    fit(module, data, steps, max_steps=1, precision="bf16-mixed")
    difference = {name: steps.gradients[0][name] - gradient for name, gradient in expected.items()}
    assert norm(difference) < 0.02 * norm(expected)


# The teacher


class Counting(nn.Module):
    """A teacher's network that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(64, 10), 0

    def forward(self, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not self.training
        self.calls += 1
        return self.layer(images.flatten(1))


def test_one_teacher_forward_a_step():
    network = Counting()
    before = copy.deepcopy(network.layer.state_dict())
    trainer = fit(scala(teacher=Teacher(network, 10)), max_epochs=2)
    assert network.calls == trainer.global_step == 8
    assert all(torch.equal(weight, before[name]) for name, weight in network.layer.state_dict().items())


def test_the_teacher_is_no_part_of_the_student():
    network = Counting()
    module = scala(teacher=Teacher(network, 10))
    own = {id(parameter) for parameter in network.parameters()}
    assert module.state_dict().keys() == scala().state_dict().keys()
    assert not own & {id(parameter) for parameter in module.parameters()}
    assert copy.deepcopy(module).teacher is module.teacher
    trainer = fit(module, max_steps=1)
    assert not own & {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}


def test_the_teacher_goes_to_the_device_of_the_module():
    """Lightning moves the module after `setup`; `meta` stands for a GPU."""

    class Stop(Exception):
        pass

    class Elsewhere(SingleDeviceStrategy):
        def model_to_device(self):
            self.model.to("meta")

        def teardown(self):
            pass

    class Look(Callback):
        def on_fit_start(self, trainer, module):
            assert module.device.type == "meta"

        def on_train_start(self, trainer, module):
            assert {parameter.device.type for parameter in module.teacher.network.parameters()} == {"meta"}
            raise Stop

    module = scala(teacher=Teacher(Counting(), 10))
    with pytest.raises(Stop):
        fit(module, None, Look(), strategy=Elsewhere())


def test_a_teacher_of_other_classes_or_images_is_refused():
    other = create_backbone("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=12, depth=1, num_heads=2)
    with pytest.raises(UserError, match=r"^teacher: it has 1,000 classes, the student 10; they must agree$"):
        scala(teacher=Teacher(other, 1000))
    message = "^teacher: it sees images of 3 x 16 x 16, the student 1 x 8 x 8; they must agree$"
    with pytest.raises(UserError, match=message):
        scala(teacher=Teacher(other, 10))


# Metrics and logs


class Lines(Logger):
    """Keeps what is logged."""

    name, version = "lines", "0"

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.lines.append({**metrics, "step": step})


def test_checkpoints_are_selected_by_the_mean_of_all_networks(monkeypatch):
    module, logged, shares = scala(), {}, iter([0.1, 0.2, 0.3, 0.8])
    monkeypatch.setattr(module, "_metrics", lambda _: SimpleNamespace(
        compute=lambda: {"top1": torch.tensor(next(shares))}, reset=lambda: None))  # fmt: skip
    monkeypatch.setattr(module, "log_dict", lambda *_: None)
    monkeypatch.setattr(module, "_validated", module.variants())
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: float(value)}))
    module.on_validation_epoch_end()
    assert logged == {"val/top1": pytest.approx(35)}


def test_validation_counts_every_variant_exactly():
    """On 359 images in batches of 100: the mean over images, not over batches."""
    data, module, logger = digits(eval_batch_size=100), scala(), Lines()
    trainer = fit(module, data, limit_val_batches=1.0, logger=logger)
    (line,) = [line for line in logger.lines if "val/top1" in line]
    images, targets = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
    expected = {}
    for variant in module.eval().variants():
        ranks = variant.forward(images).argsort(dim=-1, descending=True)
        for k in (1, 5):
            hits = (ranks[:, :k] == targets[:, None]).any(-1).float().mean()
            expected[f"{variant.name}/val_top{k}"] = pytest.approx(100 * float(hits), abs=1e-3)
    assert list(expected) == [f"width_{width}/val_top{k}" for width in ("0.25", "0.50", "0.75", "1.00") for k in (1, 5)]
    assert {name: line[name] for name in expected} == expected
    mean = sum(line[f"{variant.name}/val_top1"] for variant in module.variants()) / 4
    assert line["val/top1"] == pytest.approx(mean)
    assert float(trainer.callback_metrics["val/top1"]) == pytest.approx(mean)
    assert line["step"] == trainer.global_step - 1


def test_only_what_a_step_computed_is_logged_for_it():
    module, logger = scala(), Lines()
    module.arguments.granularity = 0.125
    module = Scala(backbone(), RECIPE, None, Arguments(granularity=0.25, s=0.25))
    drawn = []

    class Draw(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            module.widths = (QUARTERS[0], QUARTERS[1 + trainer.global_step % 2], QUARTERS[3])
            drawn.append([f"width_{float(width):.2f}/train_loss" for width in module.widths])

    fit(module, None, Draw(), logger=logger, log_every_n_steps=1)
    lines = [line for line in logger.lines if "train/loss" in line]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    for line, names in zip(lines, drawn, strict=True):
        assert [name for name in line if name.startswith("width")] == names
        assert line["train/loss"] == pytest.approx(sum(line[name] for name in names), rel=1e-6)


def test_an_accumulated_step_is_logged_once():
    logger = Lines()
    fit(dense(), logger=logger, log_every_n_steps=2, accumulate_grad_batches=2)
    assert [line["step"] for line in logger.lines if "train/loss" in line] == [1, 3]


def test_a_method_needs_a_step_alone():
    class Half(CompressionModule):
        def step(self, images: Tensor, targets: Tensor) -> StepResult:
            loss = self(images).square().mean()
            return StepResult(loss, {"half/loss": loss.detach() / 2})

        def variants(self) -> list[Variant]:
            return [Variant("half", self.backbone.spec, self.backbone)]

    logger = Lines()
    trainer = fit(Half(backbone(), RECIPE), limit_val_batches=1.0, logger=logger, log_every_n_steps=1)
    assert all(
        line["half/loss"] == pytest.approx(line["train/loss"] / 2) for line in logger.lines if "half/loss" in line
    )
    assert trainer.callback_metrics["val/top1"] == trainer.callback_metrics["half/val_top1"]
    with pytest.raises(NotImplementedError):
        CompressionModule(backbone(), RECIPE).step(torch.zeros(1), torch.zeros(1))


def test_a_network_that_was_evaluated_before_is_trained_in_training_mode():
    """Such as that of an earlier stage, or one that was cut out: Lightning leaves modes as they are."""
    module, modes = dense(), []
    module.backbone.eval()
    module.backbone.register_forward_pre_hook(lambda network, _: modes.append(network.training))
    fit(module)
    assert modes == [True] * 4
