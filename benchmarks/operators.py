"""Counts the operators of a training step: what the host hands to a GPU, one launch of a kernel or more each.

Views, allocations and what is read of numbers on the host are left out. A `_foreach` operator counts as one where its
kernels take many tensors at once: those are dense, and alike from list to list. Elsewhere torch goes through the list.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_vitc.training.module import CompressionModule
from lightning_vitc.training.optimizer import build_optimizer

VIEWS = ("view", "transpose", "t", "expand", "slice", "select", "unsqueeze", "squeeze", "detach", "split_with_sizes",
         "permute", "alias", "_unsafe_view", "as_strided", "narrow", "unbind", "unflatten", "split", "diagonal",
         "_reshape_alias", "lift_fresh", "view_as")  # fmt: skip
ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
ON_THE_HOST = ("_local_scalar_dense",)  # of the optimizer's step numbers; `tests/cuda` allows no other in a step
FREE = {*VIEWS, *ALLOCATIONS, *ON_THE_HOST}


class Operators(TorchDispatchMode):
    """Within it operators are counted.

    Attributes:
        found: how often which was called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Of all operators."""
        return self.found.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if func.namespace == "aten" and name not in FREE:
            self.found[name] += tensors_by_tensor(args) if name.startswith("_foreach_") else 1
        return func(*args, **(kwargs or {}))


def tensors_by_tensor(args: Sequence[Any]) -> int:
    """How many operators a `_foreach` operator is."""
    lists = [arg for arg in args if isinstance(arg, (list, tuple)) and arg and isinstance(arg[0], Tensor)]
    alike = all(len({(tensor.shape, tensor.stride()) for tensor in same}) == 1 for same in zip(*lists, strict=True))
    return 1 if alike and all(map(_dense, lists[0])) else len(lists[0])


def _dense(tensor: Tensor) -> bool:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return not tensor.numel() or last + 1 == tensor.numel()


def operators_of(
    module: CompressionModule, images: Tensor, targets: Tensor, precision: torch.dtype | None
) -> Counter[str]:
    """Of a step, by name: forward and backward pass, clipping, the optimizer, and what follows it.

    Args:
        module: in training mode; it is trained for two steps, the first of which is not counted.
        images: [B, C, H, W].
        targets: [B].
        precision: of autocast; `None` for none.
    """
    optimizer, _ = build_optimizer(module, module.recipe, 10, 0, module.own_rates())
    for group in optimizer.param_groups:
        group["foreach"] = True  # as on a GPU
    module.optimizers = lambda **_: optimizer  # type: ignore[method-assign, assignment]
    for _ in range(2):
        with Operators() as operators:
            with torch.autocast("cpu", precision, enabled=precision is not None):
                loss = module.step(images, targets).loss
            loss.backward()
            module.on_before_optimizer_step(optimizer)
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
            optimizer.step()
            module.after_step()
        optimizer.zero_grad(set_to_none=True)
    return operators.found
