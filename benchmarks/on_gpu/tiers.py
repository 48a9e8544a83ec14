"""The three tiers: what there is to do, most important first."""

from dataclasses import replace
from functools import partial

from on_gpu import data, few_images, networks, pace, steps, study, tier_of_speed, trainings
from on_gpu.place import Place
from on_gpu.units import Unit

SEEDS = range(5)
FOR_CALTECH = 0.35  # of the study's seconds


def check(place: Place) -> list[Unit]:
    """Whether it is right on this device."""
    fewer = trainings.FEWER if place.tiny else trainings.METHODS
    found = [
        Unit(f"check/steps/{method}/{precision}", partial(trainings.steps, place, method, precision),
             product=trainings.trained(place, method, precision) / "result.json")
        for precision in trainings.PRECISIONS for method in trainings.METHODS
        if not place.tiny or (precision == "fp32") == (method in fewer)
    ]  # fmt: skip
    found += [
        Unit("check/logits are the CPU's", partial(networks.same_logits, place)),
        Unit("check/masked is compact", partial(networks.masked_is_compact, place)),
        Unit("check/sliced is compact", partial(networks.sliced_is_compact, place)),
        Unit("check/skipping is masked", partial(networks.skipping_is_masked, place)),
    ]
    later = [
        Unit(f"check/export/{method}", partial(trainings.export, place, method),
             after=(f"check/steps/{method}/fp32",), product=trainings.exported(place, method) / "arch.json")
        for method in fewer
    ]  # fmt: skip
    later += [
        Unit(f"check/resume/{method}", partial(trainings.resume, place, method), after=(f"check/steps/{method}/fp32",))
        for method in fewer
        if method not in trainings.BY_TIME
    ]
    batch = 4 if place.tiny else 64
    return [
        *found,
        Unit("check/latency budget", partial(trainings.latency, place), limit=100),
        *later,
        Unit("check/two runs at once", partial(trainings.two_runs, place)),
        Unit("check/two processes on one card", partial(trainings.two_processes, place), needs_cuda=True),
        Unit("check/benchmark", partial(trainings.benchmark, place), after=("check/export/scala",)),
        *(Unit(f"check/memory/{method}", partial(steps.step, place, "DeiT-S", method, "bf16", short=True, batch=batch))
          for method in (("dense", "usdc") if place.tiny else steps.METHODS)),
    ]  # fmt: skip


def the_study(place: Place, seconds: float) -> list[Unit]:
    """What it is good for: both data sets side by side, one seed after another."""
    seeds = SEEDS[:1] if place.tiny else SEEDS
    cifar = [pace.unit(place, (1 - FOR_CALTECH) * seconds), *study.units(place, seeds)]
    caltech = few_images.units(place, seeds, data.before(place))
    first = 2 + len(few_images.images_of(place)) * 2
    return [*data.units(place), *caltech[:first], *cifar, *caltech[first:]]


def units_of(tier: str, place: Place, seconds: float) -> list[Unit]:
    """Of a tier that has so many seconds; a CPU that does other things too is given time."""
    found = {"check": check, "speed": tier_of_speed.speed, "study": partial(the_study, seconds=seconds)}[tier](place)
    return [replace(unit, limit=10 * unit.limit) for unit in found] if place.tiny else found
