"""What few-shot methods and gates do to networks of timm's Eva class."""

import pytest
import torch

from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.prunable import kept_of, masked
from lightning_vitc.few_shot.adaptors import adapted
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.dropped_attention import drop_attention, train_around, without_blocks
from lightning_vitc.networks.gates.attaching import with_gates, without_gates
from lightning_vitc.networks.gates.networks import GateNetwork
from lightning_vitc.networks.gates.skipping import set_gating
from tests.networks.eva.tiny import DEPTH, DIM, KINDS, NORMED, backbone

IMAGES = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", KINDS)
def test_identity_adaptors_change_nothing(kind):
    network = backbone(kind)
    small, plain = adapted(network, 1).eval(), compact(network, without_blocks(network, (1,)))
    with torch.no_grad():
        torch.testing.assert_close(small(IMAGES), plain(IMAGES), rtol=0, atol=1e-5)
    trained = [parameter for parameter in small.parameters() if parameter.requires_grad]
    assert [parameter.shape for parameter in trained] == [(DIM, DIM)] * (DEPTH - 1)


@pytest.mark.parametrize("init", ["reuse", "reinit", "least_squares"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_loses_its_attention(kind, init):
    network = backbone(kind)
    small = drop_attention(network, 1, 8, seed=0, images=IMAGES, init=init).eval()
    assert small.spec.blocks[1].branches[0] is None
    assert small.spec.blocks[1].branches[1].width == 8
    with torch.no_grad():
        assert (small(IMAGES) - network(IMAGES)).abs().max() > 1e-3
    train_around(small, behind=2)
    frozen = {name.partition(".")[0] for name, own in small.named_parameters() if not own.requires_grad}
    assert frozen <= {"head", "fc_norm", "attn_pool"}


def test_all_units_and_least_squares_make_up_for_the_attention_as_far_as_they_can():
    network = backbone()
    far, near = (
        drop_attention(network, 1, 128, seed=0, images=IMAGES, init=init).eval() for init in ("reuse", "least_squares")
    )
    with torch.no_grad():
        wanted = network.entering(2, IMAGES)
        errors = [(small.entering(2, IMAGES) - wanted).square().mean() for small in (far, near)]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("kind", KINDS)
def test_gates_skip_branches(kind):
    network = backbone(kind)
    pairs = [tuple(GateNetwork("relu_ln", DIM).start() for _ in range(2)) for _ in range(DEPTH)]
    for pair in pairs:
        for gate in pair:
            torch.nn.init.normal_(gate.last.weight, std=3.0)
    pairs[0][1].last.bias.data[0] = 100.0  # which skips, whatever it sees
    gated = with_gates(network, pairs).eval()
    with torch.no_grad():
        per_image = gated(IMAGES)
        set_gating(gated, "masked")
        torch.testing.assert_close(gated(IMAGES), per_image, rtol=1e-4, atol=1e-4)
        assert (per_image - network(IMAGES)).abs().max() > 1e-3
        torch.testing.assert_close(without_gates(gated).eval()(IMAGES), network(IMAGES))
        ones = torch.ones(DEPTH, 2)
        torch.testing.assert_close(network(IMAGES, gates=ones), network(IMAGES), rtol=1e-5, atol=1e-5)
    assert compact(gated, None).spec == gated.spec


@pytest.mark.parametrize("kind", [*NORMED, "dinov3"])
def test_masked_networks_with_gates_are_those_that_are_left(kind):
    network = backbone(kind)
    masks = Masks.full(network.spec)
    masks.dims &= torch.rand(masks.dims.shape) < 0.7
    masks.channels &= torch.rand(masks.channels.shape) < 0.6
    small = compact(network, kept_of(network.spec, masks))
    halves = lambda number, branch, seen: seen.new_full((len(seen),), 0.5)  # noqa: E731
    with torch.no_grad():
        torch.testing.assert_close(masked(network, masks)(IMAGES), small(IMAGES), rtol=0, atol=1e-5)
        weighed = masked(network, masks)(IMAGES, gates=halves)
    assert (weighed - small(IMAGES)).abs().max() > 1e-3
