"""Exported networks run on CUDA, in every way that gates have; so do the evaluations and decisions around a training.

How many images of a batch run a branch is the answer that the device gives: none, some, or all of them.
"""

from copy import deepcopy
from fractions import Fraction
from typing import Any

import pytest
import torch
from fake_cuda import CUDA, FakeCuda
from fitting import batches, trainer_on
from trainings import scala, usdc, uvc  # of benchmarks/

from lightning_vitc.artifacts import artifact
from lightning_vitc.budget.prunable import kept_of
from lightning_vitc.dynamic.rate_evaluation import RateEvaluation
from lightning_vitc.few_shot.scores import score
from lightning_vitc.few_shot.synthetic import synthesize
from lightning_vitc.networks.backbone import Backbone, create_backbone
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.dropped_attention import drop_attention
from lightning_vitc.networks.gates.attaching import with_gates
from lightning_vitc.networks.gates.skipping import set_gating
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.pipeline.evaluation import Evaluation
from lightning_vitc.schema import SyntheticConfig


def backbone() -> Backbone:
    torch.manual_seed(3)
    return create_backbone("deit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, embed_dim=48, depth=3,
                           num_heads=6, num_classes=10).eval()  # fmt: skip


def gated() -> Backbone:
    joint = usdc(backbone())
    assert joint.gates is not None
    return with_gates(joint.backbone, joint.gates.winners())


def run(network: Any, images: int, answer: int = 1) -> FakeCuda:
    with FakeCuda(answer) as device, torch.no_grad():
        network.to(CUDA)
        assert all(tensor.is_cuda for tensor in (*network.parameters(), *network.buffers()))
        with device.watched(*SKIPPING):
            logits = network(torch.randn(images, 1, 8, 8, device=CUDA))
    assert (logits.device, logits.shape) == (CUDA, (images, 10))
    return device


SKIPPING = ["gates/skipping.py:skipping"]  # which branches run is the host's business where nothing is compiled


def exported(model: Any, folder: Any) -> Any:
    artifact.save(model, folder / "model", {})
    return artifact.load(folder / "model")


@pytest.mark.parametrize("mode", ["per_sample", "per_batch", "masked"])
def test_networks_with_gates(tmp_path, mode):
    network = exported(compact(gated(), None), tmp_path)
    set_gating(network, mode)
    for images, answer in ((1, 0), (1, 1), (6, 0), (6, 2), (6, 6)):
        assert bool(run(deepcopy(network), images, answer).waits) == (mode != "masked")


def test_networks_without(tmp_path):
    """Ragged heads too, whose padding is looked up in buffers."""
    dense = backbone()
    masks = uvc(dense).decide()
    small = compact(dense, kept_of(dense.spec, masks))
    assert small.state_dict()
    assert not run(exported(small, tmp_path), 4).waits


def test_elastic_networks(tmp_path):
    elastic = exported(scala(backbone()).elastic(), tmp_path)
    slice_width.cache_clear()
    with FakeCuda() as device, torch.no_grad():
        elastic.to(CUDA)
        for width in elastic.widths:
            elastic.set_width(width)
            with device.watched():
                assert elastic(torch.randn(2, 1, 8, 8, device=CUDA)).is_cuda


def test_evaluations():
    small = compact(backbone(), slice_width(backbone().spec, Fraction(1, 2)))
    evaluation = Evaluation({"dense": backbone(), "small": small}, 10)
    joint, network = usdc(backbone()), gated()
    rates = RateEvaluation(network, joint.targets)
    slice_width.cache_clear()
    with FakeCuda(answer=2) as device:
        for module, of in ((evaluation, joint), (rates, joint)):
            trainer_on(device).test(module, batches(of, count=2), verbose=False)
    assert set(evaluation.accuracy) == {"dense", "small"}
    assert rates.rates["all"].device.type == "cpu"
    assert all(tensor.device.type == "cpu" for pair in rates.extremes for tensor in pair)


def test_what_decides_after_a_training():
    """Masks are of the host, whatever the device is that the search was on."""
    search, joint = uvc(backbone()), usdc(backbone())
    with FakeCuda(answer=1):
        for module in (search.to(CUDA), joint.to(CUDA)):
            masks = module.decide()
            assert {masks.dims.device.type, masks.channels.device.type, masks.branches.device.type} == {"cpu"}


def test_few_images():
    original, images = backbone(), torch.randn(4, 1, 8, 8)
    with FakeCuda():
        original.to(CUDA)
        drawn: dict[str, Any] = dict(seed=0, images=images)
        small = drop_attention(original, 1, 16, units="activation", init="least_squares", **drawn)
        assert {weight.device for weight in small.parameters()} == {CUDA}
        for kind in ("kl", "mse"):
            assert isinstance(score(original, small, images, kind), float)
        recipe = SyntheticConfig(count=2, batch=2, iterations=2, warmup=1)
        made = synthesize(deepcopy(original), recipe, shape=(1, 8, 8), num_classes=10, mean=(0.5,), std=(0.5,),
                          beta=1.0, seed=0)  # fmt: skip
    assert made.device.type == "cpu"
