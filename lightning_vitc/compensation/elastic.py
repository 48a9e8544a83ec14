"""One pruned network for every budget: the dense weights, the ranking, and the statistics that compensate."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vitc.budget.target import parse_amount
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.compensation.deciding import Skip, decide, least_of
from lightning_vitc.compensation.folding import Fold
from lightning_vitc.compensation.ranking import Ranking
from lightning_vitc.compensation.statistics import Statistics, from_statistics
from lightning_vitc.errors import UserError
from lightning_vitc.networks.elastic import Elastic
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import BudgetConfig, MinKeepConfig

RANKING = ("dims", "channels", "blocks")
KEPT_READY = 4  # networks of budgets that were set


@dataclass(frozen=True)
class Settings:
    """How a budget becomes a network; the keys of `budget:` and `method:`.

    Attributes:
        quantity: what budgets count, `macs` or `params`.
        convention: of MACs.
        round_to, min_keep: see `BudgetConfig`.
        skip, fold, ridge: see the method `compensate`.
    """

    quantity: str
    convention: str
    round_to: int | None
    min_keep: dict[str, int | None]
    skip: Skip
    fold: Fold
    ridge: float

    @property
    def budget(self) -> BudgetConfig:
        """Minima and multiples."""
        return BudgetConfig(round_to=self.round_to, min_keep=MinKeepConfig(**self.min_keep))  # type: ignore[arg-type]


class CompensatedViT(Elastic):
    """Images [B, C, H, W] -> logits [B, classes] within the budget that `set_budget` chose last; dense at first.

    A smaller network's weights are solved for when its budget is first set, from statistics of the dense network.

    Args:
        full: the dense network.
        ranking: of its pieces and blocks.
        statistics: of its activations.
        settings: how a budget becomes a network.
    """

    kind = "compensated"

    def __init__(self, full: nn.Module, ranking: Ranking, statistics: Statistics, settings: Settings):
        super().__init__()
        self.full, self.ranking, self.statistics, self.settings = full, ranking, statistics, settings
        self._ready: dict[int, nn.Module] = {}  # not submodules: they follow from `full`
        self.costs = UnitCosts.of(ArchSpec.of(full), settings.quantity, settings.convention, "uvc")
        self._limit = self.costs.dense

    @property
    def limit(self) -> int:
        """The budget that holds, in MACs or parameters."""
        return self._limit

    @property
    def network(self) -> nn.Module:
        """The standalone network that runs."""
        return self.network_within(self._limit)

    @property
    def spec(self) -> ArchSpec:
        """The architecture that runs."""
        return ArchSpec.of(self.network)

    def set_budget(self, budget: str | float) -> None:
        """Run within a budget from now on: a share of the dense network such as `70%`, or a number such as `1.2G`.

        Raises:
            UserError: for a budget out of reach.
        """
        limit = parse_amount(budget, self.costs.dense, "budget")
        least = least_of(ArchSpec.of(self.full), self.costs, self.settings.budget, self.settings.skip)
        if not least <= limit <= self.costs.dense:
            raise UserError(f"budget: {budget} is {limit:,}, out of reach; here are {least:,} to {self.costs.dense:,}")
        self.network_within(limit)  # before it holds: where it cannot be met, what ran goes on
        self._limit = limit

    @torch.no_grad()
    def network_within(self, limit: int) -> nn.Module:
        """The standalone network of a budget, in MACs or parameters."""
        if limit >= self.costs.dense:
            return self.full
        if limit not in self._ready:
            spec, how = ArchSpec.of(self.full), self.settings
            masks = decide(self.ranking, spec, self.costs, limit, how.budget, how.skip)
            self._ready[limit] = self._solved(masks)
            if len(self._ready) > KEPT_READY:
                del self._ready[next(iter(self._ready))]
        return self._ready[limit]

    def _solved(self, masks: Any) -> nn.Module:
        """On the CPU in single precision, whatever the dense network is; then as that."""
        weight, how = next(self.full.parameters()), self.settings
        full = deepcopy(self.full).to("cpu", torch.float32)
        return from_statistics(full, masks, self.statistics, how.fold, how.ridge).to(weight.device, weight.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.network(images)

    def forget(self) -> None:
        """Drop the networks that are kept ready; they are solved for again."""
        self._ready.clear()

    # The exported directory

    def stored(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What belongs into `arch.json`, and the weights with the ranking and the statistics beside them."""
        beside = {f"ranking/{name}": getattr(self.ranking, name) for name in RANKING} | self.statistics.tensors()
        return {"kind": self.kind, "settings": asdict(self.settings)}, self.full.state_dict() | beside

    @classmethod
    def restored(cls, full: nn.Module, document: dict[str, Any], more: Mapping[str, Tensor]) -> "CompensatedViT":
        """The network of `stored`; `more` are its tensors that are not the full network's.

        Raises:
            KeyError, TypeError, ValueError: for a document that `stored` did not make.
        """
        ranking = Ranking(*(more[f"ranking/{name}"] for name in RANKING))
        return cls(full, ranking, Statistics.of_tensors(more), Settings(**document["settings"])).eval()
