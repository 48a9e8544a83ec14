"""In half precision every method computes what decides in fp32, and its gradients are those of fp32."""

from collections import Counter, defaultdict
from typing import Any

import pytest
import torch
from fitting import batches
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trainings import TRAININGS, scala, search  # of benchmarks/

from lightning_vitc.networks.backbone import Backbone, create_backbone

# Losses, probabilities, norms and orders: what half precision would spoil. A fused attention's softmax is within it.
FULL = ("_softmax", "_log_softmax", "nll_loss_forward", "mse_loss", "linalg_vector_norm", "sort", "argsort", "exp")


def backbone() -> Backbone:
    torch.manual_seed(3)
    return create_backbone("deit_small_distilled_patch16_224", img_size=8, patch_size=2, in_chans=1, embed_dim=48,
                           depth=3, num_heads=6, num_classes=10)  # fmt: skip


class Types(TorchDispatchMode):
    """Counts by operator and type what is given to those of `FULL`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, torch.dtype]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in FULL:
            floating = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
            self.found.update((name, leaf.dtype) for leaf in floating)
        return func(*args, **(kwargs or {}))


def gradients(name: str, dtype: torch.dtype | None) -> dict[str, Tensor]:
    module = TRAININGS[name](backbone()).train()
    images, targets = next(iter(batches(module)))
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        loss = module.step(images, targets).loss
    loss.backward()
    return {key: weight.grad for key, weight in module.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", TRAININGS)
def test_what_decides_is_in_full_precision(name, dtype):
    module = TRAININGS[name](backbone()).train()
    with torch.autocast("cpu", dtype), Types() as types:
        result = module.step(*next(iter(batches(module))))
        search(module, 1e-3)
    assert {dtype for _, dtype in types.found} == {torch.float32}, types.found
    assert {value.dtype for value in (result.loss, *result.terms.values())} == {torch.float32}
    held = [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.is_floating_point())]
    assert {tensor.dtype for tensor in held} == {torch.float32}


@pytest.mark.parametrize("name", ["usdc", "usdc_finetuning"])
def test_gates_by_the_image_decide_in_full_precision(name, monkeypatch):
    """Their networks too: rounded to half precision, images at the edge would run what the export skips."""
    module, found = TRAININGS[name](backbone()).train(), []
    margin = module.gate_margin
    monkeypatch.setattr(module, "gate_margin", lambda *given: found.append(margin(*given)) or found[-1])
    with torch.autocast("cpu", torch.bfloat16):
        module.step(*next(iter(batches(module))))
    assert {value.dtype for value in found} == {torch.float32}


GROUPS = ("gate", "norm", "bias", "token", "pos_embed")  # by their names; what is none of them is a weight


@pytest.mark.parametrize("name", TRAININGS)
def test_gradients_of_a_step(name):
    """Of each group of parameters by itself: gates and norms are few beside the weights."""
    full, half = gradients(name, None), gradients(name, torch.bfloat16)
    assert full.keys() == half.keys()
    assert {gradient.dtype for gradient in half.values()} == {torch.float32}
    groups: dict[str, list[str]] = defaultdict(list)
    for key in full:
        groups[next((group for group in GROUPS if group in key), "weight")].append(key)
    assert ("gate" in groups) == (name in ("uvc", "usdc", "usdc_finetuning"))
    for group, keys in groups.items():
        one, other = (torch.cat([found[key].flatten() for key in keys]) for found in (full, half))
        assert torch.cosine_similarity(one, other, dim=0) > 0.99, group
        assert (one - other).norm() < 0.05 * one.norm(), group


@pytest.mark.parametrize("name", ["uvc", "usdc"])
def test_the_search_is_the_same(name):
    """Bit for bit: duals, cuts and price come from energies of weights and from costs, both in full precision."""
    found = []
    for dtype in (None, torch.bfloat16):
        module = TRAININGS[name](backbone()).train()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            module.step(*next(iter(batches(module))))
            for _ in range(3):
                search(module, 1e-3)
        found.append(module.search.state_dict())
    full, half = found
    assert full["price"] > 0
    assert (full["cut_channels"] > 0).any()
    for key, value in full.items():
        assert torch.equal(value, half[key]), key


class Counting(torch.amp.GradScaler):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__("cpu", init_scale=2.0**8)
        self.calls: Counter[str] = Counter()

    def scale(self, *args: Any) -> Any:
        self.calls["scale"] += 1
        return super().scale(*args)

    def unscale_(self, *args: Any) -> None:
        self.calls["unscale"] += 1
        super().unscale_(*args)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        self.calls["step"] += 1
        return super().step(*args, **kwargs)


class Look(Callback):
    """Keeps the gradients that the first step is taken by."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.seen = {name: weight.grad.clone() for name, weight in pl_module.named_parameters()}


def test_several_backward_passes_are_unscaled_once():
    """Scala's four networks add their scaled gradients up: what clipping and the optimizer see is the sum itself."""
    found = {}
    for scaler in (Counting(), None):
        look, precision = Look(), "16-mixed" if scaler else "bf16-mixed"
        plugin = MixedPrecision(precision, "cpu", scaler=scaler)
        trainer = Trainer(
            accelerator="cpu", plugins=[plugin], callbacks=[look], max_steps=1, limit_val_batches=0, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        module = scala(backbone())
        trainer.fit(module, batches(module))
        found[precision] = look.seen
        if scaler:
            assert scaler.calls == {"scale": 4, "unscale": 1, "step": 1}
    one, other = (torch.cat([value.flatten() for value in seen.values()]) for seen in found.values())
    assert (one - other).norm() < 0.05 * other.norm()
