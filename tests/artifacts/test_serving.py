"""The code of a model card is run as it stands there, on photographs of several kinds."""

import re
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import lightning_vitc
from lightning_vitc.artifacts import artifact, serving
from lightning_vitc.exporting.write_formats import write_onnx
from lightning_vitc.networks.backbone import from_timm
from lightning_vitc.networks.spec import ArchSpec

HOW = {"input_size": [3, 32, 32], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic",
       "crop_pct": 0.875, "crop_mode": "center", "exif": False}  # fmt: skip
CLASSES = ("cat", "dog", "owl")
NAME, HEIGHT, WIDTH, TURNED = "photo.jpg", 50, 71, 6  # an EXIF orientation


def network(channels: int = 3, size: tuple[int, int] = (32, 32)) -> Any:
    torch.manual_seed(0)
    arguments = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8, "num_classes": len(CLASSES)}
    return from_timm(timm.create_model("vit_tiny_patch16_224", img_size=size, in_chans=channels, **arguments)).eval()


def photograph(folder: Path, mode: str = "RGB", orientation: int = 1) -> None:
    random = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    image = Image.fromarray(random).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(folder / NAME, exif=exif, quality=95)


def exported(folder: Path, how: dict[str, Any], classes: tuple[str, ...] = CLASSES) -> Any:
    model = network(how["input_size"][0], tuple(how["input_size"][1:]))
    facts = {"method": "uvc", "preprocessing": how, "classes": list(classes), "formats": {"safetensors": {"bytes": 1},
             "onnx": {"bytes": 1}}}  # fmt: skip
    artifact.save(model, folder, facts, lambda place: _with_onnx(model, how, place, classes))
    return model


def _with_onnx(model: Any, how: dict[str, Any], place: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    write_onnx(model, tuple(how["input_size"]), place / "model.onnx", classes)
    return {}


def code_of(folder: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


def printed(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    out = StringIO()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdout", out)
    exec(compile(code, "card", "exec"), {})
    monkeypatch.undo()
    return out.getvalue()


@pytest.mark.parametrize("orientation", [1, TURNED])
@pytest.mark.parametrize("how", [
    HOW, HOW | {"crop_pct": 1.0, "exif": True}, HOW | {"crop_mode": "squash", "interpolation": "bilinear"},
    HOW | {"crop_mode": "border"}, HOW | {"input_size": [1, 32, 32], "mean": [0.5], "std": [0.25]},
    HOW | {"input_size": [3, 32, 48]},
], ids=["center", "exif", "squash", "border", "gray", "wide"])  # fmt: skip
def test_both_name_what_the_network_sees(how, orientation, tmp_path, monkeypatch):
    model = exported(tmp_path / "out", how)
    photograph(tmp_path / "out", orientation=orientation)
    with Image.open(tmp_path / "out" / NAME) as image, torch.no_grad():
        image.load()
        probabilities = model(lightning_vitc.transform(tmp_path / "out")(image)[None]).softmax(1)[0]
    values, indices = probabilities.topk(3)
    expected = "".join(f"{CLASSES[i]} {v:.1%}\n" for v, i in zip(values, indices, strict=True))
    pytorch, onnx = code_of(tmp_path / "out")
    assert "lightning_vitc" not in onnx or how["crop_mode"] == "border" or how["input_size"] == [3, 32, 48]
    assert printed(pytorch, tmp_path / "out", monkeypatch) == expected
    assert printed(onnx, tmp_path / "out", monkeypatch) == expected


def test_inputs_of_numpy_are_those_of_timm(tmp_path, monkeypatch):
    exported(tmp_path / "out", HOW)
    photograph(tmp_path / "out")
    code = code_of(tmp_path / "out")[1].partition("(logits,)")[0]
    found: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path / "out")
    exec(code, found)
    inputs = lightning_vitc.transform(".")(Image.open(NAME))[None].numpy()
    np.testing.assert_allclose(found["inputs"], inputs, atol=1e-6)


def test_without_names_classes_are_numbers(tmp_path, monkeypatch):
    exported(tmp_path / "out", HOW, ())
    photograph(tmp_path / "out")
    for code in code_of(tmp_path / "out"):
        assert re.fullmatch(r"(\d \d+\.\d%\n){3}", printed(code, tmp_path / "out", monkeypatch))


def test_what_is_not_known_is_not_made_up():
    spec = ArchSpec.of(network())
    assert serving.in_words({}) == ""
    assert "photo.jpg" not in serving.pytorch(spec, {}) + serving.onnx(spec, {}, "model.onnx")


def test_in_words():
    assert serving.in_words(HOW) == (
        "An image, in RGB, is resized so that its short side has 36 pixels and cut at its center to 32 x 32 (bicubic), "
        "divided by 255, and becomes (image - mean) / std with mean 0.5, 0.4, 0.3 and std 0.2, 0.25, 0.3."
    )
    assert "turned as its EXIF says, in RGB, is stretched to 36 x 36 pixels" in serving.in_words(
        HOW | {"crop_mode": "squash", "exif": True}
    )
