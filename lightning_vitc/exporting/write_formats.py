"""Writes a network in the formats beside safetensors; every file takes images [B, C, H, W] for any B."""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim
from torch.fx import GraphModule

from lightning_vitc.artifacts.formats import FILES
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.networks.blocks import ATTN
from lightning_vitc.networks.spec import ArchSpec

OPSET = 20  # the first with a Gelu of its own
Shape = tuple[int, int, int]  # of an image: channels, height, width
BATCH = ({0: Dim("batch", min=1)},)
TIMMS = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}  # by epsilons, which no other argument says
TIMMS_DISTILLED = {1e-6: "deit_base_distilled_patch16_224"}
LINEAR = ["MatMul", "Gemm"]  # what is quantized: the patch embedding, a convolution, stays in fp32


def write_formats(
    model: nn.Module, folder: Path, formats: list[str], preprocessing: dict[str, Any],
    classes: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write the files of `formats` (not safetensors) into a folder.

    Args:
        model: a plain network in evaluation mode, on the CPU.
        folder: that exists.
        formats: names of `formats.FILES`.
        preprocessing: timm's `input_size`, `mean`, ...; goes into timm's configuration.
        classes: their names, where they are known; timm's `label_names`, and the metadata `classes` of ONNX files.

    Raises:
        UserError: where timm cannot describe the network.
    """
    spec = ArchSpec.of(model)
    graphs = [name for name in formats if name in ("pt2", "onnx", "int8")]
    if spec.drops_tokens and graphs:
        raise UserError(f"--formats: {graphs[0]}: {spec.name} drops tokens by the image, which no graph is written of")
    if "timm" in formats:
        write_timm(model, folder / FILES["timm"], preprocessing, classes)
    shape = (spec.in_chans, *spec.img_size)
    if "pt2" in formats:
        write_pt2(model, shape, folder / FILES["pt2"])
    if {"onnx", "int8"} & set(formats):
        with tempfile.TemporaryDirectory() as scratch:
            onnx = (folder if "onnx" in formats else Path(scratch)) / FILES["onnx"]
            write_onnx(model, shape, onnx, classes)
            if "int8" in formats:
                write_int8(onnx, folder / FILES["int8"])


def write_pt2(model: nn.Module, shape: Shape, path: Path) -> None:
    """The graph of `torch.export`, for images of `shape`."""
    with _quiet(), torch.no_grad():
        program = torch.export.export(model, _example(shape), dynamic_shapes=BATCH)
        program.example_inputs = None  # else they are pickled into the file
        for graph in program.graph_module.modules():
            for node in graph.graph.nodes if isinstance(graph, GraphModule) else ():
                node.meta.pop("stack_trace", None)  # paths of this machine
        torch.export.save(program, path)


def write_onnx(model: nn.Module, shape: Shape, path: Path, classes: Sequence[str] = ()) -> None:
    """One ONNX file with the weights inside; input `images`, of `shape`, output `logits`.

    Its metadata have the names of the classes, where they are known: `classes`, a JSON list.
    """
    with _quiet():
        program = torch.onnx.export(
            model, _example(shape), dynamo=True, dynamic_shapes=BATCH, input_names=["images"],
            output_names=["logits"], opset_version=OPSET, external_data=False, verbose=False,
        )  # fmt: skip
        assert program is not None
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # paths of this machine, which take more room than a small network
        if classes:
            program.model.metadata_props["classes"] = json.dumps(list(classes))
        program.save(path, external_data=False)


def _example(shape: Shape) -> tuple[Tensor]:
    return (torch.zeros(2, *shape),)  # a batch of one would be taken for a constant


def write_int8(onnx: Path, path: Path) -> None:
    """The ONNX file with linear layers in 8 bits: weights by channel, activations when they are computed.

    So are those inside of branches that a gate may skip, whose types onnxruntime does not infer.
    """
    import onnx as onnx_package
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx_package.load(onnx)
    del model.graph.value_info[:]  # shapes the exporter noted, which no longer hold for transposed weights
    _unshare(model.graph)
    options = {"EnableSubgraph": True, "DefaultTensorType": onnx_package.TensorProto.FLOAT}
    with _quiet():  # a range of 7 bits: with 8, processors without VNNI saturate where they add up products
        quantize_dynamic(model, path, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True,
                         op_types_to_quantize=LINEAR, extra_options=options)  # fmt: skip


def _unshare(graph: Any) -> None:
    """Give every Gemm a weight of its own: the quantizer transposes one that several share once for each of them."""
    weights, seen = {weight.name: weight for weight in graph.initializer}, set()
    for node in graph.node:
        if node.op_type == "Gemm" and node.input[1] in weights:
            if (name := node.input[1]) in seen:
                copy = graph.initializer.add()
                copy.CopyFrom(weights[name])
                node.input[1] = copy.name = f"{name}.{node.name}"
            seen.add(name)


def write_timm(model: nn.Module, folder: Path, preprocessing: dict[str, Any], classes: Sequence[str] = ()) -> None:
    """A folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`.

    An attention scale that is not timm's own is folded into the queries. An epsilon that no model of timm has is
    `norm_eps` in its `config.json`, and `norm_layer=partial(torch.nn.LayerNorm, eps=...)` must be passed beside.

    Raises:
        UserError: for a shape that timm's VisionTransformer does not have.
    """
    spec = ArchSpec.of(model)
    name, arguments = timm_arguments(spec)
    ours = {key: value for key, value in preprocessing.items() if key != "exif"}  # which timm does not know
    folder.mkdir()
    config: dict[str, Any] = {
        "architecture": name, "num_classes": spec.num_classes, "num_features": spec.feature_width,
        "model_args": arguments,
        "pretrained_cfg": {"num_classes": spec.num_classes, "first_conv": "patch_embed.proj", "classifier": "head",
                           "fixed_input_size": True, **ours},
    }  # fmt: skip
    if spec.options.norm_eps not in _names(spec):
        config["norm_eps"] = spec.options.norm_eps
    if classes:
        config["label_names"] = list(classes)
    if spec.distilled:
        config["pretrained_cfg"]["classifier"] = ["head", "head_dist"]
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(_with_timms_scale(model, spec), folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # save_file keeps it to the owner


def timm_arguments(spec: ArchSpec) -> tuple[str, dict[str, Any]]:
    """timm's model name and arguments for a shape.

    Raises:
        UserError: where timm has none: another family, blocks that differ, heads that do not add up to the embedding.
    """
    from lightning_vitc.networks.timm_models import create_timm

    if spec.family != "plain":
        raise UserError(f"--formats: timm: plain Vision Transformers alone are written for it, not {spec.name}")
    o, names = spec.options, _names(spec)
    name = names.get(o.norm_eps, names[1e-6])
    attn, mlp = spec.blocks[0] if spec.blocks else (None, None)
    if attn is None or mlp is None or not mlp.width or spec.is_gated or len(set(spec.blocks)) > 1:
        raise UserError(f"--formats: timm has no {spec.name} of this shape: its blocks must be alike and whole")
    if mlp.kind != "mlp" or o.norm != "layer" or o.embed_norm:
        raise UserError(f"--formats: timm: its arguments cannot say that {spec.name} has other norms or gated MLPs")
    arguments: dict[str, Any] = {
        key: getattr(spec, key) for key in ("img_size", "in_chans", "num_classes", "embed_dim", "depth")
    }  # fmt: skip
    arguments |= {
        key: getattr(o, key) for key in (
            "patch_size", "global_pool", "class_token", "no_embed_class", "pool_include_prefix", "qkv_bias", "qk_norm",
            "proj_bias", "pre_norm", "final_norm", "fc_norm", "reg_tokens",
        )
    }  # fmt: skip
    arguments |= {"num_heads": attn.groups, "mlp_ratio": (mlp.width + 0.5) / spec.embed_dim,
                  "pos_embed": "learn" if o.pos_embed else "none", "act_layer": o.act,
                  "init_values": 1e-5 if o.layer_scale else None}  # fmt: skip
    arguments |= {f"scale_{part}": True for part in ("attn_norm", "mlp_norm") if getattr(o, part)}
    with torch.device("meta"):
        found = ArchSpec.of(create_timm(name, **arguments, norm_eps=o.norm_eps))
    if replace(found, name=spec.name).with_options(scale=o.scale) != spec:
        raise UserError(
            f"--formats: timm has no {spec.name} of this shape: {counted(attn.groups, 'head')} with "
            f"{counted(attn.width, 'value dimension')}, an embedding of {spec.embed_dim}"
        )
    return name, arguments


def _names(spec: ArchSpec) -> dict[float, str]:
    return TIMMS_DISTILLED if spec.distilled else TIMMS


def _with_timms_scale(model: nn.Module, spec: ArchSpec) -> dict[str, Tensor]:
    weights = {name: weight.detach().clone().contiguous() for name, weight in model.state_dict().items()}
    attn, qk_norm = spec.blocks[0].branches[ATTN], spec.options.qk_norm
    assert attn is not None
    factor, part = spec.options.scale * attn.query**0.5, "q_norm" if qk_norm else "qkv"
    for name, weight in weights.items():
        if f".attn.{part}." in name and factor != 1:
            weight[: attn.query if qk_norm else attn.query_width] *= factor
    return weights


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what exporters say about themselves out of the output."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
