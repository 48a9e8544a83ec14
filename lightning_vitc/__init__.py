"""Compress Vision Transformers with published methods: train, shrink, prove, export.

Names are imported when they are first used, so that `import lightning_vitc` and the command line stay fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_vitc.artifacts.artifact import load, transform
    from lightning_vitc.methods.compensate import Compensate
    from lightning_vitc.methods.dcvit import DCViT
    from lightning_vitc.methods.dense import Dense
    from lightning_vitc.methods.practise import Practise
    from lightning_vitc.methods.scala import Scala
    from lightning_vitc.methods.usdc import USDC
    from lightning_vitc.methods.uvc import UVC
    from lightning_vitc.networks import costs
    from lightning_vitc.networks.backbone import create_backbone
    from lightning_vitc.networks.compaction import compact
    from lightning_vitc.networks.gates.skipping import set_gating
    from lightning_vitc.networks.spec import ArchSpec
    from lightning_vitc.training.module import CompressionModule

__version__ = "0.1.0"

_HOMES = {
    "USDC": "methods.usdc",
    "UVC": "methods.uvc",
    "ArchSpec": "networks.spec",
    "CompressionModule": "training.module",
    "Compensate": "methods.compensate",
    "DCViT": "methods.dcvit",
    "Dense": "methods.dense",
    "Practise": "methods.practise",
    "Scala": "methods.scala",
    "compact": "networks.compaction",
    "create_backbone": "networks.backbone",
    "load": "artifacts.artifact",
    "set_gating": "networks.gates.skipping",
    "transform": "artifacts.artifact",
}

__all__ = [
    "USDC",
    "UVC",
    "ArchSpec",
    "Compensate",
    "CompressionModule",
    "DCViT",
    "Dense",
    "Practise",
    "Scala",
    "compact",
    "costs",
    "create_backbone",
    "load",
    "set_gating",
    "transform",
]


def __getattr__(name: str) -> Any:
    if name == "costs":
        return import_module(f"{__name__}.networks.costs")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
