"""With activation checkpointing every method computes the same loss and the same gradients, and keeps far less.

The same means bit for bit: on the CPU the second pass repeats the operations of the first, dropout and stochastic depth
included.
"""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from trainings import TRAININGS, uvc  # of benchmarks/

from lightning_vitc.config import load_experiment
from lightning_vitc.dynamic.finetuning import GatedFinetuning
from lightning_vitc.networks.backbone import Backbone, create_backbone
from lightning_vitc.runs.directory import FREE

RATES = {"drop_path_rate": 0.4, "drop_rate": 0.1, "proj_drop_rate": 0.1, "attn_drop_rate": 0.1}
METHODS = {**TRAININGS, "uvc_sublayer": partial(uvc, skip="sublayer")}


def backbone(**kwargs: Any) -> Backbone:
    torch.manual_seed(3)
    return create_backbone("deit_small_distilled_patch16_224", img_size=8, patch_size=2, in_chans=1, embed_dim=48,
                           depth=4, num_heads=6, num_classes=10, **kwargs)  # fmt: skip


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


@pytest.mark.parametrize("name", METHODS)
def test_loss_and_gradients_of_a_step(name):
    (plain, _), (checkpointed, _) = (stepped(METHODS[name], enable) for enable in (False, True))
    assert plain.keys() == checkpointed.keys()
    assert sum(key.startswith("grad ") for key in plain) > 2
    for key, value in plain.items():
        assert torch.equal(value, checkpointed[key]), key


@pytest.mark.parametrize("name", METHODS)
def test_less_is_kept(name):
    (_, plain), (_, checkpointed) = (stepped(METHODS[name], enable) for enable in (False, True))
    assert checkpointed < (0.75 if name.startswith("usdc") else 0.5) * plain


@pytest.mark.slow
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
    short = (*tiny, "teacher.train=false", "trainer.max_epochs=1", "data.num_samples=128")
    for more in (["run_name=plain"], ["run_name=less", "model.grad_checkpointing=true"]):
        ranks = vitc.run_ranks(2, "train", "scala_digits", *short, *more)
        assert [rank.code for rank in ranks] == [0, 0], ranks[0].error
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
    monkeypatch.setattr("lightning_vitc.networks.modules.block.recomputed", None)
    with torch.no_grad():
        network(torch.randn(2, 1, 8, 8))
    with pytest.raises(TypeError):
        network(torch.randn(2, 1, 8, 8))
