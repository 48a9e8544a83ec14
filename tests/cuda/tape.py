"""Autograd's backward pass in Python: torch's own engine asks the driver for streams, and there is none."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def backward(loss: Tensor, gradient: Tensor | None = None) -> None:
    """Add the gradient of a scalar to `grad` of every leaf that requires one, as `loss.backward()` does."""
    for leaf, own in _of_leaves(loss, gradient):
        leaf.grad = own if leaf.grad is None else leaf.grad + own


def grad(output: Tensor, leaves: Tensor | Sequence[Tensor], gradient: Tensor | None = None) -> tuple[Tensor, ...]:
    """Gradients with respect to leaves, as `torch.autograd.grad` gives them."""
    found = {id(leaf): own for leaf, own in _of_leaves(output, gradient)}
    return tuple(found[id(leaf)] for leaf in ([leaves] if isinstance(leaves, Tensor) else leaves))


@torch.no_grad()
def _of_leaves(loss: Tensor, gradient: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
    found: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss) if gradient is None else gradient}}
    leaves = []
    for node in _in_order(loss.grad_fn):
        given = found.pop(node, None)
        if given is None:
            continue
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves.append((leaf, given[0]))
            continue
        function = node if callable(node) else node.apply  # of `torch.autograd.Function`
        outputs = function(*[given.get(number) for number in range(len(node._input_metadata))])
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        outputs = outputs[len(outputs) - len(node.next_functions) :]  # what is no tensor is given first
        for (following, number), output in zip(node.next_functions, outputs, strict=True):
            if following is not None and output is not None:
                _add(found.setdefault(following, {}), number, _fitting(output, following, number))
    return leaves


def _in_order(root: Any) -> list[Any]:
    """Every node before those that its gradients go to."""
    order, seen, stack = [], set(), [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(following, False) for following, _ in node.next_functions if following is not None]
    return order[::-1]


def _fitting(output: Tensor, node: Any, number: int) -> Tensor:
    """Summed over what was broadcast, and in the type of what it is the gradient of."""
    leaf = getattr(node, "variable", None)
    wanted = node._input_metadata[number] if leaf is None else leaf
    assert output.device == wanted.device, f"{node.name()}: a gradient on {output.device} of {wanted.device}"
    return output.sum_to_size(wanted.shape).to(wanted.dtype)


def _add(found: dict[int, Tensor], number: int, output: Tensor) -> None:
    found[number] = found[number] + output if number in found else output
