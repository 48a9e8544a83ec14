"""One network that switches its width at run time: Scala's widths in one file."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

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


class ElasticViT(nn.Module):
    """Images [B, C, H, W] -> logits [B, classes] at the width that `set_width` chose last; the widest at first.

    A width's slices are cut out when it is first set and kept as contiguous weights of their own, so that it runs
    like the standalone network of that width. They are copies: training or loading weights needs `forget`.

    Args:
        full: the network of width 1.
        cuts: the widths that were trained; what is cut at width 1 does not matter.
        statistics: of a network with batch norms, those of every width but 1, by their names.
    """

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

    def _apply(self, fn: Any, recurse: bool = True) -> "ElasticViT":
        self.forget()  # of another device or type from now on
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
        return {"kind": "elastic", "widths": widths}, self.full.state_dict() | statistics

    @classmethod
    def restored(
        cls, full: nn.Module, document: dict[str, Any], more: Mapping[str, Tensor] | None = None
    ) -> "ElasticViT":
        """The network of `stored`; `more` are its weights that are not the full network's, see `is_of_a_width`.

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


def is_of_a_width(name: str) -> bool:
    """Whether what is stored under a name belongs to one of several widths, and not to the full network."""
    return name.startswith(AT_WIDTH)
