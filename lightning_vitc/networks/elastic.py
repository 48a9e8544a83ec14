"""Several networks in one file, switched at run time: Scala's widths."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from lightning_vitc.errors import UserError
from lightning_vitc.networks.batch_statistics import batch_norms
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.kept import Heads
from lightning_vitc.networks.slicing import End, Rule, slice_width
from lightning_vitc.networks.spec import ArchSpec, as_ratio

Statistics = Mapping[Fraction, Mapping[str, Tensor]]
AT_WIDTH = "at_width/"  # before the width and the name of a statistic, in a file of weights


class Cut(NamedTuple):
    """Which weights a width keeps; see `slice_width`."""

    rule: Rule
    end: End
    heads: Heads = "both"


class Elastic(nn.Module):
    """A network that holds smaller ones: what is exported are its weights, and how the others follow from them.

    Its tensors beside the weights have a slash in their names, which no name of a weight has.

    Attributes:
        kind: the name of the class in `arch.json`, see `artifacts.artifact.KINDS`.
        full: the largest network.
    """

    kind: str
    full: nn.Module

    @property
    def network(self) -> nn.Module:
        """The standalone network that runs."""
        raise NotImplementedError

    def stored(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What belongs into `arch.json`, and all tensors."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop the smaller networks that are kept; they are made again."""
        raise NotImplementedError

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.forget()  # of another device or type from now on
        return super()._apply(fn, recurse)


class ElasticViT(Elastic):
    """Images [B, C, H, W] -> logits [B, classes] at the width that `set_width` chose last; the widest at first.

    A width's slices are cut out when it is first set and kept as contiguous weights of their own, so that it runs
    like the standalone network of that width. They are copies: training or loading weights needs `forget`.

    Args:
        full: the network of width 1.
        cuts: the widths that were trained; what is cut at width 1 does not matter.
        statistics: of a network with batch norms, those of every width but 1, by their names.
    """

    kind = "elastic"

    def __init__(self, full: nn.Module, cuts: Mapping[Fraction, Cut], statistics: Statistics | None = None):
        super().__init__()
        self.statistics = dict(statistics or {})
        if not cuts:
            raise ValueError("no width")
        if missing := [width for width in cuts if width != 1 and batch_norms(full) and width not in self.statistics]:
            raise ValueError(f"no statistics of batch norms at width {float(missing[0]):g}")
        self.full, self.cuts = full, dict(sorted(cuts.items()))
        self._networks: dict[Fraction, nn.Module] = {}  # not submodules: their weights are in `full`
        self.set_width(max(self.cuts))

    @property
    def widths(self) -> list[float]:
        """What `set_width` takes, ascending."""
        return [float(width) for width in self.cuts]

    @property
    def width(self) -> float:
        """The width that runs."""
        return float(self._width)

    @property
    def network(self) -> nn.Module:
        """The standalone network that runs."""
        return self.network_at(self._width)

    @property
    def spec(self) -> ArchSpec:
        """The architecture that runs."""
        return ArchSpec.of(self.network)

    def restricted(self, widths: Sequence[str]) -> "ElasticViT":
        """The same network with only these widths.

        Raises:
            UserError: for a width that was not trained.
        """
        for width in widths:
            self.set_width(width)
        ratios = [as_ratio(width) for width in widths]
        return ElasticViT(self.full, {ratio: self.cuts[ratio] for ratio in ratios}, self.statistics).eval()

    def set_width(self, width: Fraction | float | str) -> None:
        """Run at this width from now on.

        Raises:
            UserError: for a width that was not trained.
        """
        ratio = as_ratio(width)
        if ratio not in self.cuts:
            raise UserError(f"width: {width} is not one of {', '.join(f'{known:g}' for known in self.widths)}")
        self._width = ratio
        self.network_at(ratio)

    def network_at(self, width: Fraction) -> nn.Module:
        """The standalone network of a width, cut out once."""
        if width == 1:
            return self.full
        if width not in self._networks:
            kept = slice_width(ArchSpec.of(self.full), width, *self.cuts[width])
            self._networks[width] = compact(self.full, kept.with_statistics(self.statistics.get(width, {})))
        return self._networks[width]

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.network(images)

    def forget(self) -> None:
        """Drop the slices that are kept; they are cut again from the weights of `full`."""
        self._networks.clear()

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.statistics = {
            width: {name: fn(tensor) for name, tensor in named.items()} for width, named in self.statistics.items()
        }
        return super()._apply(fn, recurse)

    # The exported directory

    def stored(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What belongs into `arch.json`, and the weights: those of the full network, and every width's statistics."""
        widths = [{"width": str(width), **cut._asdict()} for width, cut in self.cuts.items()]
        statistics = {
            f"{AT_WIDTH}{width}/{name}": tensor
            for width in self.cuts for name, tensor in self.statistics.get(width, {}).items()
        }  # fmt: skip
        return {"kind": self.kind, "widths": widths}, self.full.state_dict() | statistics

    @classmethod
    def restored(
        cls, full: nn.Module, document: dict[str, Any], more: Mapping[str, Tensor] | None = None
    ) -> "ElasticViT":
        """The network of `stored`; `more` are its weights that are not the full network's, see `is_beside`.

        Raises:
            KeyError, TypeError, ValueError: for a document that `stored` did not make.
        """
        cuts = {
            as_ratio(row["width"]): Cut(row["rule"], row["end"], row.get("heads", "both")) for row in document["widths"]
        }
        statistics: dict[Fraction, dict[str, Tensor]] = {}
        for key, tensor in (more or {}).items():
            width, _, name = key.removeprefix(AT_WIDTH).rpartition("/")
            statistics.setdefault(as_ratio(width), {})[name] = tensor
        return cls(full, cuts, statistics).eval()


def is_beside(name: str) -> bool:
    """Whether what is stored under a name is not of the full network."""
    return "/" in name
