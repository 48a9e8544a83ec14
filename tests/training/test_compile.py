"""Compiled training computes what the training that is written computes, in few graphs that never break."""

import copy
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from compiled_losses import APART, tried  # of benchmarks/
from fitting import batches  # of tests/cuda/
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.distributed import HashStore, destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel
from trainings import TRAININGS, search  # of benchmarks/

from lightning_vitc.callbacks.step_seed import StepSeed
from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.networks.backbone import Backbone, create_backbone
from lightning_vitc.networks.modules import compilation
from lightning_vitc.runs.directory import FREE
from lightning_vitc.training.module import CompressionModule

CASES = [(name, "blocks") for name in TRAININGS] + [(name, "whole") for name in ("dense", "scala", "uvc")]
# Widths; networks; norms, attentions and MLPs. Blocks where nothing is dropped have a graph of their own.
GRAPHS = {"scala": 4, "dcvit": 2, "practise": 2, "usdc": 4, "usdc_finetuning": 4}
DROPPED: dict[str, float] = {"drop_path_rate": 0.2}
RATES = {"dense": DROPPED, "scala": DROPPED, "usdc_finetuning": DROPPED | {"proj_drop_rate": 0.1}}


def made(name: str, how: Any, **rates: float) -> CompressionModule:
    torch.manual_seed(3)
    network = create_backbone("deit_small_distilled_patch16_224", img_size=8, patch_size=4, in_chans=1, embed_dim=32,
                              depth=3, num_heads=4, num_classes=10, **rates)  # fmt: skip
    module = TRAININGS[name](network).train()
    for part in networks(module):
        part.set_compiled(how)
    return module


def networks(module: CompressionModule) -> list[Backbone]:
    return [part for part in module.modules() if isinstance(part, Backbone)]


def losses(module: CompressionModule, steps: int) -> Iterator[float]:
    """Step by step, each of which draws its own random numbers."""
    draw = torch.Generator().manual_seed(4)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-3)
    for step in range(steps):
        torch.manual_seed(step)
        images, targets = torch.randn(8, 1, 8, 8, generator=draw), torch.randint(10, (8,), generator=draw)
        result = module.step(images, targets)
        result.loss.backward()
        optimizer.step()
        search(module, 1e-3)
        optimizer.zero_grad(set_to_none=True)
        yield float(result.terms.get("loss", result.loss.detach()))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Graphs that are found and run as they are, for what they are is the question; and dynamo's counters."""
    make = cache(lambda function: torch.compile(function, backend="eager", fullgraph=True, dynamic=False))
    monkeypatch.setattr(compilation, "graph_of", make)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.parametrize(("name", "how"), CASES)
def test_graphs_do_not_break_are_shared_and_change_no_loss(traced, name, how):
    """Every call is one graph (`fullgraph` raises else), of all blocks alike; more steps make none."""
    rates = RATES.get(name, {}) if how == "blocks" else {"proj_drop_rate": 0.1}
    expected = [*losses(made(name, False, **rates), 3)]
    steps = losses(made(name, how, **rates), 3)
    found = [*islice(steps, 1)]
    graphs, functions = traced["stats"]["unique_graphs"], compilation.graph_of.cache_info().currsize
    kinds = 2 if rates == DROPPED else 1
    assert 0 < graphs <= kinds * GRAPHS.get(name, 1)
    found += steps
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=0, atol=1e-4)
    assert traced["stats"]["unique_graphs"] == graphs
    assert compilation.graph_of.cache_info().currsize == functions <= 3
    assert not traced["graph_break"]


