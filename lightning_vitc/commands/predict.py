"""`vitc predict`: names and probabilities of what an exported model sees on images."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lightning_vitc.artifacts.formats import RUNNABLE, parse_formats
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted, one_line
from lightning_vitc.files.paths import path_argument

if TYPE_CHECKING:
    from lightning_vitc.exporting.predicting import Prediction

RUNTIMES = {"pytorch": ("safetensors", "pt2"), "onnx": ("onnx", "int8")}  # the files that each runs, its own first


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("directory", metavar="DIR", type=path_argument, help="written by 'vitc export'")
    parser.add_argument(
        "images", metavar="IMAGE_OR_FOLDER", nargs="+", type=path_argument, help="files, and folders at any depth"
    )
    parser.add_argument("--topk", type=int, default=5, help="classes an image (default: %(default)s)")
    parser.add_argument("--runtime", choices=tuple(RUNTIMES), help="what runs the model (default: pytorch)")
    parser.add_argument("--format", help=f"which of its files, of {', '.join(RUNNABLE)}; default: the runtime's")
    parser.add_argument("--width", help="of a model that switches its width; default: its widest")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, of PyTorch (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="images at a time (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print a line an image; one on stderr for an image that cannot be read."""
    for key in ("topk", "batch_size"):
        if (value := getattr(args, key)) < 1:
            raise UserError(f"--{key.replace('_', '-')}: {value} must be a whole number >= 1")
    form = file_of(args.runtime, args.format)
    import torch

    from lightning_vitc.exporting.predicting import Predictor, image_paths

    ignored: Counter[str] = Counter()
    paths = image_paths(args.images, ignored)
    if args.device not in ("cpu", "cuda"):
        raise UserError(f"--device: {args.device!r} is not cpu or cuda")
    if args.device != "cpu" and (form != "safetensors" or not torch.cuda.is_available()):
        where = "no GPU is found" if form == "safetensors" else f"{form} runs on the CPU"
        raise UserError(f"--device: {args.device}: {where}; leave the option out")
    predictor = Predictor(args.directory, form, args.width, args.device)
    if ignored:
        print(
            f"ignored: {', '.join(f'{number:,} {kind}' for kind, number in sorted(ignored.items()))}", file=sys.stderr
        )
    read = _print(_with_a_bar(predictor.predict(paths, args.topk, args.batch_size), len(paths)), args.json)
    if not read:
        raise UserError(f"none of {counted(len(paths), 'file')} could be read as an image")
    return 0


def file_of(runtime: str | None, form: str | None) -> str:
    """The format that is run.

    Raises:
        UserError: for one that is not known, or not the runtime's.
    """
    if form is None:
        return parse_formats(RUNTIMES[runtime or "pytorch"][0], RUNNABLE)[0]
    (form, *others) = parse_formats(form, RUNNABLE, "--format")
    if others:
        raise UserError(f"--format: takes one of {', '.join(RUNNABLE)}")
    if runtime is not None and form not in RUNTIMES[runtime]:
        raise UserError(f"--format: {form} is not run by {runtime}, which runs {' and '.join(RUNTIMES[runtime])}")
    return form


def _with_a_bar(predictions: "Iterator[Prediction]", count: int) -> "Iterator[Prediction]":
    """The same, with a bar where somebody looks and stdout goes elsewhere."""
    from rich.console import Console
    from rich.progress import track

    console = Console(file=sys.stderr)
    shown = console.is_terminal and not sys.stdout.isatty()
    return iter(track(predictions, "predicting", total=count, console=console, disable=not shown))


def _print(predictions: "Iterator[Prediction]", as_json: bool) -> int:
    """How many images could be read."""
    rows, read = [], 0
    for image, names, probabilities, problem in predictions:
        read += not problem
        if problem:
            print(f"warning: {one_line(problem)}", file=sys.stderr, flush=True)
        if as_json:
            classes = [{"name": name, "probability": p} for name, p in zip(names, probabilities, strict=True)]
            rows.append({"image": image, **({"problem": problem} if problem else {"classes": classes})})
        elif not problem:
            shown = ", ".join(f"{name} {p:.1%}" for name, p in zip(names, probabilities, strict=True))
            print(one_line(f"{image}: {shown}"))
    if as_json:
        print(json.dumps(rows))
    return read
