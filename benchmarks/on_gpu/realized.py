"""What half of the MACs is worth on the clock: compacted networks beside the dense one, eager, compiled and graphed."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import deploy
import torch
from torch import Tensor, nn

from lightning_vitc import ArchSpec, set_gating
from lightning_vitc.latency.timing import interleaved, percentiles, ratio
from lightning_vitc.measuring.benchmark import benchmark
from lightning_vitc.measuring.candidates import candidate_of
from lightning_vitc.measuring.subjects import Candidate, Settings
from lightning_vitc.networks.backbone import create_backbone
from on_gpu.children import turn
from on_gpu.place import NAMES, Place

TITLE = "DeiT-S"  # of what is tried by graphs


def dense_of(place: Place, title: str) -> ArchSpec:
    """The dense network, one of `NAMES`."""
    small = dict(img_size=32, patch_size=8, embed_dim=128, depth=3, num_heads=2) if place.tiny else {}
    with torch.device("meta"):
        return create_backbone(NAMES[title], **small).spec


def candidates(place: Place, title: str) -> list[Candidate]:
    """Every network of half of its MACs, and one that skips to as few; random weights."""
    torch.manual_seed(0)
    dense = dense_of(place, title)
    reference = candidate_of("dense", dense)
    networks = deploy.networks_of(dense) | {"UVC, `round_to` 32": deploy.pruned(dense, 32)}
    found = [candidate_of(name, spec, dense=reference) for name, spec in networks.items()]
    return [*found, deploy.gated(*deploy.usdc(dense), reference)]


def shares(place: Place, title: str, batch: int, dtype: str, compiled: bool = False) -> dict[str, Any]:
    """Latency, speed-up and realized share of each, interleaved; compiled ones beside eager ones."""
    torch.set_float32_matmul_precision("high")  # fp32 is TF32 on the tensor cores
    made, repeats = candidates(place, title), 2 if place.tiny else 50
    turn()
    settings = Settings((batch,), place.device, (dtype,), compiled=compiled, repeats=repeats, warmup=3)
    columns = ("name", "macs", "macs_reduction", "speedup", "realised", "compile")
    rows = [{**{key: row[key] for key in columns}, "ms": row["latency_ms"]["p50"]} for row in benchmark(made, settings)]
    return {"title": title, "batch": batch, "dtype": dtype, "rows": rows}


class Captured(nn.Module):
    """A module whose kernels are recorded at its first call and replayed by one launch; on a CPU it is just called.

    Args:
        module: computes on one tensor and nothing on the host.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self.graph: Any = None

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        """What the module gives; the next call writes over it."""
        if not x.is_cuda:
            return self.module(x, **options)
        if self.graph is None:
            self._capture(x, options)
        self.input.copy_(x)
        self.graph.replay()
        return self.output

    def _capture(self, x: Tensor, options: dict[str, Any]) -> None:
        self.input, side = x.clone(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.module(self.input, **options)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = self.module(self.input, **options)


def graphs(place: Place, dtype: str) -> dict[str, Any]:
    """One image: eager, the whole network as one CUDA graph, and for gates control flow between graphs of branches."""
    torch.set_float32_matmul_precision("high")
    made, kind = candidates(place, TITLE), {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    turn()
    calls: dict[str, Callable[[], Any]] = {}
    macs = {made[0].reference.name: made[0].reference.macs}
    for one in [made[0].reference, *made]:
        macs[one.name] = one.macs
        for way, network in ways_of(one, place.device, kind).items():
            image = torch.randn(1, *one.shape, generator=torch.Generator().manual_seed(0)).to(place.device, kind)
            calls[f"{one.name} | {way}"] = lambda network=network, image=image: network(image)
    times = interleaved(calls, torch.device(place.device), 2 if place.tiny else 100, 3)
    eager = times["dense | eager"]
    rows = [{"name": (name := key.split(" | ")[0]), "way": key.split(" | ")[1], "ms": percentiles(taken)["p50"],
             "over_eager_dense": round(ratio(eager, taken), 3), "macs": macs[name]}
            for key, taken in times.items()]  # fmt: skip
    return {"dtype": dtype, "rows": rows}


def ways_of(one: Candidate, device: str, kind: torch.dtype) -> dict[str, nn.Module]:
    """The network as it is, as one graph, and with graphs for branches where it skips."""

    def placed() -> Any:
        return deepcopy(one.module).to(device, kind)

    whole = placed()
    found = {"eager": placed(), "one graph": Captured(whole)}
    if any(gate for block in ArchSpec.of(one.module).blocks for gate in block.gates):
        set_gating(whole, "masked")  # a graph computes everything
        found["graphs of branches"] = branches = placed()
        for block in branches.blocks:
            block.attn, block.mlp = (None if part is None else Captured(part) for part in (block.attn, block.mlp))
    return found
