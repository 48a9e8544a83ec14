"""What a family of networks offers to everything that reads networks."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, cast

from lightning_vitc.networks import families
from lightning_vitc.networks.axes import Layout
from lightning_vitc.networks.spec import ArchSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

Parts = dict[str, int]
# what the names of classifiers begin with, in any family
CLASSIFIERS = ("head.", "head_dist.", "head_cls.", "fc.", "classifier.")
Named = Mapping[str, Callable[..., ArchSpec]]


class Shape(Protocol):
    """`shape.py`: it imports no torch."""

    EXAMPLES: Sequence[str]  # models of the family, for messages
    BEFORE: Sequence[str]  # what the names begin with of what is before the blocks: of weights, and of modules with "."
    BEHIND: Sequence[str]  # of what is behind them and belongs to the last one: all but the classifier and its own
    Options: type  # a frozen dataclass of numbers, texts and tuples of them
    PAPERS: Mapping[str, Callable[[ArchSpec], Parts]]  # `parts` as the authors of a method count, by its name

    def parts(self, spec: ArchSpec) -> Parts:
        """Multiply-accumulates of one image by part of the network, as `costs` counts them."""

    def params(self, spec: ArchSpec) -> int:
        """Parameters of the network, frozen ones included."""

    def layout(self, spec: ArchSpec) -> Layout:
        """Names and axes of all that its state dict holds."""

    def block_prefix(self, stage: int, number: int) -> str:
        """What the names of a block's weights begin with, such as `blocks.3.`."""

    def entry(self, stage: int) -> tuple[str, ...]:
        """What the names of the weights begin with that lead into a stage after the first, beside its blocks."""

    def positions(self, spec: ArchSpec) -> tuple[int, ...]:
        """How many positions the stream has in each stage."""

    def attended(self, spec: ArchSpec) -> tuple[int, ...]:
        """In each stage, how many pairs of positions an attention compares; 0 where there is none."""

    def narrow(self, spec: ArchSpec, ratio: Fraction, cut: str) -> ArchSpec:
        """The uniformly narrower network; see `ArchSpec.at_width`."""

    def at_size(self, spec: ArchSpec, size: tuple[int, int]) -> ArchSpec:
        """The same network for images of another size; see `ArchSpec.with_img_size`."""


class Names(Protocol):
    """`names.py`, where timm lacks the models; no torch either."""

    NAMES: Named  # models, made of the keys of `model` that they take
    PREPARATION: Mapping[str, Any]  # what timm's `pretrained_cfg` is to have beside its defaults


class Network(Protocol):
    """`network.py`."""

    def read(self, model: "nn.Module") -> ArchSpec | None:
        """The description of a model; `None` for a model of another family.

        Raises:
            UserError: for a relative that is not supported, by its name.
        """

    def build(self, spec: ArchSpec, rates: Mapping[str, float], trained: bool = False) -> Any:
        """A model of the described shape under its upstream's names, its weights not set; on `meta` too.

        Args:
            spec: of this family.
            rates: timm's `drop_rate`, `proj_drop_rate`, `attn_drop_rate` and `drop_path_rate`.
            trained: a `Backbone`, which can run its sub-networks, instead of a plain model.
        """

    def initialize(self, model: Any) -> None:
        """Draw fresh weights in place, as timm does for a new model."""

    def place_buffers(self, model: Any, device: "torch.device") -> None:
        """Give the index buffers of a model that was built on `meta` their values, on this device."""


def shape_of(spec: ArchSpec) -> Shape:
    """The half without torch of a network's family."""
    return cast(Shape, families.shape(spec.family))


def may_be_absent(spec: ArchSpec, number: int) -> bool:
    """Whether the stream keeps its shape in a block; a family says so where it may not (`keeps_stream`)."""
    keeps: Callable[[ArchSpec, int], bool] | None = getattr(shape_of(spec), "keeps_stream", None)
    return keeps is None or keeps(spec, number)


def network_of(spec: ArchSpec) -> Network:
    """The half with torch of a network's family."""
    return cast(Network, families.network(spec.family))
