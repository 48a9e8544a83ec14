"""Files of Hugging Face's transformers give what transformers gives, by the record of `transformers_reference`."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.networks.backbone import Backbone, create_backbone, create_teacher
from tests.networks.weights import transformers_reference as reference
from tests.networks.weights.transformers_reference import EPS, drawn, images

RECORDED = reference.recorded()
TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4, "img_size": 16}
SWIN = {"embed_dim": 16, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2, "img_size": 32}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {  # timm's, and their classes
    "vit": ("vit_tiny_patch16_224", {"num_classes": 2}),
    "deit": ("deit_tiny_distilled_patch16_224", {"num_classes": 2}),
    "dinov2": ("vit_small_patch14_dinov2", {"num_classes": 0}),
    "dinov2_giant": ("vit_giant_patch14_dinov2", {"num_classes": 0, "mlp_ratio": 3}),
    "dinov2_registers": ("vit_small_patch14_reg4_dinov2", {"num_classes": 0}),
    "dinov3": ("vit_small_patch16_dinov3_qkvb", {"num_classes": 0}),
    "dinov3_plus": ("vit_small_plus_patch16_dinov3", {"num_classes": 0}),
    "siglip": ("vit_base_patch16_siglip_224", {"num_classes": 0}),
    "siglip_classifier": ("vit_base_patch16_siglip_gap_224", {"num_classes": 2}),
    "siglip2": ("vit_base_patch16_siglip_224", {"num_classes": 0}),
    "clip": ("vit_base_patch16_clip_quickgelu_224", {"num_classes": 3}),
    "clip_pair": ("vit_base_patch16_clip_quickgelu_224", {"num_classes": 3}),
    "beit": ("beit_base_patch16_224", {"num_classes": 2}),
    "swin": ("swin_tiny_patch4_window7_224", {"num_classes": 2, **SWIN}),
}


def saved(case: str, folder: Path, **config: Any) -> Path:
    """A folder as transformers writes it."""
    settings = RECORDED[case]["config"] | config
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(drawn(RECORDED[case]["names"]), folder / "model.safetensors")
    return folder


def loaded(case: str, weights: Path, **changed: Any) -> Backbone:
    name, keys = MODELS[case.removesuffix("_in_memory")]
    tiny = {} if name.startswith("swin") else TINY
    return create_backbone(name, str(weights), **tiny | keys | changed).eval()


@pytest.mark.parametrize("case", RECORDED)
def test_what_it_gives(case, tmp_path):
    saved(case, tmp_path)
    model = loaded(case, tmp_path if case == "vit" else tmp_path / "model.safetensors")
    with torch.no_grad():
        given = model(images(model.spec.img_size[0]))
    torch.testing.assert_close(given, torch.tensor(RECORDED[case]["gives"]), rtol=0, atol=1e-5)
    assert model.spec.options.norm_eps == (1e-5 if case.startswith("swin") else EPS)


@pytest.mark.slow
def test_the_record_is_what_transformers_gives():
    pytest.importorskip("transformers")
    for case, found in reference.record().items():
        assert found["names"] == RECORDED[case]["names"]
        torch.testing.assert_close(torch.tensor(found["gives"]), torch.tensor(RECORDED[case]["gives"]))


def test_weights_in_several_files(tmp_path):
    """As large ones are saved: a list says which."""
    weights = drawn(RECORDED["vit"]["names"])
    parts = {name: f"model-0000{1 + (number % 2)}.safetensors" for number, name in enumerate(weights)}
    for part in {*parts.values()}:
        save_file({name: value for name, value in weights.items() if parts[name] == part}, tmp_path / part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    model = loaded("vit", tmp_path, norm_eps=EPS)
    with torch.no_grad():
        torch.testing.assert_close(model(images(16)), torch.tensor(RECORDED["vit"]["gives"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("text", "message"), [
    ("{", r"index\.json: no list of files of weights; expected a weight_map in it$"),
    ('{"weight_map": {"a": "../b.safetensors"}}', r"index\.json: lists '\.\./b\.safetensors', which is no file of we"),
    ('{"weight_map": {"a": "b.safetensors"}}', r"b\.safetensors: no such checkpoint file"),
])  # fmt: skip
def test_a_list_of_files_that_is_none(tmp_path, text, message):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match=message):
        loaded("vit", tmp_path)


def test_half_precision_and_a_new_head(tmp_path):
    weights = {name: value.half() for name, value in drawn(RECORDED["vit"]["names"]).items()}
    save_file(weights, tmp_path / "a.safetensors")
    model = create_backbone(MODELS["vit"][0], str(tmp_path / "a.safetensors"), new_head=True, **TINY, num_classes=5)
    assert model.cls_token.dtype is torch.float32
    assert torch.equal(model.cls_token, weights["vit.embeddings.cls_token"].float())
    with pytest.raises(
        UserError, match=r"\(Hugging Face's ViT\): its classifier is for 2 classes, the model's for 5; "
    ):
        create_backbone(MODELS["vit"][0], str(tmp_path / "a.safetensors"), **TINY, num_classes=5)


# config.json


def test_keys_of_an_experiment_go_before_those_of_the_file(tmp_path):
    saved("siglip", tmp_path)
    model = loaded("siglip", tmp_path, norm_eps=1e-3, act_layer="relu")
    assert (model.spec.options.norm_eps, model.spec.options.act) == (1e-3, "relu")
    model = loaded("siglip", tmp_path)
    assert (model.spec.options.norm_eps, model.spec.options.act) == (EPS, "gelu_tanh")


def test_an_experiment_notes_what_the_file_says(tmp_path):
    """So that a run is the same after the file has gone."""
    saved("vit", tmp_path)
    given = ["data.name=fake", f"model.pretrained={tmp_path}/"]
    model = load_experiment("scala_deit_s", given).model
    assert (model.norm_eps, model.act_layer) == (EPS, "gelu")
    assert load_experiment("scala_deit_s", [*given, "model.norm_eps=0.1"]).model.norm_eps == 0.1
    with pytest.raises(UserError, match=r"^model\.pretrained: there is no file '/nowhere/'$"):
        load_experiment("scala_deit_s", ["data.name=fake", "model.pretrained=/nowhere/"])


def test_a_teacher_of_another_size(tmp_path):
    saved("vit", tmp_path, image_size=16)
    with pytest.raises(UserError, match=r"\(Hugging Face's ViT\): .*its embed_dim is 16, the model's is 192; set te"):
        create_teacher("vit_tiny_patch16_224", str(tmp_path), 2, (16, 16))


@pytest.mark.parametrize(("settings", "message"), [
    ({"num_attention_heads": 4}, "its config.json says 4 heads, the model has 2; set model.num_heads to those, or "),
    ({"hidden_act": "mish"}, "its config.json says hidden_act: 'mish', which no network here has; they have gelu, "),
    ({"layer_norm_eps": "small"}, "its config.json says layer_norm_eps: 'small', which is no number between 0 and 1"),
    ({"layer_norm_eps": 0}, "its config.json says layer_norm_eps: 0, which is no number between 0 and 1"),
])  # fmt: skip
def test_settings_that_are_not_the_models(tmp_path, settings, message):
    saved("vit", tmp_path, **settings)
    with pytest.raises(UserError, match=re.escape(message)):
        loaded("vit", tmp_path)


def test_settings_that_cannot_be_read(tmp_path):
    saved("vit", tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"^\S+config\.json: cannot be read \(.*\); it says what the weights besid"):
        loaded("vit", tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "vit_tiny_patch16_224"}')  # timm's
    assert loaded("vit", tmp_path).spec.options.norm_eps == 1e-6
