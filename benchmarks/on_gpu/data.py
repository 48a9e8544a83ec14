"""What the archives hold, as units for those that need it."""

from functools import partial

from on_gpu import archives, pretend
from on_gpu.place import Place
from on_gpu.units import Unit

CIFAR, CALTECH = "data/cifar10", "data/caltech101"


def units(place: Place) -> list[Unit]:
    """Both data sets, and at tiny sizes what they are made of."""
    made = [
        Unit("data/pretended", partial(pretend.archives, place), product=pretend.pretended(place) / archives.WEIGHTS)
    ]
    return [
        *(made if before(place) else []),
        Unit(CIFAR, partial(archives.cifar, place), 120, before(place), archives.cifar_root(place)),
        Unit(CALTECH, partial(archives.caltech, place), 120, before(place), archives.caltech_root(place)),
    ]


def before(place: Place) -> tuple[str, ...]:
    """What the archives wait for."""
    return ("data/pretended",) if place.data == pretend.pretended(place) else ()
