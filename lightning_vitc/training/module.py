"""CompressionModule: what every method shares. A method adds one step of mathematics."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lightning_vitc.budget.plan import Plan, plan_of_choices
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.batch_statistics import agree
from lightning_vitc.networks.layers import layer_of
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import Experiment, OptimizerConfig
from lightning_vitc.training.finite_loss import FiniteLoss
from lightning_vitc.training.optimizer import build_optimizer
from lightning_vitc.training.teacher import Teacher

Forward = Callable[[Tensor], Tensor]


@dataclass
class StepResult:
    """What a training step gives back: the loss to minimize and named terms to log, detached scalars."""

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One network to evaluate: the dense model, a width, a pruned model."""

    name: str
    spec: ArchSpec
    forward: Forward


class CompressionModule(LightningModule):
    """A LightningModule around the shared backbone.

    It owns the optimizer and its schedule, the teacher, the metrics and the logging; a method implements
    `step`, and `variants` where it trains more than one network.

    Args:
        backbone: the network that is trained.
        optimizer: the recipe.
        teacher: a frozen network, not part of the state dict; `None` for none.
    """

    def __init__(self, backbone: Backbone, optimizer: OptimizerConfig, teacher: Teacher | None = None):
        super().__init__()
        self.backbone, self.recipe, self.teacher = backbone, optimizer, teacher
        self.finite_loss = FiniteLoss()
        self._validated: list[Variant] = []
        # a pair of logits for a head to be taught; without a teacher both learn the targets by their average
        backbone.distilled_training = teacher is not None and backbone.spec.distilled
        if teacher is not None:
            teacher.must_match(backbone.spec)
        names = [variant.name for variant in self.variants()]
        self.val_metrics = nn.ModuleDict({_key(name): accuracies(backbone.spec.num_classes) for name in names})

    # What a method implements

    def step(self, images: Tensor, targets: Tensor) -> StepResult:
        """One training step.

        Args:
            images: [B, C, H, W].
            targets: [B] class indices, or [B, classes] soft labels.
        """
        raise NotImplementedError

    def variants(self) -> list[Variant]:
        """The networks to validate; the checkpoint is selected on their mean accuracy."""
        return [Variant("dense", self.backbone.spec, self.backbone)]

    def after_step(self) -> None:
        """What follows an optimizer step, with the gradients still there: proximal steps, dual variables."""

    def observe(self) -> dict[str, Tensor]:
        """Further scalars to log, asked for at the steps that are logged: where controls and state stand."""
        return {}

    def own_rates(self) -> dict[str, float]:
        """Parameters with a learning rate of their own and no weight decay, by name."""
        return {}

    def of_today(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a stage that an earlier version finished, by the names that its parts have for them now."""
        for name, part in self.named_children():
            if (renamed := getattr(part, "of_today", None)) is not None:
                weights = renamed(weights, f"{name}.")
        return weights

    @classmethod
    def plan(cls, spec: ArchSpec, experiment: Experiment) -> Plan:
        """What the method can reach for a dense network; checked before anything is trained.

        Raises:
            UserError: for settings that do not fit the network.
        """
        return plan_of_choices({"dense": spec}, costs.macs)

    # What a method may call

    def accumulate(self, loss: Tensor) -> None:
        """Add the gradient of one part of the loss at once, so that its activations are freed.

        The last part is returned from `step` for Lightning to differentiate. DDP expects no gradients until
        its forward pass has returned, so the parts before cost no all-reduce.
        """
        if self._trainer is not None:
            loss = loss / self.trainer.accumulate_grad_batches
            loss = self.trainer.precision_plugin.pre_backward(loss, self)  # the scale of fp16
        loss.backward()

    # Lightning

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of the full network."""
        return self.backbone(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Run the method's step and log its terms."""
        images, targets = batch
        result = self.step(images, targets)
        loss = result.terms.pop("loss", result.loss.detach())
        self.finite_loss.note({**result.terms, "loss": loss}, self.trainer.world_size)
        self._write({"train/loss": loss, **result.terms}, batch_idx)
        return result.loss

    def on_validation_epoch_start(self) -> None:
        """Make the networks to validate once: what is read back from the device for them is waited for."""
        self._validated = self.variants()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count correct predictions of every variant."""
        images, targets = batch
        for variant in self._validated:
            logits = variant.forward(images)
            self._metrics(variant.name).update(logits, targets)

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy of every variant and their mean, in percent."""
        top1 = []
        for variant in self._validated:
            values = {name: 100 * value for name, value in self._metrics(variant.name).compute().items()}
            self.log_dict({f"{variant.name}/val_{name}": value for name, value in values.items()})
            self._metrics(variant.name).reset()
            top1.append(values["top1"])
        self._validated = []  # and with them their masked weights
        self.log("val/top1", torch.stack(top1).mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW and the warm-up/cosine schedule, stepped per optimizer step."""
        per_epoch = math.ceil(self._batches_per_epoch() / self.trainer.accumulate_grad_batches)
        limits = (per_epoch * (self.trainer.max_epochs or -1), self.trainer.max_steps)
        total = min(limit for limit in limits if limit >= 0)  # a negative number is no limit
        warmup = min(int(self.recipe.warmup_epochs * per_epoch), total)
        optimizer, scheduler = build_optimizer(self, self.recipe, total, warmup, self.own_rates())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Step, let the method do what it does after a step, then clear the gradients.

        Raises:
            NotFinite: before anything is changed, where the loss is not finite.
        """

        def closure() -> Any:
            loss = optimizer_closure()
            self.finite_loss.check(self.trainer.global_step)
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        if self.trainer.world_size > 1:
            agree(self.backbone)
        self.after_step()
        self.optimizers(use_pl_optimizer=False).zero_grad(set_to_none=True)  # type: ignore[union-attr]

    def optimizer_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: Lightning calls this after `step`, which may have accumulated gradients already."""

    def on_fit_start(self) -> None:
        """Train what may have been evaluated before, a stage's network; Lightning leaves the modes as they are.

        And place the teacher, which is no submodule, on the device that the module has been moved to.
        """
        self.train()
        if self.teacher is not None:
            self.teacher.to(self.device)

    def no_weight_decay(self) -> set[str]:
        """timm's convention: names of parameters that are not decayed."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """timm's convention: the layer of a parameter, for `optimizer.layer_decay`; of none, the last one."""
        spec = self.backbone.spec

        def layer(name: str) -> int:
            outside, _, inside = name.partition("backbone.")
            return spec.depth + 1 if outside else layer_of(inside, spec)

        return layer

    def _write(self, terms: dict[str, Tensor], batch_idx: int) -> None:
        """Write what this step computed, as the mean over processes, before a checkpoint of the step is saved.

        Lightning's own log would repeat old values of terms that this step lacks, and come after the checkpoint.
        """
        step, trainer = self.trainer.global_step, self.trainer
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (step + 1) % every or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        terms |= self.observe()
        means: Any = trainer.strategy.reduce(torch.stack([*terms.values()]).float(), reduce_op="mean")
        values = dict(zip(terms, means.tolist(), strict=True))
        for logger in self.loggers:
            logger.log_metrics({**values, "epoch": self.current_epoch}, step)

    def _batches_per_epoch(self) -> int:
        """Of one process. Asking Lightning sets up its loader before a checkpoint's position in it is known."""
        trainer: Any = self.trainer
        if trainer.datamodule is None:
            trainer.fit_loop.setup_data()
            return trainer.num_training_batches
        batches = len(trainer.datamodule.train_dataloader())
        limit = trainer.overfit_batches or trainer.limit_train_batches
        return min(limit, batches) if isinstance(limit, int) else int(limit * batches)

    def _metrics(self, name: str) -> Any:
        return self.val_metrics[_key(name)]


def accuracies(num_classes: int) -> MetricCollection:
    """Top-1 and top-5 counters over all images, equal for any batch size and number of processes."""
    counters: dict[str, Metric | MetricCollection] = {
        f"top{k}": MulticlassAccuracy(num_classes, top_k=min(k, num_classes), average="micro") for k in (1, 5)
    }
    return MetricCollection(counters, compute_groups=False)  # groups would merge them if a first batch agrees


def _key(name: str) -> str:
    return "of_" + name.replace(".", "_")  # a ModuleDict has no keys with dots, nor such as "half" or "type"
