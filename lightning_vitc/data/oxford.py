"""Oxford 102 Flower and Oxford-IIIT Pet, as their authors and torchvision lay them out.

Nilsback, Zisserman: Automated Flower Classification over a Large Number of Classes, ICVGIP 2008.
Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012.
"""

from pathlib import Path

import numpy as np

from lightning_vitc.data.sources import FileSource, Split
from lightning_vitc.errors import UserError

PETS = (
    "Abyssinian american_bulldog american_pit_bull_terrier basset_hound beagle Bengal Birman Bombay boxer "
    "British_Shorthair chihuahua Egyptian_Mau english_cocker_spaniel english_setter german_shorthaired great_pyrenees "
    "havanese japanese_chin keeshond leonberger Maine_Coon miniature_pinscher newfoundland Persian pomeranian pug "
    "Ragdoll Russian_Blue saint_bernard samoyed scottish_terrier shiba_inu Siamese Sphynx staffordshire_bull_terrier "
    "wheaten_terrier yorkshire_terrier"
)
"""The breeds as the names of the files have them; `NAME CLASS ...` in the lists counts them from 1."""

_FLOWER_SPLITS = {"train": "trnid", "validation": "valid", "test": "tstid"}


def _matrix(path: Path, name: str) -> np.ndarray:
    """One vector of a MATLAB file. No pickle is involved."""
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(path, variable_names=[name])[name], dtype=np.int64).ravel()
    except Exception as error:  # a broken file raises nearly anything
        raise UserError(f"data.root: cannot read {name!r} of {path}: {error}") from None


def read_flowers(root: Path, split: str) -> Split:
    """The `train` (1,020 images), `validation` (1,020) or `test` (6,149) split of the 102 flowers."""
    folder = root / "flowers-102"
    labels = _matrix(folder / "imagelabels.mat", "labels")
    numbers = _matrix(folder / "setid.mat", _FLOWER_SPLITS[split])  # from 1
    if not len(numbers) or numbers.min() < 1 or numbers.max() > len(labels):
        raise UserError(f"data.root: {folder / 'setid.mat'} does not fit {folder / 'imagelabels.mat'}")
    if labels.min() < 1 or labels.max() > 102:
        raise UserError(f"data.root: {folder / 'imagelabels.mat'} has classes outside 1..102")
    names = [f"image_{number:05d}.jpg" for number in numbers]
    return Split.whole(FileSource(folder / "jpg", names, labels[numbers - 1] - 1))


def read_pets(root: Path, split: str) -> Split:
    """The `trainval` (3,680 images) or `test` (3,669) split of the 37 breeds."""
    folder = root / "oxford-iiit-pet"
    listing = folder / "annotations" / f"{split}.txt"
    lines = [line.split() for line in listing.read_text().splitlines() if line and not line.startswith("#")]
    try:
        targets = np.array([int(line[1]) - 1 for line in lines])
    except (IndexError, ValueError):
        raise UserError(f"data.root: {listing} must have lines `NAME CLASS SPECIES BREED`") from None
    if not len(targets) or targets.min() < 0 or targets.max() >= 37:
        raise UserError(f"data.root: {listing} must name images of the classes 1..37")
    return Split.whole(FileSource(folder / "images", [f"{line[0]}.jpg" for line in lines], targets))
