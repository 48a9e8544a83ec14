"""Compressed blocks: what stays, what they compute, what is trained around them."""

import zlib

import pytest
import torch
import torch.nn.functional as F

from lightning_vitc import compact, costs
from lightning_vitc.networks import least_squares
from lightning_vitc.networks.dropped_attention import (
    active_units,
    drop_attention,
    random_units,
    train_around,
    without_blocks,
)
from lightning_vitc.networks.families.plain.shape import positions


def test_the_block_is_the_formula(any_network, images):
    """y = x + FC2'(act(FC1'(LN2(x)))), LayerScale kept, on the units that stay."""
    small = drop_attention(any_network, 2, 40, seed=3, images=images)
    before, block = any_network.blocks[2], small.blocks[2]
    units = random_units(96, 40, 3, 2)
    x = torch.randn(2, positions(any_network.spec)[0], 24)
    hidden = before.mlp.act(F.linear(before.norm2(x), before.mlp.fc1.weight[units], before.mlp.fc1.bias[units]))
    expected = x + before.ls2(F.linear(hidden, before.mlp.fc2.weight[:, units], before.mlp.fc2.bias))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-6)
    assert block.norm2.eps == before.norm2.eps
    assert not any(name.startswith(("blocks.2.norm1", "blocks.2.attn", "blocks.2.ls1")) for name in small.state_dict())
    assert [number for number, block in enumerate(small.spec.blocks) if block.branches[0] is None] == [2]


def test_training_model_is_the_compact_one(any_network, images):
    small = drop_attention(drop_attention(any_network, 2, 40, seed=0, images=images), 1, 40, seed=0, images=images)
    plain = compact(small, None)
    with torch.no_grad():
        torch.testing.assert_close(plain(images), small.eval()(images), rtol=0, atol=1e-6)
    assert costs.params(small.spec) == sum(parameter.numel() for parameter in plain.parameters())


def test_units_follow_from_seed_and_block():
    assert torch.equal(random_units(96, 40, 0, 2), random_units(96, 40, 0, 2))
    others = [random_units(96, 40, 1, 2), random_units(96, 40, 0, 3)]
    assert not any(torch.equal(random_units(96, 40, 0, 2), other) for other in others)
    units = random_units(96, 40, 0, 2)
    assert torch.equal(units, units.sort().values)
    assert len(set(units.tolist())) == 40


def test_active_units_are_those_with_the_largest_mean(make_network, images):
    network = make_network(depth=4)
    seen = []
    network.blocks[1].mlp.act.register_forward_hook(lambda *call: seen.append(call[-1]))
    with torch.no_grad():
        network(images)
    wanted = seen[0].mean((0, 1)).argsort(descending=True)[:30].sort().values
    assert torch.equal(active_units(network, 1, 30, images), wanted)


def test_a_new_mlp_keeps_only_the_last_bias(make_network, images):
    network = make_network()
    small, again = (drop_attention(network, 1, 30, seed=5, images=images, init="reinit") for _ in range(2))
    block = small.blocks[1].mlp
    assert torch.equal(block.fc1.weight, again.blocks[1].mlp.fc1.weight)
    assert torch.equal(block.fc2.bias, network.blocks[1].mlp.fc2.bias)
    assert not block.fc1.bias.any()
    assert 0.01 < block.fc1.weight.std().item() < 0.03
    assert torch.equal(small.blocks[2].mlp.fc1.weight, network.blocks[2].mlp.fc1.weight)


@pytest.mark.parametrize("kind", ["vit", "deit3"])
def test_least_squares_is_the_ridge_regression(make_network, images, kind):
    """Against a solution by the normal equations of the stacked system, and closer to the original block."""
    network = make_network(kind)
    plain = drop_attention(network, 1, 30, seed=5, images=images)
    fitted = drop_attention(network, 1, 30, seed=5, images=images, init="least_squares")
    with torch.no_grad():
        x = network.blocks[0](network.norm_pre(network._pos_embed(network.patch_embed(images))))
        wanted, block = network.blocks[1](x), plain.blocks[1]
        a = block.mlp.act(block.mlp.fc1(block.norm2(x))).flatten(0, 1)
        a = torch.cat([a, torch.ones(len(a), 1)], dim=1).double()
        r = ((wanted - block(x)) / getattr(block.ls2, "gamma", torch.ones(()))).flatten(0, 1).double()
        ridge = 1e-2 * a.square().sum(0).mean()
        rows = torch.cat([a, ridge.sqrt() * torch.eye(31).double()])
        change = torch.linalg.lstsq(rows, torch.cat([r, torch.zeros(31, 24).double()])).solution.T.float()
        own = fitted.blocks[1].mlp.fc2
        torch.testing.assert_close(own.weight, block.mlp.fc2.weight + change[:, :-1], rtol=0, atol=1e-4)
        torch.testing.assert_close(own.bias, block.mlp.fc2.bias + change[:, -1], rtol=0, atol=1e-4)
        assert F.mse_loss(fitted.blocks[1](x), wanted) < 0.7 * F.mse_loss(block(x), wanted)


