"""A CUDA device that is not there: its tensors have shapes and types but no values, and waiting for it is an error.

Tensors on the CPU are real. Those on `cuda` are torch's fake tensors, whose operators refuse tensors of two devices. As
there are no values, nothing can depend on them by mistake; where the host asks for one, it waits for the device. So it
does for every copy between the two but one that does not block and whose memory is pinned.
"""

import traceback
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from driver import driver
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
NOBODY = (
    Path(torch.__file__).parent,
    *(Path(__file__).with_name(f"{name}.py") for name in ("fake_cuda", "driver", "tape")),
)


class HostWaits(AssertionError):
    """The host waits for the device."""


class Values(FakeTensorMode):
    """There are none; copies of tensors share it."""

    avoid_device_init = True  # which torch would look for a driver for at every operator

    def __deepcopy__(self, memo: dict[int, Any]) -> "Values":
        return self


class FakeCuda(TorchDispatchMode):
    """Within it `cuda` is a device.

    Args:
        answer: what the host gets where it asks: a value, or how many are true.

    Attributes:
        waits: where the host waited while it was watched, as `folder/file.py:function`.
    """

    def __init__(self, answer: int = 1):
        super().__init__()
        self.answer, self.waits = answer, []
        self._fake, self._context = Values(), ExitStack()
        self._allowed: Collection[str] | None = None
        self._pinned: list[Tensor] = []

    def __enter__(self) -> "FakeCuda":
        self._context.enter_context(self._fake)  # torch looks for no driver where it is
        self._context.enter_context(driver(self.wait))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._context.close()

    @contextmanager
    def watched(self, *allowed: str) -> Iterator[None]:
        """Within it the host may wait only where it is named.

        Raises:
            HostWaits: elsewhere.
        """
        before, self._allowed = self._allowed, allowed
        try:
            yield
        finally:
            self._allowed = before

    def wait(self, what: Any) -> None:
        """Note where the host waits."""
        if self._allowed is None:
            return
        frames = [
            frame for frame in traceback.extract_stack()
            if not any(Path(frame.filename).is_relative_to(folder) for folder in NOBODY)
        ]  # fmt: skip
        place = "/".join(Path(frames[-1].filename).parts[-2:]) + f":{frames[-1].name}"
        self.waits.append(place)
        if place not in self._allowed:
            raise HostWaits(f"{place}, line {frames[-1].lineno}, waits for the device: {what}")

    # Operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        if kwargs.get("pin_memory"):
            return self._pin(self._on_host(func, args, kwargs | {"pin_memory": False}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        device = torch.device(kwargs.get("device") or "cpu")
        if device.type == "cuda" or any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return self._on_device(func, args, kwargs)
        return self._on_host(func, args, kwargs)

    def _on_host(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func.overloadpacket is aten.is_pinned:
            return self._is_pinned(args[0])
        with unset_fake_temporarily():
            return self._pin(args[0].clone()) if func.overloadpacket is aten._pin_memory else func(*args, **kwargs)

    def _on_device(self, func: Any, args: Any, kwargs: Any) -> Any:
        packet = func.overloadpacket
        if packet is aten._to_copy:
            return self._copied(func, args[0], kwargs)
        if packet is aten.copy_:
            return self._copied_into(func, *args, **kwargs)
        if packet in INDEXING:
            self._check_indices(func, args)
        generator = kwargs.get("generator")
        assert generator is None or generator.device.type == "cuda", f"{func}: a generator of the CPU"
        try:
            return func(*self._as_fake(args), **self._as_fake(kwargs))
        except (DataDependentOutputException, DynamicOutputShapeException):
            self.wait(func)
            return self._answered(packet, *args)

    # Copies

    def _copied(self, func: Any, source: Tensor, kwargs: Any) -> Tensor:
        if torch.device(kwargs.get("device") or source.device).type == "cpu":
            self.wait(func)
            with unset_fake_temporarily():
                return torch.full(source.shape, self.answer, dtype=kwargs.get("dtype") or source.dtype)
        if source.device.type == "cpu" and not (kwargs.get("non_blocking") and self._is_pinned(source)):
            self.wait(func)
        return func(self._as_fake(source), **kwargs)

    def _copied_into(self, func: Any, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        host = next((tensor for tensor in (target, source) if not isinstance(tensor, FakeTensor)), None)
        if host is not None and not (non_blocking and self._is_pinned(host)):
            self.wait(func)
        if host is target:
            with unset_fake_temporarily():
                return target.fill_(self.answer)
        return func(target, self._as_fake(source), non_blocking)

    def _pin(self, tensor: Tensor) -> Tensor:
        self._pinned.append(tensor)
        return tensor

    def _is_pinned(self, tensor: Tensor) -> bool:
        memory = tensor.untyped_storage().data_ptr()
        return any(memory == pinned.untyped_storage().data_ptr() for pinned in self._pinned)

    # What the host waits for

    def _check_indices(self, func: Any, args: Any) -> None:
        """Positions on the host are copied, and booleans counted, unless it is to fill in one value."""
        indices = [index for index in args[1] if index is not None]
        booleans = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        filled = len(args) > 2 and args[2].numel() == 1
        if not all(isinstance(index, FakeTensor) for index in indices) or (booleans and len(args) > 2 and not filled):
            self.wait(func)

    def _answered(self, packet: Any, source: Tensor, *more: Any) -> Any:
        if packet in (aten._local_scalar_dense, aten.item):
            return torch.tensor(self.answer, device="cpu").to(source.dtype).item()
        if packet in (aten.equal, aten.is_nonzero):
            return bool(self.answer)
        if packet is aten.nonzero:
            return torch.zeros(self._count(source), source.ndim, dtype=torch.long, device=CUDA)
        if packet is aten.index:
            number = next(position for position, index in enumerate(more[0]) if index is not None)
            mask = more[0][number]
            rest = (*source.shape[:number], self._count(mask), *source.shape[number + mask.ndim :])
            return torch.zeros(rest, dtype=source.dtype, device=CUDA)
        raise NotImplementedError(f"{packet} has no answer")

    def _count(self, mask: Tensor) -> int:
        return max(0, min(self.answer, mask.numel()))

    def _as_fake(self, values: Any) -> Any:
        def convert(tensor: Tensor) -> Tensor:
            return tensor if isinstance(tensor, FakeTensor) else self._fake.from_tensor(tensor)

        return tree_map_only(Tensor, convert, values)
