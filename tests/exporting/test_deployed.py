"""Files of an export that lie: they compute something else than what their directory says; one line for each."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from lightning_vitc.artifacts import artifact
from lightning_vitc.errors import UserError
from lightning_vitc.exporting.deployed import open_format
from lightning_vitc.exporting.write_formats import write_pt2
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.compaction import compact

IMAGES = torch.zeros(3, 1, 8, 8)


def onnx_file(path: Path, shape: tuple[int, ...] = (1, 8, 8), classes: int = 10, twice: bool = False,
              constant: int = 0) -> None:  # fmt: skip
    """A linear classifier of pixels that may have two outputs, or add the mean of a long constant."""
    pixels = int(np.prod(shape))
    weights = [numpy_helper.from_array(np.ones((pixels, classes), np.float32), "weight")]
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", None])]
    if twice:
        nodes.append(helper.make_node("Neg", ["logits"], ["others"]))
        outputs.append(helper.make_tensor_value_info("others", TensorProto.FLOAT, ["batch", None]))
    if constant:
        weights.append(numpy_helper.from_array(np.array([constant]), "length"))
        nodes[1].output[0] = "product"
        nodes += [helper.make_node("ConstantOfShape", ["length"], ["ones"]),
                  helper.make_node("ReduceMax", ["ones"], ["most"], keepdims=0),
                  helper.make_node("Add", ["product", "most"], ["logits"])]  # fmt: skip
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *shape])]
    graph = helper.make_graph(nodes, "lies", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)


class Other(nn.Module):
    """A network of pixels whose results are not those of a classifier."""

    def __init__(self, twice: bool):
        super().__init__()
        self.layer, self.twice = nn.Linear(64, 20), twice

    def forward(self, images):
        logits = self.layer(images.flatten(1))
        return (logits, logits + logits) if self.twice else logits


LIES = {
    "two outputs": ("onnx", lambda path: onnx_file(path, twice=True), "gives 2 results"),
    "other images": ("onnx", lambda path: onnx_file(path, (3, 4, 4)), r"cannot be run on images of \[1, 8, 8\] \("),
    "20 logits": ("onnx", lambda path: onnx_file(path, classes=20), r"gives \[3, 20\] for 3 images"),
    "too long a constant": ("onnx", lambda path: onnx_file(path, constant=10**12), "cannot (read it|be run on)"),
    "two outputs of torch": ("pt2", lambda path: write_pt2(Other(True).eval(), (1, 8, 8), path), "gives 2 results"),
    "20 logits of torch": ("pt2", lambda path: write_pt2(Other(False).eval(), (1, 8, 8), path), r"gives \[3, 20\] for"),
    "other images of torch": ("pt2", lambda path: write_pt2(Small().eval(), (1, 4, 4), path), "cannot be run on"),
}  # fmt: skip


class Small(nn.Module):
    """A classifier of smaller images."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 10)

    def forward(self, images):
        return self.layer(images.flatten(1))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    small = dict(img_size=8, patch_size=4, in_chans=1, embed_dim=24, depth=1, num_heads=6, num_classes=10)
    return compact(create_backbone("vit_tiny_patch16_224", **small), None)


def exported(network: nn.Module, form: str, write, directory: Path) -> Path:
    """A directory whose `arch.json` vouches for the file."""

    def complete(folder: Path) -> dict:
        write(folder / f"model.{form}")
        return {}

    artifact.save(network, directory, {"method": "dense"}, complete)
    return directory


def test_a_file_that_tells_the_truth(network, tmp_path):
    logits = open_format(exported(network, "onnx", onnx_file, tmp_path / "x"), "onnx")(IMAGES + 1)
    assert torch.equal(logits, torch.full((3, 10), 64.0))


@pytest.mark.parametrize("what", LIES)
def test_a_lie(network, tmp_path, what):
    form, write, problem = LIES[what]
    directory = exported(network, form, write, tmp_path / "x")
    with pytest.raises(UserError, match=rf"^{directory}/model\.{form}: (onnxruntime )?{problem}") as caught:
        open_format(directory, form)(IMAGES)
    assert "\n" not in str(caught.value)
