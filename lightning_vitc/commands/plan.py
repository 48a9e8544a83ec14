"""`vitc plan`: what a method can reach for its model, and whether the budget is satisfiable."""

import argparse
import json
from typing import Any

from lightning_vitc.commands._experiment import add_experiment
from lightning_vitc.config import load_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_experiment(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    experiment = load_experiment(args.experiment, args.overrides, check_files=False)
    from lightning_vitc.budget.planning import plan_experiment

    document = plan_experiment(experiment)
    if args.json:
        print(json.dumps(document))
    else:
        _print(document)
    return 0


def _print(document: dict[str, Any]) -> None:
    unit = next(iter(document["reachable"])).removeprefix("min_")
    print(f"{document['method']} on {document['model']}, convention {document['convention']}")
    print(f"  dense      {document['dense']['macs']:,} MACs, {document['dense']['params']:,} parameters")
    answer = "yes" if document["satisfiable"] else "no"
    for key in [name.removeprefix("min_") for name in document["reachable"] if name.startswith("min_")]:
        least, most, step = (document["reachable"][f"{end}_{key}"] for end in ("min", "max", "step"))
        counted, of = (unit, "") if key == unit else (f"{unit}, {key}", f" ({key})")
        print(f"  reachable  {least:,} to {most:,} {counted}, in steps of at most {step:,}")
        if document["target"] is not None:
            target = document["target"][key]
            share = 100 * target / document["dense"][unit]
            print(f"  target{of}     {target:,} {unit} ({share:.1f} %), satisfiable: {answer}")
    for network in document["plan"].pop("networks", []):
        print(f"  {network['name']:<12} {network['macs']:,} MACs, {network['params']:,} parameters")
    for key, value in document["plan"].items():
        listed = ", ".join(f"{name} {part}" for name, part in value.items()) if isinstance(value, dict) else value
        print(f"  {key.replace('_', ' ')}: {listed}")
