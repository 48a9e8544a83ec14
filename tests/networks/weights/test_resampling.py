"""Positions and tables of another image size or window."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from lightning_vitc.errors import UserError
from lightning_vitc.networks.backbone import create_backbone, from_spec, from_timm
from lightning_vitc.networks.weights.resampling import resampled
from lightning_vitc.networks.weights.strict import load_strictly

NAME = "swin_tiny_patch4_window7_224"
SWIN = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 3}


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = timm.create_model(NAME, img_size=32, window_size=4, **SWIN).eval()
    for name, table in model.named_parameters():
        if name.endswith("table"):
            torch.nn.init.normal_(table)
    return model


@pytest.mark.parametrize(("size", "window"), [(32, 8), (64, 7), (16, 4), (64, 4)])
def test_swins_tables_are_resampled_as_in_timm(tmp_path, trained, size, window):
    """To larger windows, to the smaller ones of a grid that limits them, and not at all."""
    keys = {**SWIN, "img_size": size, "window_size": window}
    save_file(trained.state_dict(), tmp_path / "a.safetensors")
    ours = create_backbone(NAME, str(tmp_path / "a.safetensors"), **keys).eval()
    expected = timm.create_model(NAME, **keys).eval()
    expected.load_state_dict(timm.models.swin_transformer.checkpoint_filter_fn(dict(trained.state_dict()), expected))
    seen = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours(seen), expected(seen), rtol=0, atol=1e-5)


def test_weights_and_the_network_itself_are_resampled_alike(trained):
    """As where a compressed network is taken to other images."""
    moved = from_timm(trained).eval()
    started = from_spec(moved.spec.with_img_size((16, 16)), fresh=False).eval()
    load_strictly(started, resampled(moved.state_dict(), started, "a"), "a")
    moved.set_input_size((16, 16))
    seen = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(started(seen), from_timm(trained).eval()(torch.randn(2, 3, 32, 32)))
        torch.testing.assert_close(started(seen), moved(seen), rtol=0, atol=1e-6)


def test_a_table_of_no_square_window(trained):
    weights = dict(trained.state_dict())
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    weights[name] = weights[name][:-1]
    with pytest.raises(
        UserError, match=rf"^a: not a checkpoint of this model: {name} has 48 rows, of no square window; "
    ):
        resampled(weights, trained, "a")
