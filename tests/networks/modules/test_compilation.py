"""What a graph is made by: no breaks, as many shapes as are trained, and random numbers as without."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_vitc.networks.modules.compilation import GRAPHS, graph_of
from tests.networks.conv_nets import network

SHAPES = 12  # more than the limits below


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """No graph is known, and torch gives up as early as it does by itself, or earlier."""
    graph_of.cache_clear()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=8):
        yield
    graph_of.cache_clear()
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Graphs are found and run as they are, without a compiler's kernels; dynamo's counts of them."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    return torch._dynamo.utils.counters["stats"]


def doubled(x: Tensor) -> Tensor:
    return 2 * x


def broken(x: Tensor) -> Tensor:
    torch._dynamo.graph_break()
    return 2 * x


def dropped(x: Tensor) -> Tensor:
    return F.dropout(x, 0.5, training=True)


def test_a_break_is_an_error(traced):
    with pytest.raises(torch._dynamo.exc.Unsupported, match="graph_break"):
        graph_of(broken)(torch.ones(2))


def test_every_shape_has_a_graph_of_its_own(traced):
    """None for shapes in general, which is slower, and no limit that a training comes to."""
    function = graph_of(doubled)
    assert graph_of(doubled) is function
    for size in (*range(2, 2 + SHAPES), 2):
        assert function(torch.ones(size)).sum() == 2 * size
    assert traced["unique_graphs"] == SHAPES
    assert torch._dynamo.config.recompile_limit == torch._dynamo.config.accumulated_recompile_limit == GRAPHS


def test_no_graph_has_a_convolution_of_one_pixel_with_a_stride():
    """Where channels are last, as graphs have them, and few, its backward pass corrupts memory on CPUs."""
    model, images = network("resnet").train(), torch.randn(2, 3, 32, 32)
    found: list[tuple[torch.Size, tuple[int, ...]]] = []

    def noted(graph, inputs):
        def run(*given):
            with Convolutions(found):
                return graph(*given)

        return run

    expected = model(images)
    traced = torch.compile(model.features, backend=noted, fullgraph=True)(images)
    torch.testing.assert_close(model.forward_head(traced), expected, rtol=0, atol=1e-5)
    strided = [(weight, stride) for weight, stride in found if max(stride) > 1]
    assert len(strided) == 2  # of the stem, and of the second stage
    assert all(weight[-1] > 1 for weight, _ in strided)


class Convolutions(TorchDispatchMode):
    """Notes shape and stride of every convolution that runs."""

    def __init__(self, found):
        self.found = found
        super().__init__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            self.found.append((args[1].shape, tuple(args[3])))
        return function(*args, **kwargs or {})


@pytest.mark.slow
def test_random_numbers_are_those_of_what_is_written():
    x = torch.ones(64)
    torch.manual_seed(0)
    found = graph_of(dropped)(x)
    torch.manual_seed(0)
    assert torch.equal(found, dropped(x))
    assert 0 < int((found == 0).sum()) < 64
