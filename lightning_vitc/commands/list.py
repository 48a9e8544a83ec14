"""`vitc list`: what there is to name in an experiment and on the command line."""

import argparse
import json

from lightning_vitc import config
from lightning_vitc.config import registry
from lightning_vitc.data.catalog import CATALOG
from lightning_vitc.networks import costs, families
from lightning_vitc.networks.spec import ArchSpec

Tables = dict[str, dict[str, str]]

_TITLES = {
    "experiments": "Experiments (vitc train NAME)",
    "methods": "Methods (method.name)",
    "callbacks": "Callbacks (callbacks.NAME)",
    "data": "Data sets (data.name)",
    "models": "Models beside timm's (model.name)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vitc list`."""
    parser.add_argument("--json", action="store_true", help="one JSON document: name and description by kind")


def run(args: argparse.Namespace) -> int:
    """Print the tables."""
    tables = _tables()
    print(json.dumps(tables, indent=2) if args.json else _as_text(tables))
    return 0


def _tables() -> Tables:
    return {
        "experiments": config.experiments(),
        "methods": {name: entry.description for name, entry in registry.methods().items()},
        "callbacks": {name: entry.description for name, entry in registry.callbacks().items()},
        "data": {name: info.description for name, info in CATALOG.items()},
        "models": {
            name: _described(made()) for _, named in families.each_named() for name, made in named.NAMES.items()
        },
    }


def _described(spec: ArchSpec) -> str:
    return f"{costs.params(spec):,} parameters, {costs.macs(spec):,} MACs"


def _as_text(tables: Tables) -> str:
    width = max((len(name) for table in tables.values() for name in table), default=0)
    blocks = []
    for kind, table in tables.items():
        rows = [f"  {name:<{width}}  {description}".rstrip() for name, description in table.items()]
        blocks.append("\n".join([_TITLES[kind], *(rows or ["  none"])]))
    return "\n\n".join(blocks)
