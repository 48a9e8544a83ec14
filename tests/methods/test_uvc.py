"""UVC: its step, its search, its decision, and the whole run within its budgets."""

import json
import re
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_vitc import costs, load
from lightning_vitc.budget.prunable import energies, kept_of, pruned_spec
from lightning_vitc.budget.target import target_of
from lightning_vitc.errors import UserError
from lightning_vitc.methods.uvc import UVC, Arguments
from lightning_vitc.networks.backbone import Backbone, create_backbone
from lightning_vitc.networks.compaction import compact
from lightning_vitc.schema import BudgetConfig, MinKeepConfig, OptimizerConfig
from lightning_vitc.training.teacher import Teacher

TINY = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 48, "num_heads": 3, "depth": 4, "num_classes": 10}
RUN = (
    "model.depth=4", "model.embed_dim=48", "model.num_heads=3", "model.patch_size=4", "data.num_samples=256",
    "data.batch_size=16", "teacher.epochs=2", "trainer.max_epochs=3", "method.finetune_epochs=1",
    "optimizer.warmup_epochs=0.5", "trainer.log_every_n_steps=4", "data.mixup=0.0", "method.gate_every=2",
)  # fmt: skip


def network() -> Backbone:
    torch.manual_seed(0)
    return create_backbone("deit_tiny_patch16_224", **TINY).eval()


def method(macs: str = "50%", least: MinKeepConfig | None = None, round_to: int = 1, **keys: Any) -> UVC:
    model = network()
    budget = BudgetConfig(macs=macs, min_keep=least or MinKeepConfig(), round_to=round_to)
    teacher = Teacher(deepcopy(model), 10) if keys.get("distillation", 0.1) else None
    return UVC(
        model, OptimizerConfig(lr=1e-3), teacher, Arguments(**keys), budget, target_of(budget, model.spec, "uvc")
    )


def batch(seed: int = 0, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 1, 8, 8, generator=generator), torch.randint(0, 10, (size,), generator=generator)


def fit(module: UVC, steps: int = 30, **options: Any) -> None:
    """On random images; what matters is where the search goes."""
    data = [(images, targets) for images, targets in map(batch, range(steps))]
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=1.0, **options,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))


# The step


def test_the_loss_is_the_papers() -> None:
    module = method(skip="none", distillation=0.25, temperature=2.0)
    images, targets = batch()
    with torch.no_grad():
        module.teacher.network.head.weight.mul_(3)
    student, teacher = module.backbone(images), module.teacher(images)
    divergence = F.kl_div((student / 2).log_softmax(-1), (teacher / 2).softmax(-1), reduction="sum") / len(images)
    expected = 0.75 * F.cross_entropy(student, targets) + 0.25 * 4 * divergence
    assert torch.allclose(module.step(images, targets).loss, expected)
    module.kd = (0.25, 2.0, "numel")
    expected = 0.75 * F.cross_entropy(student, targets) + 0.25 * 4 * divergence / 10
    assert torch.allclose(module.step(images, targets).loss, expected)


def test_a_gate_weighs_a_block_against_its_input() -> None:
    module = method()
    module.searching, images = False, batch()[0]
    logits = module.backbone(images, gates=module._sampled_gates())
    x = module.backbone.norm_pre(module.backbone._pos_embed(module.backbone.patch_embed(images)))
    for block in module.backbone.blocks:
        x = 0.5 * block(x) + 0.5 * x
    assert torch.allclose(logits, module.backbone.forward_head(module.backbone.norm(x)), atol=1e-6)


def test_gates_of_branches_are_those_of_attention_and_mlp() -> None:
    model, images = network(), batch()[0]
    x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    for block in model.blocks:
        x = x + block.mlp(block.norm2(x))
    logits = model(images, gates=torch.tensor([[0.0, 1.0]] * 4))
    torch.testing.assert_close(logits, model.forward_head(model.norm(x)), rtol=0, atol=1e-5)


def test_the_price_is_paid_by_the_gates_alone() -> None:
    module = method()
    module.search.price.fill_(2.0)
    module.search.excess.fill_(0.1)
    with_price = module.step(*batch())
    module.gate_stage = "closed"
    without = module.step(*batch())
    module.gate_stage = "training"
    assert float(module.search.pressure) == pytest.approx(3.0)
    paid = 3.0 * float(module.search.ratio(module.gates.probability()).detach())
    assert float(with_price.loss - with_price.terms["search/task_loss"]) == pytest.approx(paid, rel=1e-5)
    assert float(without.loss - without.terms["search/task_loss"]) == 0.0


