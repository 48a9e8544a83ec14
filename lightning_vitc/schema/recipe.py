"""The sections `optimizer` and `teacher`, and keys that methods share."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from lightning_vitc.schema.fields import MISSING, bounded, path, rule, weights


@dataclass
class OptimizerConfig:
    """AdamW without decay on biases, norms and tokens; linear warm-up, then a cosine or one fall, per step."""

    name: str = "adamw"  # any name of timm.optim
    lr: float = bounded(MISSING, gt=0)
    weight_decay: float = bounded(0.05, ge=0)
    betas: list[float] = field(
        default_factory=lambda: [0.9, 0.999],
        metadata=rule("two numbers >= 0 and < 1", lambda v: len(v) == 2 and min(v) >= 0 and max(v) < 1),
    )
    eps: float = bounded(1e-8, gt=0)
    layer_decay: float | None = bounded(None, gt=0, le=1)  # the rate of every layer by that of the next one (timm)
    warmup_epochs: float = bounded(0.0, ge=0)
    warmup_lr: float = bounded(1e-6, ge=0)
    min_lr: float = bounded(1e-5, ge=0)  # where a cosine ends
    schedule: Literal["cosine", "step"] = "cosine"
    decay_at: float = bounded(0.4, ge=0, le=1)  # of `step`: after this share of the steps behind the warm-up
    decay_rate: float = bounded(0.1, ge=0, le=1)  # ... the rate is multiplied by this


@dataclass
class TeacherConfig:
    """Where the teacher comes from: one of `train`, `run` and `model`, or none of them."""

    train: bool = False  # train the dense model first, as a stage of this run, on all training images
    epochs: int | None = bounded(None, gt=0)  # of that stage; default: trainer.max_epochs
    batch_size: int | None = bounded(None, gt=0)  # of that stage; default: that of the section `data`
    mixup: float | None = bounded(None, ge=0)  # likewise
    cutmix: float | None = bounded(None, ge=0)  # likewise
    smoothing: float | None = bounded(None, ge=0, lt=1)  # likewise
    lr: float | None = bounded(None, gt=0)  # of that stage; default: that of the section `optimizer`
    weight_decay: float | None = bounded(None, ge=0)  # likewise
    warmup_epochs: float | None = bounded(None, ge=0)  # likewise
    run: str | None = path(None)  # a run directory whose dense model teaches
    model: str | None = path(None)  # a timm model
    pretrained: bool | str = weights(True)  # with `model`: true (the hub), or the path of a file


@dataclass
class PostTrainingArguments:
    """Keys of a method that cuts a trained network down and trains what is left, with the dense one as its teacher."""

    takes_budget: ClassVar[bool] = True

    distillation: float = bounded(0.1, ge=0, le=1)  # share of the teacher in the loss
    temperature: float = bounded(1.0, gt=0)  # of the distillation
    kd_reduction: Literal["batchmean", "numel"] = "batchmean"  # numel: also divided by classes, as UVC's code does
    finetune_epochs: int = bounded(120, gt=0)  # of the compacted network
    finetune_lr: float = bounded(1e-4, gt=0)
    finetune_warmup_epochs: float = bounded(0.0, ge=0)
    finetune_min_lr: float | None = bounded(None, ge=0)  # default: that of the section `optimizer`

    def finetuning(self, search: OptimizerConfig) -> OptimizerConfig:
        """The optimizer of the training of what is left; what has no key here is that of the search."""
        min_lr = search.min_lr if self.finetune_min_lr is None else self.finetune_min_lr
        return replace(search, lr=self.finetune_lr, warmup_epochs=self.finetune_warmup_epochs, min_lr=min_lr)


@dataclass
class SearchArguments(PostTrainingArguments):
    """The same of a method that looks for what to cut by a primal-dual search."""

    cut_lr: float = bounded(0.005, gt=0)  # of s and r, in shares of a block a step
    dual_lr: float = bounded(0.01, gt=0)  # of y and p
    price_lr: float = bounded(1.0, gt=0)  # of z


@dataclass
class SyntheticConfig:
    """Images made from noise to compare networks on (DC-ViT); the defaults are the paper's."""

    count: int = bounded(50, gt=0)
    batch: int = bounded(50, gt=0)  # images at a time; changes none of them, but where there are batch norms
    iterations: int = bounded(2000, gt=0)
    warmup: int = bounded(100, ge=0)  # iterations
    lr: float = bounded(0.25, gt=0)
    tv: float = bounded(1e-4, ge=0)  # weight of the total variation
    l2: float = bounded(1e-5, ge=0)  # weight of the norm
    batch_norm: float = bounded(0.01, ge=0)  # weight of the distance from running statistics, where there are any
    beta: float | None = bounded(None, gt=0)  # exponent of the total variation; default: 1 for DeiT, else .6
    roll: int | None = bounded(None, ge=0)  # at random, by at most so many pixels; default: 30 of 224
    flip: bool = True  # at random, from left to right
