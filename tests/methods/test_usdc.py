"""USDC: its loss, its two budgets, what it freezes and exports, and the whole run."""

import json
import math
import re
import shutil
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import accumulate, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from same_run import differences
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_vitc import ArchSpec, compact, costs, load
from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.prunable import kept_of, pruned_spec
from lightning_vitc.callbacks.gate_freezing import GateFreezing
from lightning_vitc.callbacks.gumbel_temperature import GumbelTemperature
from lightning_vitc.callbacks.pruning_schedule import PruningSchedule
from lightning_vitc.callbacks.run_rate_figure import RunRateFigure
from lightning_vitc.dynamic import training
from lightning_vitc.dynamic.finetuning import GatedFinetuning
from lightning_vitc.dynamic.gate_places import places_of
from lightning_vitc.dynamic.gate_shift import Moving
from lightning_vitc.dynamic.grouping import GROUPINGS, GroupGates, generator_of, group_sizes, gumbel_noise, units
from lightning_vitc.dynamic.rate_evaluation import RateEvaluation
from lightning_vitc.dynamic.targets import DynamicTargets, plan_of, targets_of
from lightning_vitc.errors import UserError
from lightning_vitc.methods.usdc import USDC, Arguments
from lightning_vitc.networks.backbone import Backbone, create_backbone
from lightning_vitc.networks.gates.attaching import gates_of
from lightning_vitc.networks.gates.shapes import GATES, gate_macs
from lightning_vitc.networks.gates.skipping import noting_decisions, set_gating
from lightning_vitc.pipeline.finished import networks_of_run
from lightning_vitc.pipeline.initial_network import starting_network
from lightning_vitc.pipeline.stages import load_selected
from lightning_vitc.schema import BudgetConfig, ModelConfig, OptimizerConfig
from lightning_vitc.training.teacher import Teacher

TINY = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 48, "num_heads": 3, "depth": 3, "num_classes": 10}
RUN = (
    "model.depth=3", "model.embed_dim=48", "model.num_heads=3", "model.patch_size=4", "data.num_samples=256",
    "data.batch_size=16", "teacher.epochs=2", "trainer.max_epochs=3", "method.finetune_epochs=2",
    "optimizer.warmup_epochs=0.5", "trainer.log_every_n_steps=4", "data.mixup=0.0", "method.gate_lr=0.01",
)  # fmt: skip


def network(**keys: Any) -> Backbone:
    torch.manual_seed(0)
    return create_backbone("deit_tiny_patch16_224", **TINY | keys).eval()


def method(macs: str = "70%", resident: str | None = None, model: Backbone | None = None, **keys: Any) -> USDC:
    model, budget, arguments = model or network(), BudgetConfig(macs=macs, static=resident), Arguments(**keys)
    targets = targets_of(budget, model.spec, arguments.static, arguments.dynamic)
    teacher = Teacher(deepcopy(model), 10) if arguments.distillation else None
    torch.manual_seed(1)
    return USDC(model, OptimizerConfig(lr=1e-3), teacher, arguments, budget, targets)


def finetuning(module: USDC) -> GatedFinetuning:
    gated = module.gated()
    small = compact(gated, kept_of(gated.spec, module.decide()))
    backbone = replace_with(gated, small)
    return GatedFinetuning(backbone, OptimizerConfig(lr=1e-3), module.teacher, module.arguments, module.targets)


def replace_with(gated: Backbone, small: Any) -> Backbone:
    from lightning_vitc.networks.backbone import from_spec

    backbone = from_spec(ArchSpec.of(small), rates=gated.rates)
    backbone.load_state_dict(small.state_dict())
    return backbone


def batch(seed: int = 0, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 1, 8, 8, generator=generator), torch.randint(0, 10, (size,), generator=generator)


def fit(module: Any, *callbacks: Any, steps: int = 30, epochs: int = 1) -> None:
    """On random images."""
    data = [batch(step) for step in range(steps)]
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=1.0, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))


def disagree(module: USDC) -> None:
    """Give every candidate weights by which it runs for some images only."""
    torch.manual_seed(2)
    for name, weight in module.gates.stacks[0].named_parameters():
        if name in ("last_weight", "linear_weight"):
            torch.nn.init.normal_(weight, std=5.0)
    torch.nn.init.zeros_(module.gates.stacks[0].last_bias)


