"""The speed tier: steps, realized shares, graphs and loaders; of every kind the most telling number first."""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain, zip_longest

from on_gpu import data, loader, realized, steps
from on_gpu.place import Place
from on_gpu.units import Unit

SMALL, BASE = "DeiT-S", "DeiT-B"
BATCHES = (64, 1, 256)


def speed(place: Place) -> list[Unit]:
    """How fast it is; what has to be compiled is prepared beside what has not."""
    return tiny(place) if place.tiny else [
        *steps_of(place, SMALL, "bf16"), *shares_of(place, SMALL, "bf16"), graphs(place, "bf16"),
        *data.units(place), *loaders(place),
        *mixed([*steps_of(place, SMALL, "bf16", "blocks"), *compiled_shares(place, SMALL, 64)],
               [*steps_of(place, BASE, "bf16"), *shares_of(place, BASE, "bf16"), *steps_of(place, SMALL, "tf32")]),
        *mixed([*steps_of(place, BASE, "bf16", "blocks"),
                *(unit for title in (SMALL, BASE) for size in BATCHES for unit in compiled_shares(place, title, size)
                  if (title, size) != (SMALL, 64)),
                *(unit for title in (SMALL, BASE) for unit in steps_of(place, title, "tf32", "blocks"))],
               [*shares_of(place, SMALL, "fp32"), *steps_of(place, BASE, "tf32"), *shares_of(place, BASE, "fp32"),
                graphs(place, "fp32")]),
    ]  # fmt: skip


def tiny(place: Place) -> list[Unit]:
    """Something of every kind: there, both networks are the same."""
    return [
        *steps_of(place, SMALL, "bf16"), *shares_of(place, SMALL, "bf16"), graphs(place, "bf16"), graphs(place, "fp32"),
        *data.units(place), *loaders(place), *steps_of(place, SMALL, "bf16", "blocks")[:1],
        *compiled_shares(place, SMALL, BATCHES[0])[-1:], *steps_of(place, BASE, "tf32")[:1],
        *shares_of(place, BASE, "fp32"),
    ]  # fmt: skip


def mixed(slow: Sequence[Unit], quick: Sequence[Unit]) -> Iterable[Unit]:
    """Of both by turns."""
    return (unit for unit in chain.from_iterable(zip_longest(slow, quick)) if unit is not None)


def steps_of(place: Place, title: str, precision: str, compiled: str = "false") -> list[Unit]:
    """A step of every method; slots by its memory, and by what compiles at a time."""
    way = "eager" if compiled == "false" else f"compiled {compiled}"
    slots = 1 + (title == BASE) + (precision == "tf32" or compiled != "false")
    return [
        Unit(f"speed/step/{title}/{precision}/{way}/{method}",
             partial(steps.step, place, title, method, precision, compiled),
             60.0 if compiled == "false" else 150.0, slots=slots)
        for method in steps.METHODS
    ]  # fmt: skip


def shares_of(place: Place, title: str, dtype: str) -> list[Unit]:
    """What half of the MACs is worth, by the size of the batch."""
    return [
        Unit(f"speed/realized/{title}/{dtype}/eager/{size}", partial(realized.shares, place, title, size, dtype))
        for size in ((2,) if place.tiny else BATCHES)
    ]


def compiled_shares(place: Place, title: str, size: int) -> list[Unit]:
    """The same of each network, compiled, in half precision, which is what compiled networks are deployed in."""
    size = 2 if place.tiny else size
    return [
        Unit(f"speed/realized/{title}/bf16/compiled/{size}/{name}",
             partial(realized.shares, place, title, size, "bf16", name), 300.0, slots=2)
        for name in realized.CANDIDATES
    ]  # fmt: skip


def graphs(place: Place, dtype: str) -> Unit:
    """One image by CUDA graphs."""
    return Unit(f"speed/graphs/{dtype}", partial(realized.graphs, place, dtype))


def loaders(place: Place) -> list[Unit]:
    """From JPEGs, and from memory."""
    return [
        Unit("speed/loader", partial(loader.rates, place), after=(data.CALTECH,)),
        Unit("speed/loader from memory", partial(loader.in_memory, place, 32 if place.tiny else 512),
             after=(data.CIFAR,)),
    ]  # fmt: skip
