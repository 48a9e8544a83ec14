"""Running statistics of batch norms against those computed here, and what widths have of their own."""

from fractions import Fraction
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lightning_vitc.artifacts import artifact
from lightning_vitc.errors import UserError
from lightning_vitc.networks.batch_statistics import batch_norms, calibrate, measured
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.elastic import Cut, ElasticViT
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.networks.spec import ArchSpec
from tests.networks.conv_nets import images, network

FAMILIES = ("resnet", "mobilenet")
HALF = Fraction(1, 2)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_statistics_are_the_means_over_batches(family: str) -> None:
    model = network(family)
    batches = images(12).split(4)
    seen = []
    model.bn1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    calibrate([model], batches)
    means = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(model.bn1.running_mean, means, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.bn1.running_var, variances, rtol=1e-5, atol=1e-6)
    assert not any(module.training for module in model.modules())
    assert {norm.momentum for norm in batch_norms(model)} == {0.1}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_width_has_the_statistics_of_its_own_activations(family: str) -> None:
    """A network calibrated on a batch normalizes it in evaluation as it does in training, to the variance's n - 1."""
    model = network(family)
    kept = slice_width(model.spec, HALF)
    alone = compact(model, kept)
    calibrate([alone], [images(64)])
    own = kept.with_statistics(measured(alone))
    torch.testing.assert_close(model(images(64), kept=own), alone(images(64)), rtol=0, atol=1e-6)
    torch.testing.assert_close(compact(model, own)(images()), alone(images()), rtol=0, atol=1e-6)
    assert not torch.allclose(model(images(64), kept=kept), alone(images(64)), atol=1e-2)
    by_batch = compact(model, kept).train()(images(64))
    torch.testing.assert_close(alone(images(64)), by_batch, rtol=0.05, atol=0.05)


def elastic(family: str) -> ElasticViT:
    model = network(family)
    kept = slice_width(model.spec, HALF)
    alone = compact(model, kept)
    calibrate([alone], [images(64)])
    cuts = {HALF: Cut("per_head", "leading"), Fraction(1): Cut("per_head", "leading")}
    return ElasticViT(compact(model, None), cuts, {HALF: measured(alone)}).eval()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_an_export_of_widths_holds_their_statistics(family: str, tmp_path: Any) -> None:
    model = elastic(family)
    artifact.save(model, tmp_path / "out", {})
    again: Any = artifact.load(tmp_path / "out")
    for width in (1, 0.5):
        model.set_width(width)
        again.set_width(width)
        assert torch.equal(again(images()), model(images()))
    widened = model.double()
    widened.set_width(0.5)
    assert widened(images().double()).dtype == torch.double
    stored = load_file(tmp_path / "out" / artifact.WEIGHTS)
    beside = {name for name in stored if name.startswith("at_width/1/2/")}
    assert len(beside) == 3 * len(batch_norms(model.full))
    with pytest.raises(ValueError, match=r"^no statistics of batch norms at width 0\.5$"):
        ElasticViT(model.full, model.cuts)


def test_rules_of_attention_are_refused_where_there_is_none() -> None:
    with pytest.raises(UserError, match=r"^slice: heads says how attention is cut, and mobilenetv2_100 has none; "):
        slice_width(ArchSpec.of(network("mobilenet")), HALF, "heads")
