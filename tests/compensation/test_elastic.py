"""One ranking for all budgets, and a network that switches between them without images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_vitc
from lightning_vitc import compact, costs
from lightning_vitc.artifacts import artifact
from lightning_vitc.budget.target import target_of
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.compensation.calibration import Calibration
from lightning_vitc.compensation.deciding import decide, least_of, reachable, removable
from lightning_vitc.compensation.elastic import CompensatedViT, Settings
from lightning_vitc.compensation.in_order import compensated
from lightning_vitc.compensation.ranking import Ranking, rank
from lightning_vitc.compensation.statistics import Statistics, from_statistics, measure, must_be_storable
from lightning_vitc.errors import UserError
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import BudgetConfig, MinKeepConfig
from tests.compensation.small import KINDS, images, network, thinned

HOW = Settings("macs", "full", 1, {"heads": 1, "dims": 1, "channels": 1, "blocks": None}, "block", "regression", 1e-3)
STORABLE = [kind for kind in KINDS if kind != "eva, inner norms"]


def elastic(kind: str = "plain, distilled") -> tuple[Any, torch.Tensor, CompensatedViT]:
    whole = network(kind)
    seen = Calibration.of(images(whole), 8)
    model = CompensatedViT(compact(whole, None), rank(whole, seen, "energy"), measure(whole, seen), HOW).eval()
    return whole, images(whole), model


@pytest.mark.parametrize("round_to", [1, 4, None])
@pytest.mark.parametrize("percent", [90, 70, 50, 30])
@pytest.mark.parametrize("kind", ["plain, distilled", "swin", "resnet"])
def test_a_budget_is_met_and_hardly_missed(kind: str, percent: int, round_to: int | None) -> None:
    whole = network(kind)
    unit_costs = UnitCosts.of(whole.spec)
    limit, budget = percent * unit_costs.dense // 100, BudgetConfig(round_to=round_to)
    ranking = rank(whole, Calibration.of(images(whole, 8), 8), "energy")
    for skip in ("block", "none"):
        if limit < least_of(whole.spec, unit_costs, budget, skip):
            continue
        total = unit_costs.total(decide(ranking, whole.spec, unit_costs, limit, budget, skip))
        step = reachable(whole.spec, unit_costs, budget, target_of(BudgetConfig(macs=f"{percent}%"), whole.spec, "uvc"),
                         skip).step  # fmt: skip
        assert limit - 2 * step <= total <= limit


def test_blocks_go_where_they_matter_less_than_pieces_do() -> None:
    whole = network("plain, distilled")
    unit_costs, budget = UnitCosts.of(whole.spec), BudgetConfig(round_to=1)
    ranking = rank(whole, Calibration.of(images(whole, 8), 8), "energy")
    idle = replace(ranking, blocks=torch.tensor([0.0, 0.0, 1e9]))
    masks = decide(idle, whole.spec, unit_costs, unit_costs.dense * 7 // 10, budget, "block")
    assert masks.branches.any(-1).tolist() == [True, False, True]  # the first one stays whatever it is worth
    dear = replace(ranking, blocks=torch.full((3,), 1e9))
    assert decide(dear, whole.spec, unit_costs, unit_costs.dense * 7 // 10, budget, "block").branches.all()
    kept = BudgetConfig(round_to=1, min_keep=MinKeepConfig(blocks=3))
    assert decide(idle, whole.spec, unit_costs, unit_costs.dense * 7 // 10, kept, "block").branches.all()


def test_the_first_block_of_a_stage_stays() -> None:
    assert removable(network("swin").spec) == [1, 3]
    assert removable(network("resnet").spec) == [1, 3]


@pytest.mark.parametrize("kind", STORABLE)
@torch.no_grad()
def test_the_first_pruned_layer_is_the_same_from_statistics_as_in_order(kind: str) -> None:
    """Behind it the pruned network sees other inputs; stored statistics are in single precision."""
    whole = network(kind)
    seen, masks = Calibration.of(images(whole), 8), thinned(whole)
    stored = Statistics.of_tensors(measure(whole, seen).tensors())
    found = from_statistics(compact(whole, None), masks, stored, "regression", 1e-3)
    small = compensated(whole, masks, seen, "regression", 1e-3)
    assert ArchSpec.of(found) == small.spec
    ends = ("attn.proj.weight", "conv2.weight", "conv_pwl.weight")
    first = next(name for name in small.state_dict() if name.endswith(ends))
    torch.testing.assert_close(found.state_dict()[first], small.state_dict()[first], rtol=0, atol=1e-4)
    with torch.no_grad():
        apart = float((found(images(whole)) - small(images(whole))).square().mean())
        cut = compensated(whole, masks, seen, "none")
        assert apart < float((cut(images(whole)) - small(images(whole))).square().mean())


def test_what_is_exported_switches_its_budget(tmp_path: Path) -> None:
    whole, pictures, model = elastic()
    dense = costs.macs(whole.spec)
    with torch.no_grad():
        torch.testing.assert_close(model(pictures), whole(pictures), rtol=0, atol=1e-6)
        model.set_budget("60%")
        wanted = model(pictures)
        artifact.save(model, tmp_path / "out", {"method": "compensate"})
        loaded: Any = lightning_vitc.load(tmp_path / "out", budget="60%")
        torch.testing.assert_close(loaded(pictures), wanted, rtol=0, atol=1e-6)
        assert 0.58 * dense < costs.macs(loaded.spec) <= 0.6 * dense
        loaded.set_budget("100%")
        torch.testing.assert_close(loaded(pictures), whole(pictures), rtol=0, atol=1e-6)
        loaded.set_budget(dense * 8 // 10)
        assert costs.macs(loaded.spec) <= 0.8 * dense


@pytest.mark.parametrize("budget", ["1%", "120%", "half"])
def test_a_budget_out_of_reach_is_refused(budget: str) -> None:
    with pytest.raises(UserError, match=r"^budget: "):
        elastic()[2].set_budget(budget)


def test_other_models_say_that_they_do_not_switch(tmp_path: Path) -> None:
    artifact.save(compact(network("plain, distilled"), None), tmp_path / "out", {"method": "dense"})
    with pytest.raises(UserError, match="does not switch its budget"):
        lightning_vitc.load(tmp_path / "out", budget="50%")
    with pytest.raises(UserError, match="does not switch its width"):
        lightning_vitc.load(tmp_path / "out", width=0.5)


def test_a_file_of_another_make_is_damaged(tmp_path: Path) -> None:
    _, _, model = elastic()
    model.ranking = Ranking(*(torch.zeros(1) for _ in range(3)))
    kept = model.stored

    def without() -> Any:
        fields, tensors = kept()
        return fields, {name: one for name, one in tensors.items() if name != "ranking/dims"}

    model.stored = without  # type: ignore[method-assign]
    artifact.save(model, tmp_path / "out", {"method": "compensate"})
    with pytest.raises(UserError, match="damaged"):
        lightning_vitc.load(tmp_path / "out")


def test_what_normalizes_inside_cannot_be_stored() -> None:
    with pytest.raises(UserError, match=r"^method\.elastic: true; eva02"):
        must_be_storable(network("eva, inner norms").spec)
