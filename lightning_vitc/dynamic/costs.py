"""What a network with gates costs: on average over images, at worst, and at rest."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from lightning_vitc.networks import costs
from lightning_vitc.networks.blocks import Block, Branch
from lightning_vitc.networks.spec import ArchSpec


@dataclass(frozen=True)
class DynamicCosts:
    """MACs of one image, or what else is counted, by what its gates can skip.

    Attributes:
        fixed: patch embedding, classifier and the gates themselves, which every image runs.
        branches: of attention and MLP, block by block; 0 where the branch is gone.
    """

    fixed: int
    branches: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, spec: ArchSpec, measure: Callable[[ArchSpec], int] = costs.macs) -> "DynamicCosts":
        """Read off a cost model, by the difference that removing a branch makes.

        Args:
            spec: the network.
            measure: the cost model; of gates it counts that everything runs.
        """
        without = spec.without_branches()
        bare = measure(without)

        def alone(number: int, *branches: Branch | None) -> int:
            block = Block(tuple(branch and replace(branch, gate=None) for branch in branches))
            return measure(without.with_block(number, block)) - bare

        branches = tuple(
            (alone(number, attn, None), alone(number, None, mlp)) for number, (attn, mlp) in enumerate(spec.blocks)
        )
        return cls(measure(spec) - sum(map(sum, branches)), branches)

    @property
    def worst(self) -> int:
        """Of an image for which everything runs."""
        return self.fixed + sum(map(sum, self.branches))

    def expected(self, rates: Tensor) -> Tensor:
        """The mean over images whose gates run at `rates` [..., L, 2]: [...]."""
        return self.fixed + (rates * rates.new_tensor(self.branches)).sum((-1, -2))
