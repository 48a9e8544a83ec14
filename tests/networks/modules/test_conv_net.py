"""ResNets and MobileNetV2s: timm's numbers from our modules, and sub-networks of them with their statistics."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_vitc.errors import UserError
from lightning_vitc.networks import costs
from lightning_vitc.networks.axes import Inner
from lightning_vitc.networks.backbone import create_backbone, from_spec, from_timm
from lightning_vitc.networks.blocks import MLP, convolutions
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.dropped_attention import without_blocks
from lightning_vitc.networks.families.family import network_of, shape_of
from lightning_vitc.networks.families.resnet.shape import resnet
from lightning_vitc.networks.kept import Kept
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.networks.spec import ArchSpec
from tests.networks.conv_nets import SPECS, images, mobilenet, network, of_use
from tests.networks.layouts import check_layout

FAMILIES = tuple(SPECS)
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-6}


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_035", "mobilenetv2_110d"])
@torch.no_grad()
def test_timms_logits(name: str) -> None:
    torch.manual_seed(0)
    model = of_use(timm.create_model(name, num_classes=7)).eval()
    ours = from_timm(model).eval()
    assert [*ours.state_dict()] == [*model.state_dict()]
    assert torch.equal(ours(images()), model(images()))
    plain = compact(ours, None)
    assert torch.equal(plain(images()), model(images()))
    ours.train(), model.train()  # with the statistics of the batch, and stochastic depth of none
    torch.testing.assert_close(ours(images()), model(images()))
    assert torch.equal(ours.bn1.running_mean, model.bn1.running_mean)


def test_fresh_weights_are_drawn_as_timm_does() -> None:
    for name in ("resnet18", "mobilenetv2_035"):
        torch.manual_seed(0)
        theirs = timm.create_model(name, num_classes=7)
        torch.manual_seed(0)
        ours = from_spec(ArchSpec.of(theirs))
        for key, weight in theirs.state_dict().items():
            own, theirs_too = ours.state_dict()[key].float(), weight.float()
            if weight.ndim < 2:
                torch.testing.assert_close(own, theirs_too, rtol=0, atol=0.4 if key.endswith("c.bias") else 0)
            elif weight.numel() > 1000:
                assert own.std().item() == pytest.approx(theirs_too.std().item(), rel=0.1), key
                assert own.mean().abs() < 0.1 * own.std()


@st.composite
def specs(draw: st.DrawFn) -> ArchSpec:
    width = st.integers(1, 9)
    if draw(st.booleans()):
        depths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
        spec = resnet("r", tuple(depths), tuple(draw(width) for _ in depths), num_classes=draw(st.integers(0, 3)))
    else:
        widths = tuple(draw(width) for _ in range(3))
        spec = mobilenet(draw(width), widths, (draw(st.integers(1, 2)), 2, 1))
    side, channels = st.integers(1, 50), draw(st.integers(1, 4))
    spec = replace(spec, img_size=(draw(side), draw(side)), in_chans=channels)
    shape: Any = shape_of(spec)
    gone = [draw(st.booleans()) and shape.keeps_stream(spec, number) for number in range(spec.depth)]
    blocks = [block if block.branches[MLP].kind == "separable" else convolutions(block.branches[MLP].kind, draw(width),
              "relu" if draw(st.booleans()) and shape.keeps_stream(spec, number) else None)
              for number, block in enumerate(spec.blocks)]  # type: ignore[union-attr]  # fmt: skip
    return spec.with_blocks([None if absent else block for block, absent in zip(blocks, gone, strict=True)])


@settings(max_examples=25, deadline=None)
@given(specs())
def test_costs_names_and_axes_of_any_shape(spec: ArchSpec) -> None:
    with torch.device("meta"):
        model = network_of(spec).build(spec, {}).eval()
        for block in model.blocks:
            block.gating = "masked"
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, spec.in_chans, *spec.img_size))
    assert costs.macs(spec) == counter.get_total_flops() // 2
    assert costs.params(spec) == sum(weight.numel() for weight in model.parameters())
    assert ArchSpec.of(model) == spec
    check_layout(spec, model.state_dict())


def random_channels(spec: ArchSpec) -> Kept:
    """Some of every block's inner channels."""
    generator = torch.Generator().manual_seed(3)
    indices: dict[Any, Any] = {}
    blocks = []
    for number, block in enumerate(spec.blocks):
        branch = block.branches[MLP]
        if branch is not None and branch.kind != "separable":
            left = torch.randperm(branch.width, generator=generator)[: branch.width // 3].sort().values
            indices[Inner(number, MLP, "pieces")] = left
            block = convolutions(branch.kind, len(left))
        blocks.append(block)
    return Kept.of(spec, spec.with_blocks(blocks), indices)


KEPT = {
    "leading": lambda model: slice_width(model.spec, Fraction(1, 2)),
    "trailing": lambda model: slice_width(model.spec, Fraction(1, 2), end="trailing"),
    "channels": lambda model: random_channels(model.spec),
    "without a block": lambda model: without_blocks(model, (1,) if model.spec.family == "resnet" else (2, 3)),
}


@pytest.mark.parametrize("how", KEPT)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_sub_network_is_a_network_of_its_own(family: str, how: str) -> None:
    model = network(family)
    kept = KEPT[how](model)
    small = compact(model, kept)
    assert ArchSpec.of(small) == kept.spec != model.spec
    torch.testing.assert_close(model(images(), kept=kept), small(images()), **EXACT)
    assert not torch.allclose(small(images()), model(images()), atol=1e-3)
    standalone = from_spec(kept.spec)
    standalone.load_state_dict(small.state_dict())
    torch.testing.assert_close(standalone.eval()(images()), small(images()), **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_statistics_are_cut_with_their_channels(family: str) -> None:
    model = network(family)
    small = compact(model, slice_width(model.spec, Fraction(1, 2), end="trailing"))
    width = small.bn1.num_features
    assert torch.equal(small.bn1.running_var, model.bn1.running_var[-width:])


@pytest.mark.parametrize("family", FAMILIES)
def test_training_a_sub_network_leaves_the_statistics_alone(family: str) -> None:
    model = network(family).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(images(), kept=slice_width(model.spec, Fraction(1, 2))).sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert model.bn1.weight.grad is not None
    model(images())
    assert not any(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_that_is_computed_again_is_counted_once(family: str) -> None:
    first, second = network(family).train(), network(family).train()
    second.set_grad_checkpointing()
    for model in (first, second):
        model(images()).square().sum().backward()
    for one, other in zip(first.buffers(), second.buffers(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_gates(family: str) -> None:
    model = network(family)
    depth, able = model.spec.depth, [block.keeps_stream for block in model.blocks]
    assert any(able)
    assert not all(able)
    torch.testing.assert_close(model(images(), gates=torch.ones(depth, 2)), model(images()), **EXACT)
    torch.testing.assert_close(model(images(), gates=torch.ones(depth)), model(images()), **EXACT)
    skipped = model.forward_head(model.walk(images(), lambda n, block, x: x if able[n] else block(x)))
    torch.testing.assert_close(model(images(), gates=torch.zeros(depth, 2)), skipped, **EXACT)
    torch.testing.assert_close(model(images(), gates=torch.zeros(depth)), skipped, **EXACT)
    seen: list[tuple[int, int, torch.Size]] = []

    def decide(block: int, branch: int, pooled: torch.Tensor) -> torch.Tensor:
        seen.append((block, branch, pooled.shape))
        return torch.ones(len(pooled))

    torch.testing.assert_close(model(images(), gates=decide), model(images()), **EXACT)
    assert seen == [(n, 1, (4, model.spec.width_at(n))) for n in range(depth) if able[n]]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_gates_of_its_own(family: str) -> None:
    spec = SPECS[family]
    shape: Any = shape_of(spec)
    gates = [(None, "relu" if shape.keeps_stream(spec, number) else None) for number in range(spec.depth)]
    torch.manual_seed(0)
    model = of_use(from_spec(spec.with_gates(gates))).eval()
    for block in model.blocks:  # some images run, some do not
        if block.gate2 is not None:
            nn.init.normal_(block.gate2.last.weight)
            block.gate2.last.bias.zero_()
    found = {}
    for mode in ("masked", "per_sample"):
        for block in model.blocks:
            block.gating = mode
        found[mode] = model(images(16))
    torch.testing.assert_close(found["masked"], found["per_sample"], rtol=0, atol=1e-5)
    plain = from_spec(spec)
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if ".gate" not in name})
    assert not torch.allclose(found["masked"], plain.eval()(images(16)), atol=1e-3)


def test_files_are_loaded_strictly(tmp_path: Any) -> None:
    path = str(tmp_path / "weights.pth")
    theirs = of_use(timm.create_model("mobilenetv2_035", num_classes=5)).eval()
    torch.save(theirs.state_dict(), path)
    ours = create_backbone("mobilenetv2_035", path, num_classes=5).eval()
    with torch.no_grad():
        assert torch.equal(ours(images()), theirs(images()))
    for sister, arguments in (("mobilenetv2_050", {"num_classes": 5}), ("resnet18", {}), ("mobilenetv2_035", {})):
        with pytest.raises(UserError) as caught:
            create_backbone(sister, path, **arguments)
        assert "\n" not in str(caught.value)
        assert "weights.pth" in str(caught.value)


def test_the_size_of_images_is_what_was_asked_for() -> None:
    model = create_backbone("resnet18", img_size=48, depths=[1, 1, 1, 1])
    assert model.spec.img_size == (48, 48)
    assert model.spec.depths == (1, 1, 1, 1)
    model.set_input_size((32, 64))
    assert ArchSpec.of(model).img_size == (32, 64)
    model.reset_classifier(3)
    assert ArchSpec.of(model).num_classes == model.get_classifier().out_features == 3


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("resnet50", "its blocks are Bottlenecks"),
        ("resnet18d", "its stem is deep"),
        ("seresnet18", "its blocks have more than two convolutions"),
        ("resnetblur18", "its stem is not pooled by maxima alone"),
        ("efficientnet_b0", "its blocks have more than convolutions and norms"),
        ("mnasnet_100", "its activation is a ReLU;"),
        ("mobilenetv3_large_100", "a MobileNetV3;"),
    ],
)
def test_other_kinds_are_refused_by_name(name: str, why: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=f"^model.name: {name} is not supported: .*{why}"):
        create_backbone(name)
