"""The model card of an export: `README.md` with the metadata block that model hubs read."""

import re
from collections.abc import Sequence
from typing import Any

import yaml

from lightning_vitc.artifacts import serving
from lightning_vitc.artifacts.formats import FILES
from lightning_vitc.errors.messages import counted
from lightning_vitc.networks import costs
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema.split_names import evaluated_on

_LOAD = {
    "pt2": ("import torch", 'model = torch.export.load("model.pt2").module()  # images [B, C, H, W] -> logits'),
    "timm": ("import timm", 'model = timm.create_model("local-dir:timm", pretrained=True).eval()',
             "# with norm_layer=partial(torch.nn.LayerNorm, eps=...) where timm/config.json has a norm_eps"),
}  # fmt: skip
SHOWN = 20  # names of classes
PREPROCESSING = ("mean", "std", "interpolation", "crop_pct", "crop_mode")  # timm's words
LIMITS = ("macs", "static", "params", "latency_ms", "drop_blocks")  # keys of `budget:` that say how much


def model_card(spec: ArchSpec, facts: dict[str, Any]) -> str:
    """Markdown: what the model is, how accurate, on which data, how to load it, and with what it was made.

    Args:
        spec: of the exported network; the full one where it switches its width.
        facts: of `artifact.save`.
    """
    method = facts.get("method")
    sections = [
        _metadata(facts),
        f"# {spec.name}, dense" if method == "dense" else f"# Compressed {spec.name} ({method})",
        _table(["", ""], _properties(spec, facts)),
        *_formats(facts),
        "## From a photograph to names",
        *_loading(spec, facts),
        *_provenance(facts),
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(facts: dict[str, Any]) -> str:
    block: dict[str, Any] = {
        "library_name": "lightning-vitc",
        "pipeline_tag": "image-classification",
        "license": facts.get("license") or "unknown",
    }
    if name := _data_name(facts):
        block["datasets"] = [name]
    block["tags"] = ["vision-transformer", "model-compression", facts.get("method")]
    return f"---\n{yaml.safe_dump(block, sort_keys=False, allow_unicode=True)}---"


def _properties(spec: ArchSpec, facts: dict[str, Any]) -> list[tuple[str, str]]:
    dense = facts.get("dense")
    share = f" ({100 * costs.macs(spec) / costs.macs(ArchSpec.from_dict(dense)):.1f} % of dense)" if dense else ""
    rows = [(name, str(value)) for name, value in _budget_of(facts).items()]
    rows += [("MACs of one image", f"{costs.macs(spec):,}{share}"), ("parameters", f"{costs.params(spec):,}")]
    rows += [("MACs that run, values of narrow heads padded", f"{n:,}") for n in costs.executed_beside(spec).values()]
    rows += [(name.replace("_", " "), f"{value:,}") for name, value in (facts.get("costs") or {}).items()]
    rows += [(name, f"{value:.2f} %") for name, value in (facts.get("accuracy") or {}).items()]
    rows += [(f"{name} of the dense network", f"{value:.2f} %") for name, value in _of_dense(facts).items()]
    if name := _data_name(facts):
        rows.append(("data", f"{name}, {evaluated_on(facts)}"))
    rows += [
        ("made of", _shape(spec)),
        ("input", f"{spec.in_chans} x {spec.img_size[0]} x {spec.img_size[1]}"),
        ("classes", _classes(spec.num_classes, facts.get("classes") or [])),
    ]
    preprocessing = facts.get("preprocessing") or {}
    rows += [(key, str(preprocessing[key])) for key in PREPROCESSING if key in preprocessing]
    if preprocessing.get("exif"):
        rows.append(("orientation", "as EXIF says"))
    if facts.get("kind") == "elastic":
        rows.append(("widths", ", ".join(row["width"] for row in facts["widths"])))
    if facts.get("kind") == "compensated":
        rows.append(("budgets", f"any in {facts['settings']['quantity']}, set by model.set_budget"))
    return [*rows, ("license", facts.get("license") or "unknown: set it with vitc export --license")]


def _of_dense(facts: dict[str, Any]) -> dict[str, float]:
    """Its accuracies, beside those of a network that was made of it."""
    return {} if facts.get("method") == "dense" else facts.get("dense_accuracy") or {}


def _shape(spec: ArchSpec) -> str:
    """What the name, that of the model of timm whose keys were changed or weights removed, does not tell."""
    widths = ", ".join(str(stage.width) for stage in spec.stages)
    return f"{counted(spec.depth, 'block')}, embedding {widths}"


def _classes(count: int, names: Sequence[str]) -> str:
    """How many, and the first names, as they can stand in a table."""
    few = [re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", name.encode(errors="replace").decode()) for name in names[:SHOWN]]
    more = ", ... (all of them in `arch.json`)" if len(names) > SHOWN else ""
    return f"{count}: {', '.join(few)}{more}" if names else str(count)


def _formats(facts: dict[str, Any]) -> list[str]:
    """A table of what was written, as it was checked against PyTorch; none for the weights alone."""
    formats = facts.get("formats") or {}
    if not formats.keys() - {"safetensors"}:
        return []
    rows = []
    for name, found in formats.items():
        difference = f"{found['max_difference']:.1e}" if "max_difference" in found else ""
        top1 = f"{found['top1']:.2f} %" if "top1" in found else ""
        rows.append((f"`{FILES[name]}`", f"{found['bytes']:,}", top1, difference))
    return ["## Files", _table(["file", "bytes", "top-1", "largest difference of a logit"], rows)]


def _loading(spec: ArchSpec, facts: dict[str, Any]) -> list[str]:
    """Code from a photograph to names, and how the other files are opened."""
    code = [serving.pytorch(spec, facts)]
    for name in facts.get("formats") or {}:
        if name in ("onnx", "int8"):
            code.append(serving.onnx(spec, facts, FILES[name]))
        elif name in _LOAD:
            code.append("\n".join(_LOAD[name]))
    words = serving.in_words(facts.get("preprocessing") or {})
    blocks = [f"```python\n{block}\n```" for block in code]
    about = "`arch.json` holds the architecture, the preprocessing and where the model comes from."
    return [*([words] if words else []), *blocks, about]


def _provenance(facts: dict[str, Any]) -> list[str]:
    provenance = facts.get("provenance") or {}
    rows = [(key, str(provenance[key])) for key in ("run", "seed", "commit", "device", "python") if key in provenance]
    rows += [(name, version) for name, version in (provenance.get("versions") or {}).items()]
    return ["## Where it comes from", _table(["", ""], rows)] if rows else []


def _table(header: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _data_name(facts: dict[str, Any]) -> str | None:
    return ((facts.get("experiment") or {}).get("data") or {}).get("name")


def _budget_of(facts: dict[str, Any]) -> dict[str, Any]:
    """What the network had to fit: its width, the limits, how MACs are counted, and where a latency holds."""
    budget = facts.get("budget") or {}
    names = {"width": "width", **{key: f"budget of {key}" for key in LIMITS}}
    if budget.get("convention", "full") != "full":
        names["convention"] = "MACs of the budget as counted by"
    if budget.get("latency_ms") is not None:
        names |= {key: f"latency: {key.replace('_', ' ')}" for key in ("device_name", "batch_size", "threads")}
    return {title: budget[key] for key, title in names.items() if budget.get(key) is not None}
