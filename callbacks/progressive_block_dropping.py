"""Which part of a network with compressed blocks a fine-tuning may move, and which rests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lightning_vitc.errors.messages import counted
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.dropped_attention import train_around
from lightning_vitc.schema import bounded


@dataclass
class Arguments:
    """Keys of `callbacks.progressive_block_dropping:`."""

    trained: Literal["near", "whole"] = "near"  # up to `beyond` blocks after the last compressed one, or everything
    beyond: int = bounded(1, ge=0)


class HasCompressedBlocks(Protocol):
    """What a module offers: the networks it trains, by name, each with compressed blocks or without some.

    `behind` says of each the number of the block behind the last of these.
    """

    compresses: bool
    networks: dict[str, Backbone]
    behind: Mapping[str, int]


class ProgressiveBlockDropping(Callback):
    """Before a fine-tuning freezes what lies behind its last compressed block; the next one reaches further back.

    Block trials and progressive compression are stages of the method's pipeline: they choose the blocks, compress them
    and say when to train. This callback freezes, and writes down what is compressed and trained.

    A trial reaches one block after its candidate, a progressive fine-tuning one after the last of the blocks so far.
    What is frozen gets no gradient, is not in the optimizer, drops nothing at random, and keeps its running statistics.

    Args:
        trained: `near`, or `whole` for all of the network.
        beyond: blocks after the last compressed one that are trained too.
    """

    def __init__(self, trained: Literal["near", "whole"] = "near", beyond: int = 1):
        self.trained, self.beyond = trained, beyond

    @staticmethod
    def serves(module: Any) -> bool:
        """Whether the module's networks have compressed blocks; a run's other stages train without this callback."""
        return getattr(module, "compresses", False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze, before the optimizer collects parameters and DDP counts them."""
        module: HasCompressedBlocks = pl_module  # type: ignore[assignment]
        if stage == "fit":
            for name, network in module.networks.items():
                train_around(network, module.behind[name], None if self.trained == "whole" else self.beyond)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is frozen rests, batch norms with their statistics too; and write down, once, how much is trained.

        Here, since no epoch starts where a run continues in the middle of one.
        """
        module: HasCompressedBlocks = pl_module  # type: ignore[assignment]
        for network in module.networks.values():
            _rest(network, [*network.blocks])
        if trainer.global_step > 0:
            return
        lines = [f"{name}: {_shown(network)}" for name, network in module.networks.items()]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.add_text("trained around compressed blocks", "  \n".join(lines), trainer.global_step)


def _rest(part: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Evaluation mode for blocks, and for what is around them, in which nothing is trained."""
    if any(part is block for block in blocks) or not any(block in part.modules() for block in blocks):
        part.train(_is_trained(part))
        return
    for child in part.children():
        _rest(child, blocks)


def _is_trained(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())


def _shown(network: Backbone) -> str:
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    blocks = sum(_is_trained(block) for block in network.blocks)
    return f"{trained:,} parameters trained, in {blocks} of {counted(network.spec.depth, 'block')}"