def test_gates_pay_no_more_once_as_many_blocks_run_as_have_to() -> None:
    module = method("50%")  # half of what is removed by skipping: three of four blocks stay
    assert module.least_blocks == 3
    module.search.price.fill_(2.0)
    assert float(module._price_of_running().detach()) > 0
    with torch.no_grad():
        module.gates.logits[2] = torch.tensor([0.1, -0.1])
    assert float(module._price_of_running().detach()) == 0


@pytest.mark.parametrize(
    ("macs", "share", "least"), [("50%", 0.5, 3), ("50%", 1.0, 2), ("20%", 0.0, 4), ("70%", 0.5, 4)]
)
def test_blocks_that_stay(macs: str, share: float, least: int) -> None:
    assert method(macs, skip_share=share).least_blocks == least
    assert method(macs, MinKeepConfig(blocks=1), skip_share=share).least_blocks == 1
    assert method(macs, skip_share=share, prune=False).least_blocks == 1


@pytest.mark.parametrize("stage", ["closed", "training", "frozen"])
@pytest.mark.parametrize("skip", ["block", "sublayer"])
def test_every_parameter_has_a_gradient_in_every_stage(stage: str, skip: Any) -> None:
    """DDP waits for all of them."""
    module = method(skip=skip)
    module.gate_stage = stage
    module.step(*batch()).loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_the_teacher_is_asked_once() -> None:
    module, calls = method(), []
    module.teacher.network.register_forward_hook(lambda *_: calls.append(1))
    module.step(*batch())
    assert len(calls) == 1


def test_gates_are_in_a_group_of_their_own_without_decay() -> None:
    module = method(gate_lr=0.3)
    fit(module, 1)
    groups = [group for group in module.optimizers(use_pl_optimizer=False).param_groups if group["params"]]
    (own,) = [group for group in groups if any(p is module.gates.logits for p in group["params"])]
    assert len(own["params"]) == 1
    assert (own["initial_lr"], own["weight_decay"]) == (0.3, 0.0)
    counts = sum(len(group["params"]) for group in groups)
    assert counts == len(list(module.parameters()))


def test_gates_move_every_so_many_steps() -> None:
    module, seen = method(gate_every=4, gate_lr=0.1), []
    module.after_step = lambda: seen.append(module.gates.logits.detach().clone())  # type: ignore[method-assign]
    fit(module, 9)
    moved = [not torch.equal(one, two) for one, two in zip([method().gates.logits, *seen], seen, strict=False)]
    assert moved == [False, False, False, True] * 2 + [False]


def test_frozen_gates_stay() -> None:
    module = method(gate_every=1)
    fit(module, 3)
    module.gate_stage, before = "frozen", module.gates.logits.detach().clone()
    fit(module, 3)
    assert torch.equal(before, module.gates.logits)


# Controls and keys, one by one


def test_before_the_search_gates_are_free_and_wait() -> None:
    module, seen = method(gate_every=1), []
    module.search.price.fill_(2.0)
    module.searching = False
    result = module.step(*batch())
    assert float(result.loss.detach()) == float(result.terms["search/task_loss"])
    module.gates.collect = lambda step, trained: seen.append(trained)
    fit(module, 2)
    module.searching = True
    fit(module, 2)
    assert seen == [False, False, True, True]


def test_a_block_with_one_branch_runs() -> None:
    """Two of four have lost their attention: that is still one more than the three that have to stay."""
    module = method("50%", skip="sublayer")
    module.search.price.fill_(2.0)
    with torch.no_grad():
        module.gates.logits[:2, 0] = torch.tensor([0.1, -0.1])
    assert module.least_blocks == 3
    assert float(module._price_of_running().detach()) > 0


def test_the_search_goes_to_the_target_of_the_schedule() -> None:
    module = method("50%")
    module.target_ratio = 0.9
    ratio = float(module.search.ratio(module.gates.probability()).detach())
    module.search_step(1e-3)
    assert float(module.search.excess) == pytest.approx(ratio - 0.9, abs=1e-6)


def test_nothing_is_cut_of_a_block_that_does_not_run() -> None:
    module = method("50%")
    for name in ("heads", "dims", "channels"):
        getattr(module.search, f"dual_{name}").zero_()
    with torch.no_grad():
        module.gates.logits[1] = torch.tensor([50.0, -50.0])
    module.search_step(1e-3)
    for name in ("heads", "dims", "channels"):
        cuts = getattr(module.search, f"cut_{name}")
        assert [bool((cut > 1e-6).any()) for cut in cuts] == [True, False, True, True]


