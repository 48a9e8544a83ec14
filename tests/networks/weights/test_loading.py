"""Files of one's own training and of others: loaded whole, whatever they are wrapped in, or refused in one line."""

from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lightning_vitc.errors import UserError
from lightning_vitc.networks.backbone import create_backbone, create_teacher
from lightning_vitc.networks.weights.resampling import resampled
from lightning_vitc.pipeline.initial_network import starting_network
from lightning_vitc.schema import ModelConfig

NAME = "vit_tiny_patch16_224"
DISTILLED = "deit_tiny_distilled_patch16_224"
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 5}


@pytest.fixture
def trained() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(NAME, **SMALL).eval()


def same(model: nn.Module, weights: dict) -> bool:
    own = model.state_dict()
    return own.keys() == weights.keys() and all(torch.equal(own[name], value) for name, value in weights.items())


def renamed(weights: dict, before: str) -> OrderedDict:
    return OrderedDict((f"{before}{name}", value) for name, value in weights.items())


@pytest.mark.parametrize("file", ["a.ckpt", "a.pth.tar", "A.PTH", "a.Bin", "a.pt"])
@pytest.mark.parametrize("before", ["", "module.", "_orig_mod.", "model.", "model._orig_mod.module."])
def test_what_the_network_was_wrapped_in(tmp_path, trained, file, before):
    torch.save({"state_dict": renamed(trained.state_dict(), before), "epoch": 3}, tmp_path / file)
    assert same(create_backbone(NAME, str(tmp_path / file), **SMALL), trained.state_dict())


def test_blocks_that_were_compiled(tmp_path, trained):
    weights = {name.replace("blocks.0.", "blocks.0._orig_mod."): value for name, value in trained.state_dict().items()}
    torch.save(weights, tmp_path / "a.pth")
    assert same(create_backbone(NAME, str(tmp_path / "a.pth"), **SMALL), trained.state_dict())


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_ema", "state_dict_ema"])
def test_where_scripts_put_the_weights(tmp_path, trained, wrapper):
    """Beside their arguments, the one object that is read."""
    torch.save({wrapper: trained.state_dict(), "args": Namespace(lr=0.1, data=["a"])}, tmp_path / "a.pth")
    assert same(create_backbone(NAME, str(tmp_path / "a.pth"), **SMALL), trained.state_dict())


def test_of_several_one_is_taken_and_named(tmp_path, trained):
    averaged = {name: value + 1 for name, value in trained.state_dict().items()}
    torch.save({"model": trained.state_dict(), "model_ema": averaged}, tmp_path / "a.pth")
    with pytest.warns(UserWarning, match=r"a\.pth: holds model and model_ema; model is taken"):
        assert same(create_backbone(NAME, str(tmp_path / "a.pth"), **SMALL), trained.state_dict())


def test_other_objects_are_named_and_not_made(tmp_path, trained):
    torch.save({"model": trained.state_dict(), "path": Path("x")}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"which is never loaded \(pathlib\S+\); save the weights as \.safetensors"):
        create_backbone(NAME, str(tmp_path / "a.pth"), **SMALL)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_cast(tmp_path, trained, dtype):
    save_file({name: value.to(dtype) for name, value in trained.state_dict().items()}, tmp_path / "A.SAFETENSORS")
    model = create_backbone(NAME, str(tmp_path / "A.SAFETENSORS"), **SMALL)
    assert same(model, {name: value.to(dtype).float() for name, value in trained.state_dict().items()})


@pytest.mark.parametrize(
    "beside", [{"teacher.head.bias": torch.ones(5)}, {"model_ema.cls_token": torch.ones(1, 1, 48)}]
)
def test_more_than_one_network_is_none(tmp_path, trained, beside):
    torch.save({"state_dict": {**renamed(trained.state_dict(), "model."), **beside}}, tmp_path / "a.ckpt")
    first = sorted(["model", next(iter(beside)).partition(".")[0]])
    with pytest.raises(UserError) as caught:
        create_backbone(NAME, str(tmp_path / "a.ckpt"), **SMALL)
    said = f"its names begin with {', '.join(first)}; those under model fit: save them alone"
    assert str(caught.value).endswith(said)


@pytest.mark.parametrize("beside", [{"criterion.weight": torch.ones(2)}, {"val_acc.tp": torch.ones(5)},
                                    {"n_averaged": torch.tensor(3)}])  # fmt: skip
def test_what_is_no_network_is_left(tmp_path, trained, beside):
    """Weights of a loss, states of a metric, the counter of torch's AveragedModel."""
    torch.save({"state_dict": {**renamed(trained.state_dict(), "module."), **beside}}, tmp_path / "a.ckpt")
    assert same(create_backbone(NAME, str(tmp_path / "a.ckpt"), **SMALL), trained.state_dict())


