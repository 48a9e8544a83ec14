"""How many blocks lose their attention, and how many hidden units they keep, for a budget (DC-ViT, eq. 1 and 2).

Legend: M_o, M_p the cost of the original and of the compressed network, A that of an attention with its norm,
P that of an MLP without its norm, k the blocks, h the hidden units that every one of them keeps. All integers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_vitc.budget.plan import Plan, Reachable, Sketch
from lightning_vitc.budget.stacks import Stack, stack_of, stacks_of
from lightning_vitc.budget.target import Target
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.few_shot.asked import asked_target, counting_target, share_of, warn_of_collapse
from lightning_vitc.latency.fitting import fit
from lightning_vitc.latency.table import LatencyTable
from lightning_vitc.networks import costs
from lightning_vitc.networks.blocks import MLP, Block
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import BudgetConfig


@dataclass(frozen=True)
class BlockPlan:
    """`blocks` (k) lose their attention and keep `hidden` (h) units of their MLPs."""

    blocks: int
    hidden: int

    def apply(self, spec: ArchSpec, candidates: Sequence[int]) -> ArchSpec:
        """The architecture with the first of these blocks compressed; which ones does not change what it costs."""
        chosen = candidates[: self.blocks]
        return spec.with_blocks([self._small(block) if number in chosen else block
                                 for number, block in enumerate(spec.blocks)])  # fmt: skip

    def _small(self, block: Block) -> Block:
        mlp = block.branches[MLP]
        assert mlp is not None
        return Block((None, mlp.of_pieces(self.hidden)))


@dataclass(frozen=True)
class BlockCosts:
    """A, P as `unit` (one hidden unit) times `hidden` (all of them), and the whole `block`, norms included."""

    attn: int
    unit: int
    hidden: int
    block: int

    @classmethod
    def of(cls, spec: ArchSpec, target: Target, candidates: Sequence[int]) -> "BlockCosts":
        """Read off the cost model, by the difference that removing a part of a candidate makes.

        Raises:
            UserError: for candidates that differ.
        """
        stack = _stack(spec, candidates)
        attn, mlp, hidden = stack.attn, stack.mlp, stack.channels
        if target.table is not None:  # the same of costs that are measured: linear, and exact for the whole
            units = target.unit_costs(spec).of_block(stack.start)
            return cls(units.whole_attn, units.channel, hidden, units.whole)

        def measure(*blocks: Block) -> int:
            return target.measure(stack.alone(spec, *blocks))

        parts = (attn, mlp), (None, mlp), (None, mlp.of_pieces(hidden - 1))
        whole, alone, less = (measure(Block(branches)) for branches in parts)
        return cls(attn=whole - alone, unit=alone - less, hidden=hidden, block=whole - measure())

    def removed(self, plan: BlockPlan) -> int:
        """What a plan takes off the original network."""
        return plan.blocks * (self.attn + (self.hidden - plan.hidden) * self.unit)


def _stack(spec: ArchSpec, candidates: Sequence[int]) -> Stack:
    """The blocks that all candidates are of: those of another stage would cost something else."""
    stacks = stacks_of(spec)
    found = {stack_of(stacks, block) for block in candidates}
    if len(found) > 1:
        stages = ", ".join(f"{stack.start} to {stack.stop - 1}" for stack in sorted(found, key=lambda one: one.start))
        raise UserError(f"method.candidates: blocks of several stages ({stages}) differ in cost; name those of one")
    return found.pop()


def block_target(
    budget: BudgetConfig, spec: ArchSpec, candidates: Sequence[int], table: LatencyTable | None = None
) -> Target:
    """What the `budget` section asks of a network: an amount, or that of dropping `drop_blocks` whole blocks.

    Args:
        budget: the section.
        spec: the dense network.
        candidates: the blocks that may be compressed.
        table: of the network; read with `latency_ms`.

    Raises:
        UserError: where not exactly one of them is given, or it cannot be meant.
    """
    if budget.drop_blocks is None:
        return asked_target(budget, spec, table)
    target = counting_target(budget, spec)
    block = BlockCosts.of(spec, target, candidates).block
    return replace(target, amount=target.dense - budget.drop_blocks * block)


def plan_blocks(spec: ArchSpec, target: Target, candidates: Sequence[int], extra: int = 0) -> BlockPlan:
    """The fewest blocks that reach the target, and their hidden units (Zhang et al., CVPR 2024, eq. 1 and 2).

    k = ceil((M_o - M_p) / (A + P)), feasible where kA <= M_o - M_p; d = ((M_o - M_p) - kA) / (kP) and
    h = floor(H (1 - d)), so that the target is never exceeded and missed by less than k units of all k blocks. Between
    k - 1 blocks without any MLP and k without their attention there may be a gap; a latency in it leads to the latter.

    Args:
        spec: the dense network.
        target: what it may cost.
        candidates: the blocks that may be compressed, all of one stage.
        extra: compress so many blocks more, each by less (the paper's ablation).

    Raises:
        UserError: for a target that cannot be reached, naming the nearest two that can.
    """
    parts = BlockCosts.of(spec, target, candidates)
    remove = target.dense - target.amount
    blocks = fewest_blocks(remove, parts) + extra
    gap = remove == 0 or blocks * parts.attn > remove
    if blocks > len(candidates) and remove > 0:
        least = target.dense - parts.removed(BlockPlan(len(candidates), 0))
        raise UserError(
            f"{_asked(target)} needs {counted(blocks, 'block')}, and "
            f"{counted(len(candidates), 'is a candidate', 'are candidates')} (method.candidates); the least that they "
            f"reach is {target.shown(least)}"
        )
    if gap and target.table is None:
        raise UserError(_unreachable(target, parts, len(candidates), extra))
    if gap:  # what is reckoned with is not exact, and what is measured in the end may be less
        return BlockPlan(max(blocks, 1), parts.hidden)
    spare = blocks * (parts.attn + parts.hidden * parts.unit) - remove  # what the hidden units that stay may cost
    return BlockPlan(blocks, spare // (blocks * parts.unit))


def fewest_blocks(remove: int, parts: BlockCosts) -> int:
    """k = ceil((M_o - M_p) / (A + P)) (eq. 1), of what is to be removed."""
    return -(-remove // (parts.attn + parts.hidden * parts.unit))


def first_reached(parts: BlockCosts, extra: int) -> int:
    """The least k with which anything can be reached: k + `extra` attentions cost no more than k whole blocks."""
    return max(1, -(-extra * parts.attn // (parts.hidden * parts.unit)))


def plan_of_blocks(spec: ArchSpec, target: Target, candidates: Sequence[int], extra: int = 0) -> Plan:
    """The answer of `vitc plan`; its refusal is that of `plan_blocks`. Warns of a reduction that ruins a network."""
    parts = BlockCosts.of(spec, target, candidates)
    least = target.dense - parts.removed(BlockPlan(len(candidates), 0))
    reachable = Reachable(
        least, target.dense - (first_reached(parts, extra) + extra) * parts.attn, len(candidates) * parts.unit
    )
    try:
        chosen = plan_blocks(spec, target, candidates, extra)
    except UserError as error:
        return Plan(target.quantity, target.amount, reachable, dense=target.measured_dense, refusal=str(error))
    warn_of_collapse(target)
    small = chosen.apply(spec, candidates)
    macs = costs.macs(small, target.convention, target.method)
    details = {"blocks": chosen.blocks, "hidden": chosen.hidden, "macs": macs, "params": costs.params(small)}
    return Plan(target.quantity, target.amount, reachable, details, dense=target.measured_dense,
                sketch=lambda: Sketch(small))  # fmt: skip


def measured_plan(
    spec: ArchSpec, target: Target, candidates: Sequence[int], extra: int, measure: Callable[[ArchSpec], int]
) -> tuple[BlockPlan, dict[str, Any]]:
    """The plan whose network is measured to be within a budget of latency, and what was tried on the way to it.

    Args:
        spec, target, candidates, extra: as of `plan_blocks`.
        measure: nanoseconds of a network.

    Raises:
        UserError: as `plan_blocks`, and where nothing within the budget was found.
    """
    found = fit(
        target.amount,
        lambda limit: plan_blocks(spec, replace(target, amount=min(limit, target.dense)), candidates, extra),
        lambda plan: measure(plan.apply(spec, candidates)),
    )
    return found.choice, found.facts(target.amount)


def _unreachable(target: Target, parts: BlockCosts, candidates: int, extra: int) -> str:
    """Why, and the nearest on both sides: k + `extra` blocks reach from their attention alone to k whole blocks.

    The dense network itself is not one of them, and neither is what needs more blocks than there are candidates.
    """
    remove, mlp = target.dense - target.amount, parts.hidden * parts.unit
    blocks = fewest_blocks(remove, parts)
    first = first_reached(parts, extra)
    nearest = []
    if max(blocks, first) + extra <= candidates:
        nearest.append((max(blocks, first) + extra) * parts.attn)
    if first < blocks:
        nearest.append((blocks - 1) * (parts.attn + mlp))
    shown = " and ".join(share_of(target.dense - removed, target) for removed in nearest)
    wrong = "cannot be reached" if remove else "is the dense network, of which nothing is to be compressed"
    if not nearest:
        with_all = f"{counted(candidates, 'candidate')} and {counted(extra, 'extra block')}"
        return f"{_asked(target)} {wrong}, nor can anything else with {with_all}"
    return f"{_asked(target)} {wrong}; the nearest that can {'is' if len(nearest) == 1 else 'are'} {shown}"


def _asked(target: Target) -> str:
    return f"budget.{target.quantity}: {share_of(target.amount, target)}"
