"""CUB-200-2011 and MIT Indoor67, as their authors lay them out: folders of images, and lists that sort them.

Wah, Branson, Welinder, Perona, Belongie: The Caltech-UCSD Birds-200-2011 Dataset, 2011.
Quattoni, Torralba: Recognizing Indoor Scenes, CVPR 2009.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lightning_vitc.data.sources import FileSource, Split
from lightning_vitc.errors import UserError

SCENES = (
    "airport_inside artstudio auditorium bakery bar bathroom bedroom bookstore bowling buffet casino children_room "
    "church_inside classroom cloister closet clothingstore computerroom concert_hall corridor deli dentaloffice "
    "dining_room elevator fastfood_restaurant florist gameroom garage greenhouse grocerystore gym hairsalon "
    "hospitalroom inside_bus inside_subway jewelleryshop kindergarden kitchen laboratorywet laundromat library "
    "livingroom lobby locker_room mall meeting_room movietheater museum nursery office operating_room pantry "
    "poolinside prisoncell restaurant restaurant_kitchen shoeshop stairscase studiomusic subway toystore trainstation "
    "tv_studio videostore waitingroom warehouse winecellar"
)
"""The scenes as their folders are called."""


def read_cub(root: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """The training (5,994 images) and the test split (5,794) of the birds, and the names of the 200 species."""
    folder = root / "CUB_200_2011"
    classes = _values(folder / "classes.txt")
    if [*classes] != [*range(1, 201)]:
        raise UserError(f"data.root: {folder / 'classes.txt'} must name the classes 1..200, one a line, in their order")
    images = _values(folder / "images.txt")
    labels = _numbers(folder / "image_class_labels.txt", images, 1, 200)
    training = _numbers(folder / "train_test_split.txt", images, 0, 1) == 1
    source = FileSource(folder / "images", [*images.values()], labels - 1)
    train, test = (Split(source, np.flatnonzero(chosen)) for chosen in (training, ~training))
    return train, test, tuple(classes.values())


def read_indoor(root: Path, listing: str) -> Split:
    """The images that `TrainImages` (5,360) or `TestImages` (1,340) lists, of the 67 scenes."""
    number = {scene: index for index, scene in enumerate(SCENES.split())}
    names, path = [line for _, line in _lines(root / f"{listing}.txt")], root / f"{listing}.txt"
    for name in names:
        scene, _, image = name.partition("/")
        if not image or scene not in number:
            raise UserError(f"data.root: {path} must have lines `SCENE/IMAGE`, not {name!r}; Indoor67 has 67 scenes")
    return Split.whole(FileSource(root / "Images", names, np.array([number[name.partition("/")[0]] for name in names])))


def _values(path: Path) -> dict[int, str]:
    """What stands behind the numbers of lines `NUMBER VALUE`."""
    found: dict[int, str] = {}
    for at, line in _lines(path):
        number, _, value = line.partition(" ")
        if not number.isdecimal() or not value or int(number) in found:
            raise UserError(
                f"data.root: {path} must have lines `NUMBER VALUE`, each number once; line {at} is {line!r}"
            )
        found[int(number)] = value
    return found


def _numbers(path: Path, images: dict[int, str], least: int, most: int) -> np.ndarray:
    """The value of every image, in the order of `images`."""
    values = _values(path)
    if values.keys() != images.keys():
        raise UserError(f"data.root: {path} numbers other images than {path.with_name('images.txt')}")
    found = [values[number] for number in images]
    if wrong := next((value for value in found if not value.isdecimal() or not least <= int(value) <= most), None):
        raise UserError(f"data.root: {path} must have values from {least} to {most}, not {wrong!r}")
    return np.array([int(value) for value in found], dtype=np.int64)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a list that are not empty, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"data.root: {path} cannot be read ({error.strerror})") from None
    return ((at, line.strip()) for at, line in enumerate(text.splitlines(), 1) if line.strip())
