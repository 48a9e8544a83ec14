import copy
import os
from fractions import Fraction

import pytest
import timm
import torch
from safetensors.torch import save_file

from lightning_vitc.errors import UserError
from lightning_vitc.networks.backbone import (
    create_backbone,
    create_teacher,
    from_spec,
    from_timm,
    template,
)
from lightning_vitc.networks.families.plain.network import PlainBackbone, PlainDistilledBackbone
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.timm_models import create_timm
from lightning_vitc.schema import ModelConfig

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 5}
PLAIN, DISTILLED = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"
KINDS = {
    "plain": (PLAIN, {}),
    "distilled": (DISTILLED, {}),
    "layer scale": ("deit3_small_patch16_224", {}),
    "registers, gap, no class token": ("vit_medium_patch16_reg4_gap_256", {}),
    "registers, class token": ("vit_small_patch14_reg4_dinov2", {}),
    "qk norm": (PLAIN, {"qk_norm": True}),
    "clip": ("vit_base_patch16_clip_quickgelu_224", {}),
    "siglip, gap": ("vit_so400m_patch14_siglip_gap_224", {}),
    "pool over the prefix": (PLAIN, {"global_pool": "avg", "pool_include_prefix": True, "reg_tokens": 2}),
    "no biases, oblong": (PLAIN, {"qkv_bias": False, "proj_bias": False, "img_size": (24, 40), "mlp_ratio": 1.5}),
    "no position embedding": (PLAIN, {"pos_embed": "none"}),
    "no classifier": (PLAIN, {"num_classes": 0}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def randomize(model: torch.nn.Module) -> None:
    """Weights with which every part matters, LayerScale's gains and the biases included."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = ("norm" in name and name.endswith("weight")) or name.endswith("gamma")
            parameter.normal_(1.0 if gain else 0.0, 0.2)


def timm_model(kind: str = "plain", **rates: float) -> torch.nn.Module:
    name, arguments = KINDS[kind]
    model = timm.create_model(name, **SMALL | arguments | rates)
    randomize(model)
    return model


def images(model, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *model.patch_embed.img_size)


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items()}


# Equal to timm


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_are_timms(kind):
    theirs = timm_model(kind).eval()
    ours = from_timm(theirs).eval()
    assert shapes(ours) == shapes(theirs)
    assert ours.spec == ArchSpec.of(theirs) == ArchSpec.of(ours)
    assert ours.pretrained_cfg == theirs.pretrained_cfg
    x = images(theirs)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
    weights = torch.randn_like(ours(x))
    for model in (ours, theirs):
        (model(x) * weights).sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if expected[name].grad is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_create_backbone_takes_timms_arguments(kind):
    name, arguments = KINDS[kind]
    model = create_backbone(name, **SMALL | arguments)
    assert type(model) is (PlainDistilledBackbone if model.spec.distilled else PlainBackbone)
    assert shapes(model) == shapes(timm_model(kind))
    assert model.spec.name == name


def test_random_numbers_of_training_are_timms():
    """Dropout and stochastic depth in the same places, of the same rates."""
    rates = {"drop_rate": 0.1, "proj_drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_path_rate": 0.2}
    theirs = timm_model("distilled", **rates).train()
    ours = create_backbone(DISTILLED, **SMALL, **rates).train()
    ours.load_state_dict(theirs.state_dict())
    x, logits = images(theirs, 8), []
    for model in (theirs, ours):
        torch.manual_seed(3)
        logits.append(model(x))
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-5)
    assert not torch.equal(ours(x), ours(x))


def test_sub_networks_have_the_rates_of_the_backbone():
    rates = {"drop_rate": 0.1, "proj_drop_rate": 0.2, "attn_drop_rate": 0.3, "drop_path_rate": 0.4}
    model = create_backbone(PLAIN, **SMALL, **rates)
    kept = slice_width(model.spec, Fraction(1, 2))
    x = images(model)
    assert not torch.equal(model.train()(x, kept=kept), model(x, kept=kept))
    assert torch.equal(model.eval()(x, kept=kept), model(x, kept=kept))


# The distillation token


def test_a_pair_of_logits_in_distilled_training_alone():
    model, theirs = from_timm(timm_model("distilled")), timm_model("distilled")
    theirs.load_state_dict(model.state_dict())
    x = images(model)
    half = slice_width(model.spec, Fraction(1, 2))
    for kept in (None, half):
        model.set_distilled_training(False)
        assert torch.is_tensor(model.train()(x, kept=kept))
        model.set_distilled_training(True)
        pair = model(x, kept=kept)
        assert [logits.shape for logits in pair] == [(2, 5), (2, 5)]
        mean = model.eval()(x, kept=kept)
        torch.testing.assert_close(mean, (pair[0] + pair[1]) / 2)
        model.train()
    theirs.train().set_distilled_training(True)
    for ours, other in zip(model(x), theirs(x), strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-5)


def test_a_plain_backbone_never_gives_a_pair():
    model = from_timm(timm_model()).train()
    assert torch.is_tensor(model(images(model), kept=slice_width(model.spec, Fraction(1, 2))))


# Checkpoints


@pytest.mark.parametrize("kind", ["plain", "distilled", "layer scale", "registers, gap, no class token"])
@pytest.mark.parametrize("form", ["timm.safetensors", "timm.pth", "official.pth"])
def test_a_checkpoint_loads_strictly(tmp_path, kind, form):
    theirs, path = timm_model(kind).eval(), str(tmp_path / form)
    if form.endswith("safetensors"):
        save_file(theirs.state_dict(), path)
    else:
        torch.save({"model": theirs.state_dict()} if form == "official.pth" else theirs.state_dict(), path)
    name, arguments = KINDS[kind]
    ours = create_backbone(name, pretrained=path, **SMALL | arguments).eval()
    x = images(theirs)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)


def test_official_deit_iii_names_its_gains_otherwise(tmp_path):
    theirs = timm_model("layer scale")
    weights = {key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value
               for key, value in theirs.state_dict().items()}  # fmt: skip
    assert "blocks.0.gamma_1" in weights
    torch.save({"model": weights}, tmp_path / "deit3.pth")
    ours = create_backbone("deit3_small_patch16_224", pretrained=str(tmp_path / "deit3.pth"), **SMALL)
    assert torch.equal(ours.blocks[1].ls2.gamma, theirs.blocks[1].ls2.gamma)


def refusal(path: str, **arguments) -> str:
    with pytest.raises(UserError) as caught:
        create_backbone(PLAIN, pretrained=path, **SMALL | arguments)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


class Intruder:
    def __init__(self, mark: str):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_checkpoints_that_do_not_fit(tmp_path):
    path, weights = str(tmp_path / "weights.pth"), timm_model().state_dict()
    ours = "not a checkpoint of this model: "

    torch.save(timm_model("distilled").state_dict(), path)
    said = "it is of a network with a distillation token, and model.name is one without"
    assert refusal(path) == f"{ours}{said}"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    said = "its names begin with bn1, conv1, fc, layer1, ...; it is of resnet18: set model.name to it"
    assert refusal(path) == f"{ours}{said}"
    torch.save({key: value for key, value in weights.items() if key != "blocks.1.norm1.bias"}, path)
    assert refusal(path) == f"{ours}blocks.1.norm1.bias is missing"
    torch.save(weights | {"blocks.3.norm1.bias": torch.ones(48)}, path)
    assert refusal(path) == (
        f"{ours}its depth is 4, the model's is 3; set model.depth=4, or model.name to the model it is of"
    )
    torch.save(weights | {"head.weight": torch.ones(7, 48)}, path)
    new = "set model.new_head=true for a new one"
    assert refusal(path) == f"its classifier is for 7 classes, the model's for 5; {new}"
    torch.save({key: value for key, value in weights.items() if not key.startswith("head")}, path)
    assert refusal(path) == f"it has no classifier; {new}"
    torch.save(weights | {"pos_embed": torch.ones(1, 15, 48)}, path)
    assert refusal(path).startswith(f"{ours}pos_embed has 15 positions, of which 1 is not of patches and the others")
    torch.save(weights, path)
    assert refusal(path, patch_size=4).startswith(
        f"{ours}its patch_size is 8, the model's is 4; set model.patch_size=8"
    )
    torch.save(weights | {"patch_embed.proj.weight": torch.ones(48, 4, 8, 8)}, path)
    assert refusal(path).endswith("only those of RGB are adapted to others; set model.in_chans=4")


def test_checkpoints_that_cannot_be_read(tmp_path):
    path, mark = tmp_path / "weights.pth", tmp_path / "it_ran"
    assert refusal(str(path)) == "no such checkpoint file; expected a .safetensors or .pth file"
    torch.save({"model": timm_model().state_dict()}, path)
    path.write_bytes(path.read_bytes()[:-500])
    assert refusal(str(path)) == "damaged or truncated checkpoint"
    torch.save({"model": timm_model().state_dict(), "args": Intruder(str(mark))}, path)
    assert refusal(str(path)).startswith("damaged, or holds more than tensors and primitives, which is never loaded")
    assert not mark.exists()
    damaged = tmp_path / "weights.safetensors"
    damaged.write_bytes(b"no tensors")
    assert refusal(str(damaged)).startswith("not a readable safetensors file")


# timm's models and mistakes about them


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit_tiny_patch16_225", {},
         "model.name: unknown timm model 'vit_tiny_patch16_225'; did you mean 'vit_tiny_patch16_224', "),
        ("deit_smal", {}, "model.name: unknown timm model 'deit_smal'; did you mean 'deit_small_patch16_224"),
        ("zzz", {}, "model.name: unknown timm model 'zzz'; the families, with models of them: "),
        (PLAIN, {"colour": "red"}, "model: timm cannot build vit_tiny_patch16_224 with these arguments: "),
        (PLAIN, {"num_heads": 7}, "model: timm cannot build vit_tiny_patch16_224 with these arguments: "),
        (PLAIN, {"class_token": False}, "model: timm cannot build vit_tiny_patch16_224 with these arguments: "),
        (PLAIN, {"act_layer": "bogus"}, "model: timm cannot build vit_tiny_patch16_224 with these arguments: "),
        ("convnext_tiny", {}, "model.name: convnext_tiny is not supported: a ConvNeXt; the families that are, with "),
        ("resnet50", {"img_size": 32, "depth": 3},
         "model.name: resnet50 is not supported: its blocks are Bottlenecks; "),
        ("swin_tiny_patch4_window7_224", {"depth": 3},
         "model: timm cannot build swin_tiny_patch4_window7_224 with these arguments: "),
    ],
)  # fmt: skip
def test_mistakes_about_the_model(name, arguments, message):
    with pytest.raises(UserError) as caught:
        create_backbone(name, **arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_fetched(monkeypatch):
    create = timm.create_model

    def unreachable(*args, pretrained=False, **kwargs):
        if pretrained:
            raise OSError("no route to the hub\nand a second line")
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(UserError) as caught:
        create_backbone(PLAIN, pretrained=True)
    assert str(caught.value) == (
        "model.pretrained: the weights of vit_tiny_patch16_224 cannot be fetched (no route to the hub); "
        "try again, or give the path of a file instead"
    )


def test_a_model_on_meta_gives_its_shape():
    with torch.device("meta"):
        model = from_timm(create_timm("vit_large_patch16_224"))
    assert model.spec.embed_dim == 1024
    assert all(parameter.is_meta for parameter in model.parameters())


def test_fresh_backbones():
    spec = from_timm(timm_model("distilled")).spec
    model = from_spec(spec, rates={"drop_path_rate": 0.2})
    assert type(model) is PlainDistilledBackbone
    assert model.spec == spec
    assert model.rates == {"drop_path_rate": 0.2}
    assert model.blocks[2].drop_path2.drop_prob == pytest.approx(0.2)
    assert model.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.blocks[0].mlp.fc1.bias.abs().max() == 0


def test_a_teacher_is_any_model_with_weights_from_a_file(tmp_path):
    with torch.no_grad():
        teacher = create_teacher("resnet18", False, 5, (32, 32)).eval()
        assert teacher(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
        save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
        again = create_teacher("resnet18", str(tmp_path / "teacher.safetensors"), 5, (32, 32)).eval()
        x = torch.randn(1, 3, 32, 32)
        assert torch.equal(teacher(x), again(x))
        assert create_teacher(PLAIN, False, 5, (32, 32)).patch_embed.img_size == (32, 32)


# Sub-networks


def test_running_a_sub_network_leaves_the_backbone_as_it_is():
    model = from_timm(timm_model("distilled")).train()
    before, names = copy.deepcopy(model.state_dict()), [name for name, _ in model.named_modules()]
    model(images(model), kept=slice_width(model.spec, Fraction(1, 2))).sum().backward()
    assert [name for name, _ in model.named_modules()] == names
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_deep_copy_runs_its_own_weights():
    model = from_timm(timm_model()).eval()
    kept, x = slice_width(model.spec, Fraction(1, 2)), images(timm_model())
    before = model(x, kept=kept)
    other = copy.deepcopy(model)
    randomize(other)
    assert not torch.allclose(other(x, kept=kept), before)
    assert torch.equal(model(x, kept=kept), before)


@pytest.mark.parametrize(("name", "patch"), [("swin_tiny_patch4_window7_224", 4), ("vit_tiny_patch16_224", 16)])
def test_images_of_which_pixels_would_be_left_out(name, patch):
    """timm takes them, and looks at whole patches alone."""
    with pytest.raises(UserError, match=f"^img_size: 225 is not a multiple of the patch size {patch}"):
        template(ModelConfig(name=name, img_size=225))
    if patch == 16:
        with pytest.raises(UserError, match=r"^img_size: 225 is not"):
            create_backbone(name, img_size=225, depth=1)


def test_a_models_own_image_size_may_leave_pixels_out():
    spec = template(ModelConfig(name="vit_so400m_patch14_siglip_gap_384", img_size=384, depth=1)).spec
    assert spec.img_size == (384, 384)
