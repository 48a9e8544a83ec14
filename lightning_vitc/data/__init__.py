"""Data sets, splits, augmentation and resumable loading.

`catalog` and this file import no torch: a mistake in a config is answered before any heavy import.
"""

from typing import TYPE_CHECKING, Any

from lightning_vitc.data.catalog import CATALOG, DatasetInfo, check_root

if TYPE_CHECKING:
    from lightning_vitc.data.module import VisionData

__all__ = ["CATALOG", "DatasetInfo", "VisionData", "check_root"]


def __getattr__(name: str) -> Any:
    if name == "VisionData":
        from lightning_vitc.data.module import VisionData

        return VisionData
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
