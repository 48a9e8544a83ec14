"""Which whole blocks leave for a budget, in the order of their scores: as many as it takes.

They need not cost alike: which ones leave is decided by training, and by that how many. The last one that leaves may
stay in part, narrower inside, so that a budget between whole blocks is met (ours).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from lightning_vitc.budget.plan import Plan, Reachable, Sketch
from lightning_vitc.budget.target import Target
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.few_shot.asked import asked_target, counting_target, warn_of_collapse
from lightning_vitc.few_shot.units import Unit, members, size_of
from lightning_vitc.latency.fitting import fit
from lightning_vitc.latency.table import LatencyTable
from lightning_vitc.networks import costs
from lightning_vitc.networks.blocks import ATTN, MLP
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import BudgetConfig


@dataclass(frozen=True)
class Elimination:
    """Candidates, called by their first blocks, and how many of them leave.

    Attributes:
        spec: the dense network.
        target: what it may cost.
        unit: blocks of a candidate.
        saved: what the removal of each candidate saves.
        number: of candidates that leave, where it is known before their order; else the fewest that reach the target.
        partial: whether the last of them stays in part.
    """

    spec: ArchSpec
    target: Target
    unit: Unit
    saved: Mapping[int, int]
    number: int | None = None
    partial: bool = False

    @classmethod
    def of(
        cls, budget: BudgetConfig, spec: ArchSpec, candidates: Sequence[int], unit: Unit = "block",
        table: LatencyTable | None = None, partial: bool = False,
    ) -> "Elimination":  # fmt: skip
        """What a budget asks of a dense network.

        Raises:
            UserError: where the budget means nothing, or blocks cannot stay in part.
        """
        if partial:
            _must_have_an_inside(spec, candidates)
        if budget.drop_blocks is None:
            target = asked_target(budget, spec, table)
            return cls(spec, target, unit, _saved(spec, target, candidates, unit), None, partial)
        number, odd = divmod(budget.drop_blocks, size_of(unit))
        if odd:
            found = counted(budget.drop_blocks, "block is no pair", "blocks are no pairs")
            raise UserError(f"budget.drop_blocks: {found}; give an even number")
        target = counting_target(budget, spec)
        saved = _saved(spec, target, candidates, unit)
        least = sum(sorted(saved.values())[:number]) + max(number - len(saved), 0) * max(saved.values())
        return cls(spec, replace(target, amount=target.dense - least), unit, saved, number)

    def chosen(self, order: Sequence[int]) -> list[int]:
        """The candidates that leave, the first ones of an order.

        Raises:
            UserError: where nothing is to leave, or more than there are.
        """
        needed, target = self._needed(order), self.target
        if needed == 0:
            raise UserError(
                f"budget.{target.quantity}: {target.shown(target.amount)} is the dense network; nothing is to be "
                "dropped"
            )
        if needed > len(self.saved):
            least = target.dense - sum(self.saved.values())
            raise UserError(
                f"budget.{target.quantity}: {target.shown(target.amount)} needs {self._shown(needed)} dropped, and "
                f"{counted(len(self.saved), 'is a candidate', 'are candidates')} (method.candidates); the least that "
                f"they reach is {target.shown(least)}"
            )
        return list(order[:needed])

    def narrowed(self, order: Sequence[int]) -> int:
        """How many inner channels the last candidate that leaves keeps, if it stays in part; 0 if it does not."""
        if not self.partial:
            return 0
        *others, last = self.chosen(order)
        left = self.saved[last] - (self.target.dense - self.target.amount - sum(self.saved[one] for one in others))
        piece, width = self._piece(last), _inside(self.spec, last)
        return max(0, (left - (self.saved[last] - width * piece)) // piece)

    def apply(self, order: Sequence[int]) -> ArchSpec:
        """The architecture that is left."""
        chosen, pieces = self.chosen(order), self.narrowed(order)
        blocks = dict(enumerate(self.spec.blocks))
        gone = {block for first in chosen for block in members(self.unit, first)}
        if pieces:
            gone.discard(chosen[-1])
            blocks[chosen[-1]] = _with_inside(self.spec, chosen[-1], pieces).blocks[chosen[-1]]
        return self.spec.with_blocks([None if number in gone else block for number, block in blocks.items()])

    def plan(self) -> Plan:
        """The answer of `vitc plan`: what is the same whichever blocks leave, and else the two ends."""
        target, saved = self.target, sorted(self.saved.values())
        least = min(map(self._piece, self.saved)) if self.partial else saved[0]
        step = max(map(self._piece, self.saved)) if self.partial else saved[-1]
        reachable = Reachable(target.dense - sum(saved), target.dense - least, step)
        most_first = sorted(self.saved, key=self.saved.__getitem__, reverse=True)
        try:
            ends = [self.chosen(most_first), self.chosen(most_first[::-1])]
        except UserError as error:
            return Plan(target.quantity, target.amount, reachable, dense=target.measured_dense, refusal=str(error))
        warn_of_collapse(target)
        order = [*self.saved]
        return Plan(target.quantity, target.amount, reachable, self._details(ends), dense=target.measured_dense,
                    sketch=lambda: Sketch(self.apply(order)))  # fmt: skip

    def fitted(self, measure: Callable[[ArchSpec], int]) -> tuple["Elimination", dict[str, Any]]:
        """The same with the number of candidates whose network is measured to be within a budget of latency.

        Args:
            measure: nanoseconds of a network.

        Returns:
            It, and what was tried on the way.

        Raises:
            UserError: where candidates differ in cost, so that it depends on their order.
        """
        if len(set(self.saved.values())) > 1:
            raise UserError(
                "budget.latency_ms: blocks of several stages differ in latency; name those of one in "
                "method.candidates, or give budget.macs"
            )
        order, dense = [*self.saved], self.target.dense

        def number(limit: int) -> int:
            return len(replace(self, target=replace(self.target, amount=min(limit, dense))).chosen(order))

        found = fit(self.target.amount, number, lambda number: measure(replace(self, number=number).apply(order)))
        return replace(self, number=found.choice), found.facts(self.target.amount)

    def _needed(self, order: Sequence[int]) -> int:
        """Of candidates in an order; of more than there are, as many as of the most expensive one would do."""
        if self.number is not None:
            return self.number
        remove = self.target.dense - self.target.amount
        sums = [0, *accumulate(self.saved[first] for first in order)]
        reached = next((number for number, saved in enumerate(sums) if saved >= remove), None)
        return len(order) - (sums[-1] - remove) // max(self.saved.values()) if reached is None else reached

    def _details(self, ends: Sequence[Sequence[int]]) -> dict[str, Any]:
        size = size_of(self.unit)
        found = _ends("blocks", *(size * len(chosen) for chosen in ends))
        if len(ends[0]) != len(ends[1]):
            return found
        target, number = self.target, len(ends[0])
        if self.partial and len({(saved, self._piece(first)) for first, saved in self.saved.items()}) == 1:
            found["channels"] = self.narrowed([*self.saved])
        if self.partial:
            return found
        counts = {
            "macs": lambda spec: costs.macs(spec, target.convention, target.method), "params": costs.params,
        }  # fmt: skip
        for name, count in counts.items():
            single = {first: count(self.spec) - count(_without(self.spec, members(self.unit, first)))
                      for first in self.saved}  # fmt: skip
            ordered = sorted(single.values())
            found |= _ends(name, count(self.spec) - sum(ordered[-number:]), count(self.spec) - sum(ordered[:number]))
        return found

    def _piece(self, block: int) -> int:
        """What an inner channel of a block costs."""
        width = _inside(self.spec, block)
        one_less = _with_inside(self.spec, block, width - 1)
        return self.target.dense - self.target.measure(one_less)

    def _shown(self, number: int) -> str:
        return counted(number, "pair of blocks", "pairs of blocks") if self.unit == "pair" else counted(number, "block")


def _saved(spec: ArchSpec, target: Target, candidates: Sequence[int], unit: Unit) -> dict[int, int]:
    if target.table is not None:  # what is measured is reckoned with block by block
        units = target.unit_costs(spec)
        return {first: sum(units.of_block(block).whole for block in members(unit, first)) for first in candidates}
    return {first: target.dense - target.measure(_without(spec, members(unit, first))) for first in candidates}


def _without(spec: ArchSpec, gone: Sequence[int]) -> ArchSpec:
    return spec.with_blocks([None if number in gone else block for number, block in enumerate(spec.blocks)])


def _must_have_an_inside(spec: ArchSpec, candidates: Sequence[int]) -> None:
    if any(spec.blocks[block].branches[ATTN] is not None for block in candidates):
        raise UserError(
            "method.partial: is for blocks of convolutions; those with attention have method.unit=attention"
        )


def _inside(spec: ArchSpec, block: int) -> int:
    branch = spec.blocks[block].branches[MLP]
    return branch.width if branch else 0


def _with_inside(spec: ArchSpec, block: int, pieces: int) -> ArchSpec:
    branch = spec.blocks[block].branches[MLP]
    assert branch is not None
    return spec.with_block(block, spec.blocks[block].with_branch(MLP, branch.of_pieces(pieces)))


def _ends(name: str, least: int, most: int) -> dict[str, Any]:
    return {name: least} if least == most else {f"least_{name}": least, f"most_{name}": most}
