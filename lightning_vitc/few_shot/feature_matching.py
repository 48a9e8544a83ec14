"""Training networks to give the tokens of the original (DC-ViT, Section 3.2.1): no label is read."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vitc.errors import UserError
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.layers import layer_of
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import OptimizerConfig
from lightning_vitc.training.module import CompressionModule, StepResult
from lightning_vitc.training.teacher import Teacher

Matched = Literal["all", "class"]


class Tokens(nn.Module):
    """A network up to its final norm: images [B, C, H, W] -> tokens [B, N, D], or maps before they are pooled."""

    def __init__(self, network: Backbone):
        super().__init__()
        self.network, self.spec = network, network.spec

    def forward(self, images: Tensor) -> Tensor:
        """Tokens after the final norm; of a network with `global_pool=avg` before `fc_norm`, which stays frozen."""
        return self.network.forward_features(images)


def original_tokens(network: Backbone) -> Teacher:
    """The original network as a teacher of tokens; it is frozen."""
    return Teacher(Tokens(network), network.spec.num_classes)


def must_have_tokens(spec: ArchSpec, matched: Matched) -> None:
    """Refuse to compare class tokens where there are none.

    Raises:
        UserError: naming the network.
    """
    if matched == "class" and not spec.has_class_token:
        raise UserError(f"method.matched: class asks for a class token, and {spec.name} has none; leave it out")


def token_loss(tokens: Tensor, wanted: Tensor, matched: Matched = "all") -> Tensor:
    """Mean squared difference of tokens [B, N, D], of all of them or of the class token alone, or of maps, in fp32."""
    if matched == "class":
        tokens, wanted = tokens[:, 0], wanted[:, 0]
    return F.mse_loss(tokens.float(), wanted.float())


class FeatureMatching(CompressionModule):
    """Trains networks side by side, each as if it were alone, on one pass of the original over each batch.

    They share the batches and the original's tokens and nothing else: gradients are clipped network by network, and
    random streams depend on the network's name and the part of the step's batch. So a network ends the same whoever is
    trained beside it. Only what requires a gradient is trained; a frozen tail is crossed by the backward pass, without
    gradients of its weights.

    Args:
        networks: by name; what is to be trained in them requires gradients.
        optimizer: the recipe.
        teacher: the original, see `original_tokens`.
        matched: which tokens are compared.
        seed: of dropout and stochastic depth.
        resting: keep the networks in evaluation mode: batch norms use and keep their running statistics.
    """

    def __init__(self, networks: Mapping[str, Backbone], optimizer: OptimizerConfig, teacher: Teacher | None,
                 matched: Matched = "all", seed: int = 0, resting: bool = False):  # fmt: skip
        first, *others = networks
        super().__init__(networks[first], optimizer, teacher)
        self.first, self.matched, self.seed, self.resting = first, matched, seed, resting
        self._part = (0, 0)  # of a step's batch: which micro-batch, of which rank
        self.others = nn.ModuleDict({name: networks[name] for name in others})

    @property
    def networks(self) -> dict[str, Backbone]:
        """The networks by name, in the order they were given."""
        return {self.first: self.backbone, **self.others}  # type: ignore[dict-item]

    def on_train_start(self) -> None:
        """Everything is in training mode, see `on_fit_start`; networks that rest go back.

        Here, since no epoch starts where a run continues in the middle of one.
        """
        super().on_train_start()
        for network in self.networks.values() if self.resting else ():
            network.eval()

    def step(self, images: Tensor, targets: Tensor) -> StepResult:
        """Mean squared difference of tokens, one network after another (DC-ViT, eq. 3)."""
        assert self.teacher is not None
        wanted, terms, total = self.teacher(images), {}, images.new_zeros(())
        for position, (name, network) in enumerate(self.networks.items()):
            torch.manual_seed(zlib.crc32(f"{name} {self.seed} {self.global_step} {self._part}".encode()))
            loss = token_loss(network.forward_features(images), wanted, self.matched)
            terms[f"{name}/train_loss"] = loss.detach()
            total = total + loss.detach()
            if position < len(self.others):
                self.accumulate(loss)
        return StepResult(loss, {**terms, "loss": total})

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Batches are images, or images with whatever else, which is not looked at."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        self._part = batch_idx % self.trainer.accumulate_grad_batches, self.trainer.global_rank
        return super().training_step((images, images.new_empty(0)), batch_idx)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:  # fmt: skip
        """Clip each network by its own gradients."""
        for network in self.networks.values():
            trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
            if gradient_clip_val and gradient_clip_algorithm == "value":
                nn.utils.clip_grad_value_(trained, gradient_clip_val)
            elif gradient_clip_val:
                nn.utils.clip_grad_norm_(trained, gradient_clip_val)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """timm's convention, in every network."""
        of_first = super().group_matcher(coarse)

        def layer(name: str) -> int:
            if not name.startswith("others."):
                return of_first(name)
            _, network, inside = name.split(".", 2)
            return layer_of(inside, self.networks[network].spec)

        return layer

    def no_weight_decay(self) -> set[str]:
        """timm's names, in every network."""
        prefixes = ["backbone", *(f"others.{name}" for name in self.others)]
        return {f"{prefix}.{name}" for prefix in prefixes for name in self.backbone.no_weight_decay()}
