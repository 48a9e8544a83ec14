import json
from fractions import Fraction
from pathlib import Path

import pytest
import timm
import torch

from lightning_vitc import compact
from lightning_vitc.artifacts import artifact
from lightning_vitc.errors import UserError
from lightning_vitc.files.records import opened
from lightning_vitc.networks.backbone import from_timm
from lightning_vitc.networks.elastic import Cut, ElasticViT
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.networks.spec import ArchSpec

CUTS = {
    Fraction(1, 4): Cut("per_head", "trailing"),
    Fraction(1, 2): Cut("per_head", "leading"),
    Fraction(1): Cut("per_head", "leading"),
}


@pytest.fixture
def full():
    torch.manual_seed(0)
    return compact(from_timm(timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48)), None)


@pytest.fixture
def elastic(full) -> ElasticViT:
    return ElasticViT(full, CUTS).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def test_every_width_computes_what_its_standalone_network_does(full, elastic):
    assert elastic.widths == [0.25, 0.5, 1.0]
    assert elastic.width == 1.0
    for width, cut in CUTS.items():
        elastic.set_width(float(width))
        alone = compact(full, slice_width(ArchSpec.of(full), width, *cut))
        assert elastic.spec == ArchSpec.of(alone)
        assert torch.equal(logits(elastic), logits(alone))


def test_slices_are_contiguous_and_cut_once(elastic):
    elastic.set_width(0.5)
    network = elastic.network
    assert all(weight.is_contiguous() for weight in network.parameters())
    elastic.set_width(1)
    elastic.set_width("1/2")
    assert elastic.network is network


def test_another_type_or_other_weights_are_followed(elastic):
    elastic.set_width(0.25)
    elastic.double()
    assert next(elastic.network.parameters()).dtype == torch.float64
    before = logits(elastic.float())
    with torch.no_grad():
        elastic.full.head.bias += 1
    elastic.forget()
    torch.testing.assert_close(logits(elastic), before + 1)


def test_a_width_that_was_not_trained_is_refused(elastic):
    with pytest.raises(UserError, match=r"^width: 0\.3 is not one of 0\.25, 0\.5, 1$"):
        elastic.set_width(0.3)
    assert elastic.width == 1.0
    assert elastic.restricted(["0.5", ".25"]).widths == [0.25, 0.5]
    with pytest.raises(UserError, match=r"^width: \.3 is not one of"):
        elastic.restricted([".3"])


def test_it_is_exported_and_loaded(elastic, tmp_path: Path):
    artifact.save(elastic, tmp_path / "model", {"method": "scala"})
    loaded = artifact.load(tmp_path / "model")
    assert isinstance(loaded, ElasticViT)
    for width in elastic.widths:
        elastic.set_width(width)
        loaded.set_width(width)
        assert torch.equal(logits(loaded), logits(elastic))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| widths | 1/4, 1/2, 1 |" in card
    assert 'model.set_width("1/4")' in card


@pytest.mark.parametrize("change", [{"rule": "per_qkv"}, {"end": "leading"}, {"width": "3/4"}, None])
def test_a_description_of_other_widths_is_refused(elastic, tmp_path, change):
    """Every one of them would load, and compute something else."""
    artifact.save(elastic, tmp_path / "model", {})
    path = tmp_path / "model" / "arch.json"
    document = opened(path.read_bytes())
    if change is None:
        del document["kind"]
    else:
        document["widths"][0] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"arch\.json: not the architecture that model\.safetensors was written for; "):
        artifact.load(tmp_path / "model")


@pytest.mark.parametrize("widths", ["3", "[]", '[{"width": "x", "rule": "per_head", "end": "leading"}]', "[{}]"])
def test_a_damaged_description_is_one_line(elastic, tmp_path, widths):
    artifact.save(elastic, tmp_path / "model", {})
    path = tmp_path / "model" / "arch.json"
    text = path.read_text()
    begin, end = text.index('"widths": ') + len('"widths": '), text.index("]", text.index('"widths": ')) + 1
    path.write_text(text[:begin] + widths + text[end:])
    with pytest.raises(UserError, match=r"arch\.json: [^\n]+$"):
        artifact.load(tmp_path / "model")


def test_widths_that_were_stored_without_their_heads_average_both(full):
    rows = [{"width": "1/2", "rule": "per_head", "end": "leading"}]
    assert ElasticViT.restored(full, {"widths": rows}).cuts == {Fraction(1, 2): Cut("per_head", "leading", "both")}


@pytest.mark.parametrize("heads", ["distillation", "class"])
def test_heads_that_a_network_does_not_have_are_refused(full, heads):
    rows = [{"width": "1/2", "rule": "per_head", "end": "leading", "heads": heads}]
    with pytest.raises(UserError, match=f"^heads: '{heads}' are not heads of deit_tiny_patch16_224$"):
        ElasticViT.restored(full, {"widths": rows})
