"""Heads of different value widths: which way of attending to them is fastest? One layer of DeiT-S."""

import argparse
import json
from collections.abc import Callable

import torch
import torch.nn.functional as F
from study import REPOSITORY, markdown, write_section
from torch import Tensor

from lightning_vitc.latency.timing import interleaved, percentiles
from lightning_vitc.networks.backbone import template
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.plain.shape import positions
from lightning_vitc.networks.modules.attention import Attention
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import ModelConfig

DOCUMENT = REPOSITORY / "docs" / "results" / "deploy.md"
WIDTHS = {"all below the queries' 64": (40, 24, 40, 8, 16), "some of 64": (64, 24, 40, 8, 56)}
Attend = Callable[[Attention, Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    """Measure at both batch sizes and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    spec = template(ModelConfig(name="deit_small_patch16_224")).spec
    rows = [row for size in (1, 16) for name, dims in WIDTHS.items() for row in measure(spec, name, dims, size, args)]
    header = ["ms of one attention layer", "batch", "dense", *WAYS]
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}, {args.repeats} interleaved rounds."
    write_section(DOCUMENT, "ragged-values", f"{threads}\n\n{markdown(header, rows)}")


def measure(spec: ArchSpec, name: str, dims: tuple[int, ...], size: int, args: argparse.Namespace) -> list[list[str]]:
    """Rows of the table: every way interleaved, after they have been found equal."""
    torch.manual_seed(0)
    layer, dense = (
        Attention(spec.embed_dim, attention(64, values), spec.options.scale).eval() for values in (dims, (64,) * 6)
    )
    images = torch.randn(size, positions(spec)[0], spec.embed_dim)
    ways = {name: (lambda way=way: run(layer, way, images)) for name, way in WAYS.items()}
    with torch.inference_mode():
        for way in ways.values():
            torch.testing.assert_close(way(), layer(images), rtol=0, atol=1e-5)
    times = interleaved({"dense": lambda: dense(images), **ways}, torch.device("cpu"), args.repeats)
    print(name, size, json.dumps({key: percentiles(values) for key, values in times.items()}))
    return [
        [f"{name}: {', '.join(map(str, dims))}", str(size), *(f"{percentiles(v)['p50']:.1f}" for v in times.values())]
    ]


def run(layer: Attention, attend: Attend, x: Tensor) -> Tensor:
    """The layer with another way to attend."""
    shape = (layer.num_heads, layer.head_dim)
    rows = layer.num_heads * layer.head_dim
    q, k, v = layer.qkv(x).split([rows, rows, sum(layer.value_dims)], dim=-1)
    q, k = (part.unflatten(-1, shape).transpose(1, 2) for part in (q, k))
    return layer.proj(attend(layer, q, k, v))


def padded_to(width: int | None) -> Attend:
    """Values padded with zeros to `width`, or to the widest of them."""

    def attend(layer: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        wide = width or max(layer.value_dims)
        v = torch.stack([F.pad(part, (0, wide - part.shape[-1])) for part in v.split(layer.value_dims, -1)], 1)
        x = F.scaled_dot_product_attention(q, k, v, scale=layer.scale)
        return torch.cat([x[:, head, :, :dim] for head, dim in enumerate(layer.value_dims)], -1)

    return attend


def gathered(layer: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Padded to the queries' width by one gather: what `vit.Attention` does."""
    v = F.pad(v, (0, 1)).index_select(-1, layer.pad).unflatten(-1, (layer.num_heads, layer.padded_dim)).transpose(1, 2)
    x = F.scaled_dot_product_attention(q, k, v, scale=layer.scale).transpose(1, 2).flatten(2)
    return x.index_select(-1, layer.valid)


def head_by_head(layer: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Nothing padded: the attention matrix once, a product a head."""
    attention = torch.softmax(q @ k.transpose(-1, -2) * layer.scale, -1)
    return torch.cat([attention[:, head] @ part for head, part in enumerate(v.split(layer.value_dims, -1))], -1)


WAYS: dict[str, Attend] = {
    "gathered to 64 (ours)": gathered, "slices padded to 64": padded_to(64), "padded to the widest": padded_to(None),
    "head by head": head_by_head,
}  # fmt: skip


if __name__ == "__main__":
    main()
