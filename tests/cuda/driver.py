"""What torch asks the driver for, answered where there is none: streams, events, and whether autocast is worth it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import tape
import torch


class Stream:
    """A stream, and an event in it; `wait` is told when the host waits for it."""

    def __init__(self, wait: Callable[[Any], None]):
        self.synchronize = lambda: wait("synchronize")

    def wait_stream(self, other: "Stream") -> None:
        """The device waits, the host does not."""

    def record_event(self) -> "Stream":
        """An event in it."""
        return self

    def __enter__(self) -> None:
        """It is the current one."""

    def __exit__(self, *error: Any) -> None:
        """It is no more."""


@contextmanager
def driver(wait: Callable[[Any], None]) -> Iterator[None]:
    """Within it there is one, as far as this package and Lightning ask."""
    stream = Stream(wait)
    functions = {"Stream": lambda device=None: stream, "current_stream": lambda device=None: stream,
                 "stream": lambda stream: stream, "is_bf16_supported": lambda *_: True}  # fmt: skip
    with (
        mock.patch.multiple(torch.cuda, **functions),
        mock.patch.multiple(torch.Tensor, record_stream=lambda *_: None, backward=tape.backward),
        mock.patch.object(torch.autograd, "grad", tape.grad),
        mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", return_value=False),
    ):
        yield