def test_the_proximal_step_is_as_long_as_that_of_the_weights() -> None:
    module, seen = method(gate_lr=0.3), []
    module.search_step = seen.append  # type: ignore[method-assign]
    fit(module, 1)
    assert seen == [pytest.approx(1e-3, rel=0.1)]


def test_gates_are_sampled_at_the_temperature_of_the_schedule() -> None:
    module, seen = method(), []
    module.gates.sample = lambda step, temperature: seen.append(temperature)
    module.temperature = 2.0
    module._sampled_gates()
    assert seen == [2.0]


def test_gates_are_drawn_by_the_seed() -> None:
    model, budget = network(), BudgetConfig(macs="50%")
    module = UVC(model, OptimizerConfig(lr=1e-3), None, Arguments(), budget, target_of(budget, model.spec, "uvc"), 5)
    assert module.gates.seed == 5


def test_every_rate_has_its_key() -> None:
    rates = method(cut_lr=0.1, dual_lr=0.2, price_lr=0.3).search.rates
    assert (rates.cut, rates.dual, rates.price) == (0.1, 0.2, 0.3)


def test_frozen_gates_hold_for_another_limit_unless_they_are_all_there_is() -> None:
    for prune in (True, False):
        module = method("70%", prune=prune)
        module.gate_stage = "frozen"
        module.step(*batch())
        limit = module.target.amount // 2
        masks = module.decide(limit)
        assert torch.equal(masks.branches, module.decide().branches) == prune
        assert costs.macs(pruned_spec(module.backbone.spec, masks)) <= limit


def test_what_can_be_pruned_need_not_be_skipped() -> None:
    """All gates are open, and pruning alone reaches the half."""
    assert bool(method("50%", skip_share=1.0).decide().branches.all())


def test_the_projection_removes_what_the_search_has_cut() -> None:
    """A hundred channels of the third block; without the search, of blocks that are all alike none loses so many."""
    module = method("80%", skip="none")
    before = (~module.decide().channels).sum(-1)
    module.search.cut_channels[2] = 100
    assert int(before.max()) < 100 <= int((~module.decide().channels[2]).sum())


# The search and its end


@pytest.mark.parametrize("macs", ["20%", "30%", "50%", "70%", "90%"])
@pytest.mark.parametrize("skip", ["block", "sublayer", "none"])
def test_the_budget_is_met_and_never_exceeded(macs: str, skip: Any) -> None:
    module = method(macs, skip=skip)
    module.search.rates.price = 0.1
    fit(module, 20)
    spec = pruned_spec(module.backbone.spec, module.decide())
    achieved, dense = costs.macs(spec), costs.macs(module.backbone.spec)
    limit = float(macs.rstrip("%")) / 100 * dense
    assert limit - 0.005 * dense <= achieved <= limit
    assert spec.depth >= 4 * limit / dense


def test_at_twenty_percent_the_first_step_moves_everything() -> None:
    module = method("20%")
    fit(module, 1)
    search = module.search
    assert all(bool((cut > 0).all()) for cut in (search.cut_heads, search.cut_channels, search.cut_dims))
    module.step(*batch()).loss.backward()
    assert float(module.search.pressure) > 1
    assert bool((module.gates.logits.grad[..., 1] > 0).all()), "the descent skips"


def test_skipping_alone_is_under_pressure_too() -> None:
    module = method("50%", prune=False, gate_every=1, gate_lr=0.05)
    before = module.gates.probability().mean()
    fit(module, 30)
    assert module.gates.probability().mean() < before - 0.1
    assert not module.search.cut_heads.any()
    masks = module.decide()
    assert bool(masks.dims.all())
    assert bool(masks.channels.all())


def test_minima_and_multiples_hold() -> None:
    module = method("40%", MinKeepConfig(heads=2, dims=8, channels=40, blocks=3), round_to=8)
    fit(module, 20)
    masks = module.decide()
    assert masks.branches.any(-1).sum() >= 3
    running = masks.branches[:, 0]
    assert bool((masks.heads[running].sum(-1) >= 2).all())
    dims = masks.dims[running].sum(-1)
    assert set(dims[dims > 0].tolist()) <= {8, 16}
    channels = masks.channels[masks.branches[:, 1]].sum(-1)
    assert bool((channels >= 40).all())
    assert bool((channels % 8 == 0).all())


@pytest.mark.parametrize("skip", ["block", "sublayer"])
@pytest.mark.parametrize("macs", ["30%", "50%", "70%", "90%"])
def test_skipping_alone_fills_the_budget_and_never_exceeds_it(macs: str, skip: Any) -> None:
    module = method(macs, prune=False, skip=skip)
    spec, dense = module.backbone.spec, costs.macs(module.backbone.spec)
    achieved, limit = costs.macs(pruned_spec(spec, module.decide())), float(macs.rstrip("%")) / 100 * dense
    assert limit - dense / spec.depth <= achieved <= limit


