"""Code on a model card that takes a photograph to names and probabilities: in PyTorch, and in onnxruntime alone."""

from collections.abc import Mapping
from typing import Any

from lightning_vitc.images.preprocessing import image_spec_of
from lightning_vitc.networks.spec import ArchSpec

_PYTORCH = """\
import lightning_vitc
from PIL import Image

model = lightning_vitc.load(".")  # the folder of this file{width}
image = model.transform(Image.open("photo.jpg"))  # {shape}
probabilities = model(image[None]).softmax(1)[0]
for value, index in zip(*probabilities.topk({count}), strict=True):
    print({name}, f"{{value:.1%}}")"""
_ONNX = """\
{imports}

session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"]){names}
{inputs}
(logits,) = session.run(None, {{"images": inputs}})  # any number of images
probabilities = np.exp(logits[0] - logits[0].max())
probabilities /= probabilities.sum()
for index in probabilities.argsort()[::-1][:{count}]:
    print({name}, f"{{probabilities[index]:.1%}}")"""
_BY_HAND = """\
image = {opened}
{resize}
left, top = round((image.width - {width}) / 2), round((image.height - {height}) / 2)
image = image.crop((left, top, left + {width}, top + {height}))
pixels = np.asarray(image, dtype=np.float32).reshape({height}, {width}, {channels}) / 255
inputs = ((pixels - {mean}) / {std}).astype(np.float32).transpose(2, 0, 1)[None]"""
_KEEPING_THE_ASPECT = """\
image = image.resize([int({short} * side / min(image.size)) for side in image.size], Image.Resampling.{filter})"""
_SQUASHED = "image = image.resize(({wide}, {high}), Image.Resampling.{filter})"
_BY_TRANSFORM = 'inputs = lightning_vitc.transform(".")(Image.open("photo.jpg"))[None].numpy()'


def pytorch(spec: ArchSpec, facts: Mapping[str, Any]) -> str:
    """Python that loads the folder and names what is on a photograph; that only loads it, where that is not known.

    Args:
        spec: of the network, at its full width.
        facts: of `artifact.save`.
    """
    switch = {"elastic": lambda: f'\nmodel.set_width("{facts["widths"][0]["width"]}")',
              "compensated": lambda: '\nmodel.set_budget("70%")'}  # fmt: skip
    width = switch[facts["kind"]]() if facts.get("kind") in switch else ""
    if image_spec_of(facts.get("preprocessing") or {}) is None:
        return f'import lightning_vitc\n\nmodel = lightning_vitc.load(".")  # the folder of this file{width}'
    shape = f"[{spec.in_chans}, {spec.img_size[0]}, {spec.img_size[1]}]"
    name = "model.classes[index]" if facts.get("classes") else "int(index)"
    return _PYTORCH.format(width=width, shape=shape, count=min(5, spec.num_classes), name=name)


def onnx(spec: ArchSpec, facts: Mapping[str, Any], file: str) -> str:
    """The same by onnxruntime, NumPy and Pillow; what timm resizes in its own way takes this package's transform."""
    inputs = _inputs(facts.get("preprocessing") or {})
    if inputs is None:
        return f'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{file}")'
    imports = ["import numpy as np", "import onnxruntime"]
    imports += ["from PIL import Image, ImageOps" if "ImageOps" in inputs else "from PIL import Image"]
    imports = [*(["import lightning_vitc"] if "lightning_vitc" in inputs else []), *imports]
    names = ""
    if facts.get("classes"):
        imports = ["import json", "", *imports]
        names = '\nclasses = json.loads(session.get_modelmeta().custom_metadata_map["classes"])'
    name = "classes[index]" if names else "index"
    return _ONNX.format(
        imports="\n".join(imports), file=file, names=names, inputs=inputs, count=min(5, spec.num_classes), name=name
    )


def in_words(preprocessing: Mapping[str, Any]) -> str:
    """What is done with an image, in a sentence; nothing where that is not known."""
    spec = image_spec_of(preprocessing)
    if spec is None:
        return ""
    (height, width), (high, wide) = spec.size, spec.resized
    resized = {
        "center": f"resized so that its short side has {min(high, wide)} pixels and cut",
        "border": f"resized so that its long side has {max(high, wide)} pixels and padded or cut",
        "squash": f"stretched to {wide} x {high} pixels and cut",
    }[spec.crop_mode]
    turned = "turned as its EXIF says, " if preprocessing.get("exif") else ""
    color = "in RGB" if spec.channels == 3 else "in gray"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (spec.mean, spec.std))
    return (f"An image, {turned}{color}, is {resized} at its center to {width} x {height} ({spec.interpolation}), "
            f"divided by 255, and becomes (image - mean) / std with mean {mean} and std {std}.")  # fmt: skip


def _inputs(preprocessing: Mapping[str, Any]) -> str | None:
    spec = image_spec_of(preprocessing)
    if spec is None:
        return None
    (height, width), (high, wide), kernel = spec.size, spec.resized, spec.interpolation.upper()
    if spec.crop_mode == "border" or (spec.crop_mode == "center" and height != width):
        return _BY_TRANSFORM
    opened = 'Image.open("photo.jpg")'
    opened = f"ImageOps.exif_transpose({opened})" if preprocessing.get("exif") else opened
    opened += '.convert("RGB")' if spec.channels == 3 else '.convert("L")'
    resize = (_SQUASHED if spec.crop_mode == "squash" else _KEEPING_THE_ASPECT).format(
        short=high, wide=wide, high=high, filter=kernel
    )
    return _BY_HAND.format(opened=opened, resize=resize, height=height, width=width, channels=spec.channels,
                           mean=list(spec.mean), std=list(spec.std))  # fmt: skip
