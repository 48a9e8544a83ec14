"""UniFormer-XS: half of the tokens are computed, as in the authors' formulas; trained, sliced, not pruned."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vitc.budget.masks import Masks
from lightning_vitc.errors import UserError
from lightning_vitc.exporting.write_formats import write_formats
from lightning_vitc.few_shot.units import chosen_candidates
from lightning_vitc.methods.scala import Arguments, Scala
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import Backbone, create_backbone
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.families.family import shape_of
from lightning_vitc.networks.families.uniformer.light import pooled
from lightning_vitc.networks.families.uniformer.names import NAMES
from lightning_vitc.networks.families.uniformer.network import LightUniFormer, build
from lightning_vitc.networks.modules.two_logits import TwoLogits
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import OptimizerConfig
from lightning_vitc.training.losses import cross_entropy, distillation
from lightning_vitc.training.supervised import Supervised


@pytest.fixture
def tiny(made) -> Backbone:
    """Grids of 4 x 4 and 2 x 2 tokens in the stages with attention."""
    return made("uniformer_xs", img_size=64, depths=[1, 1, 3, 2])


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def attended(block, x: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v = (
        part.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for part in block.attn.qkv(x).chunk(3, dim=-1)
    )
    weights = (q @ k.transpose(-2, -1) * block.attn.scale).softmax(-1)
    return block.attn.proj((weights @ v).transpose(1, 2).flatten(2)), weights[:, :, 0].mean(1)


def one_image(model, x: Tensor) -> tuple[Tensor, Tensor]:
    """Both logits of one image by the authors' formulas, token by token."""
    grid, token, g = (
        model.blocks2(model.enter(1, model.blocks1(model.enter(0, x[None].permute(0, 2, 3, 1))))),
        None,
        None,
    )
    for stage in (2, 3):
        grid = model.enter(stage, grid)
        token = model.cls_token[0] if stage == 2 else model.cls_upsample(token)  # [1, D]
        blocks = getattr(model, f"blocks{stage + 1}")
        for at, block in enumerate(blocks):
            grid = grid + block.pos_embed(grid)
            tokens = list(grid[0].flatten(0, 1))
            count = len(tokens) if g is None else len(tokens) // 2
            ranked = list(range(count)) if g is None else sorted(range(len(tokens)), key=lambda n: -float(g[n]))
            chosen, rest = ranked[:count], ranked[count:]
            merged = [sum(g[n] * tokens[n] for n in rest) / sum(g[n] for n in rest)] if rest else []
            seen = torch.stack([token[0], *(tokens[n] for n in chosen), *merged])[None]
            first, row = attended(block, block.norm1(seen))
            second = block.mlp(block.norm2(seen + first))
            out = (seen + first + second)[0]
            row, token = row[0], out[:1]
            g = row[1:] if g is None else torch.stack(
                [(g[n] + row[1 + chosen.index(n)]) / 2 if n in chosen else g[n] for n in range(len(tokens))]
            )  # fmt: skip
            for n in range(len(tokens)):
                tokens[n] = out[1 + chosen.index(n)] if n in chosen else tokens[n] + (first + second)[0, -1]
            grid = torch.stack(tokens).unflatten(0, grid.shape[1:3])[None]
            if stage == 2 and at == len(blocks) - 1:
                fewer = F.avg_pool2d(g.view(1, 1, *grid.shape[1:3]), 2).flatten()
                g = fewer * g.sum() / fewer.sum()
    return model.head(model.norm(grid).mean((1, 2))), model.head_cls(F.layer_norm(
        token, token.shape[1:], model.norm_cls.weight, model.norm_cls.bias, 1e-5))  # fmt: skip