# The loss


def test_the_loss_is_cross_entropy_distillation_and_the_distance_from_the_target() -> None:
    module = method(distillation=0.25, gamma=7.0)
    images, targets = batch()
    loss, groups = module.step(images, targets), module.groups(8, images.device)
    module._mix()  # for another pass
    logits = module.backbone(images, gates=lambda *unit: module._decide(groups, *unit))
    taught = module.teacher(images)
    divergence = F.kl_div(logits.log_softmax(-1), taught.softmax(-1), reduction="sum") / 8
    run = groups.mean_run(3)
    expected = module.costs.fixed + (module.search.branches() * run).sum() + module.gates.cost(module._mixture)
    residual = ((expected - 0.7 * module.targets.dense) / module.targets.dense) ** 2
    wanted = 0.75 * F.cross_entropy(logits, targets) + 0.25 * divergence + 7.0 * residual
    torch.testing.assert_close(loss.loss, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_a_step_is_that_of_every_gate_on_its_own(grouping: Any) -> None:
    """By definition: candidates one by one, of two logits each, a softmax, and a mean a group."""
    module, plain = method(grouping=grouping), method(grouping=grouping)
    for one in (module, plain):
        disagree(one)
    networks = [[plain.gates.stacks[0].unit(gate, candidate) for candidate in range(7)] for gate in range(6)]
    sizes = group_sizes(13, grouping, generator_of(0, 0, 0, "groups"))
    noise = gumbel_noise(13, 3, generator_of(0, 0, 0, "noise"))

    def decide(groups: GroupGates, block: int, branch: int, pooled: torch.Tensor) -> torch.Tensor:
        shares, own = plain._mixture[block, branch], networks[2 * block + branch]
        logits = sum(share * network(pooled) for share, network in zip(shares, own, strict=True))
        gates = []
        for of_group, image in zip(logits.split(sizes), accumulate([0, *sizes]), strict=False):
            mean = of_group.mean(0) + noise[image, block, branch]
            soft, hard = (mean / 0.5).softmax(-1)[1], (mean[1] > mean[0]).float()
            gates.append((hard - soft.detach() + soft).expand(len(of_group)))
        groups.run[block, branch] = torch.cat(gates)
        return groups.run[block, branch]

    plain._decide = decide
    found, wanted = (one.train().step(*batch(size=13)).loss for one in (module, plain))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    found.backward()
    wanted.backward()
    places, close = places_of(module.gates.stacks[0].order), partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6)
    for name, weight in plain.named_parameters():
        if weight.requires_grad and not name.startswith("gates.stacks."):
            close(module.get_parameter(name).grad, weight.grad)
    for gate, network in [(gate, network) for gate, row in enumerate(networks) for network in row]:
        for key, weight in network.named_parameters():
            group, place = places[network.name][key]
            close(module.gates.stacks[0].get_parameter(group).grad[gate, place], weight.grad)


def test_the_price_reaches_the_gates_and_alpha() -> None:
    module = method(macs="30%", gamma=1e6)  # nothing but the price
    disagree(module)
    module.step(*batch()).loss.backward()
    runs = module.gates.stacks[0].last_bias.grad[..., 1]
    assert (runs >= 0).all()  # a step against it runs less
    assert (runs > 0).any()
    module.zero_grad()
    module.searching = False
    assert module.step(*batch()).terms["usdc/residual"] > 0
    assert module.weight_of_residual() == 0


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("size", [1, 13])
def test_any_batch_size(grouping: Any, size: int) -> None:
    module = method(grouping=grouping)
    result = module.step(*batch(size=size))
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("size", [1, 2, 13])
def test_any_batch_size_in_fine_tuning(grouping: Any, size: int) -> None:
    joint = method(grouping=grouping)
    for share in (0.0, 0.3, 1.0):
        joint.arguments.finetune_per_sample = share
        module = finetuning(joint)
        result = module.step(*batch(size=size))
        result.loss.backward()
        assert torch.isfinite(result.loss)
        trained = {name for name, value in module.named_parameters() if not name.startswith("teacher")}
        assert all(module.get_parameter(name).grad is not None for name in trained)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("keys", [{}, {"gate_search": "fixed:relu_bn"}, {"static": False}, {"dynamic": False}])
