"""With activation checkpointing every method computes the same loss and the same gradients, and keeps far less.

The same means bit for bit: on the CPU the second pass repeats the operations of the first, dropout and stochastic depth
included.
"""

import subprocess
from copy import deepcopy
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_vitc.backbone import Backbone, create_backbone
from lightning_vitc.budget.target import target_of
from lightning_vitc.compact import compact_backbone
from lightning_vitc.config import load_experiment
from lightning_vitc.dynamic.attaching import with_gates
from lightning_vitc.dynamic.finetuning import GatedFinetuning
from lightning_vitc.dynamic.targets import targets_of
from lightning_vitc.few_shot.adaptors import adapted
from lightning_vitc.few_shot.dropped_attention import drop_attention
from lightning_vitc.few_shot.feature_matching import original_tokens
from lightning_vitc.methods.dcvit import DCViT
from lightning_vitc.methods.dense import Arguments as DenseArguments
from lightning_vitc.methods.dense import Dense
from lightning_vitc.methods.one_shot import OneShot
from lightning_vitc.methods.practise import Practise
from lightning_vitc.methods.scala import Arguments as ScalaArguments
from lightning_vitc.methods.scala import Scala
from lightning_vitc.methods.usdc import USDC
from lightning_vitc.methods.usdc import Arguments as USDCArguments
from lightning_vitc.methods.uvc import UVC
from lightning_vitc.methods.uvc import Arguments as UVCArguments
from lightning_vitc.schema import BudgetConfig, OptimizerConfig
from lightning_vitc.slicing import slice_width
from lightning_vitc.training.module import CompressionModule
from lightning_vitc.training.run_directory import FREE
from lightning_vitc.training.teacher import Teacher

RECIPE, BUDGET = OptimizerConfig(lr=1e-3), BudgetConfig(macs="60%")
RATES = {"drop_path_rate": 0.4, "drop_rate": 0.1, "proj_drop_rate": 0.1, "attn_drop_rate": 0.1}


def backbone(**kwargs: Any) -> Backbone:
    torch.manual_seed(3)
    return create_backbone("deit_small_distilled_patch16_224", img_size=8, patch_size=2, in_chans=1, embed_dim=48,
                           depth=4, num_heads=6, num_classes=10, **kwargs)  # fmt: skip


def dense(network: Backbone) -> CompressionModule:
    return Dense(network, RECIPE, Teacher(deepcopy(network), 10))


def one_shot(network: Backbone) -> CompressionModule:
    """What its post-training trains: the network cut down."""
    small = compact_backbone(network, slice_width(network.spec, Fraction(1, 2)))
    return OneShot(small, RECIPE, Teacher(deepcopy(network), 10), DenseArguments(distillation="soft"))


def scala(network: Backbone) -> CompressionModule:
    module = Scala(network, RECIPE, None, ScalaArguments(granularity=0.25))
    module.widths = tuple(Fraction(number, 4) for number in (4, 3, 2, 1))
    return module


def uvc(network: Backbone, skip: str = "block") -> CompressionModule:
    target = target_of(BUDGET, network.spec, "uvc")
    return UVC(network, RECIPE, Teacher(deepcopy(network), 10), UVCArguments(skip=skip), BUDGET, target, seed=1)


def uvc_sublayer(network: Backbone) -> CompressionModule:
    return uvc(network, "sublayer")


def usdc(network: Backbone) -> CompressionModule:
    keys = USDCArguments(grouping="avg-8", gamma=5.0)
    targets = targets_of(BUDGET, network.spec, True, True)
    return USDC(network, RECIPE, Teacher(deepcopy(network), 10), keys, BUDGET, targets, seed=1)


def usdc_finetuning(network: Backbone) -> CompressionModule:
    joint = usdc(network)
    assert isinstance(joint, USDC)
    assert joint.gates is not None
    keys, targets = joint.arguments, joint.targets
    return GatedFinetuning(with_gates(network, joint.gates.winners()), RECIPE, None, keys, targets, seed=1)


def dcvit(network: Backbone) -> CompressionModule:
    images = torch.randn(4, 1, 8, 8)
    trials = {f"block_{block}": drop_attention(network, block, 32, seed=0, images=images) for block in (1, 2)}
    return DCViT(trials, RECIPE, original_tokens(deepcopy(network)))


