"""`method.slice=released` against Scala's released network, written out here on the full weights, and its files."""

import json
from argparse import Namespace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.files.checkpoint import read_settings
from lightning_vitc.measuring.weights_file import evaluate_weights
from lightning_vitc.methods.scala import Arguments, Scala
from lightning_vitc.networks.backbone import Backbone, create_backbone, template
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.schema import ModelConfig, OptimizerConfig

SMALL = {"img_size": 16, "patch_size": 8, "in_chans": 1, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
WIDTHS = tuple(Fraction(number, 8) for number in range(2, 9))  # .25, .375, ..., 1


def network(**keys: float) -> Backbone:
    """With activations so small that the epsilon of a norm is felt."""
    torch.manual_seed(0)
    model = create_backbone("deit_tiny_distilled_patch16_224", **(SMALL | keys))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
            if name.startswith(("patch_embed", "pos_embed", "cls_token", "dist_token")):
                parameter.mul_(0.01)
    return model


def released(weights: dict[str, Tensor], images: Tensor, width: Fraction) -> Tensor:
    """The average of both heads: s = .25 and l = 1 lead, all other widths trail; norms have torch's own epsilon."""

    def cut(name: str, *dims: int) -> Tensor:
        weight = weights[name]
        for dim in dims:
            keep = int(weight.shape[dim] * width)
            weight = weight.narrow(dim, 0 if width in (Fraction(1, 4), 1) else weight.shape[dim] - keep, keep)
        return weight

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], cut(f"{name}.weight", 0), cut(f"{name}.bias", 0))

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, cut(f"{name}.weight", 0, 1), cut(f"{name}.bias", 0))

    patches = cut("patch_embed.proj.weight", 0)
    x = F.conv2d(images, patches, cut("patch_embed.proj.bias", 0), stride=patches.shape[-1])
    x = x.flatten(2).transpose(1, 2)
    tokens = [cut(name, 2).expand(len(x), -1, -1) for name in ("cls_token", "dist_token")]
    x = torch.cat([*tokens, x], dim=1) + cut("pos_embed", 2)
    for block in ("blocks.0", "blocks.1"):
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").unflatten(-1, (3, 2, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1) * 16**-0.5).softmax(-1) @ v  # the scale of the full width
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + linear(hidden, f"{block}.mlp.fc2")
    x = norm(x, "norm")
    cls, dist = (
        F.linear(x[:, token], cut(f"{head}.weight", 1), weights[f"{head}.bias"])
        for token, head in enumerate(("head", "head_dist"))
    )
    return (cls + dist) / 2


def scala(**keys: object) -> Scala:
    return Scala(network(), OptimizerConfig(lr=1e-3), arguments=Arguments(granularity=0.125, **keys)).eval()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_computes_what_the_released_network_does(width: Fraction) -> None:
    module, images = scala(slice="released"), torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        wanted = released(module.backbone.state_dict(), images, width)
        torch.testing.assert_close(module(images, width), wanted, rtol=1e-5, atol=1e-5)
        small = compact(module.backbone, module.evaluated(width))
        torch.testing.assert_close(small(images), wanted, rtol=1e-5, atol=1e-5)
        assert ArchSpec.of(small).options.norm_eps == 1e-5
        elastic = module.elastic()
        elastic.set_width(width)
        torch.testing.assert_close(elastic(images), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "width"),
    [
        ({"slice": "official", "orientation": "official"}, Fraction(1)),  # another epsilon
        ({"slice": "official", "orientation": "official"}, Fraction(1, 2)),
        ({"slice": "official"}, Fraction(1, 2)),
        ({"slice": "per_qkv", "orientation": "official"}, Fraction(1, 2)),
    ],
)
def test_nothing_less_is_the_released_network(keys: dict[str, str], width: Fraction) -> None:
    module, images = scala(**keys), torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        difference = module(images, width) - released(module.backbone.state_dict(), images, width)
    assert difference.abs().max() > 1e-3


# model.norm_eps


def test_norm_eps_is_that_of_every_norm() -> None:
    model = network(norm_eps=1e-3)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 2 * 2 + 1
    assert {norm.eps for norm in norms} == {1e-3}
    assert (model.spec.options.norm_eps, network().spec.options.norm_eps) == (1e-3, 1e-6)
    assert template(ModelConfig(name="vit_small_patch16_224", norm_eps=1e-4)).spec.options.norm_eps == 1e-4


def test_a_new_epsilon_changes_what_is_computed_and_described() -> None:
    one, two, images = network(), network(norm_eps=1e-3), torch.randn(2, 1, 16, 16)
    one.eval().set_norm_eps(1e-3)
    two.eval()
    assert one.spec == two.spec == ArchSpec.of(one)
    with torch.no_grad():
        torch.testing.assert_close(one(images), two(images))
        assert (one(images) - network().eval()(images)).abs().max() > 1e-3