def test_every_parameter_has_a_gradient(frozen: bool, keys: dict[str, Any]) -> None:
    """DDP waits for all of them."""
    module = method(**keys)
    module.selecting = not frozen
    module.step(*batch()).loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("keys", [
    {"init_values": 0.5}, {"qk_norm": True}, {"reg_tokens": 2}, {"global_pool": "avg", "class_token": False},
], ids=["LayerScale", "qk-norm", "registers", "average pooling"])  # fmt: skip
def test_other_networks_are_searched_cut_and_trained_on(keys: dict[str, Any]) -> None:
    module = method(model=network(**keys))
    fit(module, steps=3)
    after = finetuning(module)
    fit(after, steps=3)
    assert costs.macs(after.backbone.spec) <= module.targets.static
    assert all(parameter.isfinite().all() for parameter in after.parameters())


def test_a_decision_without_noise_is_that_of_evaluation() -> None:
    """In training where images decide alone, in evaluation, and in the network that is exported."""
    module = method(static=False)
    disagree(module)
    module.selecting = False
    images, _ = batch(size=13)
    with torch.no_grad():
        evaluated = module.eval().variants()[0].forward(images)
        ran = torch.stack(list(module._decided.run.values()), dim=1)
        module.per_sample_share = lambda: 1.0
        groups = module.groups(13, images.device)
        module._mix()  # for another pass
        module.train().backbone(images, gates=lambda *unit: module._decide(groups, *unit))
        exported = compact(module.gated(), None)
        with noting_decisions(exported) as found:
            torch.testing.assert_close(exported(images), evaluated, rtol=0, atol=1e-5)
    assert torch.equal(ran, torch.stack(list(groups.run.values()), dim=1).detach())
    assert torch.equal(ran.bool(), torch.stack(found, dim=1))
    assert 0 < ran.mean() < 1


# Controls and keys, one by one


def test_both_targets_are_as_far_on_their_ways() -> None:
    """A quarter of the way from 1 to 0.6, and from 1 to 0.8."""
    module = method(macs="60%", resident="80%")
    module.target_ratio = 0.9
    assert module._static_target() == pytest.approx(0.95, abs=1e-4)
    assert module.expected_target() == pytest.approx(0.9 * module.targets.dense)


def test_nothing_is_pruned_before_the_search() -> None:
    module = method(macs="30%")
    module.searching = False
    fit(module, steps=1)
    assert float(module.search.excess) == float(module.search.price) == 0
    assert not module.search.cut_channels.any()
    module.searching = True
    fit(module, steps=1)
    assert float(module.search.price) == float(module.search.excess) > 0, "the integral of one step, at the rate 1"
    assert module.search.cut_channels.any()


def test_shares_of_the_gate_networks() -> None:
    """Of seven, with exponents of 2 ln 3 and six zeros at temperature 2: 3 and 1 of 9."""
    module = method(architecture_temperature=2.0)
    with torch.no_grad():
        module.gates.architecture[..., 4] = 2 * math.log(3)
    assert float(module.observe()["usdc/largest_share"]) == pytest.approx(3 / 9)


def test_gates_are_weighed_by_what_the_budget_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DynamicTargets, "gate_cost", lambda *_: 7)
    module = method()
    assert float(module.gates.cost(module.gates.mixture(False).detach())) == pytest.approx(3 * 2 * 7)


def test_what_is_validated_is_the_masked_network() -> None:
    module, images = method(dynamic=False), batch()[0]
    module.search.cut_heads[0], module.search.cut_channels[1] = 1, 50
    small = compact(module.backbone, kept_of(module.backbone.spec, module._masks()))
    with torch.no_grad():
        torch.testing.assert_close(module.eval().variants()[0].forward(images), small.eval()(images), rtol=0, atol=1e-5)


def test_groups_and_noise_are_drawn_from_streams_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(training, "generator_of", lambda *key: seen.append(key) or generator_of(*key))
    module = method()
    module.seed, module._micro = 3, 2
    module.groups(8, torch.device("cpu"))
    assert seen == [(3, 0, 2, "groups"), (3, 0, 2, "noise")]


def test_parts_of_a_step_are_told_apart() -> None:
    module = method()
    module._trainer = SimpleNamespace(accumulate_grad_batches=2)
    seen = []
    for number in range(4):
        module.on_train_batch_start(None, number)
        seen.append(module._micro)
    assert seen == [0, 1, 0, 1]