def test_the_price_of_the_gates_does_not_shrink_the_step_of_the_weights() -> None:
    """As it would if their gradients had a part in the norm that is clipped."""
    cheap, dear = method(gate_every=1), method(gate_every=1)
    dear.search.price.fill_(1e6)
    for module in (cheap, dear):
        fit(module, 1)
    for (name, one), (_, two) in zip(cheap.backbone.named_parameters(), dear.backbone.named_parameters(), strict=True):
        assert torch.equal(one, two), name
    assert not torch.equal(cheap.gates.logits, method().gates.logits)


def test_what_gates_are_frozen_to_is_state() -> None:
    module = method("50%")
    with torch.no_grad():
        module.gates.logits[1] = torch.tensor([1.0, -1.0])
    module.gate_stage = "frozen"
    module.step(*batch())
    other = method("50%")
    other.load_state_dict(module.state_dict())
    with torch.no_grad():
        other.gates.logits.fill_(0.0)  # an average of logits, say
    assert torch.equal(other.decide().branches, module.decide().branches)
    assert not module.decide().branches[1].any()


def test_what_is_validated_is_the_masked_network_with_deterministic_gates() -> None:
    module = method("50%")
    fit(module, 10)
    with torch.no_grad():
        module.gates.logits[1] = torch.tensor([1.0, -1.0])
        (variant,) = module.variants()
        masks = module.search.masks(*energies(module.backbone), module.gates.probability() > 0.5)
        assert variant.spec == pruned_spec(module.backbone.spec, masks)
        images = batch()[0]
        small = compact(module.backbone, kept_of(module.backbone.spec, masks))
        assert torch.allclose(variant.forward(images), small(images), atol=1e-5)


# The run


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, vitc_in: Any) -> Path:
    """A finished run."""
    place = tmp_path_factory.mktemp("uvc")
    done = vitc_in(place)("train", "uvc_digits", *RUN)
    assert done.code == 0, done.error
    (place / "stdout").write_text(done.out)
    return place / "runs" / "uvc_digits" / "default"


