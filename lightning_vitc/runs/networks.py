"""The networks of a finished run: stored when it ends, read by all that comes after it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from lightning_vitc.artifacts import arch_json, artifact
from lightning_vitc.errors import UserError
from lightning_vitc.networks import costs
from lightning_vitc.networks.elastic import ElasticViT
from lightning_vitc.networks.spec import ArchSpec, as_ratio

FOLDER = "networks"  # in the directory of a run


@dataclass
class Network:
    """A network of the final table: a plain, standalone model, and the columns only its method has.

    `sources` are the numbers its blocks have in the dense network, where some are gone.
    """

    name: str
    module: nn.Module
    spec: ArchSpec
    columns: dict[str, Any]
    sources: tuple[int, ...] | None = None

    @property
    def macs(self) -> int:
        """MACs of an image: expected ones where images differ."""
        return self.columns.get("expected_macs") or costs.macs(self.spec)

    @property
    def executed(self) -> dict[str, int]:
        """What runs, where it is more than is counted and the same for all images."""
        return {} if self.spec.is_gated else costs.executed_beside(self.spec)


@dataclass
class Stored:
    """What `store` has written.

    Attributes:
        networks: those of the table.
        variants: what else can be exported; each is loaded when it is called.
        facts: of all of them.
    """

    networks: list[Network] = field(default_factory=list)
    variants: dict[str, Callable[[], Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def store(
    directory: Path, networks: Sequence[Network], variants: Mapping[str, Callable[[], Any]], facts: dict[str, Any]
) -> None:
    """Write the networks of a run into folders of it, whole or not at all.

    The widths of an `ElasticViT` are in its weights, and are not written beside them.

    Args:
        directory: of the run.
        networks: of its table.
        variants: what makes the others that it offers.
        facts: of all of them, for `arch.json`.
    """
    others = {name: build().float() for name, build in variants.items()}  # after a training in half precision too
    entries: dict[str, list[dict[str, Any]]] = {name: [] for name in others}
    modules: dict[str, Any] = dict(others)
    for number, network in enumerate(networks):
        home = next((name for name, model in others.items() if _holds(model, network)), network.name)
        modules.setdefault(home, network.module)
        entries.setdefault(home, []).append(
            {"number": number, "name": network.name, "columns": network.columns, "sources": network.sources}
        )
    artifact.write_several(
        {name: (model, {**facts, "rows": entries[name], "variant": name in others}, None)
         for name, model in modules.items()},
        directory / FOLDER,
    )  # fmt: skip


def stored(directory: Path) -> Stored | None:
    """What a run holds; `None` for one of an earlier version, or one that is not finished.

    Raises:
        UserError: where it is damaged.
    """
    if not (directory / FOLDER / arch_json.SEVERAL).is_file():
        return None
    try:
        return _read(directory)
    except UserError as error:
        raise UserError(str(error).removesuffix(arch_json.AGAIN)) from None


def _read(directory: Path) -> Stored:
    found, numbered = Stored(), []
    for name in arch_json.models_in(directory / FOLDER):
        folder = directory / FOLDER / name
        found.facts = document = arch_json.read_arch(folder)
        if document.get("variant"):
            found.variants[name] = partial(artifact.load, folder)
        if rows := document.get("rows"):
            model = artifact.load(folder)
            numbered += [(row["number"], _network(model, row)) for row in rows]
    found.networks = [network for _, network in sorted(numbered, key=lambda pair: pair[0])]
    return found


def _holds(model: Any, network: Network) -> bool:
    """Whether a network of the table is one of the widths of a model."""
    width = network.columns.get("width")
    return isinstance(model, ElasticViT) and width is not None and as_ratio(width) in model.cuts


def _network(model: Any, row: dict[str, Any]) -> Network:
    module = model.network_at(as_ratio(row["columns"]["width"])) if isinstance(model, ElasticViT) else model
    sources = None if row["sources"] is None else tuple(row["sources"])
    return Network(row["name"], module, ArchSpec.of(module), row["columns"], sources)
