from fractions import Fraction
from itertools import pairwise

import pytest
import timm
import torch
from timm.layers import set_fused_attn

from lightning_vitc import costs
from lightning_vitc.artifacts import artifact
from lightning_vitc.errors import UserError
from lightning_vitc.methods.scala import Arguments, Scala
from lightning_vitc.networks.axes import Inner, stream
from lightning_vitc.networks.backbone import Backbone, create_backbone, from_timm
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.kept import gather
from lightning_vitc.networks.slicing import RULES, slice_width
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import OptimizerConfig

ENDS = ("leading", "trailing")
SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 5}
PLAIN, DISTILLED = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"
KINDS = {
    "distilled": (DISTILLED, {}),
    "layer scale": ("deit3_small_patch16_224", {}),
    "qk norm": (PLAIN, {"qk_norm": True}),
    "registers, gap, no class token": ("vit_medium_patch16_reg4_gap_256", {}),
    "registers, class token": ("vit_small_patch14_reg4_dinov2", {}),
    "gap, norm after pooling": (PLAIN, {"global_pool": "avg"}),
    "clip": ("vit_base_patch16_clip_quickgelu_224", {}),
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def randomize(model: torch.nn.Module) -> None:
    """Weights with which every part matters, LayerScale's gains and the biases included."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = ("norm" in name and name.endswith("weight")) or name.endswith("gamma")
            parameter.normal_(1.0 if gain else 0.0, 0.2)


def backbone(kind: str) -> Backbone:
    name, arguments = KINDS[kind]
    model = from_timm(timm.create_model(name, **SMALL | arguments)).eval()
    randomize(model)
    return model


def images(spec: ArchSpec, count: int = 2) -> torch.Tensor:
    return torch.randn(count, spec.in_chans, *spec.img_size)


# A reference of its own: which indices are kept, written out, and timm's narrow model with the wide scale


class Reference:
    """The indices a rule keeps, as lists of positions."""

    def __init__(self, spec: ArchSpec, width: Fraction, rule: str, end: str):
        def span(size: int) -> list[int]:
            keep = int(size * width)
            return list(range(keep)) if end == "leading" else list(range(size - keep, size))

        full, heads = spec.embed_dim, spec.blocks[0].branches[0].groups
        head_dim = full // heads
        self.embed, self.hidden = span(full), span(4 * full)
        self.inner = list(range(head_dim)) if rule == "heads" else span(head_dim)
        self.proj = {
            "official": self.embed,
            "per_qkv": self.embed,
            "per_head": [head * head_dim + position for head in range(heads) for position in span(head_dim)],
            "heads": [head * head_dim + position for head in span(heads) for position in range(head_dim)],
        }[rule]
        self.qkv = [matrix * full + row for matrix in range(3) for row in self.proj]
        if rule == "official":
            self.qkv = span(3 * full)

    def axes(self, name: str, dims: int) -> list[list[int] | None]:
        """What is kept along every axis of a parameter; `None` is all."""
        if ".qkv." in name:
            return [self.qkv, self.embed][:dims]
        if ".attn.proj.weight" in name:
            return [self.embed, self.proj]
        if ".fc1." in name:
            return [self.hidden, self.embed][:dims]
        if ".fc2.weight" in name:
            return [self.embed, self.hidden]
        if "q_norm" in name or "k_norm" in name:
            return [self.inner]
        if name.startswith("head"):
            return [None, self.embed] if dims == 2 else [None]
        if dims == 3:  # tokens and position embedding
            return [None, None, self.embed]
        return [self.embed, None, None, None][:dims]

    def grid(self, name: str, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """An index of the kept entries of a parameter."""
        axes = self.axes(name, weight.dim())
        kept = [
            torch.arange(size) if axis is None else torch.tensor(axis)
            for axis, size in zip(axes, weight.shape, strict=True)
        ]
        return torch.meshgrid(*kept, indexing="ij")


def timm_narrow(kind: str, full: Backbone, width: Fraction, rule: str, reference: Reference) -> torch.nn.Module:
    """timm's model of the narrow shape, its attention written out with the scale of the full width."""
    name, arguments = KINDS[kind]
    heads = int(4 * width) if rule == "heads" else 4
    set_fused_attn(False)
    try:
        shape = {"embed_dim": int(64 * width), "num_heads": heads}
        model = timm.create_model(name, **SMALL | arguments | shape).eval()
    finally:
        set_fused_attn(True)
    for block in model.blocks:
        assert block.attn.scale == pytest.approx((int(64 * width) // heads) ** -0.5)
        block.attn.scale = 16**-0.5
    model.load_state_dict({key: weight[reference.grid(key, weight)] for key, weight in full.state_dict().items()})
    return model


def grid_of(rule: str) -> list[Fraction]:
    """Widths that come out whole with 4 heads of width 16."""
    return [Fraction(number, 4) for number in range(1, 5)] if rule == "heads" else [
        Fraction(number, 16) for number in range(4, 17)
    ]  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_sliced_is_compact_is_exported_is_timms_narrow_model(tmp_path, kind, rule, end):
    model = backbone(kind)
    x = images(model.spec)
    for width in grid_of(rule) if kind == "distilled" else [Fraction(1, 4), Fraction(3, 4), Fraction(1)]:
        kept = slice_width(model.spec, width, rule, end)
        with torch.no_grad():
            sliced = model(x, kept=kept)
            small = compact(model, kept)
            exported = [small]
            if width == Fraction(3, 4):  # what is stored is the shape, whatever it is
                artifact.save(small, tmp_path / "model", {})
                exported.append(artifact.load(tmp_path / "model"))
            narrow = timm_narrow(kind, model, width, rule, Reference(model.spec, width, rule, end))
            for other in (*exported, narrow):
                torch.testing.assert_close(other(x), sliced, rtol=0, atol=1e-5)
        for other in exported:
            assert (
                ArchSpec.of(other)
                == kept.spec
                == model.spec.at_width(width, cut="heads" if rule == "heads" else "dims")
            )
            assert costs.params(kept.spec) == sum(parameter.numel() for parameter in other.parameters())
    torch.testing.assert_close(sliced, model(x), rtol=0, atol=1e-5)  # the last one is the full width


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_narrow_model_and_zero_elsewhere(kind, rule, end):
    width = Fraction(3, 4)
    model = backbone(kind)
    reference = Reference(model.spec, width, rule, end)
    x, weights = images(model.spec), torch.randn(2, 5)
    (model(x, kept=slice_width(model.spec, width, rule, end)) * weights).sum().backward()
    narrow = timm_narrow(kind, model, width, rule, reference)
    small = compact(model, slice_width(model.spec, width, rule, end))
    for other in (narrow, small):
        other.zero_grad()
        (other(x) * weights).sum().backward()
        gradients = dict(other.named_parameters())
        for name, parameter in model.named_parameters():
            scattered = torch.zeros_like(parameter)
            scattered[reference.grid(name, parameter)] = gradients[name].grad
            torch.testing.assert_close(parameter.grad, scattered, rtol=1e-4, atol=1e-4, msg=name)


def test_the_sub_network_keeps_the_scale_of_the_full_width():
    model = backbone("distilled")
    x = images(model.spec)
    small = compact(model, slice_width(model.spec, Fraction(1, 4)))
    with torch.no_grad():
        right = small(x)
        assert all(block.attn.scale == 16**-0.5 for block in small.blocks)
        for block in small.blocks:
            block.attn.scale = 4**-0.5
        assert (small(x) - right).abs().max() > 1e-2


def test_official_takes_queries_keys_and_values_from_one_matrix():
    """At a quarter of the width: all 3/4 of the rows of W_q (or, trailing, of W_v)."""
    spec = backbone("distilled").spec
    for end, matrix in (("leading", 0), ("trailing", 2)):
        rows = torch.arange(3 * 64)[slice_width(spec, Fraction(1, 4), "official", end).indices[Inner(0, 0, "qkv")]]
        assert len(rows) == 3 * 16
        assert {row // 64 for row in rows.tolist()} == {matrix}


def test_the_rules_differ_in_the_rows_they_keep():
    spec, rows = backbone("distilled").spec, {}
    for rule in RULES:
        rows[rule] = torch.arange(3 * 64)[slice_width(spec, Fraction(1, 2), rule).indices[Inner(0, 0, "qkv")]].tolist()
    assert rows["official"] == list(range(96))
    assert rows["per_qkv"] == [*range(32), *range(64, 96), *range(128, 160)] == rows["heads"]
    assert rows["per_head"] == [row for start in range(0, 192, 16) for row in range(start, start + 8)]


# Isolated activation


def weight_ids(model: Backbone, kept) -> set[int]:
    """The kept weights, every one by a number of its own, less the classifier biases that all widths share."""
    numbered, start = {}, 0
    for name, parameter in model.named_parameters():
        numbered[name] = torch.arange(start, start + parameter.numel()).reshape(parameter.shape)
        start += parameter.numel()
    smaller = gather(numbered, kept)
    return {
        number
        for name in smaller
        if name not in ("head.bias", "head_dist.bias")
        for number in smaller[name].flatten().tolist()
    }


@pytest.mark.parametrize("orientation", ["paper", "official"])
@pytest.mark.parametrize("rule", ["per_head", "per_qkv", "official"])
@pytest.mark.parametrize("kind", ["distilled", "qk norm", "layer scale"])
def test_the_smallest_width_shares_no_weight_up_to_one_minus_s(kind, rule, orientation):
    model = backbone(kind)
    arguments = Arguments(granularity=0.0625, slice=rule, orientation=orientation)
    module = Scala(model, OptimizerConfig(lr=1e-3), arguments=arguments)
    smallest = weight_ids(model, module.kept(Fraction(1, 4)))
    for width in module.grid[1:-1]:
        shared = smallest & weight_ids(model, module.kept(width))
        assert bool(shared) == (width > Fraction(3, 4)), width
    assert module.kept(Fraction(1)) is None


def test_whole_heads_are_isolated_as_well():
    model = backbone("layer scale")
    module = Scala(model, OptimizerConfig(lr=1e-3), arguments=Arguments(granularity=0.25, slice="heads"))
    smallest = weight_ids(model, module.kept(Fraction(1, 4)))
    assert not smallest & weight_ids(model, module.kept(Fraction(1, 2)))
    assert not smallest & weight_ids(model, module.kept(Fraction(3, 4)))


@pytest.mark.parametrize(
    ("arguments", "ends"),
    [
        ({"orientation": "paper"}, ["trailing", "leading", "leading"]),
        ({"orientation": "official"}, ["leading", "trailing", "trailing"]),
        ({"isolated_activation": False}, ["leading", "leading", "leading"]),
        ({"isolated_activation": False, "orientation": "official"}, ["leading", "leading", "leading"]),
    ],
)
def test_the_ends_of_the_smallest_and_the_other_widths(arguments, ends):
    module = Scala(backbone("distilled"), OptimizerConfig(lr=1e-3), arguments=Arguments(granularity=0.25, **arguments))
    for width, end in zip(module.grid, ends, strict=False):
        keep = int(64 * width)
        assert module.kept(width).indices[stream(0)] == (slice(0, keep) if end == "leading" else slice(64 - keep, 64))


def test_without_isolation_narrower_widths_are_inside_wider_ones():
    model = backbone("distilled")
    for rule in ("per_head", "per_qkv", "official"):
        nested = [weight_ids(model, slice_width(model.spec, Fraction(number, 4), rule)) for number in (1, 2, 3, 4)]
        assert all(small < large for small, large in pairwise(nested))
        assert len(nested[-1]) == costs.params(model.spec) - 2 * 5


def test_the_gradient_reaches_the_kept_weights_alone():
    """What `weight_ids` says, seen in the gradients of two isolated widths."""
    model, touched = backbone("distilled"), []
    for width, end in ((Fraction(1, 4), "trailing"), (Fraction(3, 4), "leading")):
        model.zero_grad()
        kept = slice_width(model.spec, width, "per_head", end)
        model(images(model.spec), kept=kept).square().sum().backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        touched.append(set(gradients.nonzero().flatten().tolist()))
        assert touched[-1] - weight_ids(model, kept) <= bias_ids(model)
        assert len(touched[-1]) > 0.9 * len(weight_ids(model, kept))
    assert touched[0] & touched[1] == bias_ids(model)


def bias_ids(model: Backbone) -> set[int]:
    ids, start = set(), 0
    for name, parameter in model.named_parameters():
        if name in ("head.bias", "head_dist.bias"):
            ids |= set(range(start, start + parameter.numel()))
        start += parameter.numel()
    return ids


# Mistakes


@pytest.mark.parametrize(
    ("width", "rule", "message"),
    [
        (Fraction(1, 2), "random", "slice: 'random' is not one of per_head, per_qkv, official, heads"),
        (Fraction(1, 3), "per_head", "width: 0.333333 of the embedding width 64 is 21.3333, not a whole number"),
        (Fraction(1, 32), "per_qkv", "width: 0.03125 of the head width 16 is 0.5, not a whole number"),
        (Fraction(3, 8), "heads", "width: 0.375 of the number of heads 4 is 1.5, not a whole number"),
        (Fraction(5, 4), "per_head", "width: 5/4 is out of range; it must be > 0 and <= 1"),
    ],
)
def test_widths_and_rules_that_do_not_work(width, rule, message):
    with pytest.raises(UserError) as caught:
        slice_width(backbone("distilled").spec, width, rule)
    assert str(caught.value) == message


def test_the_choice_is_made_once():
    spec = backbone("distilled").spec
    assert slice_width(spec, Fraction(1, 2)) is slice_width(spec, Fraction(2, 4))


# The real thing


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_deit_small_at_all_25_widths(tmp_path, rule):
    """By the default rule every width of X = 25; by others every fourth, or those that are whole of 6 heads."""
    model = create_backbone("deit_small_distilled_patch16_224", img_size=64).eval()
    randomize_gently(model)
    widths = [Fraction(number, 32) for number in range(8, 33, 1 if rule == RULES[0] else 4)]
    if rule == "heads":
        widths = [width for width in widths if (6 * width).denominator == 1]
    assert len(widths) == (2 if rule == "heads" else 25 if rule == RULES[0] else 7)
    x = images(model.spec, 1)
    with torch.inference_mode():
        for number, width in enumerate(widths):
            kept = slice_width(model.spec, width, rule, ENDS[number % 2])
            sliced, small = model(x, kept=kept), compact(model, kept)
            assert sliced.abs().max() > 0.1
            torch.testing.assert_close(small(x), sliced, rtol=0, atol=1e-5)
            if number % 8 == 0:
                artifact.save(small, tmp_path / "model", {})
                torch.testing.assert_close(artifact.load(tmp_path / "model")(x), sliced, rtol=0, atol=1e-5)


def randomize_gently(model: Backbone) -> None:
    """Norms, biases and tokens away from their initial ones and zeros; the rest as timm draws it."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "token" in name:
                parameter.normal_()
