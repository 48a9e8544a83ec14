"""The three tiers: what there is to do, most important first."""

from dataclasses import replace
from functools import partial

from on_gpu import archives, few_images, loader, networks, pretend, realized, steps, study, trainings
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
    found += [
        Unit(f"check/resume/{method}", partial(trainings.resume, place, method), after=(f"check/steps/{method}/fp32",))
        for method in fewer
        if method not in trainings.BY_TIME
    ]
    found += [
        Unit(f"check/memory/{method}", partial(steps.step, place, "DeiT-S", method, "bf16", short=True, batch=batch))
        for batch in [4 if place.tiny else 64] for method in (("dense", "usdc") if place.tiny else steps.METHODS)
    ]  # fmt: skip
    export = [
        Unit(f"check/export/{method}", partial(trainings.export, place, method),
             after=(f"check/steps/{method}/fp32",), product=trainings.exported(place, method) / "arch.json")
        for method in fewer
    ]  # fmt: skip
    return [
        *found, *export,
        Unit("check/benchmark", partial(trainings.benchmark, place), after=("check/export/scala",)),
        Unit("check/two runs at once", partial(trainings.two_runs, place)),
        Unit("check/two processes on one card", partial(trainings.two_processes, place), needs_cuda=True),
        Unit("check/latency budget", partial(trainings.latency, place), limit=100),
    ]  # fmt: skip


def speed(place: Place) -> list[Unit]:
    """How fast it is."""
    eager = [steps_of(place, title, precision, "false") for precision in ("bf16", "tf32")
             for title in ("DeiT-S", "DeiT-B")]  # fmt: skip
    compiled = compiled_steps(place)
    shares = [shares_of(place, title, dtype) for dtype in ("bf16", "fp32") for title in ("DeiT-S", "DeiT-B")]
    graphs = [
        Unit(f"speed/graphs/{dtype}", partial(realized.graphs, place, dtype), slots=2) for dtype in ("bf16", "fp32")
    ]
    files = Unit("speed/loader", partial(loader.rates, place), after=("data/caltech101",))
    memory = Unit(
        "speed/loader from memory", partial(loader.in_memory, place, 32 if place.tiny else 512), after=("data/cifar10",)
    )
    if place.tiny:  # both of their networks are the same
        eager[1:] = [], [], eager[3][:1]
        shares[1:3] = [], []
    return [
        *data(place), *eager[0], *shares[0], *eager[1], files, *graphs, *compiled[:8], *shares[1], *shares[2],
        *eager[2], *compiled_shares(place), *compiled[8:16], *eager[3], *shares[3], memory, *compiled[16:],
    ]  # fmt: skip


def shares_of(place: Place, title: str, dtype: str, compiled: bool = False) -> list[Unit]:
    """What half of the MACs is worth, by the size of the batch."""
    way, limit = ("compiled", 300.0) if compiled else ("eager", 60.0)
    return [
        Unit(f"speed/realized/{title}/{dtype}/{way}/{batch}",
             partial(realized.shares, place, title, batch, dtype, compiled), limit, slots=2)
        for batch in ((2,) if place.tiny else (1, 64, 256))
    ]  # fmt: skip


def compiled_shares(place: Place) -> list[Unit]:
    """In half precision, which is what compiled networks are deployed in."""
    titles = ("DeiT-S",) if place.tiny else ("DeiT-S", "DeiT-B")
    return [unit for title in titles for unit in shares_of(place, title, "bf16", compiled=True)]


def compiled_steps(place: Place) -> list[Unit]:
    """Network by network; of tiny sizes one method."""
    found = [unit for precision in ("bf16", "tf32") for title in ("DeiT-S", "DeiT-B")
             for unit in steps_of(place, title, precision, "blocks")]  # fmt: skip
    return found[:1] if place.tiny else found


def steps_of(place: Place, title: str, precision: str, compiled: str) -> list[Unit]:
    """A step of every method."""
    way = "eager" if compiled == "false" else f"compiled {compiled}"
    limit, slots = 60.0 if compiled == "false" else 150.0, 2 if title == "DeiT-S" else 3  # by their memory
    return [
        Unit(f"speed/step/{title}/{precision}/{way}/{method}",
             partial(steps.step, place, title, method, precision, compiled), limit, slots=slots)
        for method in steps.METHODS
    ]  # fmt: skip


def the_study(place: Place, seconds: float) -> list[Unit]:
    """What it is good for: both data sets side by side, one seed after another."""
    seeds = SEEDS[:1] if place.tiny else SEEDS
    cifar = study.units(place, seeds, (1 - FOR_CALTECH) * seconds)
    caltech = few_images.units(place, seeds, before(place))
    first = 2 + len(few_images.images_of(place)) * 2
    return [*data(place), *caltech[:first], *cifar, *caltech[first:]]


def data(place: Place) -> list[Unit]:
    """What the archives hold."""
    made = [
        Unit("data/pretended", partial(pretend.archives, place), product=pretend.pretended(place) / archives.WEIGHTS)
    ]
    return [
        *(made if before(place) else []),
        Unit("data/cifar10", partial(archives.cifar, place), 120, before(place), archives.cifar_root(place)),
        Unit("data/caltech101", partial(archives.caltech, place), 120, before(place), archives.caltech_root(place)),
    ]


def before(place: Place) -> tuple[str, ...]:
    """What the archives wait for."""
    return ("data/pretended",) if place.data == pretend.pretended(place) else ()


def units_of(tier: str, place: Place, seconds: float) -> list[Unit]:
    """Of a tier that has so many seconds; a CPU that does other things too is given time."""
    found = {"check": check, "speed": speed, "study": partial(the_study, seconds=seconds)}[tier](place)
    return [replace(unit, limit=10 * unit.limit) for unit in found] if place.tiny else found
