"""Compensated networks: the same where nothing goes, or where what goes follows from what stays; of every family."""

from copy import deepcopy
from typing import Any

import pytest
import torch

from lightning_vitc import compact, costs
from lightning_vitc.budget.masks import ATTN, MLP, Masks
from lightning_vitc.budget.prunable import kept_of, pruned_spec
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.compensation.calibration import Calibration
from lightning_vitc.compensation.deciding import removable
from lightning_vitc.compensation.in_order import InOrder, compensated
from lightning_vitc.compensation.outlets import Outlet, kept_pieces
from lightning_vitc.networks.spec import ArchSpec
from tests.compensation.small import KINDS, images, network, outlets, thinned

EXACT = 1e-9  # of a ridge


def error(small: Any, whole: Any, seen: torch.Tensor) -> float:
    with torch.no_grad():
        return float((small.forward_features(seen) - whole.forward_features(seen)).square().mean())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_where_nothing_goes_the_network_is_the_same(kind: str) -> None:
    whole = network(kind)
    small = compensated(whole, Masks.full(whole.spec), Calibration.of(images(whole), 8))
    assert small.state_dict().keys() == whole.state_dict().keys()
    assert all(torch.equal(weight, small.state_dict()[name]) for name, weight in whole.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_compensated_is_what_is_exported_and_counted(kind: str) -> None:
    whole = network(kind)
    masks, seen = thinned(whole), images(whole)
    small = compensated(whole, masks, Calibration.of(seen, 8))
    assert small.spec == pruned_spec(whole.spec, masks)
    assert costs.macs(small.spec) == UnitCosts.of(whole.spec).total(masks)
    plain = compact(small, None)
    assert ArchSpec.of(plain) == small.spec
    torch.testing.assert_close(plain(seen), small(seen), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_streams_that_layers_are_fitted_to_are_those_of_the_pruned_network(kind: str) -> None:
    """Also behind a block that is gone, one without its attention, and norms of what is left."""
    whole = network(kind)
    masks, seen = thinned(whole), images(whole)
    last = whole.spec.depth - 1
    masks.branches[removable(whole.spec)[0]] = False
    if whole.spec.blocks[last].branches[ATTN] is not None:
        masks.branches[last, ATTN] = False
    work = InOrder(whole, masks, Calibration.of(seen, 8), "regression", 1e-3)
    small = work.run()
    torch.testing.assert_close(small.tail(torch.cat(work.streams)), small.forward_features(seen), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_regression_is_better_than_the_mean_and_that_than_nothing(kind: str) -> None:
    whole = network(kind)
    seen, masks = images(whole), thinned(whole)
    found = [error(compensated(whole, masks, Calibration.of(seen, 8), how), whole, seen)  # type: ignore[arg-type]
             for how in ("regression", "mean", "none")]  # fmt: skip
    assert found[0] < 0.9 * found[1]
    assert found[1] < found[2]


@torch.no_grad()
def make_redundant(model: Any, masks: Masks) -> None:
    """Let what goes be a linear function of what stays, in the first layers of every branch."""
    generator = torch.Generator().manual_seed(3)
    for place in outlets(model):
        kept = kept_pieces(model.spec, masks, place)
        block, position = model.blocks[place[0]], place[1]
        if position == MLP:
            source = torch.randint(int(kept.sum()), (int((~kept).sum()),), generator=generator)
            for tensor in (block.mlp.fc1.weight, block.mlp.fc1.bias):
                tensor[~kept] = tensor[kept][source]  # units that go are copies of ones that stay
        else:
            width = len(kept) // model.spec.blocks[place[0]].branches[ATTN].groups
            for tensor in block.attn.qkv.parameters():
                tensor = tensor.unflatten(0, (3, -1))
                tensor[:2].unflatten(1, (-1, width))[:, :] = tensor[:2].unflatten(1, (-1, width))[:, :1]  # one pattern
                mixed = torch.randn(int((~kept).sum()), int(kept.sum()), generator=torch.Generator().manual_seed(4))
                tensor[2, ~kept] = mixed @ tensor[2, kept]


@pytest.mark.parametrize("kind", ["plain, distilled", "plain, gains", "swin", "t2t"])
@torch.no_grad()
def test_what_follows_linearly_from_what_stays_can_go(kind: str) -> None:
    """Hidden units, value dimensions, and a whole head."""
    whole = network(kind)
    masks, seen = thinned(whole), images(whole)
    for block in whole.blocks:
        if (table := getattr(block.attn, "relative_position_bias_table", None)) is not None:
            table.copy_(table[:, :1].expand_as(table))  # all heads look alike, but for their values
    make_redundant(whole, masks)
    small = compensated(whole, masks, Calibration.of(seen, 8), ridge=EXACT)
    assert min(map(len, (masks.heads[0].nonzero(), (~masks.dims[0]).nonzero(), (~masks.channels[0]).nonzero()))) > 0
    new = torch.randn(seen.shape, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(small(new), whole(new), rtol=0, atol=1e-5)
    cut = compact(whole, kept_of(whole.spec, masks))
    assert float((cut(new) - whole(new)).abs().max()) > 1e-2  # which is not so without compensation


@pytest.mark.parametrize("kind", ["mobilenet", "resnet"])
@torch.no_grad()
def test_so_can_channels_of_convolutions(kind: str) -> None:
    whole = network(kind)
    masks, seen = thinned(whole), images(whole)
    names = {"mobilenet": ("conv_pw", "bn1", "conv_dw", "bn2"), "resnet": ("conv1", "bn1")}[kind]
    for number, position in outlets(whole):
        kept = kept_pieces(whole.spec, masks, (number, position))
        source = kept.nonzero().flatten()[torch.arange(int((~kept).sum())) % int(kept.sum())]
        for name in names:
            layer = getattr(whole.blocks[number], name)
            for tensor in (layer.weight, layer.bias, *layer.buffers()):
                if tensor is not None and tensor.ndim:
                    tensor[~kept] = tensor[source]
    small = compensated(whole, masks, Calibration.of(seen, 8), ridge=EXACT)
    torch.testing.assert_close(small(seen), whole(seen), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain, distilled", "plain, gains", "eva, gated units", "mobilenet"])
@torch.no_grad()
def test_a_block_that_adds_a_constant_can_go(kind: str) -> None:
    """It goes into the bias of the block before, through its gains."""
    whole = network(kind)
    gone = 4 if kind == "mobilenet" else 1
    masks, seen = Masks.full(whole.spec), images(whole)
    for position in (ATTN, MLP):
        if whole.spec.blocks[gone].branches[position] is not None:
            outlet = Outlet.of(whole, (gone, position))
            outlet.layer.weight.zero_()
    masks.branches[gone] = False
    small = compensated(whole, masks, Calibration.of(seen, 8))
    assert small.spec.depth == whole.spec.depth - 1
    torch.testing.assert_close(small(seen), whole(seen), rtol=0, atol=1e-5)
    cut = compensated(whole, masks, Calibration.of(seen, 8), "none")
    assert float((cut(seen) - whole(seen)).abs().max()) > 1e-3


@pytest.mark.parametrize("position", [ATTN, MLP])
@torch.no_grad()
def test_so_can_a_branch_of_a_block_that_stays(position: int) -> None:
    whole = network("plain, gains")
    masks, seen = Masks.full(whole.spec), images(whole)
    Outlet.of(whole, (1, position)).layer.weight.zero_()
    masks.branches[1, position] = False
    small = compensated(whole, masks, Calibration.of(seen, 8))
    assert (small.blocks[1].attn, small.blocks[1].mlp)[position] is None
    torch.testing.assert_close(small(seen), whole(seen), rtol=0, atol=1e-5)


@torch.no_grad()
def test_later_layers_are_fitted_to_what_they_see_in_the_pruned_network() -> None:
    """The second block's weights are those of a network whose first block was pruned before, alone."""
    whole = network("plain, distilled")
    masks, seen = thinned(whole), Calibration.of(images(whole), 8)
    first, second = deepcopy(masks), deepcopy(masks)
    for mask, rows in ((first, slice(1, None)), (second, slice(0, 1))):
        full = Masks.full(whole.spec)
        mask.dims[rows], mask.channels[rows] = full.dims[rows], full.channels[rows]
    both, only = compensated(whole, masks, seen), compensated(whole, second, seen)
    before = compensated(whole, first, seen)
    assert torch.equal(both.blocks[0].mlp.fc2.weight, before.blocks[0].mlp.fc2.weight)
    assert not torch.allclose(both.blocks[1].mlp.fc2.weight, only.blocks[1].mlp.fc2.weight, atol=1e-4)


@torch.no_grad()
def test_batches_and_processes_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = network("plain, distilled")
    masks, seen = thinned(whole), images(whole)
    one, other = (compensated(whole, masks, Calibration.of(seen, size)) for size in (5, 24))
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(weight, other.state_dict()[name], rtol=0, atol=1e-6)
