"""The device that is not there finds what a real one would refuse, and what the host would wait for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fake_cuda import CUDA, FakeCuda, HostWaits
from tape import backward, grad
from torch import Tensor, nn

from lightning_vitc.networks.transfer import sent

WAITS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "cpu, not blocking": lambda x: x.to("cpu", non_blocking=True),
    "equal": lambda x: torch.equal(x, x),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "boolean index": lambda x: x[x > 0],
    "values into booleans": lambda x: x.__setitem__(x[:, 0] > 0, x),
    "an index of the host": lambda x: x[torch.tensor([0, 1])],
    "a list as an index": lambda x: x[[0, 1]],
    "torch.tensor": lambda x: torch.tensor(1.0, device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "pageable memory": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "pinned memory, blocking": lambda x: torch.ones(3).pin_memory().to(x.device),
    "copied to the host": lambda x: torch.empty(3).copy_(x[0]),
    "an event": lambda x: torch.cuda.Stream(x.device).record_event().synchronize(),
}
PASSES: dict[str, Callable[[Tensor], Any]] = {
    "zeros": lambda x: torch.zeros(3, device=x.device) + x.new_full((), 2.0) + x.new_ones(3),
    "a number": lambda x: x * 2.0 + torch.tensor(1.0),  # the kernel takes numbers of the host as they are
    "one value into booleans": lambda x: x.__setitem__(x > 0, 0.0),
    "an index of the device": lambda x: x[x.argmax(0)],
    "sent": lambda x: sent(torch.ones(3), x.device) + x,
    "copied to pinned memory": lambda x: torch.empty(3, pin_memory=True).copy_(x[0], non_blocking=True),
    "the host by itself": lambda x: torch.arange(3)[torch.ones(3) > 0].sum().item(),
}
REFUSED: dict[str, Callable[[Tensor], Any]] = {
    "two devices": lambda x: x + torch.ones(3),
    "weights": lambda x: F.linear(x, torch.ones(2, 3)),
    "a mask of the host": lambda x: x.masked_fill(torch.ones(3) > 0, 0.0),
    "positions of the host": lambda x: x.index_select(0, torch.tensor([0])),
    "labels of the host": lambda x: F.cross_entropy(x, torch.tensor([0, 1])),
    "a generator of the host": lambda x: torch.rand(3, device=x.device, generator=torch.Generator()),
}


def called(function: Callable[[Tensor], Any], watched: bool) -> FakeCuda:
    with FakeCuda() as device:
        x = torch.randn(2, 3, device="cuda")
        if watched:
            with device.watched():
                function(x)
        else:
            function(x)
    return device


@pytest.mark.parametrize("what", WAITS)
def test_the_host_waits(what):
    with pytest.raises(HostWaits, match=r"^cuda/test_fake_cuda\.py:<lambda>"):
        called(WAITS[what], watched=True)
    assert called(WAITS[what], watched=False).waits == []


@pytest.mark.parametrize("what", PASSES)
def test_the_host_does_not_wait(what):
    assert called(PASSES[what], watched=True).waits == []


@pytest.mark.parametrize("what", REFUSED)
def test_tensors_of_two_devices(what):
    with pytest.raises((RuntimeError, AssertionError), match=r"device|generator"):
        called(REFUSED[what], watched=False)


def test_what_is_allowed_is_noted():
    with FakeCuda(answer=5) as device, device.watched("cuda/test_fake_cuda.py:test_what_is_allowed_is_noted"):
        assert torch.ones((), device="cuda").item() == 5.0
        assert (torch.ones(9, 2, device="cuda") > 0).nonzero().shape == (5, 2)
    assert len(device.waits) == 2


def test_a_module_is_moved_and_trained():
    module, images, gradients = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), torch.randn(2, 3), {}
    module(images).square().sum().backward()
    expected = {name: weight.grad.shape for name, weight in module.named_parameters()}
    module.zero_grad()
    with FakeCuda():
        module.to(CUDA)
        module(images.to(CUDA)).square().sum().backward()
        gradients = {name: weight.grad for name, weight in module.named_parameters()}
    assert {name: gradient.shape for name, gradient in gradients.items()} == expected
    assert all(gradient.is_cuda for gradient in gradients.values())


def test_the_tape_is_autograd():
    """Bit for bit: what is broadcast, split, used twice, in half precision, or not differentiated."""
    torch.manual_seed(0)
    weight, bias, other = (torch.randn(shape, requires_grad=True) for shape in ((6, 3), (6,), (1, 6)))
    x = torch.randn(4, 3)

    def loss() -> Tensor:
        first, second = (F.linear(x, weight).bfloat16().float() * other + bias).split([2, 4], dim=-1)
        return first.sigmoid().sum() + (second * second[:, :1]).mean() + (first.detach() * bias[:2]).sum()

    loss().backward()
    expected = [leaf.grad.clone() for leaf in (weight, bias, other)]
    weight.grad = bias.grad = other.grad = None
    backward(loss())
    found = grad(loss(), [weight, bias, other])
    for leaf, one, by_grad in zip((weight, bias, other), expected, found, strict=True):
        assert torch.equal(leaf.grad, one)
        assert torch.equal(by_grad, one)