def test_units_and_new_weights_have_streams_of_their_own(make_network, images):
    def stream(purpose):
        return torch.Generator().manual_seed(zlib.crc32(f"{purpose} 5 1".encode()))

    assert torch.equal(random_units(96, 40, 5, 1), torch.randperm(96, generator=stream("units"))[:40].sort().values)
    drawn = drop_attention(make_network(), 1, 30, seed=5, images=images, init="reinit").blocks[1].mlp.fc1.weight
    expected = torch.nn.init.trunc_normal_(torch.empty(30, 24), std=0.02, generator=stream("weights"))
    assert torch.equal(drawn, expected)


def test_least_squares_sees_all_images(make_network, images, monkeypatch):
    network = make_network()
    whole = drop_attention(network, 1, 30, seed=5, images=images, init="least_squares")
    monkeypatch.setattr(least_squares, "SEEN_AT_ONCE", 1)
    parts = drop_attention(network, 1, 30, seed=5, images=images, init="least_squares")
    torch.testing.assert_close(parts.blocks[1].mlp.fc2.weight, whole.blocks[1].mlp.fc2.weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("init", ["reuse", "reinit", "least_squares"])
def test_no_hidden_unit_leaves_the_bias(make_network, images, init):
    """h = 0 is what `budget.convention=full budget.drop_blocks=n` leads to."""
    network = make_network("deit3")
    small = drop_attention(network, 1, 0, seed=5, images=images, init=init)
    train_around(small, behind=2)
    x, block = torch.randn(2, positions(network.spec)[0], 24), small.blocks[1]
    torch.testing.assert_close(block(x), x + block.ls2(block.mlp.fc2.bias), rtol=0, atol=1e-6)
    if init == "least_squares":  # the mean of what the block did, shrunk by the ridge
        with torch.no_grad():
            before = network.blocks[0](network.norm_pre(network._pos_embed(network.patch_embed(images))))
            wanted = network.blocks[1](before)
            assert F.mse_loss(block(before), wanted) < F.mse_loss(
                before + block.ls2(network.blocks[1].mlp.fc2.bias), wanted
            )
    optimizer = torch.optim.AdamW([one for one in small.parameters() if one.requires_grad], lr=0.1)
    small.forward_features(images).square().mean().backward()
    optimizer.step()
    small.eval()
    with torch.no_grad():
        torch.testing.assert_close(compact(small, None)(images), small(images), rtol=0, atol=1e-6)


def test_what_is_trained(any_network, images):
    small = drop_attention(any_network, 1, 40, seed=0, images=images)
    train_around(small, behind=2)
    trained = {name for name, parameter in small.named_parameters() if parameter.requires_grad}
    frozen = {name for name, parameter in small.named_parameters() if not parameter.requires_grad}
    assert {name.split(".")[1] for name in trained if name.startswith("blocks")} == {"0", "1", "2"}
    assert {name.partition(".")[0] for name in frozen} == {"blocks", "head"} | (
        {"head_dist"} if small.spec.distilled else set()
    ) | ({"fc_norm"} if small.spec.options.fc_norm else set())
    small.forward_features(images).square().mean().backward()
    assert all(small.get_parameter(name).grad is not None for name in trained)
    assert all(small.get_parameter(name).grad is None for name in frozen)
    train_around(small, 2, beyond=None)
    assert {name for name, one in small.named_parameters() if one.requires_grad} >= {
        name for name, _ in small.named_parameters() if name.startswith("blocks")
    }


def test_whole_blocks_leave(any_network, images):
    small = compact(any_network, without_blocks(any_network, (1, 2)))
    x = any_network.norm_pre(any_network._pos_embed(any_network.patch_embed(images)))
    for number, block in enumerate(any_network.blocks):
        x = x if number in (1, 2) else block(x)
    with torch.no_grad():
        torch.testing.assert_close(small(images), any_network.forward_head(any_network.norm(x)), rtol=0, atol=1e-5)