@pytest.mark.parametrize(("grouping", "sizes"), [("recursive", [4, 2, 1, 1]), ("batch", [8]), ("sample", [1] * 8)])
def test_who_decides_together(grouping: Any, sizes: list[int]) -> None:
    groups = method(grouping=grouping).groups(8, torch.device("cpu"))
    groups.noise = None
    run = [groups.decide(0, 0, for_one, 1.0) for for_one in torch.eye(8)]  # what one image is for, its group does
    assert [int(gate.sum()) for gate in run] == [size for size in sizes for _ in range(size)]


def test_what_a_validation_logs() -> None:
    """Before it two images ran everything; in it nothing ran for four of them."""
    module, logged = method(), {}
    module.rates.update(torch.ones(2, 3, 2), torch.arange(2))
    module.on_validation_epoch_start()
    module.rates.update(torch.zeros(4, 3, 2), torch.arange(4))
    assert not module.run_rates().any()
    module.log_dict = logged.update  # type: ignore[method-assign, assignment]
    module._log_costs()
    spec = module.backbone.spec
    bare = costs.macs(spec.with_stage())
    assert float(logged["usdc/val_worst_ratio"]) == pytest.approx(1)
    assert float(logged["usdc/val_expected_ratio"]) == pytest.approx(bare / costs.macs(spec))
    assert logged["usdc/val_params"] == costs.params(module.resident())
    assert logged["usdc/val_bytes"] == 4 * logged["usdc/val_params"]


def test_fine_tuning_goes_by_the_gates_of_the_blocks() -> None:
    module = finetuning(method(gate_lr=0.02))
    block, pooled = module.backbone.blocks[1], torch.randn(4, 48)
    module.eval()
    for branch, gate in enumerate((block.gate1, block.gate2)):
        torch.nn.init.normal_(gate.last.weight)
        skip, run = gate(pooled).unbind(-1)
        assert torch.equal(module.gate_margin(1, branch, pooled), run - skip)
    assert {name for name in module.own_rates() if "blocks.1." in name} == {
        f"backbone.blocks.1.{gate}.{name}" for gate in ("gate1", "gate2") for name, _ in block.gate1.named_parameters()
    }
    everything = float(module.expected_cost(torch.ones(3, 2)))
    assert everything == pytest.approx(costs.macs(module.backbone.spec))


# Training


def test_the_search_and_its_end() -> None:
    module = method(macs="60%", resident="80%", gamma=200.0, gate_lr=0.03, architecture_lr=0.1)
    seen: list[bool] = []

    class Watch(GateFreezing):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.append(bool(pl_module.gates.chosen.any()))

    fit(module, PruningSchedule(0.0, 0.5), GumbelTemperature(5.0, 0.5), Watch(0.5), steps=60)
    assert seen == [False] * 30 + [True] * 30
    assert module.gates.chosen.sum(-1).tolist() == [[1, 1]] * 3
    every = torch.ones(3, 2)
    assert float(module.search.ratio(every)) == pytest.approx(0.8, abs=0.06)
    masks = module.decide()
    names = [gate.name for pair in module.gates.winners() for gate in pair]
    gates = sum(gate_macs(name, 48) for name in names)
    worst, limit = costs.macs(pruned_spec(module.gated().spec, masks)), module.targets.static
    assert limit - 0.01 * module.targets.dense <= worst <= limit
    assert worst == costs.macs(pruned_spec(module.backbone.spec, masks)) + gates
    assert masks.heads.any(-1).all()


def test_the_expected_cost_goes_to_its_target() -> None:
    module = method(macs="60%", gamma=200.0, gate_lr=0.03)
    fit(module, PruningSchedule(0.0, 0.5), GumbelTemperature(5.0, 0.5), GateFreezing(0.5), steps=100)
    module.eval()
    stage = finetuning(module)
    fit(stage, steps=60)
    stage.eval()
    rates = []
    for step in range(10):
        with torch.no_grad():
            stage.deciding(batch(step)[0])
        rates.append(torch.stack(list(stage._decided.run.values()), dim=1).mean(0).view(3, 2))
    share = float(stage.expected_cost(torch.stack(rates).mean(0))) / module.targets.dense
    assert share == pytest.approx(0.6, abs=0.08)


