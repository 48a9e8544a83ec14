"""What Hugging Face's transformers gives for tiny networks: recorded, so that the tests do without the package.

Written anew by `python tests/networks/weights/transformers_reference.py`, where transformers is installed.
"""

import json
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FILE = Path(__file__).with_name("transformers.json")
EPS = 0.05  # so large that a network with another one differs
TINY = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, layer_norm_eps=EPS)
SEEN = dict(image_size=16, patch_size=4)
DINOV2 = {key: value for key, value in TINY.items() if key != "intermediate_size"} | SEEN | {"mlp_ratio": 2}
SWIN = dict(embed_dim=16, depths=[1, 2], num_heads=[1, 2], window_size=2, image_size=32, patch_size=4,
            layer_norm_eps=1e-5)  # fmt: skip # what some of its norms have whatever it says
TOWER = TINY | SEEN
TEXT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=8,
            bos_token_id=0, eos_token_id=1, pad_token_id=2)  # fmt: skip
LOGITS, FIRST, PATCHES, POOLED, EMBEDS = "logits", "first", "patches", "pooled", "image_embeds"
CASES: dict[str, tuple[str, str, dict[str, Any], str]] = {  # class, class of its config, its arguments, what is read
    "vit": ("ViTForImageClassification", "ViTConfig", TINY | SEEN, LOGITS),
    "deit": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", TINY | SEEN, LOGITS),
    "dinov2": ("Dinov2Model", "Dinov2Config", DINOV2, FIRST),
    "dinov2_giant": ("Dinov2Model", "Dinov2Config", DINOV2 | {"use_swiglu_ffn": True}, FIRST),
    "dinov2_registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", DINOV2, FIRST),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", TINY | SEEN | {"num_register_tokens": 4}, PATCHES),
    "dinov3_plus": (
        "DINOv3ViTModel", "DINOv3ViTConfig",
        TINY | SEEN | {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu", "query_bias": False,
                       "value_bias": False}, PATCHES,
    ),
    "siglip": ("SiglipModel", "SiglipConfig", {"vision_config": TOWER, "text_config": TEXT}, POOLED),
    "siglip_classifier": (
        "SiglipForImageClassification", "SiglipConfig", {"vision_config": TOWER, "text_config": TEXT}, LOGITS,
    ),
    "siglip2": ("Siglip2VisionModel", "Siglip2VisionConfig", TINY | {"patch_size": 4, "num_patches": 16}, POOLED),
    "clip": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", TOWER | {"projection_dim": 3}, EMBEDS),
    "clip_pair": (
        "CLIPModel", "CLIPConfig", {"vision_config": TOWER, "text_config": TEXT, "projection_dim": 3}, EMBEDS,
    ),
    "beit": ("BeitForImageClassification", "BeitConfig", TINY | SEEN | {"use_relative_position_bias": True}, LOGITS),
    "swin": ("SwinForImageClassification", "SwinConfig", SWIN, LOGITS),
}  # fmt: skip


def drawn(names: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Weights that follow from their names, alike on every machine."""
    found = {}
    for name, shape in names.items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        found[name] = torch.rand(shape, generator=generator) - 0.5
    return found


def images(size: int) -> Tensor:
    """Two of them."""
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) - 0.5


def recorded() -> dict[str, Any]:
    """Of each case the config.json, the names and shapes of its weights, and what it gives."""
    return json.loads(FILE.read_text())


def record() -> dict[str, Any]:
    """The same, from transformers: as it writes files, and with the names that it has in memory."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found: dict[str, Any] = {}
    for case, (kind, of_config, arguments, read) in CASES.items():
        model = getattr(transformers, kind)(getattr(transformers, of_config)(**arguments)).eval()
        names = {name: list(value.shape) for name, value in model.state_dict().items()}
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            config = json.loads((Path(folder) / "config.json").read_text())
            file = {name: list(value.shape) for name, value in load_file(f"{folder}/model.safetensors").items()}
            save_file(drawn(file), f"{folder}/model.safetensors", {"format": "pt"})
            loaded = type(model).from_pretrained(folder).eval()
        found[case] = {"config": config, "names": file, "gives": _outputs(loaded, config, read)}
        if names != file:
            model.load_state_dict(drawn(names))
            found[f"{case}_in_memory"] = {"config": config, "names": names, "gives": _outputs(model, config, read)}
    return found


@torch.no_grad()
def _outputs(model: Any, config: dict[str, Any], read: str) -> list[list[float]]:
    seen = images((config.get("vision_config") or config).get("image_size", 16))
    if read == LOGITS:
        return model(seen).logits.tolist()
    if read == EMBEDS:
        return (model.get_image_features(seen).pooler_output if hasattr(model, "text_model")
                else model(seen).image_embeds).tolist()  # fmt: skip
    if "num_patches" in config:  # patches, of each its pixels with their channels
        side = config["patch_size"]
        patches = seen.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
        grid = torch.tensor([[16 // side, 16 // side]] * 2)
        return model(patches, torch.ones(patches.shape[:2], dtype=torch.long), grid).pooler_output.tolist()
    output = (model.vision_model if hasattr(model, "text_model") else model)(seen)
    if read == POOLED:
        return output.pooler_output.tolist()
    tokens = output.last_hidden_state
    return (tokens[:, 0] if read == FIRST else tokens[:, 5:].mean(1)).tolist()


def write() -> None:
    """The file, a line for each part of a case."""
    cases = []
    for case, value in record().items():
        parts = ",\n".join(f" {json.dumps(part)}: {json.dumps(value[part])}" for part in value)
        cases.append(f"{json.dumps(case)}: {{\n{parts}\n}}")
    FILE.write_text("{\n" + ",\n".join(cases) + "\n}\n")


if __name__ == "__main__":
    write()
