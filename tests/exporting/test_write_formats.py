"""The files that a runtime without this library reads."""

import json
import zipfile
from functools import partial
from pathlib import Path

import onnxruntime
import pytest
import timm
import torch
from timm.data import resolve_model_data_config

import lightning_vitc
from lightning_vitc import compact
from lightning_vitc.errors import UserError
from lightning_vitc.exporting.deployed import OnnxNetwork, Pt2Network
from lightning_vitc.exporting.write_formats import write_formats, write_timm
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.plain.network import build, initialize
from lightning_vitc.networks.families.plain.shape import vit_block
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.timm_models import create_timm

PREPROCESSING = {"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.4] * 3, "interpolation": "bilinear",
                 "crop_pct": 1.0}  # fmt: skip
CLASSES = ["cat", "dog", "5²", "\udcff", "emu"]
SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "num_heads": 4, "depth": 2, "num_classes": 5}


def pruned() -> torch.nn.Module:
    """Ragged heads, a block without attention, one without an MLP."""
    spec = ArchSpec.of(create_backbone("deit_tiny_distilled_patch16_224", **SMALL))
    blocks = (vit_block(attention(8, (8, 3, 1)), 50), vit_block(None, 7), vit_block(attention(8, (8, 8)), None))
    torch.manual_seed(0)
    model = build(spec.with_stage(*blocks)).eval()
    initialize(model)
    return model


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return pruned()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    write_formats(model, folder, ["safetensors", "onnx", "pt2", "int8"], PREPROCESSING, CLASSES)
    return folder


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))


def logits(model: torch.nn.Module, count: int) -> torch.Tensor:
    with torch.no_grad():
        return model(images(count))


