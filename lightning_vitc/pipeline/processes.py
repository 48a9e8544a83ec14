"""The processes of a run outside of a training: who they are, where they compute, and waiting for each other."""

from collections.abc import Callable
from typing import Any

import torch.distributed
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from lightning_vitc.errors import UserError
from lightning_vitc.pipeline.trainers import test_trainer
from lightning_vitc.schema import Experiment


class Processes:
    """Started when they are first asked for, as a training would start them.

    Args:
        experiment: says how many, on which devices.
    """

    def __init__(self, experiment: Experiment):
        self._strategy: Any = test_trainer(experiment).strategy
        if isinstance(self._strategy, DDPStrategy) and not torch.distributed.is_initialized():
            self._strategy.launcher.launch(self._strategy.setup_environment)  # type: ignore[union-attr]
        elif isinstance(self._strategy, DDPStrategy):
            self._strategy.setup_environment()

    @property
    def count(self) -> int:
        """How many there are."""
        return self._strategy.world_size if isinstance(self._strategy, DDPStrategy) else 1

    @property
    def rank(self) -> int:
        """Which of them this is, from 0."""
        return self._strategy.global_rank if isinstance(self._strategy, DDPStrategy) else 0

    @property
    def device(self) -> torch.device:
        """Where this one computes."""
        return self._strategy.root_device

    def decided_by_first(self, decide: Callable[[], bool]) -> bool:
        """What the first process decides, in all of them; where it refuses, the others do too.

        Raises:
            UserError: that of the first process.
        """
        refusal, decision = None, -1
        if self.rank == 0:
            try:
                decision = int(decide())
            except UserError as error:
                refusal = error
        told = torch.tensor(decision, device=self.device)
        torch.distributed.broadcast(told, 0)
        if int(told) < 0:
            raise refusal or UserError("the first process says why the run cannot continue")
        return bool(told)

    def wait(self) -> None:
        """For all others to get here."""
        self._strategy.barrier()


@rank_zero_only
def say(text: str) -> None:
    """Print a line, whole, by the first process."""
    Console(highlight=False, markup=False, soft_wrap=True).print(text)


def part() -> None:
    """Close the connections between the processes: threads of theirs that outlive the interpreter would abort it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
