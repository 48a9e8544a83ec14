"""How long networks take beside the dense one, in turns, so that a slow moment of the machine hits all alike."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from lightning_vitc.latency.place import Place
from lightning_vitc.latency.timing import interleaved
from lightning_vitc.networks.families.family import network_of as family_of
from lightning_vitc.networks.gates.attaching import lower
from lightning_vitc.networks.spec import ArchSpec

Rounds = dict[str, list[float]]  # milliseconds of every network, round by round
Measure = Callable[[Mapping[str, ArchSpec], Place], Rounds]

FEWEST, MOST, SECONDS = 9, 31, 15.0  # rounds, and how long they may take together
OPEN = -1e4  # a shift of the gates' logits by which everything runs


def in_turns(specs: Mapping[str, ArchSpec], place: Place) -> Rounds:
    """Time networks of these shapes round by round; weights are random, whose values do not matter for speed.

    Branches with gates all run. A round takes as long as it takes; there are `FEWEST` to `MOST` of them.
    """
    networks = {name: network_of(spec, place) for name, spec in specs.items()}
    generator = torch.Generator().manual_seed(0)
    images = {
        name: torch.randn(place.batch_size, spec.in_chans, *spec.img_size, generator=generator).to(place.device)
        for name, spec in specs.items()
    }
    calls = {name: (lambda network=network, name=name: network(images[name])) for name, network in networks.items()}
    device = torch.device(place.device)
    with threads(place.threads):
        first = interleaved(calls, device, repeats=1, warmup=2)
        seconds = sum(map(sum, first.values())) / 1e3
        rounds = min(max(int(SECONDS / max(seconds, 1e-9)), FEWEST), MOST)
        return interleaved(calls, device, repeats=rounds, warmup=0)


def shares(rounds: Rounds, reference: str = "dense") -> dict[str, float]:
    """Each one's time over that of the reference in the same round; the median over the rounds."""
    return {
        name: statistics.median(time / whole for time, whole in zip(times, rounds[reference], strict=True))
        for name, times in rounds.items()
    }


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many of them compute on the CPU within it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def network_of(spec: ArchSpec, place: Place) -> nn.Module:
    """A network of random weights at its place, whose gates let everything run."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = family_of(spec).build(spec, {}).eval()
        family_of(spec).initialize(network)
    lower(network, OPEN)
    return network.to(place.device)