def test_only_what_was_asked_for_is_written(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["model.int8.onnx", "model.onnx", "model.pt2"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_runtime_computes_the_same_at_any_batch_size(model, folder, count):
    for network in (OnnxNetwork(folder / "model.onnx"), Pt2Network(folder / "model.pt2")):
        torch.testing.assert_close(logits(network, count), logits(model, count), rtol=0, atol=1e-4)


def test_onnx_is_one_file_that_onnxruntime_reads_by_its_names(model, folder):
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (found,) = session.run(["logits"], {"images": images(3).numpy()})
    torch.testing.assert_close(torch.from_numpy(found), logits(model, 3), rtol=0, atol=1e-4)
    assert session.get_inputs()[0].shape == ["batch", 3, 16, 16]


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx"])
def test_onnx_knows_its_classes(folder, name):
    metadata = onnxruntime.InferenceSession(folder / name).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == CLASSES


def test_int8_is_near_and_really_smaller(model, folder):
    found, wanted = logits(OnnxNetwork(folder / "model.int8.onnx"), 8), logits(model, 8)
    assert 0 < (found - wanted).norm() / wanted.norm() < 0.1
    operators = (folder / "model.int8.onnx").read_bytes()
    assert b"MatMulInteger" in operators
    assert b"MatMulInteger" not in (folder / "model.onnx").read_bytes()


def test_nothing_is_pickled_into_a_graph(folder):
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        assert all(archive.getinfo(name).file_size == 0 for name in archive.namelist() if name.endswith(".pt"))
        assert not [name for name in archive.namelist() if name.endswith(".pkl")]


def test_no_file_names_a_path_of_the_machine_it_was_made_on(folder):
    places = [str(Path(module.__file__).parents[1]).encode() for module in (timm, lightning_vitc)]
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    contents += [(folder / name).read_bytes() for name in ("model.onnx", "model.int8.onnx")]
    assert not [place for place in places for content in contents if place in content]


def test_damaged_files_are_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    (tmp_path / "model.pt2").write_bytes(b"no graph")
    for opened, name in ((OnnxNetwork, "model.onnx"), (Pt2Network, "model.pt2")):
        with pytest.raises(UserError, match=rf"{name}: (damaged; torch cannot read it|\w+ cannot read it \([^\n]+\))$"):
            opened(tmp_path / name)


# timm

MODELS = {
    "dense": ("deit_tiny_patch16_224", {}), "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "layer scale": ("deit3_small_patch16_224", {}), "pooled": ("vit_base_patch16_224", {"global_pool": "avg"}),
    "qk norm": ("vit_base_patch16_224", {"qk_norm": True}),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("width", [1, 0.5])
def test_timm_loads_what_has_a_shape_of_its_own(tmp_path, kind, width):
    """Half the width of every head keeps the scale of the dense network, which is folded into the queries."""
    name, arguments = MODELS[kind]
    torch.manual_seed(0)
    full = create_backbone(name, **(SMALL | arguments)).eval()
    model = compact(full, None if width == 1 else slice_width(full.spec, width))
    write_timm(model, tmp_path / "timm", PREPROCESSING, CLASSES)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    torch.testing.assert_close(logits(loaded, 3), logits(model, 3), rtol=0, atol=1e-5)
    assert type(loaded).__module__.startswith("timm.")
    assert loaded.pretrained_cfg["label_names"] == CLASSES
    found = resolve_model_data_config(loaded)
    assert [list(found["mean"]), found["input_size"], found["interpolation"]] == [[0.5] * 3, (3, 16, 16), "bilinear"]


def test_timm_has_no_ragged_network(model, tmp_path):
    with pytest.raises(
        UserError, match=r"^--formats: timm has no deit_tiny_\S+ of this shape: its blocks must be alike"
    ):
        write_formats(model, tmp_path, ["timm"], PREPROCESSING)
    spec = ArchSpec.of(create_backbone("deit_tiny_patch16_224", **SMALL))
    fewer = build(spec.with_stage(*[vit_block(attention(8, (8, 8)), 64)] * 2)).eval()
    with pytest.raises(UserError, match=r"2 heads with 16 value dimensions, an embedding of 32$"):
        write_timm(fewer, tmp_path / "timm", PREPROCESSING)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_small_patch16_dinov3",
            "plain Vision Transformers alone are written for it, not vit_small_patch16_dinov3",
        ),
        (
            "aimv2_large_patch14_224",
            "its arguments cannot say that aimv2_large_patch14_224 has other norms or gated MLPs",
        ),
    ],
)
def test_what_timm_cannot_be_told_is_refused_by_name(name, message, tmp_path):
    small = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 4, "mlp_ratio": 2}
    with pytest.raises(UserError, match=f"^--formats: timm: {message}$"):
        write_timm(compact(create_backbone(name, **small), None), tmp_path / "timm", PREPROCESSING)
    assert not (tmp_path / "timm").exists()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_base_patch16_siglip_224", {}),
        ("vit_tiny_patch16_224", {"scale_attn_norm": True, "scale_mlp_norm": True}),
    ],
)
def test_timm_is_told_of_pooling_by_attention_and_inner_norms(name, arguments, tmp_path):
    torch.manual_seed(0)
    small = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 3}
    model = compact(create_backbone(name, **small, **arguments, num_classes=7), None)
    write_timm(model, tmp_path / "timm", PREPROCESSING)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "eps"), [
    ("vit_base_patch16_clip_224", 1e-5), ("beit3_base_patch16_224", 1e-5), ("vit_tiny_patch16_224", 0.05),
    ("deit_tiny_distilled_patch16_224", 1e-5),
])  # fmt: skip
def test_timm_is_told_of_the_epsilon(name, eps, tmp_path):
    """By the name of a model that has it; where none has, config.json says what to pass beside."""
    torch.manual_seed(0)
    small = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 7}
    model = compact(create_backbone(name, **small, norm_eps=eps), None).eval()
    write_timm(model, tmp_path / "timm", PREPROCESSING)
    said = json.loads((tmp_path / "timm" / "config.json").read_text()).get("norm_eps")
    given = {} if said is None else {"norm_layer": partial(torch.nn.LayerNorm, eps=said)}
    assert said == (None if eps == 1e-5 and "distilled" not in name else eps)
    place, images = f"local-dir:{tmp_path / 'timm'}", torch.randn(2, 3, 16, 16)
    for loaded in (timm.create_model(place, pretrained=True, **given), create_timm(place, pretrained=True)):
        with torch.no_grad():
            torch.testing.assert_close(loaded.eval()(images), model(images), rtol=0, atol=1e-5)
