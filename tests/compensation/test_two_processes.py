"""Two processes with half of the images each rank, decide and solve as one with all of them."""

import sys
from pathlib import Path

import forked  # of benchmarks/
import torch

from lightning_vitc.compensation.calibration import Calibration
from lightning_vitc.compensation.in_order import compensated
from lightning_vitc.compensation.ranking import rank
from lightning_vitc.compensation.statistics import measure
from tests.compensation.small import images, network, thinned

RANK = """
import os, sys, torch
sys.path[:] = path
os.environ.update(environment)
torch.distributed.init_process_group("gloo", rank=int(environment["LOCAL_RANK"]), world_size=2)
from tests.compensation.test_two_processes import found
torch.save(found(int(environment["LOCAL_RANK"]), 2), result)
torch.distributed.destroy_process_group()
"""


def found(number: int, count: int) -> dict[str, torch.Tensor]:
    """All that is computed of the images, by one of so many processes; 24 images are three batches."""
    torch.set_num_threads(1)
    whole = network("plain, gains")
    seen = Calibration.of(images(whole), 8, number, count)
    tensors = vars(rank(whole, seen, "sensitivity")) | measure(whole, seen).tensors()
    return tensors | compensated(whole, thinned(whole), seen).state_dict()


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    results = [tmp_path / f"{number}.pt" for number in (0, 1)]
    path = [str(Path(__file__).parents[2]), *sys.path]
    processes = [
        forked.fork(RANK, path=path, environment=environment, result=str(result))
        for environment, result in zip(forked.environments_of_ranks(2), results, strict=True)
    ]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    first, second = (torch.load(result) for result in results)
    for name, one in found(0, 1).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], one, rtol=1e-4, atol=1e-5)
