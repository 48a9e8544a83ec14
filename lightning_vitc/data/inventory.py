"""What a run's folders of images hold, so that a run that continues notices what has changed in them."""

import os
import zlib
from collections import defaultdict

from lightning_vitc.data.sources import FileSource, Splits
from lightning_vitc.errors.messages import counted

Inventory = dict[str, list[int]]
"""By folder, such as `train/cat`: the number of its images, and a checksum of their names."""


def inventory(splits: Splits) -> Inventory:
    """Of every folder of images that the splits were read from; empty for data sets without files."""
    sources = {id(split.source): split.source for split in (splits.train, splits.validation, splits.test)}
    names = defaultdict(list)
    for source in sources.values():
        if isinstance(source, FileSource):
            for name in source.names:
                top = os.path.dirname(name).split("/")[0]  # noqa: PTH120, a million of them
                names[f"{source.folder.name}/{top}".rstrip("/")].append(name)
    return {folder: [len(files), zlib.crc32("\n".join(files).encode(errors="surrogateescape"))]
            for folder, files in names.items()}  # fmt: skip


def change(before: Inventory, now: Inventory) -> str | None:
    """The first folder that differs, in words; `None` where none does."""
    for folder in sorted({*before, *now}):
        was, images = before.get(folder, [0, 0])[0], now.get(folder, [0, 0])[0]
        if was != images:
            return f"{folder} has {counted(images, 'image')}, it had {was} when the run began"
        if before[folder] != now[folder]:
            return f"{folder} has {counted(images, 'image')} of other names than when the run began"
    return None
