"""How many operators a training step is: on a GPU the host launches each of them, and a small batch waits for it."""

from functools import cache

import pytest
import torch
from operators import Operators, operators_of, tensors_by_tensor  # of benchmarks/
from scaling_measured import build  # of benchmarks/

from lightning_vitc.networks.backbone import create_backbone

LIMITS = {  # of a dense step, which has the same teacher where there is one; an operator more a branch is too many
    "uvc": ("taught", 1.3), "usdc": ("taught", 2.15), "scala": ("dense", 4.15),
}  # fmt: skip


@cache
def operators(method: str) -> int:
    """Of a step on DeiT-Ti with twelve blocks, in bf16."""
    torch.manual_seed(0)
    module = build(method, create_backbone("deit_tiny_patch16_224", img_size=32))
    return operators_of(module, torch.randn(4, 3, 32, 32), torch.arange(4), torch.bfloat16).total()


@pytest.mark.slow
@pytest.mark.parametrize("method", LIMITS)
def test_a_step_is_not_many_more_operators_than_a_dense_one(method: str) -> None:
    dense, times = LIMITS[method]
    assert operators(method) <= times * operators(dense)


def test_what_is_counted() -> None:
    x = torch.ones(4, 6)
    with Operators() as found:
        x.t().reshape(2, 12)  # a copy
        x.view(3, 8).unbind()
        torch.empty_like(x)
        x.add_(1).sum()
    assert found.found == {"clone": 1, "add_": 1, "sum": 1}


def test_a_list_is_one_operator_where_its_kernels_take_it_whole() -> None:
    dense, apart = [torch.ones(4, 6)] * 3, [torch.ones(4, 8)[:, :6]] * 3
    assert tensors_by_tensor([dense, dense]) == 1
    assert tensors_by_tensor([dense, apart]) == 3
    assert tensors_by_tensor([apart]) == 3
    assert tensors_by_tensor([dense, [torch.ones(1, 6)] * 3]) == 3, "broadcast"
