"""Which images a run was begun with: said at its start, kept as `images.json`, and compared when it continues."""

from lightning_vitc.data import VisionData
from lightning_vitc.data.inventory import change, inventory
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.runs.directory import RunDirectory, read_json, write_json
from lightning_vitc.schema.split_names import HELD_OUT

FILE = "images.json"


def write_images(directory: RunDirectory, data: VisionData) -> None:
    """Keep what the folders of images hold, once; nothing for data sets without folders."""
    found = inventory(data.splits)
    if found and not (directory.path / FILE).exists():
        document = {"name": data.config.name, "unlabeled": data.config.unlabeled, "folders": found}
        write_json(directory.path / FILE, document)


def must_have_same_images(directory: RunDirectory, data: VisionData) -> None:
    """Refuse to continue a run with other images: its batches, and what is held out of them, would be others.

    Raises:
        UserError: naming the folder that changed and how.
    """
    if not (directory.path / FILE).exists():
        return
    document = read_json(directory.path / FILE, "name", "unlabeled", "folders")
    if (document["name"], document["unlabeled"]) != (data.config.name, data.config.unlabeled):
        return  # another experiment, which is refused by its keys
    if changed := change(document["folders"], inventory(data.splits)):
        raise UserError(
            f"data.root: {data.config.root}: {changed}; put it back (data.on_error=skip lives with images that cannot "
            "be read), or start over with --fresh or another run_name"
        )


def images_in_words(data: VisionData) -> str:
    """`data: folder, train 20 images of 2 classes, ...`; of a split that is evaluated twice once."""
    parts = []
    for name, count in data.counts.items():
        of = f"of {counted(count['classes'], 'class')}" if "classes" in count else "without labels"
        shown = "held out of train" if name == HELD_OUT else name
        parts.append(f"{shown} {counted(count['images'], 'image')} {of}")
    return f"data: {data.config.name}, {', '.join(parts)}"
