import copy

import pytest
import timm
import torch

from lightning_vitc import costs
from lightning_vitc.networks.axes import Inner
from lightning_vitc.networks.backbone import Backbone, from_timm
from lightning_vitc.networks.blocks import Block, attention
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.families.plain.network import PlainDistilledViT, PlainViT
from lightning_vitc.networks.families.plain.shape import vit_block
from lightning_vitc.networks.kept import Kept
from lightning_vitc.networks.spec import ArchSpec

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
HEADS, HEAD_DIM, DIM, HIDDEN, DEPTH = 4, 12, 48, 192, 4
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS, "num_classes": 5}
KINDS = {
    "plain": ("vit_tiny_patch16_224", {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "layer scale": ("deit3_small_patch16_224", {}),
    "qk norm": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "registers, gap, no class token": ("vit_medium_patch16_reg4_gap_256", {}),
    "clip": ("vit_base_patch16_clip_quickgelu_224", {}),
    "no biases": ("vit_tiny_patch16_224", {"qkv_bias": False, "proj_bias": False}),
}
# The dimensions of every head whose values are kept (`None`: the head is gone), and the hidden units.
Values, Units = list[list[int] | None] | None, list[int] | None
ALL_DIMS, ALL_UNITS = list(range(HEAD_DIM)), list(range(HIDDEN))
WHOLE: tuple[Values, Units] = ([ALL_DIMS] * HEADS, ALL_UNITS)
PLANS: dict[str, list[tuple[Values, Units] | None]] = {  # `None`: the block is gone
    "everything": [WHOLE] * DEPTH,
    "no attention": [WHOLE, (None, ALL_UNITS), (None, ALL_UNITS), WHOLE],
    "no mlp": [([ALL_DIMS] * HEADS, None), WHOLE, WHOLE, WHOLE],
    "whole blocks": [WHOLE, None, None, WHOLE],
    "first and last block": [None, WHOLE, WHOLE, None],
    "neither branch": [WHOLE, (None, None), WHOLE, WHOLE],
    "heads": [([None, ALL_DIMS, ALL_DIMS, None], ALL_UNITS), ([None, None, None, ALL_DIMS], ALL_UNITS), WHOLE, WHOLE],
    "hidden units": [([ALL_DIMS] * HEADS, ALL_UNITS[::3]), WHOLE, ([ALL_DIMS] * HEADS, [7]), ([ALL_DIMS] * HEADS, [])],
    "ragged values": [
        ([[0, 5, 11], ALL_DIMS, [3], [1, 2]], ALL_UNITS), WHOLE, ([[0], None, [4, 5], [6]], ALL_UNITS), WHOLE,
    ],
    "all at once": [
        ([[1, 2, 9], None, [0], ALL_DIMS], ALL_UNITS[5:77]), None, (None, ALL_UNITS[::2]),
        ([None, [0, 1], None, [4, 6, 8]], None),
    ],
    "no attention at all": [(None, ALL_UNITS[:9])] * DEPTH,
    "no mlp at all": [([ALL_DIMS, [3], None, None], None)] * DEPTH,
    "nothing but one empty block": [(None, None), None, None, None],
}  # fmt: skip


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def backbone(kind: str = "plain") -> Backbone:
    name, arguments = KINDS[kind]
    model = from_timm(timm.create_model(name, **SMALL | arguments)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            gain = ("norm" in key and key.endswith("weight")) or key.endswith("gamma")
            parameter.normal_(1.0 if gain else 0.0, 0.2)
    return model


def kept_of(spec: ArchSpec, plan: list[tuple[Values, Units] | None]) -> Kept:
    sources = tuple(source for source, block in enumerate(plan) if block is not None)
    chosen = [block_kept(source, *plan[source]) for source in sources]  # type: ignore[misc]
    indices = {axis: index for _, of_block in chosen for axis, index in of_block.items()}
    return Kept.of(spec, spec.with_stage(*(block for block, _ in chosen)), indices, sources)


def block_kept(source: int, values: Values, units: Units) -> tuple[Block, dict[Inner, torch.Tensor]]:
    attn, kept = None, {}
    if values is not None:
        heads = [head for head in range(HEADS) if values[head] is not None]
        whole = [head * HEAD_DIM + dim for head in heads for dim in range(HEAD_DIM)]
        columns = [head * HEAD_DIM + dim for head in heads for dim in values[head]]  # type: ignore[union-attr]
        rows = whole + [DIM + row for row in whole] + [2 * DIM + column for column in columns]
        attn = attention(HEAD_DIM, tuple(len(values[head]) for head in heads))  # type: ignore[arg-type]
        kept = {Inner(source, 0, "qkv"): torch.tensor(rows), Inner(source, 0, "values"): torch.tensor(columns)}
    if units is not None:
        kept[Inner(source, 1, "pieces")] = torch.tensor(units, dtype=torch.long)
    return vit_block(attn, None if units is None else len(units)), kept


def masked(model: Backbone, plan: list[tuple[Values, Units] | None]) -> Backbone:
    """The dense network with columns of zeros in `proj` and `fc2`; a branch that is gone gives exactly zero."""
    dense = copy.deepcopy(model)
    with torch.no_grad():
        for block, parts in zip(dense.blocks, plan, strict=True):
            values, units = (None, None) if parts is None else parts
            columns = [
                head * HEAD_DIM + dim
                for head, dims in enumerate(values or []) if dims is not None for dim in dims
            ]  # fmt: skip
            for last, live, gone in (
                (block.attn.proj, columns, values is None),
                (block.mlp.fc2, units or [], units is None),
            ):
                mask = torch.zeros(last.in_features)
                mask[live] = 1
                last.weight.mul_(mask)
                if gone and last.bias is not None:
                    last.bias.zero_()
    return dense


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", KINDS)
def test_compact_equals_masked_equals_running_the_sub_network(kind, plan):
    model = backbone(kind)
    before, kept = copy.deepcopy(model.state_dict()), kept_of(model.spec, PLANS[plan])
    small = compact(model, kept)
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = masked(model, PLANS[plan])(x)
        torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(model(x, kept=kept), expected, rtol=0, atol=1e-5)
        if plan != "everything":
            assert (model(x) - expected).abs().max() > 1e-3
    assert ArchSpec.of(small) == kept.spec
    assert costs.params(kept.spec) == sum(parameter.numel() for parameter in small.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_a_plain_model_of_its_own(kind):
    model = backbone(kind)
    for kept in (None, kept_of(model.spec, PLANS["all at once"])):
        small = compact(model, kept)
        assert type(small) is (PlainDistilledViT if kind == "distilled" else PlainViT)
        homes = {type(module).__module__ for module in small.modules()}
        assert {home for home in homes if home.startswith("lightning")} == {
            "lightning_vitc.networks.families.plain.network",
            "lightning_vitc.networks.families.plain.layers",
            "lightning_vitc.networks.modules.attention",
        }
        assert not any(
            isinstance(value, Backbone | Kept) for module in small.modules() for value in vars(module).values()
        )
        assert not small.training
        assert all(parameter.requires_grad and not parameter.is_meta for parameter in small.parameters())
        assert not any("mask" in name or "gate" in name for name in small.state_dict())
        storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        assert not any(parameter.untyped_storage().data_ptr() in storages for parameter in small.parameters())


def test_keeping_everything_is_a_copy():
    model = backbone("distilled")
    copied = compact(model, None)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(copied(x), model(x))
    assert ArchSpec.of(copied) == model.spec
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert model(x).abs().max() > 0.1


def test_a_timm_model_is_compacted_without_a_backbone():
    theirs = timm.create_model("vit_tiny_patch16_224", **SMALL).eval()
    kept = kept_of(ArchSpec.of(theirs), PLANS["all at once"])
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(compact(theirs, kept)(x), from_timm(theirs).eval()(x, kept=kept), rtol=0, atol=1e-5)
    torch.testing.assert_close(compact(theirs, None)(x), theirs(x), rtol=0, atol=1e-5)


def test_a_compact_model_is_compacted_again():
    model = backbone()
    first = compact(model, kept_of(model.spec, PLANS["ragged values"]))
    again = Kept.of(first.spec, first.spec.with_stage(first.spec.blocks[0]), {}, (0,))
    x = torch.randn(2, 3, 32, 32)
    direct = compact(model, kept_of(model.spec, [PLANS["ragged values"][0], None, None, None]))
    torch.testing.assert_close(compact(first, again)(x), direct(x), rtol=0, atol=1e-6)


def test_a_compact_model_is_trained_further():
    model = backbone()
    small = compact(model, kept_of(model.spec, PLANS["all at once"])).train()
    small(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in small.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_of_the_sub_network_are_those_of_the_masked_one():
    """In the weights that are kept; those that are gone get none."""
    model = backbone("layer scale")
    plan = PLANS["all at once"]
    x, weights = torch.randn(2, 3, 32, 32), torch.randn(2, 5)
    (model(x, kept=kept_of(model.spec, plan)) * weights).sum().backward()
    dense = masked(model, plan)
    (dense(x) * weights).sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.blocks[1].parameters())
    for name in ("patch_embed.proj.weight", "pos_embed", "norm.weight", "head.weight", "blocks.0.mlp.fc2.bias",
                 "blocks.0.norm1.weight", "blocks.2.norm2.bias", "blocks.3.ls1.gamma"):  # fmt: skip
        ours, theirs = model.get_parameter(name).grad, dense.get_parameter(name).grad
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, msg=name)
    live = plan[0][1]  # type: ignore[index]
    ours, theirs = (network.blocks[0].mlp.fc2.weight.grad for network in (model, dense))
    torch.testing.assert_close(ours[:, live], theirs[:, live], rtol=1e-4, atol=1e-4)
    assert ours.count_nonzero() == ours[:, live].count_nonzero()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_index_buffers_follow_the_weights_to_the_gpu():
    model = backbone()
    kept, x = kept_of(model.spec, PLANS["ragged values"]), torch.randn(2, 3, 32, 32)
    on_cpu = model(x, kept=kept)
    model.cuda()
    torch.testing.assert_close(model(x.cuda(), kept=kept).cpu(), on_cpu, rtol=0, atol=1e-3)
    torch.testing.assert_close(compact(model, kept)(x.cuda()).cpu(), on_cpu, rtol=0, atol=1e-3)
