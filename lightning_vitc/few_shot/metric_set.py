"""The synthetic metric set of a run: made once, kept as tensors and as a picture."""

import io
import time
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import make_grid, save_image

from lightning_vitc.few_shot.synthetic import synthesize
from lightning_vitc.files.atomic import write_atomically
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.runs.tensor_record import read_tensors, write_tensors
from lightning_vitc.runs.tensorboard import cleared_board
from lightning_vitc.schema import SyntheticConfig

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline

FILE, PICTURE = "synthetic.safetensors", "synthetic.png"
SEEN = 64  # pixels: smaller images are enlarged in the picture


def metric_set(run: "Pipeline", original: Backbone, recipe: SyntheticConfig) -> Tensor:
    """Images [count, C, H, W], normalized: of the run's directory, or made and put there."""
    made = run.record("synthetic", lambda: _make(run, original, recipe))
    return read_tensors(run.directory.path / FILE, made)["images"]


def _make(run: "Pipeline", original: Backbone, recipe: SyntheticConfig) -> dict[str, Any]:
    started, spec, look = time.monotonic(), original.spec, run.data.spec
    images = synthesize(
        original.to(run.processes.device), recipe, shape=(spec.in_chans, *spec.img_size),
        num_classes=spec.num_classes, mean=look.mean, std=look.std, beta=beta_of(spec.name, recipe),
        seed=run.experiment.seed,
    )  # fmt: skip
    seconds = time.monotonic() - started
    written = write_tensors(run.directory.path / FILE, {"images": images})
    mean, std = (torch.tensor(values)[:, None, None] for values in (look.mean, look.std))
    pixels = F.interpolate((images * std + mean).clamp(0, 1), scale_factor=max(1, SEEN // images.shape[-1]))
    _show(run, make_grid(pixels, nrow=10, pad_value=0.5))
    return {"count": len(images), "seconds": round(seconds, 3), **written}


def beta_of(name: str, recipe: SyntheticConfig) -> float:
    """Exponent of the total variation: the recipe's, or the paper's for a model of this name."""
    return recipe.beta or (1.0 if name.startswith(("deit", "swin")) else 0.6)


def _show(run: "Pipeline", grid: Tensor) -> None:
    file = io.BytesIO()
    save_image(grid, file, format="png")
    write_atomically(run.directory.path / PICTURE, file.getvalue())
    logger = cleared_board(run.directory.path, "synthetic")
    logger.experiment.add_image("synthetic metric set", grid)
    logger.finalize("success")