def test_groups_decide_by_noise_in_both_stages() -> None:
    """New noise in every step and part of a step; none for images that decide by themselves."""
    joint = method(finetune_per_sample=0.5)
    for module, groups, images in ((joint, 4, 0), (finetuning(joint), 3, 4)):  # 4, 2, 1, 1 of 8; 2, 1, 1 and 4 images
        drawn = [noise_at(module, step, micro) for step, micro in ((0, 0), (0, 0), (0, 1), (1, 0))]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        assert not torch.equal(drawn[0], drawn[3])
        assert len(drawn[0]) == groups + images
        assert drawn[0][:groups].ne(0).all()
        assert drawn[0][groups:].eq(0).all()


def noise_at(module: Any, step: int, micro: int) -> torch.Tensor:
    module._trainer, module._micro = SimpleNamespace(global_rank=0, world_size=1, global_step=step), micro
    noise = module.groups(8, torch.device("cpu")).noise.permute(2, 0, 1)
    module._trainer, module._micro = None, 0
    return noise


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("size", [1, 3, 13, 16])
def test_images_decide_and_count_alike_in_one_process_and_in_two(size: int, share: float) -> None:
    module = finetuning(method(grouping="sample", finetune_per_sample=share))
    logits = torch.randn(2 * size, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    for micro in (0, 1):
        whole, *parts = (
            decided_by(module, part, rank, ranks, micro)
            for part, rank, ranks in ((logits, 0, 1), (logits[:size], 0, 2), (logits[size:], 1, 2))
        )
        for unit in units(3):
            assert torch.equal(whole.run[unit], torch.cat([part.run[unit] for part in parts]))
        counted = [groups.mean_run_per_sample(3, 0.5) for groups in (whole, *parts)]
        torch.testing.assert_close(counted[0], (counted[1] + counted[2]) / 2)


def decided_by(module: Any, logits: torch.Tensor, rank: int, ranks: int, micro: int) -> GroupGates:
    module._trainer, module._micro = SimpleNamespace(global_rank=rank, world_size=ranks, global_step=5), micro
    groups = module.groups(len(logits), logits.device)
    for block, branch in units(3):
        groups.decide(block, branch, logits[:, block, branch, 1] - logits[:, block, branch, 0], 0.5)
    return groups


@pytest.mark.parametrize(("share", "alone"), [(0.0, slice(None)), (0.5, slice(1, None, 2)), (1.0, slice(None))])
def test_fine_tuning_counts_what_images_cost_that_decide_alone(share: float, alone: slice) -> None:
    """By their own logits, whatever the groups; all images where none of them does."""
    module = finetuning(method(grouping="batch", finetune_per_sample=share))
    for gate in gates_of(module.backbone):  # so that images differ
        torch.nn.init.normal_(gate.last.weight)
        torch.nn.init.zeros_(gate.last.bias)
    images, targets = batch()
    terms = module.step(images, targets).terms
    groups = module.groups(len(images), images.device)
    with torch.no_grad():
        module.backbone(images, gates=partial(module._decide, groups))
    decided = {unit: (own > 0).float()[alone] for unit, own in groups.margins.items()}
    if share:
        assert all(torch.equal(groups.run[unit][alone], own) for unit, own in decided.items()), "without noise"
    together = float(module.expected_cost(groups.mean_run(3))) / module.targets.dense
    counted = torch.stack([own.mean() for own in decided.values()]).view(3, 2)
    ratio = float(module.expected_cost(counted)) / module.targets.dense
    assert float(terms["usdc/expected_ratio"]) == pytest.approx(ratio, rel=1e-6)
    assert share == 1 or ratio != pytest.approx(together, rel=1e-3)
    assert float(terms["usdc/residual"]) == pytest.approx((ratio - module.targets.ratio) ** 2, rel=1e-4)
    module.backbone(images, gates=partial(module._decide, groups))
    module.expected_cost(module.rates_of(groups)).backward()
    assert all(gate.last.bias.grad.ne(0).any() for gate in gates_of(module.backbone))


def test_an_epoch_is_worth_its_accuracy_less_what_it_costs_beyond_the_budget() -> None:
    module = finetuning(method())
    ratio = module.targets.ratio

    def score(top1: float, expected: float) -> float:
        metrics = {"val/top1": torch.tensor(top1), "usdc/val_expected_ratio": torch.tensor(expected)}
        return float(module.score(metrics))

    assert score(90.0, ratio - 0.1) == score(90.0, ratio + 0.004) == 90, "the gates are moved by so little"
    assert score(99.0, ratio + 0.015) == pytest.approx(94, abs=0.01)
    assert score(99.0, ratio + 0.3) < score(10.0, ratio)
    assert math.isnan(module.score({})), "no validation"


def test_rates_are_of_their_own_without_decay() -> None:
    module = method(gate_lr=0.02, architecture_lr=0.3)
    rates = module.own_rates()
    assert rates.pop("gates.architecture") == 0.3
    assert set(rates.values()) == {0.02}
    assert len(rates) == len(list(module.gates.stacks[0].parameters()))
    groups = {"rates": 0}

    class Watch(GateFreezing):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            groups["rates"] = len({group["initial_lr"] for group in trainer.optimizers[0].param_groups})
            groups["count"] = len(trainer.optimizers[0].param_groups)

    fit(module, Watch(), steps=1)
    assert groups == {"rates": 3, "count": 4}


def test_run_rate_figure_serves_what_is_gated() -> None:
    assert RunRateFigure.serves(method())
    assert not RunRateFigure.serves(method(dynamic=False))
    assert not GateFreezing.serves(finetuning(method()))
    assert not PruningSchedule.serves(finetuning(method()))


def test_the_last_epoch_has_a_figure() -> None:
    drawn: list[int] = []
    module: Any = SimpleNamespace(rates=SimpleNamespace(compute=lambda: drawn.append(trainer.current_epoch + 1)))
    trainer: Any = SimpleNamespace(max_epochs=12, sanity_checking=False, loggers=[], is_global_zero=True)
    for trainer.current_epoch in range(12):
        RunRateFigure(5).on_validation_end(trainer, module)
    assert drawn == [5, 10, 12]


# Budgets


def test_targets() -> None:
    spec = network().spec
    dense = costs.macs(spec)
    budget = BudgetConfig(macs="49%")
    assert targets_of(budget, spec, True, True).static == pytest.approx(0.7 * dense, rel=1e-3)
    assert targets_of(replace(budget, static="80%"), spec, True, True).static == int(0.8 * dense)
    assert targets_of(budget, spec, True, False).static == int(0.49 * dense)
    assert targets_of(budget, spec, False, True).static is None


def test_two_gates_a_block_are_part_of_what_a_plan_can_reach() -> None:
    spec, budget = network().spec, BudgetConfig(macs="49%")
    targets, gates = targets_of(budget, spec, True, True), 2 * 3 * max(gate_macs(name, 48) for name in GATES)
    plan, without = (plan_of(spec, targets, budget, names) for names in (tuple(GATES), ()))
    assert plan.reachable.least == costs.macs(spec.with_stage()) + gates
    assert plan.further["static"].reachable.least == without.reachable.least + gates


def test_where_nothing_is_pruned_the_resident_model_may_cost_what_it_does() -> None:
    spec = method(static=False).gated().spec
    targets = targets_of(BudgetConfig(macs="49%"), network().spec, False, True)
    assert targets.resident(spec).amount == costs.macs(spec) > targets.dense


def test_plan_covers_both(vitc: Any) -> None:
    done = vitc("plan", "usdc_digits", "budget.static=80%", "--json")
    assert done.code == 0, done.error
    document = json.loads(done.out)
    dense = document["dense"]["macs"]
    assert document["target"] == {"macs": int(0.73 * dense), "static": int(0.8 * dense)}
    reach = document["reachable"]
    assert 0 < reach["min_macs"] < reach["min_static"] < reach["max_static"] == reach["max_macs"] == dense
    assert document["satisfiable"]
    assert document["plan"]["gates"] == list(GATES)
    text = vitc("plan", "usdc_digits", "budget.static=80%").out
    assert f"{int(0.73 * dense):,} macs (73.0 %)" in text
    assert f"{int(0.8 * dense):,} macs (80.0 %)" in text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["budget.static=70%"], r"budget.static: 70% is [\d,]+, less than the [\d,]+ of budget.macs, .*"),
        (["budget.static=120%"], "budget.static: 120% is more than the dense model's 15,491,520"),
        (["budget.static=half"], "budget.static: 'half' is not an amount; .*"),
        (["budget.static=80%", "method.static=false"], "budget.static: has no effect with method.static=false; .*"),
        (["budget.static=80%", "method.dynamic=false"], "budget.static: has no effect with method.dynamic=false; .*"),
        (["budget.macs=0.1%"], r"budget.macs: 0.1% is 15,491, out of reach; this method reaches [\d,]+ to 15,491,520"),
        (["budget.macs=2%", "budget.static=3%"],
         r"budget.static: 3% is [\d,]+, out of reach; this method reaches [\d,]+ to 15,491,520"),
        (["budget.params=50%"], "budget.params: the method 'usdc' does not know it; .*"),
        (["budget.min_keep.blocks=2"], "budget.min_keep.blocks: has no effect, .*"),
        (["method.static=false", "method.dynamic=false"], "method.static: false with method.dynamic=false leaves .*"),
        (["method.gate_search=fixed:gelu_ln_4"], "method.gate_search: .*did you mean 'fixed:gelu_ln_3'.*"),
        (["method.grouping=avg-16"], "method.grouping: .*avg-8.*"),
        (["callbacks.gate_freezing.at=1.5"], "callbacks.gate_freezing.at: .*"),
        (["callbacks.gate_freezing.at=1.0"], "callbacks.gate_freezing.at: never, .* set it below 1, or .*"),
        (["callbacks.gate_freezing=false"], "callbacks.gate_freezing.at: never, .*"),
    ],
)  # fmt: skip
def test_refusals(vitc: Any, overrides: list[str], message: str) -> None:
    done = vitc("train", "usdc_digits", *overrides)
    assert done.code == 2
    assert re.fullmatch(f"error: {message}\n", done.error), done.error
    assert not (vitc.place / "runs").exists()


