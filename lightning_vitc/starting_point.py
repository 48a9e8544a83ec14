"""Where a network starts from: a timm model, or one that was compressed before and is taken to other data."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lightning_vitc import backbone
from lightning_vitc.architecture import ArchSpec
from lightning_vitc.backbone import RATES, Backbone, create_backbone, from_spec, load_strictly, timm_kwargs
from lightning_vitc.errors import UserError
from lightning_vitc.export import artifact
from lightning_vitc.schema import ModelConfig, is_directory_name
from lightning_vitc.training.checkpoints import read_weights

HEADS = ("head.", "head_dist.")


def template(config: ModelConfig, num_classes: int | None = None) -> Backbone:
    """The network of a `model` section without weights: what it is and costs."""
    if not is_directory_name(config.name):
        return backbone.template(config, num_classes)
    network, preset = _compressed(config.name)
    with torch.device("meta"):
        empty = from_spec(_wanted(config, ArchSpec.of(network), num_classes), fresh=False)
    empty.pretrained_cfg = preset
    return empty


def starting_network(config: ModelConfig, num_classes: int) -> Backbone:
    """The network of a `model` section for so many classes.

    A classifier for another number of classes is a new one, and `model.new_head` asks for a new one anyway; position
    embeddings are interpolated to another image size.

    Raises:
        UserError: where the model cannot be built, or its weights do not fit.
    """
    if not is_directory_name(config.name):
        return _of_timm(config, num_classes)
    network, preset = _compressed(config.name)
    spec = _wanted(config, ArchSpec.of(network), num_classes)
    started = from_spec(spec, rates={key: rate for key in RATES if (rate := getattr(config, key))})
    fresh_head = config.new_head or num_classes != network.num_classes
    weights = _resampled(network.state_dict(), ArchSpec.of(network), spec)
    load_strictly(started, _with_own_head(weights, started) if fresh_head else weights, config.name)
    started.pretrained_cfg = preset
    return started


def _of_timm(config: ModelConfig, num_classes: int) -> Backbone:
    kwargs = timm_kwargs(config) | {"num_classes": num_classes}
    if not (config.new_head and isinstance(config.pretrained, str)):
        network = create_backbone(config.name, pretrained=config.pretrained, **kwargs)
        if config.new_head and config.pretrained:
            network.reset_classifier(num_classes)
        return network
    network = create_backbone(config.name, **kwargs)
    load_strictly(network, _with_own_head(read_weights(config.pretrained), network), config.pretrained)
    return network


@cache
def _compressed(name: str) -> tuple[VisionTransformer, dict[str, Any]]:
    """The network of an exported directory or of a finished run, and how its images are prepared."""
    if (Path(name) / artifact.ARCH).is_file():
        return _without_gates(_plain(artifact.load(name), name), name), artifact.read_arch(name).get(
            "preprocessing"
        ) or {}
    # a run's networks are made by its pipeline, which makes what starts here
    from lightning_vitc.training.finished import networks_of_run, pick

    pipeline, _ = networks_of_run(name)
    return _without_gates(pick(pipeline, None, name).module, name), pipeline.data.preprocessing


def _plain(network: Any, name: str) -> VisionTransformer:
    if not isinstance(network, VisionTransformer):
        raise UserError(f"model.name: {name} holds several networks in one; export the one to start from")
    return network


def _without_gates(network: VisionTransformer, name: str) -> VisionTransformer:
    if any(gate for block in ArchSpec.of(network).blocks for gate in block.gates):
        raise UserError(f"model.name: {name} skips by the image; export the variant without gates to start from")
    return network


def _wanted(config: ModelConfig, spec: ArchSpec, num_classes: int | None) -> ArchSpec:
    spec = spec if num_classes is None else replace(spec, num_classes=num_classes)
    return spec if config.img_size is None else spec.with_img_size((config.img_size, config.img_size))


def _with_own_head(weights: dict[str, Tensor], network: Backbone) -> dict[str, Tensor]:
    own = {name: value for name, value in network.state_dict().items() if name.startswith(HEADS)}
    return {name: value for name, value in weights.items() if not name.startswith(HEADS)} | own


def _resampled(weights: dict[str, Tensor], old: ArchSpec, new: ArchSpec) -> dict[str, Tensor]:
    if old.img_size == new.img_size or not old.pos_embed:
        return weights
    old_grid, new_grid = (
        [side // patch for side, patch in zip(spec.img_size, spec.patch_size, strict=True)] for spec in (old, new)
    )
    prefix = 0 if old.no_embed_class else old.num_prefix_tokens
    position = resample_abs_pos_embed(weights["pos_embed"], new_grid, old_grid, num_prefix_tokens=prefix)
    return weights | {"pos_embed": position}
