"""Skipping is exact in every mode, through compaction, saving and export, and its costs are counted."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_vitc import ArchSpec, compact, costs, load
from lightning_vitc.artifacts.artifact import save
from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.prunable import kept_of, masked_weights
from lightning_vitc.dynamic.costs import DynamicCosts
from lightning_vitc.dynamic.rates import RunRates
from lightning_vitc.exporting.deployed import OnnxNetwork, Pt2Network
from lightning_vitc.exporting.write_formats import write_int8, write_onnx, write_pt2
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.blocks import Block
from lightning_vitc.networks.gates.attaching import lower, without_gates
from lightning_vitc.networks.gates.skipping import noting_decisions, pooled, set_gating

TOLERANCE = dict(rtol=0, atol=1e-5)


def in_mode(network: Any, mode: Any, images: torch.Tensor) -> torch.Tensor:
    set_gating(network, mode)
    with torch.no_grad():
        logits = network(images)
    set_gating(network, "per_sample")
    return logits


def decisions(network: Any, images: torch.Tensor) -> torch.Tensor:
    with noting_decisions(network) as found, torch.no_grad():
        network(images)
    return torch.stack(found, dim=1).unflatten(1, (-1, 2))


def test_the_gates_of_the_fixture_disagree(gated: Backbone, images: torch.Tensor) -> None:
    rates = decisions(gated, images).float().mean(0)
    assert ((rates > 0) & (rates < 1)).sum() >= 4


def test_per_sample_is_the_masked_computation(gated: Backbone, images: torch.Tensor) -> None:
    masked = in_mode(gated, "masked", images)
    torch.testing.assert_close(in_mode(gated, "per_sample", images), masked, **TOLERANCE)
    one_by_one = torch.cat([in_mode(gated, "per_sample", image[None]) for image in images])
    torch.testing.assert_close(one_by_one, masked, **TOLERANCE)


def test_in_other_networks_too(relative: Backbone, images: torch.Tensor, tmp_path: Path) -> None:
    rates = decisions(relative, images).float().mean(0)
    assert ((rates > 0) & (rates < 1)).any()
    masked = in_mode(relative, "masked", images)
    torch.testing.assert_close(in_mode(relative, "per_sample", images), masked, **TOLERANCE)
    masks = Masks.full(relative.spec)
    masks.dims[2, 1], masks.channels[1, ::2] = False, False
    cut = torch.func.functional_call(relative, masked_weights(relative, masks), (images,))
    small = compact(relative, kept_of(relative.spec, masks))
    torch.testing.assert_close(in_mode(small, "per_sample", images), cut.detach(), **TOLERANCE)
    save(small, tmp_path / "out", {})
    assert torch.equal(in_mode(load(tmp_path / "out"), "per_sample", images), in_mode(small, "per_sample", images))


def test_per_batch_is_the_masked_computation_of_the_mean_logits(gated: Backbone, images: torch.Tensor) -> None:
    def decide(block: int, branch: int, pooled: torch.Tensor) -> torch.Tensor:
        owner = gated.blocks[block]
        skip, run = (owner.gate2 if branch else owner.gate1)(pooled).mean(0)
        return (run > skip).float().expand(len(pooled))

    with torch.no_grad():
        expected = gated(images, gates=decide)
    torch.testing.assert_close(in_mode(gated, "per_batch", images), expected, **TOLERANCE)
    alone = torch.cat([in_mode(gated, "per_batch", image[None]) for image in images])
    torch.testing.assert_close(alone, in_mode(gated, "masked", images), **TOLERANCE)


@pytest.mark.parametrize("mode", ["per_sample", "per_batch"])
def test_what_is_skipped_is_not_computed(gated: Backbone, images: torch.Tensor, mode: str) -> None:
    seen: dict[tuple[int, int], int] = dict.fromkeys([(block, branch) for block in range(4) for branch in (0, 1)], 0)
    for number, block in enumerate(gated.blocks):
        for branch, layer in enumerate((block.attn, block.mlp)):
            layer.register_forward_pre_hook(
                lambda _, args, key=(number, branch): seen.update({key: seen[key] + len(args[0])})
            )
    ran = decisions(gated, images)
    if mode == "per_sample":
        assert [seen[key] for key in seen] == ran.sum(0).flatten().tolist()
    else:
        seen = dict.fromkeys(seen, 0)
        in_mode(gated, mode, images)
        assert set(seen.values()) == {0, 13}


def test_unknown_modes_are_refused(gated: Backbone) -> None:
    with pytest.raises(ValueError, match="per_sample, per_batch, masked"):
        set_gating(gated, "sometimes")  # type: ignore[arg-type]


def test_costs(gated: Backbone, images: torch.Tensor) -> None:
    spec, plain = gated.spec, without_gates(gated).spec
    found = DynamicCosts.of(spec)
    assert found.worst == costs.macs(spec) == costs.macs(plain) + costs.parts(spec)["gates"]
    assert costs.params(spec) == sum(parameter.numel() for parameter in gated.parameters())
    ran = decisions(gated, images)
    by_hand = []
    for image in ran:
        blocks = tuple(
            Block(tuple(branch if runs else None for branch, runs in zip(block, which, strict=True)))
            for block, which in zip(spec.blocks, image.tolist(), strict=True)
        )
        gates = costs.parts(spec)["gates"] - costs.parts(spec.with_stage(*blocks))["gates"]  # which run all the same
        by_hand.append(costs.macs(spec.with_stage(*blocks)) + gates)
    assert found.expected(ran.double()).tolist() == by_hand
    assert float(found.expected(ran.double().mean(0))) == pytest.approx(sum(by_hand) / len(by_hand))


def test_compaction_keeps_the_gates(gated: Backbone, images: torch.Tensor) -> None:
    masks, draw = Masks.full(gated.spec), torch.Generator().manual_seed(4)
    masks.dims &= torch.rand(masks.dims.shape, generator=draw) > 0.4
    masks.channels &= torch.rand(masks.channels.shape, generator=draw) > 0.4
    masks.dims[2, 1] = False  # a whole head
    small = compact(gated, kept_of(gated.spec, masks))
    with torch.no_grad():
        expected = torch.func.functional_call(gated, masked_weights(gated, masks), (images,))
    torch.testing.assert_close(in_mode(small, "per_sample", images), expected, **TOLERANCE)
    assert [block.gates for block in ArchSpec.of(small).blocks] == [block.gates for block in gated.spec.blocks]
    assert costs.params(ArchSpec.of(small)) == sum(parameter.numel() for parameter in small.parameters())
    assert costs.macs(ArchSpec.of(small)) < costs.macs(gated.spec)


def test_a_saved_network_skips(gated: Backbone, images: torch.Tensor, tmp_path: Path) -> None:
    small = compact(gated, None)
    save(small, tmp_path / "out", {})
    loaded = load(tmp_path / "out")
    assert torch.equal(in_mode(loaded, "per_sample", images), in_mode(small, "per_sample", images))
    assert torch.equal(decisions(loaded, images), decisions(gated, images))
    assert ArchSpec.of(loaded) == gated.spec


def test_a_file_without_gates_is_read(gated: Backbone) -> None:
    plain = without_gates(gated).spec
    common = {key: getattr(plain, key) for key in ("name", "img_size", "in_chans", "num_classes", "embed_dim")}
    blocks = [
        {"attn": {"head_dim": attn.query, "value_dims": attn.pieces}, "hidden": mlp.width} for attn, mlp in plain.blocks
    ]
    older = {**common, **vars(plain.options), "blocks": blocks}
    assert ArchSpec.from_dict(older) == plain


def test_lowered_gates_run_less(gated: Backbone, images: torch.Tensor) -> None:
    before = decisions(gated, images)[:, 0]
    lower(gated, 3.0)
    after = decisions(gated, images)[:, 0]
    assert after.sum() < before.sum()
    assert not (after[:, 0] & ~before[:, 0]).any()
    lower(gated, 1e4)
    assert not decisions(gated, images).any()


def test_without_gates_everything_runs(gated: Backbone, images: torch.Tensor) -> None:
    plain = without_gates(gated).eval()
    with torch.no_grad():
        expected = gated(images, gates=torch.ones(4, 2))
        torch.testing.assert_close(plain(images), expected, **TOLERANCE)
    assert not [name for name in plain.state_dict() if "gate" in name]


def test_run_rates_by_class() -> None:
    rates = RunRates(3, 2)
    rates.update(torch.tensor([[[1, 0], [1, 1]], [[0, 0], [1, 0]]]), torch.tensor([0, 0]))
    rates.update(torch.tensor([[[1, 1], [0, 0]]]), torch.tensor([2]))
    found = rates.compute()
    assert found["by_class"][0].tolist() == [[0.5, 0.0], [1.0, 0.5]]
    assert found["by_class"][1].isnan().all()
    assert found["by_class"][2].tolist() == [[1, 1], [0, 0]]
    torch.testing.assert_close(found["all"], torch.tensor([[2 / 3, 1 / 3], [2 / 3, 1 / 3]]))


@pytest.fixture
def alike(gated: Backbone) -> Backbone:
    """A weight that two gates have alike is stored once."""
    with torch.no_grad():
        gated.blocks[3].gate2.load_state_dict(gated.blocks[0].gate1.state_dict())  # type: ignore[union-attr]
    return compact(gated, None)


def assert_skips(network: Any, small: Any, images: torch.Tensor) -> None:
    """An exported graph decides for every image of a batch and for one alone."""
    with torch.no_grad():
        torch.testing.assert_close(network(images), in_mode(small, "masked", images), rtol=0, atol=1e-5)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(alone, in_mode(small, "per_sample", images), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_pt2_file_skips_by_control_flow(alike: Backbone, images: torch.Tensor, tmp_path: Path) -> None:
    write_pt2(alike, (1, 8, 8), tmp_path / "model.pt2")
    assert_skips(Pt2Network(tmp_path / "model.pt2"), alike, images)


@pytest.mark.slow
def test_an_onnx_file_skips_by_control_flow_and_its_branches_are_quantized_too(
    alike: Backbone, images: torch.Tensor, tmp_path: Path
) -> None:
    import onnx

    small, fp32, int8 = alike, tmp_path / "model.onnx", tmp_path / "model.int8.onnx"
    write_onnx(small, (1, 8, 8), fp32)
    assert_skips(OnnxNetwork(fp32), small, images)
    operators = [node.op_type for node in onnx.load(fp32).graph.node]
    assert operators.count("If") == 8
    assert "Softmax" not in operators  # attention is inside
    write_int8(fp32, int8)
    branches = [
        [inner.op_type for inner in attribute.g.node]
        for node in onnx.load(int8).graph.node
        if node.op_type == "If"
        for attribute in node.attribute
    ]
    products = sorted(operators.count("MatMulInteger") for operators in branches)
    assert products == [0] * 8 + [2] * 8, "two layers where it runs; what skips does nothing"
    found, wanted = OnnxNetwork(int8)(images), in_mode(small, "masked", images)
    near = (found - wanted).abs().amax(1) < 0.1 * wanted.std()  # but for images whose gates are undecided
    assert near.float().mean() > 0.5


def test_a_gate_sees_the_mean_token() -> None:
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [8.0, 0.0]]])
    torch.testing.assert_close(pooled(tokens), torch.tensor([[4.0, 2.0]]))