def test_another_method_has_no_static_budget(vitc: Any) -> None:
    done = vitc("train", "uvc_digits", "budget.static=70%")
    assert done.code == 2
    assert done.error == (
        "error: budget.static: the method 'uvc' does not know it; it takes macs, params, "
        "round_to, min_keep, latency_ms, device, batch_size\n"
    )


# The whole run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, finished_run: Any) -> Path:
    return finished_run(tmp_path_factory.mktemp("usdc"), "usdc_digits", *RUN)


@pytest.mark.slow
def test_a_run_keeps_its_budgets(finished: Path) -> None:
    document = json.loads((finished / "result.json").read_text())
    row, static = document["rows"]
    dense = document["dense"]["macs"]
    assert document["budget"]["target_macs"] == int(0.73 * dense)
    target = document["budget"]["target_macs"]
    assert 0.85 * target <= row["macs"] == row["expected_macs"] <= target < row["worst_macs"]
    assert row["worst_macs"] <= document["budget"]["target_static"]
    assert static["macs"] < row["worst_macs"]
    assert row["bytes"] == 4 * row["params"] < 4 * document["dense"]["params"]
    facts = json.loads((finished / "gates.json").read_text())
    assert facts["expected_macs"] == row["expected_macs"]
    assert {name for pair in facts["networks"] for name in pair} <= set(GATES)
    assert len(facts["run_rates_by_class"]) == 10


