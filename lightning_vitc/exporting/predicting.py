"""`vitc predict`: what an exported network sees on photographs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from lightning_vitc.artifacts import arch_json, artifact
from lightning_vitc.data.tree import image_files
from lightning_vitc.errors import UserError
from lightning_vitc.exporting.deployed import open_format
from lightning_vitc.images.decoding import UnusableImageError, open_image
from lightning_vitc.images.preprocessing import Transform
from lightning_vitc.networks.elastic import ElasticViT


class Prediction(NamedTuple):
    """Of one image: names of the likeliest classes and their probabilities, or the `problem` that it has."""

    image: str
    names: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    problem: str = ""


def image_paths(sources: Sequence[str], ignored: Counter[str]) -> list[str]:
    """Files as they are named, whatever they are called, and the images at any depth of folders.

    Args:
        sources: files and folders.
        ignored: counts the other files of folders by their suffix.

    Raises:
        UserError: for a path that is not there, and a folder without images.
    """
    paths = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            paths += [str(path.parent / name) for name in image_files(path, ignored, "the folder")]
        elif path.exists():
            paths.append(source)
        else:
            raise UserError(f"{source}: no such file or folder; give images, or folders of them")
    return paths


class Predictor:
    """An exported network with its preprocessing and the names of its classes.

    Args:
        directory: an exported directory.
        form: one of `formats.RUNNABLE`.
        width: of a network that switches its width.
        device: of the network, where it runs in PyTorch.

    Raises:
        UserError: where the directory is no export, lacks the format or the preprocessing, or has no such width.
    """

    def __init__(self, directory: str, form: str = "safetensors", width: str | None = None, device: str = "cpu"):
        document = arch_json.read_arch(directory)
        model = open_format(directory, form)
        if isinstance(model, ElasticViT) and width is not None:
            model.set_width(width)
        elif width is not None:
            raise UserError(f"--width: {directory} is one exported network; leave the option out")
        self.network: nn.Module = model.eval().to(device)
        self.device = device
        self.transform: Transform = artifact.transform(directory)
        self.exif = bool(arch_json.preprocessing_in(document)["exif"])
        self.names = readable(tuple(document.get("classes") or ()))

    def predict(self, paths: Sequence[str], topk: int = 5, batch_size: int = 32) -> Iterator[Prediction]:
        """The images in their order; of some that cannot be read, what is wrong with them.

        While the network computes a batch the images of the next one are read.
        """
        with ThreadPoolExecutor() as pool:
            read = partial(pool.map, self._read)
            batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
            following = read(batches[0]) if batches else iter(())
            for number, batch in enumerate(batches):
                inputs = list(following)
                following = read(batches[number + 1]) if number + 1 < len(batches) else iter(())
                yield from self._of_batch(batch, inputs, topk)

    def _read(self, path: str) -> Tensor | UnusableImageError:
        try:
            return self.transform(open_image(path, self.exif))
        except UnusableImageError as error:
            return error
        except Exception as error:  # of Pillow or torch, such as an image of no width
            return UnusableImageError(path, f"cannot transform the image {path} ({error or type(error).__name__})")

    @torch.inference_mode()
    def _of_batch(
        self, paths: Sequence[str], inputs: Sequence[Tensor | UnusableImageError], topk: int
    ) -> Iterator[Prediction]:
        images = [image for image in inputs if isinstance(image, Tensor)]
        found = self._likeliest(torch.stack(images), topk) if images else iter(())
        for path, image in zip(paths, inputs, strict=True):
            if isinstance(image, Tensor):
                yield Prediction(path, *next(found))
            else:
                yield Prediction(path, problem=image.problem)

    def _likeliest(self, images: Tensor, topk: int) -> Iterator[tuple[tuple[str, ...], tuple[float, ...]]]:
        """Names and probabilities of every image."""
        probabilities = self.network(images.to(self.device)).float().softmax(1)
        values, indices = (part.tolist() for part in probabilities.topk(min(topk, probabilities.shape[1])))
        for row, several in zip(values, indices, strict=True):
            yield tuple(map(self._name, several)), tuple(row)

    def _name(self, index: int) -> str:
        return self.names[index] if self.names else str(index)


def readable(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Names of classes; WordNet's numbers, which the folders of ImageNet are called, in words."""
    info = ImageNetInfo("imagenet-22k")
    known = {*info.label_names()}
    if not known.issuperset(classes):
        return classes
    return tuple(info.label_name_to_description(name) for name in classes)
