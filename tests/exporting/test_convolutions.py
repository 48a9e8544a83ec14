"""Networks of convolutions in every format, of which some channels and blocks are gone."""

from pathlib import Path

import onnxruntime
import pytest
import torch

from lightning_vitc.budget.prunable import kept_of
from lightning_vitc.exporting.write_formats import write_onnx, write_pt2
from lightning_vitc.networks.compaction import compact
from tests.budget.test_convolutions import random_masks
from tests.networks.conv_nets import images, network


@pytest.mark.slow
@pytest.mark.parametrize("family", ["resnet", "mobilenet"])
@torch.no_grad()
def test_onnx_and_pt2_take_any_batch(family: str, tmp_path: Path) -> None:
    model = network(family)
    small = compact(model, kept_of(model.spec, random_masks(family, 1)))
    write_pt2(small, (3, 32, 32), tmp_path / "model.pt2")
    write_onnx(small, (3, 32, 32), tmp_path / "model.onnx")
    graph = torch.export.load(tmp_path / "model.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for batch in (1, 3):
        torch.testing.assert_close(graph(images(batch)), small(images(batch)), rtol=0, atol=1e-5)
        (logits,) = session.run(None, {session.get_inputs()[0].name: images(batch).numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), small(images(batch)), rtol=0, atol=1e-4)
