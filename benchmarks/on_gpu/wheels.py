"""Packages that the machine lacks, from wheels beside the script: no network, no pip. Imports nothing heavy."""

import importlib.metadata
import importlib.util
import os
import re
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = (REPOSITORY / "benchmarks" / "wheels", REPOSITORY / "wheels", REPOSITORY / ".whl")
NEEDED = {  # module: distribution
    "torch": "torch", "torchvision": "torchvision", "timm": "timm", "lightning": "lightning",
    "torchmetrics": "torchmetrics", "omegaconf": "omegaconf", "yaml": "pyyaml", "tensorboard": "tensorboard",
    "safetensors": "safetensors", "sklearn": "scikit-learn", "matplotlib": "matplotlib", "rich": "rich",
    "jinja2": "jinja2", "onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime",
}  # fmt: skip


class MissingPackageError(Exception):
    """What is neither installed nor among the wheels."""


def put_in_place(folder: Path | None, site: Path, needed: dict[str, str] | None = None) -> list[str]:
    """Unpack the wheels of what is missing, and all that these need, into a folder at the end of `sys.path`.

    What is installed comes first, so that a wheel replaces nothing; before it comes this checkout, whatever version of
    the package is installed. Processes that are started later see the same.

    Args:
        folder: of wheels; default: the first of `FOLDERS` that is there.
        site: where to unpack; it may hold what an earlier call unpacked.
        needed: modules with their distributions.

    Returns:
        The names of the wheels.

    Raises:
        MissingPackageError: naming all that is missing, and where wheels were looked for.
    """
    sys.path[:] = [str(REPOSITORY), *(path for path in sys.path if path not in (str(REPOSITORY), str(site))), str(site)]
    places = [folder] if folder else [place for place in FOLDERS if place.is_dir()]
    wheels = {_distribution(path): path for place in places for path in sorted(place.glob("*.whl"))}
    missing = [name for module, name in (needed or NEEDED).items() if importlib.util.find_spec(module) is None]
    used = _unpacked(missing, wheels, site, places)
    old = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *([old] if old else []), str(site)])
    return used


def _unpacked(missing: list[str], wheels: dict[str, Path], site: Path, places: list[Path]) -> list[str]:
    used, lacking = [], set()
    while missing:
        name = missing.pop()
        if name not in wheels:
            lacking.add(name)
            continue
        with zipfile.ZipFile(wheels[name]) as archive:
            archive.extractall(site)
        importlib.invalidate_caches()
        used.append(wheels[name].name)
        missing += [other for other, conditional in _requirements(name)
                    if not _is_installed(other) and (other in wheels or not conditional)]  # fmt: skip
    if lacking:
        names, looked = " ".join(sorted(lacking)), ", ".join(map(str, places or FOLDERS))
        raise MissingPackageError(f"neither installed nor among the wheels in {looked} (--wheels): {names}; with a "
                                  f"network: pip download --no-deps -d wheels {names}")  # fmt: skip
    return used


def _requirements(name: str) -> Iterable[tuple[str, bool]]:
    """Distributions that one needs, extras apart, and whether only on some systems or versions of Python."""
    for line in importlib.metadata.requires(name) or ():
        if "extra ==" not in line:
            yield _normal(re.split(r"[\s<>=!~;\[(]", line, maxsplit=1)[0]), ";" in line


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _distribution(wheel: Path) -> str:
    return _normal(wheel.name.split("-")[0])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
