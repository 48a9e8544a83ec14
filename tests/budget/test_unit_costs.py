"""What was removed, in numbers derived by hand."""

from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.stacks import stacks_of
from lightning_vitc.budget.unit_costs import StackCosts, UnitCosts, removed
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.plain.shape import vit, vit_block

SPEC = vit("small", (8, 8), (4, 4), 1, 10, 4, (vit_block(attention(2, (2, 2)), 4),) * 2, 1.0)
STACK = StackCosts(stacks_of(SPEC)[0], attn=1, mlp=2, head=3, dim=4, channel=5)  # a block: 1 + 6 + 16 and 2 + 20
COSTS = UnitCosts(fixed=10, stacks=(STACK,), dense=100)


def test_what_is_removed_by_skipping_and_by_pruning() -> None:
    """Without one attention (23) 77 are left; without two channels of what runs (10) and one of what does not, 67."""
    masks = Masks.full(SPEC)
    masks.branches[1, 0] = False
    masks.channels[0, :2] = False
    masks.dims[1, 0, 0] = False
    assert removed(masks, COSTS) == {
        "blocks": 2, "skipped_percent": 23, "pruned_percent": 10, "left_percent": 67,
    }  # fmt: skip