def test_logits_are_those_of_the_formulas(tiny):
    x = images()
    with torch.no_grad():
        both = [one_image(tiny, one) for one in x]
        torch.testing.assert_close(tiny(x), torch.cat([logits for logits, _ in both]), rtol=0, atol=1e-5)
        assert torch.equal(tiny.forward_head(tiny.forward_features(x)), tiny(x))
        for norm in (module for module in tiny.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.forward = norm.eval().forward
        tiny.training = True  # batch norms are left in evaluation
        found = tiny(x)
    assert isinstance(found, TwoLogits)
    torch.testing.assert_close(found.auxiliary, torch.cat([logits for _, logits in both]), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.predicting, torch.cat([logits for logits, _ in both]), rtol=0, atol=1e-5)


def test_importance_of_a_smaller_grid_has_the_same_sum():
    importance = torch.rand(2, 16)
    fewer = pooled(importance, (4, 4))
    torch.testing.assert_close(fewer.sum(1), importance.sum(1))
    assert fewer[0, 0] / fewer[0, 3] == pytest.approx(
        float(importance[0, [0, 1, 4, 5]].sum() / importance[0, [10, 11, 14, 15]].sum())
    )


def test_what_is_built_is_what_was_described(tiny):
    spec = tiny.spec
    shape, weights = shape_of(spec), tiny.state_dict()
    layout = shape.layout(spec)
    names = {*layout.around} | {
        shape.block_prefix(*spec.place(number)) + name for number, block in enumerate(layout.blocks) for name in block
    }
    assert names == weights.keys()
    assert ArchSpec.of(build(spec)) == ArchSpec.from_json(spec.to_json()) == spec
    assert costs.params(spec) == sum(parameter.numel() for parameter in tiny.parameters())


@pytest.mark.parametrize("width", ["1/4", "1/2", "3/4"])
def test_a_slice_is_a_network_of_its_own(made, width):
    tiny = made("uniformer_xs", img_size=64, depths=[1, 1, 3, 2], embed_dim=[8, 16, 32, 64], num_heads=[4, 8])
    kept, x = slice_width(tiny.spec, Fraction(width)), images()
    small = compact(tiny, kept)
    assert type(small) is LightUniFormer
    with torch.no_grad():
        torch.testing.assert_close(tiny(x, kept=kept), small(x), rtol=0, atol=1e-5)
    assert small.cls_upsample.weight.shape == (64 * Fraction(width), 32 * Fraction(width))


def test_both_classifiers_learn_half_and_half(tiny):
    x, targets = images(4), torch.tensor([0, 1, 2, 3])
    loss = Supervised(tiny.train(), OptimizerConfig()).step(x, targets).loss
    loss.backward()
    predicting, auxiliary = tiny(x)
    torch.testing.assert_close(loss, (cross_entropy(predicting, targets) + cross_entropy(auxiliary, targets)) / 2)
    assert all(parameter.grad is not None for parameter in tiny.parameters())
    assert tiny.eval()(x).shape == (4, 5)


def test_widths_of_scala_learn_from_the_classifier_that_predicts(made):
    tiny = made("uniformer_xs", img_size=64, depths=[1, 1, 2, 1]).train()
    x, targets = images(4), torch.tensor([0, 1, 2, 3])
    scala = Scala(tiny, OptimizerConfig(), arguments=Arguments(granularity=0.25))
    scala.accumulate = lambda loss: None
    terms = scala.step(x, targets).terms
    whole, small = tiny(x), tiny(x, kept=scala.kept(Fraction(1, 4)))
    wanted = [distillation(one, whole.predicting) + cross_entropy(one, targets) for one in small]
    torch.testing.assert_close(terms["width_0.25/train_loss"], sum(wanted) / 2, rtol=0, atol=1e-5)


def test_recomputation_gives_the_same_gradients(tiny):
    found = []
    for enabled in (False, True):
        tiny.train().zero_grad()
        tiny.set_grad_checkpointing(enabled)
        sum(logits.square().sum() for logits in tiny(images(4))).backward()
        found.append([parameter.grad.clone() for parameter in tiny.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_widths_of_the_paper():
    """Scala's paper prints .15, .52, 1.12 and 1.95 G."""
    small = NAMES["uniformer_xs"]()
    found = [costs.macs(small.at_width(Fraction(part, 4))) / 1e9 for part in (1, 2, 3, 4)]
    assert [round(each, 3) for each in found] == [0.143, 0.512, 1.108, 1.931]
    assert small.at_width(Fraction(3, 8)).widths == (24, 48, 96, 192)


def test_what_is_refused(tmp_path, tiny):
    why = "^model.name: uniformer_xs drops tokens by what its class token attends to"
    for refused in (lambda: Masks.full(tiny.spec), lambda: chosen_candidates(None, tiny.spec)):
        with pytest.raises(UserError, match=why):
            refused()
    for form in ("onnx", "int8", "pt2"):
        with pytest.raises(UserError, match=f"^--formats: {form}: uniformer_xs drops tokens"):
            write_formats(compact(tiny, None), tmp_path, [form], {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["practise", "uvc"])
def test_methods_that_leave_blocks_out_are_refused_in_one_line(vitc, method):
    small = ("model.embed_dim=[8,16,16,24]", "model.depths=[1,1,3,2]", "model.num_heads=[2,3]", "model.depth=null",
             "model.img_size=64", "model.patch_size=null")  # fmt: skip
    done = vitc("train", f"{method}_digits", "model.name=uniformer_xs", *small)
    assert (done.code, done.out, done.error.count("\n")) == (2, "", 1)
    assert done.error.startswith("error: model.name: uniformer_xs drops tokens by what its class token attends to")
    assert not (vitc.place / "runs").exists()


def test_a_file_of_the_authors_and_a_new_head(tmp_path, tiny):
    torch.save({"model": tiny.state_dict()}, tmp_path / "a.pth")
    keys = {"embed_dim": [8, 16, 16, 24], "depths": [1, 1, 3, 2], "num_heads": [2, 3]}
    loaded = create_backbone("uniformer_xs", str(tmp_path / "a.pth"), img_size=32, num_classes=5, **keys)
    assert all(torch.equal(value, tiny.state_dict()[name]) for name, value in loaded.state_dict().items())
    other = create_backbone("uniformer_xs", str(tmp_path / "a.pth"), new_head=True, num_classes=7, **keys)
    assert (len(other.head.bias), len(other.head_cls.bias)) == (7, 7)
    other.reset_classifier(3)
    assert (len(other.head.bias), len(other.head_cls.bias)) == (3, 3)
