"""What the tiers hold, in which order."""

from dataclasses import replace

import pytest
from on_gpu import few_images, realized, steps, study, tiers, trainings
from on_gpu.place import Place

from lightning_vitc.config import load_experiment


@pytest.mark.parametrize("tiny", [False, True])
def test_what_is_resumed_and_exported_was_trained_in_full_precision(tiny: bool, place: Place) -> None:
    units = {unit.name: unit for unit in tiers.units_of("check", replace(place, tiny=tiny), 100)}
    later = [unit for name, unit in units.items() if name.startswith(("check/resume/", "check/export/"))]
    methods = trainings.FEWER if tiny else trainings.METHODS
    assert len(later) == len(methods) + len({*methods} - {*trainings.BY_TIME})
    assert all(units[name].product for unit in later for name in unit.after)


def named(tier: str, place: Place) -> list[str]:
    return [unit.name for unit in tiers.units_of(tier, replace(place, tiny=False), 100)]


def test_one_compiled_network_a_unit_and_none_before_the_others(place: Place) -> None:
    names = named("speed", place)
    assert len(set(names)) == len(names)
    compiled = [name for name in names if name.startswith("speed/realized/") and "/compiled/" in name]
    assert len(compiled) == 2 * 3 * len(realized.CANDIDATES)
    first = [names.index(next(name for name in names if name.startswith(kind))) for kind in (
        "speed/step/DeiT-S/bf16/eager", "speed/realized/DeiT-S/bf16/eager", "speed/graphs", "speed/loader",
        "speed/step/DeiT-S/bf16/compiled", "speed/step/DeiT-B/bf16/eager", "speed/step/DeiT-S/tf32/eager",
        "speed/step/DeiT-B/tf32/compiled")]  # fmt: skip
    assert first == sorted(first)


def test_what_is_only_good_to_know_is_checked_last(place: Place) -> None:
    names = named("check", place)
    last = names.index("check/latency budget")
    assert all(name.startswith(("check/steps/", "check/logits", "check/masked", "check/sliced", "check/skipping"))
               for name in names[:last])  # fmt: skip
    assert all(name.startswith("check/memory/") for name in names[-len(steps.METHODS) :])


@pytest.mark.parametrize("method", ["dcvit", "practise"])
def test_runs_of_few_photographs_are_saved_at_the_end_of_a_stage_only(method: str) -> None:
    keys = ["teacher.run=nowhere", "trainer.max_epochs=1"]
    experiment = load_experiment(str(study.OWN / f"study_{method}.yaml"), keys, check_files=False)
    assert experiment.callbacks["checkpoint"].every_n_epochs >= few_images.STEPS