@pytest.mark.parametrize(
    ("name", "keys", "there", "message"),
    [
        (NAME, {}, {"mlp_ratio": 2}, "its mlp_ratio is 2, the model's is 4; set model.mlp_ratio=2"),
        (DISTILLED, {}, {"name": NAME},
         "it is of a network without a distillation token, and model.name is one with"),
        (NAME, {}, {"name": DISTILLED},
         "it is of a network with a distillation token, and model.name is one without"),
        (NAME, {}, {"global_pool": "avg"}, "it has fc_norm.weight and no norm.weight; set model.global_pool=avg"),
        (NAME, {"global_pool": "avg"}, {}, "it has norm.weight and no fc_norm.weight; set model.global_pool=token"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("new_head", [False, True])
def test_another_kind_of_network_is_refused_by_the_key(tmp_path, name, keys, there, message, new_head):
    of = {"model_name": there.get("name", NAME), **SMALL, **there}
    weights = timm.create_model(**{key: value for key, value in of.items() if key != "name"}).state_dict()
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(UserError) as caught:
        create_backbone(name, str(tmp_path / "a.safetensors"), new_head=new_head, **SMALL, **keys)
    assert message in str(caught.value)


def test_numbers_that_are_none_are_refused(tmp_path, trained):
    for value, name in ((float("nan"), "head.bias"), (float("inf"), "blocks.1.norm2.weight")):
        weights = trained.state_dict() | {name: torch.full_like(trained.state_dict()[name], value)}
        save_file(weights, tmp_path / "a.safetensors")
        with pytest.raises(UserError, match=rf"a\.safetensors: {name} is not finite: the training that wrote it dive"):
            create_backbone(NAME, str(tmp_path / "a.safetensors"), **SMALL)


def test_a_sparse_tensor_is_one_line(tmp_path, trained, recwarn):
    weights = trained.state_dict()
    torch.save(weights | {"norm.weight": weights["norm.weight"].to_sparse()}, tmp_path / "a.pth")
    recwarn.clear()
    with pytest.raises(UserError, match=r"norm\.weight is a sparse tensor \(torch\.sparse_coo\); weights are dense"):
        create_backbone(NAME, str(tmp_path / "a.pth"), **SMALL)
    assert not recwarn.list


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channels_as_in_timm(tmp_path, trained, channels):
    save_file(trained.state_dict(), tmp_path / "a.safetensors")
    ours = create_backbone(NAME, str(tmp_path / "a.safetensors"), **SMALL, in_chans=channels)
    kernel = trained.patch_embed.proj.weight
    wanted = kernel.sum(1, keepdim=True) if channels == 1 else kernel.repeat(1, 2, 1, 1)[:, :channels] * 3 / channels
    torch.testing.assert_close(ours.patch_embed.proj.weight, wanted)


def test_positions_of_all_prefix_tokens_stay_as_they_are():
    """Two of a distilled network, beside a grid that grows from 2 x 2 to 4 x 4."""
    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=64, embed_dim=48, depth=1, num_heads=4)
    given = torch.randn(1, 2 + 4, 48)
    found = resampled({"pos_embed": given}, model, "a file")["pos_embed"]
    assert found.shape == (1, 2 + 16, 48)
    assert torch.equal(found[:, :2], given[:, :2])


@pytest.mark.parametrize("antialias", [True, False])
def test_a_pretrained_network_of_another_grid_without_a_classifier(tmp_path, antialias):
    """The kind of DINOv2: half precision, LayerScale, a token for masked patches, images of 70 pixels."""
    torch.manual_seed(0)
    keys = {"embed_dim": 48, "depth": 2, "num_heads": 4}
    theirs = timm.create_model("vit_small_patch14_dinov2", img_size=70, **keys).half()
    weights = {**theirs.state_dict(), "mask_token": torch.zeros(1, 48)}
    save_file(weights, tmp_path / "a.safetensors")
    config = ModelConfig(
        "vit_small_patch14_dinov2", True, str(tmp_path / "a.safetensors"), antialias, img_size=28, **keys
    )
    ours = starting_network(config, 5).eval()
    expected = timm.create_model("vit_small_patch14_dinov2", img_size=28, **keys).eval()
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(dict(weights), expected, antialias=antialias)
    expected.load_state_dict(filtered)
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(images), expected.forward_features(images), rtol=0, atol=1e-5)
        assert ours(images).shape == (2, 5)


REAL = Path(__file__).parents[4] / "shared" / "data" / "vit_small_patch14_dinov2_saliency.safetensors"


@pytest.mark.skipif(not REAL.is_file(), reason="a real pretrained network, which is not in the repository")
@pytest.mark.parametrize("size", [84, 112])
def test_a_real_one(size):
    ours = starting_network(ModelConfig("vit_small_patch14_dinov2", True, str(REAL), img_size=size), 5).eval()
    expected = timm.create_model("vit_small_patch14_dinov2", img_size=size, num_classes=0).eval()
    expected.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(load_file(REAL), expected))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(images), expected.forward_features(images), rtol=0, atol=1e-4)


def test_a_teacher_of_other_classes(tmp_path):
    save_file(timm.create_model("resnet18", num_classes=3).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="is for 3 classes, the model's for 5; a teacher needs one for the"):
        create_teacher("resnet18", str(tmp_path / "a.safetensors"), 5, (32, 32))


@pytest.mark.parametrize("name", ["hf-hub:timm/vit_tiny_patch16_224.x", "local-dir:exports/x/timm"])
def test_places_of_models_are_timms(monkeypatch, name):
    given = {}

    def create_model(name, **kwargs):
        given.update(name=name, **kwargs)
        return made

    made = timm.create_model(NAME, **SMALL)
    monkeypatch.setattr(timm, "create_model", create_model)
    config = ModelConfig(name, pretrained=True, img_size=32)
    assert same(starting_network(config, 5), made.state_dict())
    assert given == {"name": name, "pretrained": True, "img_size": 32, "num_classes": 5}


def test_a_place_where_nothing_is():
    line = r"^model\.name: local-dir:/nowhere cannot be read \(.*\); it names a folder with config\.json and weights, "
    with pytest.raises(UserError, match=line):
        create_backbone("local-dir:/nowhere", True)