def test_the_result_is_that_of_the_compacted_network(searched: Path) -> None:
    document = json.loads((searched / "result.json").read_text())
    dense, (row,) = document["dense"], document["rows"]
    target = document["budget"]["target_macs"]
    assert document["budget"] == {"macs": "50%", "convention": "full", "target_macs": dense["macs"] // 2}
    assert row["left_percent"] == pytest.approx(100 * row["macs"] / dense["macs"], abs=1e-3)
    assert target - 0.005 * dense["macs"] <= row["macs"] <= target
    total = row["skipped_percent"] + row["pruned_percent"] + 100 * row["macs"] / dense["macs"]
    assert total == pytest.approx(100, abs=1e-2)
    assert row["blocks"] >= 3
    assert row["pruned_percent"] > 0
    text = (searched.parents[2] / "stdout").read_text()
    assert "skipped %" in text
    assert "pruned %" in text


def test_nothing_of_the_search_is_exported(searched: Path, vitc: Any) -> None:
    out = vitc.place / "small"
    done = vitc("export", str(searched), "--out", str(out))
    assert done.code == 0, done.error
    model, row = load(out), json.loads((searched / "result.json").read_text())["rows"][0]
    assert costs.macs(model.spec) == row["macs"]
    assert sum(weight.numel() for weight in model.state_dict().values()) == row["params"]
    assert not [name for name in model.state_dict() if "gate" in name or "mask" in name or "search" in name]


def test_pictures_and_trajectories(searched: Path) -> None:
    assert (searched / "architecture_uvc.png").stat().st_size > 5000
    result = EventAccumulator(str(searched / "tensorboard" / "result")).Reload()
    assert {"architecture/uvc", "accuracy_over_macs"} <= set(result.Tags()["images"])
    tags = EventAccumulator(str(searched / "tensorboard" / "search")).Reload().Tags()["scalars"]
    for name in ("ratio", "target", "price", "dual_heads", "dual_dims", "dual_channels", "cut_heads_percent"):
        assert f"search/{name}" in tags
    assert {f"gates/attn_{number:02d}" for number in range(4)} <= set(tags)


# Bad input


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["budget.macs=120%"], "budget.macs: 120% is more than the dense model's 15,491,520"),
        (["budget.macs=0.1%"], r"budget.macs: 0.1% is [\d,]+, out of reach; this method reaches [\d,]+ to 15,491,520"),
        (["budget.macs=30%", "budget.min_keep.blocks=8", "budget.min_keep.channels=300"],
         r"budget.macs: 30% is [\d,]+, out of reach; this method reaches [\d,]+ to 15,491,520"),
        (["budget.min_keep.heads=7"], "budget.min_keep.heads: 7 is more than the 6 that deit_tiny_patch16_224 has"),
        (["budget.min_keep.blocks=9"], "budget.min_keep.blocks: 9 is more than the 8 that deit_tiny_patch16_224 has"),
        (["budget.min_keep.dims=17"], "budget.min_keep.dims: 17 is more than the 16 that deit_tiny_patch16_224 has"),
        (["budget.params=1M"], "budget.params: 1M is more than the dense model's 898,090"),
        (["budget.params=50%", "budget.macs=50%"], "budget.macs: set beside budget.params; give one of .*"),
        (["budget.params=50%", "budget.convention=paper"], "budget.convention: paper is a way to count MACs; .*"),
        (["teacher.train=false", "teacher.epochs=null"], "model.pretrained: uvc compresses a trained network; .*"),
        (["method.prune=false", "budget.round_to=8"], "budget.round_to: has no effect with method.prune=false; .*"),
        (["method.prune=false", "budget.min_keep.dims=8"], "budget.min_keep.dims: has no effect with .*"),
        (["method.skip=none", "budget.min_keep.blocks=3"], "budget.min_keep.blocks: has no effect with .*"),
        (["budget.macs=half"], "budget.macs: 'half' is not an amount; .*"),
        (["method.skip=none", "method.prune=false"], "method.prune: false with skip=none leaves nothing .*"),
        (["trainer.precision=bf16-true"], "trainer.precision: bf16-true rounds the state of uvc's search; use .*"),
        (["trainer.precision=64-true"], "trainer.precision: 64-true is not that of the network which uvc is .*"),
        (["method.skip=heads"], "method.skip: .*block.*"),
    ],
)  # fmt: skip
def test_refusals(vitc: Any, overrides: list[str], message: str) -> None:
    done = vitc("train", "uvc_digits", *overrides)
    assert done.code == 2
    assert re.fullmatch(f"error: {message}\n", done.error), done.error
    assert not (vitc.place / "runs").exists()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.pretrained=true", "model.pretrained: the classifier of deit_tiny_patch16_224 is for 1,000 classes, "
                                  "and data.name=digits has 10; train it first with teacher.train=true, .*"),
        ("model.new_head=true", "model.new_head: uvc starts from a trained network; train it first .*"),
    ],
)  # fmt: skip
def test_a_classifier_that_was_never_trained_is_refused(vitc: Any, key: str, message: str) -> None:
    done = vitc("train", "uvc_digits", "teacher.train=false", "teacher.epochs=null", "model.pretrained=true", key)
    assert done.code == 2
    assert re.search(f"^error: {message}$", done.error, re.MULTILINE), done.error


def test_a_teacher_of_other_classes_is_refused() -> None:
    model = network()
    budget = BudgetConfig(macs="50%")
    teacher = Teacher(create_backbone("deit_tiny_patch16_224", **(TINY | {"num_classes": 7})), 7)
    with pytest.raises(UserError, match=r"^teacher: it has 7 classes, the student 10; they must agree$"):
        UVC(model, OptimizerConfig(lr=1.0), teacher, Arguments(), budget, target_of(budget, model.spec, "uvc"))


def test_a_dense_network_of_another_shape_is_refused(searched: Path, vitc: Any) -> None:
    arguments = [key for key in RUN if not key.startswith(("teacher.", "model.depth"))]
    done = vitc("train", "uvc_digits", *arguments, "model.depth=3", "teacher.train=false", "teacher.epochs=null",
                f"teacher.run={searched}")  # fmt: skip
    assert done.code == 2
    assert done.error == f"error: teacher.run: {searched} holds another network than model.name; they must agree\n"


def test_a_checkpoint_without_the_dual_state_is_refused(searched: Path, vitc: Any) -> None:
    place = vitc.place / "runs" / "uvc_digits" / "default"
    shutil.copytree(searched, place)
    for name in ("result.json", "checkpoints/search/done.json"):
        (place / name).unlink()
    shutil.rmtree(place / "checkpoints" / "finetune")
    last = place / "checkpoints" / "search" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    del checkpoint["state_dict"]["search.price"]
    torch.save(checkpoint, last)
    done = vitc("train", "uvc_digits", *RUN)
    assert (done.code, done.out.count("Traceback")) == (2, 0)
    assert done.error.endswith("last.ckpt: not a checkpoint of this model: search.price is missing\n"), done.error
    assert last.exists()