def practise(network: Backbone) -> CompressionModule:
    return Practise({"block_1": adapted(network, 1)}, RECIPE, original_tokens(deepcopy(network)))


METHODS = [dense, one_shot, scala, uvc, uvc_sublayer, usdc, usdc_finetuning, dcvit, practise]


def stepped(make: Any, enable: bool) -> tuple[dict[str, Tensor], int]:
    """The loss, its terms, all gradients and all buffers after a step, and the bytes that its backward pass needed."""
    module = make(backbone(**RATES)).train()
    for part in module.modules():
        if isinstance(part, Backbone):
            part.set_grad_checkpointing(enable)
    images, targets = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(4)), torch.arange(16) % 10
    kept: dict[int, int] = {}
    weights = {weight.data_ptr() for weight in module.parameters()}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = module.step(images, targets)
    bytes_kept = sum(kept.values())
    result.loss.backward()
    module.after_step() if isinstance(module, GatedFinetuning) else None
    found = {"loss": result.loss.detach(), "random": torch.rand(3), **result.terms}
    found |= {f"grad {name}": weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    return found | dict(module.named_buffers()), bytes_kept


@pytest.mark.parametrize("make", METHODS, ids=lambda make: make.__name__)
def test_loss_and_gradients_of_a_step(make):
    (plain, _), (checkpointed, _) = stepped(make, False), stepped(make, True)
    assert plain.keys() == checkpointed.keys()
    assert sum(name.startswith("grad ") for name in plain) > 2
    for name, value in plain.items():
        assert torch.equal(value, checkpointed[name]), name


@pytest.mark.parametrize("make", METHODS, ids=lambda make: make.__name__)
def test_less_is_kept(make):
    (_, plain), (_, checkpointed) = stepped(make, False), stepped(make, True)
    assert checkpointed < (0.75 if make in (usdc, usdc_finetuning) else 0.5) * plain


def test_the_key_reaches_every_network_of_a_run(vitc, tiny, read_metrics):
    """The same run with and without it: the same losses, and it may be turned on in the middle."""
    arguments = ("train", "scala_digits", *tiny, "trainer.max_epochs=1", "model.drop_path_rate=0.2")
    assert vitc(*arguments).code == 0
    done = vitc(*arguments, "model.grad_checkpointing=true", "run_name=less")
    assert done.code == 0, done.error
    one, other = (read_metrics(vitc.place / "runs" / "scala_digits" / name) for name in ("default", "less"))
    assert one == other
    assert vitc(*arguments, "model.grad_checkpointing=true").out.startswith("runs/scala_digits/default is complete")


@pytest.mark.slow
def test_two_processes(vitc, tiny):
    """Under DDP too, whose hooks see every gradient once."""
    two = ("trainer.devices=2", "trainer.strategy=ddp", "teacher.train=false", "trainer.max_epochs=1")
    command = [vitc.executable, "train", "scala_digits", *tiny, *two]
    for more in (["run_name=plain"], ["run_name=less", "model.grad_checkpointing=true"]):
        done = subprocess.run([*command, *more], cwd=vitc.place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    plain, less = (
        torch.load(vitc.place / "runs/scala_digits" / name / "checkpoints/scala/last.ckpt", weights_only=True)
        for name in ("plain", "less")
    )
    assert plain["state_dict"].keys() == less["state_dict"].keys()
    assert all(torch.equal(weight, less["state_dict"][name]) for name, weight in plain["state_dict"].items())


def test_it_is_no_setting_of_timm_and_free_to_change():
    assert load_experiment("scala_digits", ["model.grad_checkpointing=true"]).model.grad_checkpointing
    assert "model.grad_checkpointing" in FREE


def test_nothing_is_recomputed_without_gradients(monkeypatch):
    network = backbone().eval()
    network.set_grad_checkpointing()
    monkeypatch.setattr("lightning_vitc.vit.recomputed", None)
    with torch.no_grad():
        network(torch.randn(2, 1, 8, 8))
    with pytest.raises(TypeError):
        network(torch.randn(2, 1, 8, 8))