@pytest.mark.slow
def test_pictures_and_curves(finished: Path) -> None:
    for name in ("run_rates.png", "cheapest_and_dearest.png", "architecture_usdc.png"):
        assert (finished / name).stat().st_size > 5000
    gates = EventAccumulator(str(finished / "tensorboard" / "gates")).Reload().Tags()["images"]
    assert {"run_rates", "cheapest_and_dearest"} <= set(gates)
    for stage in ("joint", "finetune"):
        tags = EventAccumulator(str(finished / "tensorboard" / stage)).Reload().Tags()
        assert {f"run_rate/{branch}_{number:02d}" for branch in ("attn", "mlp") for number in range(3)} <= set(
            tags["scalars"]
        )
        assert {"usdc/residual", "usdc/val_expected_ratio"} <= set(tags["scalars"])
        assert "run_rates" in tags["images"]


@pytest.mark.slow
def test_exports_of_the_dynamic_and_of_the_static_model(finished: Path, vitc: Any) -> None:
    row, static = json.loads((finished / "result.json").read_text())["rows"]
    out = vitc.place / "dynamic"
    done = vitc("export", str(finished), "--out", str(out), "--formats", "safetensors,pt2")
    assert done.code == 0, done.error
    model = load(out)
    assert json.loads((out / "arch.json").read_text())["costs"] == {
        key: row[key] for key in ("expected_macs", "worst_macs")
    }
    assert f"{row['expected_macs']:,}" in (out / "README.md").read_text()
    assert costs.macs(ArchSpec.of(model)) == row["worst_macs"]
    assert sum(parameter.numel() for parameter in model.parameters()) == row["params"]
    kinds = {type(module).__module__ for module in model.modules()}
    assert not [kind for kind in kinds if "selection" in kind or "training" in kind or "usdc" in kind]
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        skipped = model(images)
        set_gating(model, "masked")
        torch.testing.assert_close(skipped, model(images), rtol=0, atol=1e-5)
    plain = vitc.place / "static"
    done = vitc("export", str(finished), "--out", str(plain), "--variant", "usdc_static")
    assert done.code == 0, done.error
    assert not [name for name in load(plain).state_dict() if "gate" in name]
    assert costs.macs(ArchSpec.of(load(plain))) == static["macs"]
    with pytest.raises(UserError, match="skips by the image; export the variant without gates to start from"):
        starting_network(ModelConfig(name=str(out)), 10)
    assert starting_network(ModelConfig(name=str(plain)), 10).spec == ArchSpec.of(load(plain))
    done = vitc("evaluate", str(out), "--json")
    assert done.code == 0, done.error