@pytest.mark.parametrize("name", TRAININGS)
def test_nothing_breaks_within_a_block(name, monkeypatch):
    """As torch itself explains it, which goes on after a break where `fullgraph` would not."""
    found = {}

    def explained(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            if function not in found:
                found[function] = torch._dynamo.explain(function)(*arguments, **options)
            return function(*arguments, **options)

        return called

    monkeypatch.setattr(compilation, "graph_of", explained)
    assert [*losses(made(name, "blocks"), 1)]
    assert len(found) == (3 if name.startswith("usdc") else 1)
    assert {(one.graph_count, one.graph_break_count) for one in found.values()} == {(1, 0)}
    torch._dynamo.reset()


@pytest.mark.slow
def test_losses_of_compiled_kernels():
    """Over twenty steps with dropout or stochastic depth; the script has all methods, which compile for minutes."""
    assert tried("uvc", "blocks")["apart"] < APART


def test_names_and_copies_of_weights(traced):
    """The state dict is what it was, and a copy runs with its own weights."""
    module = made("dense", "blocks")
    assert module.state_dict().keys() == made("dense", False).state_dict().keys()
    network, images = module.backbone, torch.randn(2, 1, 8, 8)
    before = network(images)[0]
    other = copy.deepcopy(network)
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
    assert torch.equal(other(images)[0], before)
    assert not network(images)[0].any()


def test_validation_is_run_as_written(traced):
    module = made("dense", "blocks")
    with torch.no_grad():
        module.backbone(torch.randn(2, 1, 8, 8))
    assert not traced["stats"]["unique_graphs"]


def gradients(module: CompressionModule, loss: Callable[..., Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    loss(torch.ones(8, 1, 8, 8), torch.arange(8)).backward()
    return {key: weight.grad for key, weight in module.named_parameters() if weight.grad is not None}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["dense", "scala", "usdc"])
def test_with_activation_checkpointing(traced, name):
    def found(how: Any) -> dict[str, Tensor]:
        module = made(name, how, drop_path_rate=0.2)
        for part in networks(module):
            part.set_grad_checkpointing()
        return gradients(module, lambda *batch: module.step(*batch).loss)

    plain, compiled = found(False), found("blocks")
    assert traced["stats"]["unique_graphs"]
    same(compiled, plain)


class Step(nn.Module):
    def __init__(self, module: CompressionModule):
        super().__init__()
        self.module = module

    def forward(self, *batch: Tensor) -> Tensor:
        return self.module.step(*batch).loss


@pytest.fixture
def process_group() -> Iterator[None]:
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    destroy_process_group()


@pytest.mark.parametrize("how", ["blocks", "whole"])
def test_with_several_processes(traced, process_group, how):
    """Graphs that are made while DDP is at work go through a part of torch that splits them by its buckets."""

    def found(how: Any) -> dict[str, Tensor]:
        module = made("uvc", how)
        step = DistributedDataParallel(Step(module), find_unused_parameters=True)
        return gradients(module, step)

    plain, compiled = found(False), found(how)
    assert traced["stats"]["unique_graphs"]
    same(compiled, plain)


REFUSED = {
    "trainer.compile=true": "trainer.compile: true is not false, blocks or whole",
    "trainer.compile=block": "trainer.compile: 'block' is not",
    "trainer.compile=whole model.grad_checkpointing=true": "trainer.compile: whole excludes model.grad_checkpointing",
    "trainer.compile=blocks trainer.accelerator=mps": "trainer.compile: blocks is for cpu and cuda, not mps; set false",
}


@pytest.mark.parametrize("keys", REFUSED)
def test_refused(keys):
    with pytest.raises(UserError) as refusal:
        load_experiment("scala_digits", keys.split())
    assert str(refusal.value).startswith(REFUSED[keys])


def test_usdc_decides_between_branches():
    with pytest.raises(UserError, match=r"^trainer\.compile: whole has no place for gates"):
        load_experiment("usdc_digits", ["trainer.compile=whole"])
    load_experiment("usdc_digits", ["trainer.compile=whole", "method.dynamic=false"])


RUN = """
import os, sys, torch
from functools import cache
from pathlib import Path
from lightning_vitc import cli
from lightning_vitc.networks.modules import compilation
compilation.graph_of = cache(lambda function: torch.compile(function, backend="eager", fullgraph=True, dynamic=False))
os.chdir(place)
code = cli.main(arguments)
Path(result).write_text(str(torch._dynamo.utils.counters["stats"]["unique_graphs"]))
sys.exit(code)
"""


@pytest.mark.slow
def test_the_key_reaches_the_networks_of_a_run(fork, tmp_path, tiny, read_metrics):
    """With an average and stochastic depth; it may be turned on and off in the middle."""
    keys = ("teacher.train=false", "callbacks.ema.decay=0.9", "model.depth=2", "model.drop_path_rate=0.1",
            "trainer.max_epochs=1", "method.s=0.5", "method.granularity=0.5")  # fmt: skip
    found = {}
    for name, how in (("plain", "false"), ("graphs", "blocks")):
        arguments = ["train", "scala_digits", *tiny, *keys, f"trainer.compile={how}", f"run_name={name}"]
        process = fork(RUN, place=str(tmp_path), arguments=arguments, result=name)
        process.join()
        assert process.exitcode == 0
        lines = read_metrics(tmp_path / "runs" / "scala_digits" / name)
        found[name] = [{key: value for key, value in line.items() if "loss" in key} for line in lines]
    assert [(tmp_path / name).read_text() for name in found] == ["0", "4"]  # two widths of two kinds of blocks
    assert len(found["plain"]) > 4
    torch.testing.assert_close(found["graphs"], found["plain"], rtol=0, atol=1e-5)
    assert "trainer.compile" in FREE


def test_resume_is_exact(traced, tmp_path):
    """From a checkpoint in the middle, with stochastic depth, which a step draws by its own number."""
    whole = fitted(Save(tmp_path / "here.ckpt"))
    resumed = fitted(ckpt_path=tmp_path / "here.ckpt")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


class Save(Callback):
    """After the first of two epochs."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def fitted(*callbacks: Callback, **options: Any) -> dict[str, Tensor]:
    module = made("dense", "blocks", drop_path_rate=0.3)
    trainer = Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, limit_val_batches=0,
                      enable_checkpointing=False, enable_model_summary=False,
                      callbacks=[StepSeed(0, "x"), *callbacks])  # fmt: skip
    trainer.fit(module, batches(module), **options)
    return module.state_dict()