# The released files

DIGITS = ("model.embed_dim=32", "model.depth=2", "model.num_heads=2", "model.patch_size=4", "teacher.train=false")
RELEASED = (*DIGITS, "method.slice=released", "method.granularity=0.25")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As their training writes it: weights, their average, the state of the training, and its parsed arguments."""
    trained, other = (network(img_size=8, patch_size=4, num_classes=10) for _ in range(2))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.neg_()
    arguments = Namespace(
        model="deit_small_distilled_patch16_224_scala", smallest_ratio=0.25, largest_ratio=1.0, granularity=0.0625,
        full_warm_epoch=10, distill_type="soft", token_type="dist_token", lr=0.004, opt_betas=None, gpu=0, eval=False,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("released") / "checkpoint.pth"
    torch.save(
        {"model": trained.state_dict(), "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5}]}, "epoch": 99,
         "lr_scheduler": {"t_initial": 100, "base_values": [0.004]}, "model_ema": other.state_dict(),
         "scaler": {"scale": 65536.0}, "args": arguments}, path,
    )  # fmt: skip
    return path


def accuracy(checkpoint: Path, width: Fraction) -> float:
    """Of the network written out above, in percent."""
    weights = torch.load(checkpoint, weights_only=False)["model"]
    data = Pipeline(load_experiment("scala_digits", DIGITS), RunDirectory("nowhere")).data
    right = [released(weights, images, width).argmax(-1) == targets for images, targets in data.loader_of("test")]
    return 100 * float(torch.cat(right).float().mean())


@pytest.mark.parametrize("width", ["0.25", "0.375", "1/2", "0.8125", "1"])  # trained or not
def test_a_released_file_is_evaluated_at_any_width(checkpoint: Path, width: str) -> None:
    (row,) = evaluate_weights(str(checkpoint), "scala_digits", width, "test", list(RELEASED))
    ratio = Fraction(width)
    assert row["width"] == float(ratio)
    assert row["top1"] == pytest.approx(accuracy(checkpoint, ratio), abs=1e-3)
    with_both_heads = create_backbone("deit_tiny_distilled_patch16_224", **(SMALL | {
        "img_size": 8, "patch_size": 4, "num_classes": 10, "embed_dim": int(32 * ratio)}))  # fmt: skip
    assert row["params"] == sum(parameter.numel() for parameter in with_both_heads.parameters())


def test_the_command_prints_all_widths_of_the_experiment(checkpoint: Path, vitc: Any) -> None:
    done = vitc("evaluate", "--weights", str(checkpoint), "scala_digits", *RELEASED, "--json")
    assert done.code == 0
    assert done.error.endswith("checkpoint.pth: holds model and model_ema; model is taken\n")
    rows = {row["width"]: row["top1"] for row in json.loads(done.out)}
    assert rows == {
        float(width): pytest.approx(accuracy(checkpoint, width), abs=1e-3)
        for width in (Fraction(number, 4) for number in range(1, 5))
    }
    assert not (vitc.place / "runs").exists()


def test_a_plain_experiment_evaluates_its_one_network(checkpoint: Path, tmp_path: Path) -> None:
    weights = tmp_path / "plain.pth"
    torch.save(torch.load(checkpoint, weights_only=False)["model"], weights)
    assert read_settings(weights) == {}
    keys = [key for key in DIGITS if "teacher" not in key]
    (row,) = evaluate_weights(str(weights), "dense_digits", None, "test", keys)
    assert row["name"] == "plain.pth"
    with pytest.raises(UserError, match=r"^--width: dense_digits has one network; leave the option out$"):
        evaluate_weights(str(weights), "dense_digits", "0.5", "test", keys)


@pytest.mark.parametrize(
    ("keys", "width", "message"),
    [
        (
            DIGITS,
            None,
            r"--weights: \S+ was trained by Scala's released code; evaluate it as an experiment of scala .*",
        ),
        ((*RELEASED, "method.s=0.5"), None, r"method\.s: 0\.5, but \S+ was trained with 0\.25"),
        ((*RELEASED, "model.depth=3"), None, r"\S+: not a checkpoint of this model: .*"),
        (RELEASED, "0.3", r"width: 0\.3 of the embedding width 32 is 9\.6, not a whole number"),
        (RELEASED, "half", r"width: 'half' is not a number; give a ratio such as 0\.5"),
    ],
)
def test_files_and_widths_that_do_not_fit(checkpoint: Path, keys: Any, width: str | None, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        evaluate_weights(str(checkpoint), "scala_digits", width, "test", list(keys))


class Stranger:
    """Any other object."""


def test_an_object_that_is_no_namespace_is_not_loaded(tmp_path: Path) -> None:
    torch.save({"model": {}, "args": Namespace(inner=Stranger())}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"^\S+bad\.pth: damaged, or holds more than tensors and primitives"):
        read_settings(tmp_path / "bad.pth")