@pytest.mark.slow
def test_killed_once_its_gates_are_recorded_a_run_has_their_pictures(finished: Path, vitc: Any) -> None:
    """They are not drawn again; and what an earlier process has drawn is not there twice."""
    run, pictures = vitc.place / "runs" / "usdc_digits" / "default", ("run_rates.png", "cheapest_and_dearest.png")
    shutil.copytree(finished, run)
    for name in ("gates.json", "result.json", *pictures):
        (run / name).unlink()
    assert vitc.kill_when((run / "gates.json").exists, "train", "usdc_digits", *RUN)
    assert all((run / name).exists() for name in pictures)
    done = vitc("train", "usdc_digits", *RUN)
    assert done.code == 0, done.error
    assert differences(finished, run) == []


@pytest.mark.slow
def test_the_budget_is_held_on_all_validation_images(finished: Path) -> None:
    """Also by a run whose final evaluation is cut short."""
    run, networks = networks_of_run(finished)
    network = next(network.module for network in networks if network.name == "usdc")
    evaluation = RateEvaluation(network, DynamicTargets(1, 1, None))
    run.experiment.trainer.limit_test_batches = 1
    Moving(run, evaluation).to(0.0)
    assert int(evaluation.counts.images.sum()) == run.data.sizes["validation"]


@pytest.mark.slow
@pytest.mark.parametrize("only", ["static", "dynamic"])
def test_each_part_alone(only: str, vitc: Any) -> None:
    other = {"static": "dynamic", "dynamic": "static"}[only]
    done = vitc("train", "usdc_digits", *RUN, f"method.{other}=false")
    assert done.code == 0, done.error
    document = json.loads((vitc.place / "runs" / "usdc_digits" / "default" / "result.json").read_text())
    row, dense = document["rows"][0], document["dense"]
    assert row["expected_macs"] <= document["budget"]["target_macs"]
    if only == "static":
        assert row["worst_macs"] == row["expected_macs"]
        assert row["params"] < dense["params"]
    else:
        assert row["worst_macs"] > dense["macs"]
        assert row["params"] > dense["params"]


def test_masks_of_a_gated_network() -> None:
    gated = method().gated()
    assert Masks.full(gated.spec).branches.shape == (3, 2)


def test_a_joint_stage_that_an_earlier_version_finished_is_loaded(tmp_path: Path) -> None:
    """Its candidates were modules of their own."""
    trained, fresh = method(), method()
    disagree(trained)
    old = {name: value for name, value in trained.state_dict().items() if not name.startswith("gates.stacks.")}
    for gate, candidate in product(range(6), range(7)):
        network = trained.gates.stacks[0].unit(gate, candidate)
        old |= {f"gates.candidates.{gate}.{candidate}.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": old, "global_step": 1}, tmp_path / "last.ckpt")
    (tmp_path / "done.json").write_text('{"weights": "last.ckpt"}')
    load_selected(fresh, tmp_path)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in fresh.state_dict().items())
