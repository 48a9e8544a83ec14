"""What half of the MACs is worth on the clock: compacted networks beside the dense one, eager, compiled and graphed."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
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
from on_gpu.children import Failed
from on_gpu.place import NAMES, Place
from on_gpu.turns import turn

TITLE = "DeiT-S"  # of what is tried by graphs
EAGER = "eager"
CANDIDATES = (
    "UVC, heads and channels", "UVC, `round_to` 8", "UVC, `round_to` 16", "UVC, `round_to` 32",
    "UVC, every second block skipped", "Scala, width 0.6875", "DC-ViT, attention removed", deploy.USDC,
)  # fmt: skip


def dense_of(place: Place, title: str) -> ArchSpec:
    """The dense network, one of `NAMES`."""
    small = dict(img_size=32, patch_size=8, embed_dim=128, depth=3, num_heads=2) if place.tiny else {}
    with torch.device("meta"):
        return create_backbone(NAMES[title], **small).spec


def candidates(place: Place, title: str, names: Sequence[str] = CANDIDATES) -> list[Candidate]:
    """Networks of half of its MACs, and one that skips to as few; random weights."""
    torch.manual_seed(0)
    dense = dense_of(place, title)
    reference = candidate_of("dense", dense)
    specs = deploy.networks_of(dense) | {"UVC, `round_to` 32": deploy.pruned(dense, 32)}
    return [deploy.gated(*deploy.usdc(dense), reference) if name == deploy.USDC
            else candidate_of(name, specs[name], dense=reference) for name in names]  # fmt: skip


def shares(place: Place, title: str, batch: int, dtype: str, compiled: str | None = None) -> dict[str, Any]:
    """Latency, speed-up and realized share of each, interleaved; or of one beside its dense network, both compiled too.

    Args:
        place: where.
        title: of the dense network, one of `NAMES`.
        batch: images.
        dtype: `fp32`, which is TF32 on the tensor cores, or `bf16`.
        compiled: the one, so that a network that does not compile costs no other one its row.
    """
    torch.set_float32_matmul_precision("high")
    made, repeats = candidates(place, title, [compiled] if compiled else CANDIDATES), 2 if place.tiny else 50
    settings = Settings((batch,), place.device, (dtype,), compiled=compiled is not None, repeats=repeats, warmup=3)
    columns = ("name", "macs", "macs_reduction", "speedup", "realised", "compile")
    rows = [{**{key: row[key] for key in columns}, "ms": row["latency_ms"]["p50"]}
            for row in benchmark(made, settings, ready=turn)]  # fmt: skip
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
    """One image: eager, the whole network as one CUDA graph, and for gates control flow between graphs of branches.

    What cannot be captured is named in `lost`, and costs nothing else its row.
    """
    torch.set_float32_matmul_precision("high")
    made, kind = candidates(place, TITLE), {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    lost: dict[str, str] = {}
    for one in [made[0].reference, *made]:
        image = torch.randn(1, *one.shape, generator=torch.Generator().manual_seed(0)).to(place.device, kind)
        for way, network in ways_of(one, place.device, kind).items():
            try:
                with torch.inference_mode():
                    network(image)
            except Exception as error:
                lost[f"{one.name}, {way}"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            else:
                calls[one.name, way] = partial(network, image)
    if ("dense", EAGER) not in calls:
        raise Failed(f"the dense network does not run: {lost}")
    turn()
    times = interleaved(calls, torch.device(place.device), 2 if place.tiny else 100, 3)
    rows = [{"name": name, "way": way, "ms": percentiles(taken)["p50"],
             "over_eager_dense": round(ratio(times["dense", EAGER], taken), 3)}
            for (name, way), taken in times.items()]  # fmt: skip
    return {"dtype": dtype, "rows": rows, "lost": lost}


def ways_of(one: Candidate, device: str, kind: torch.dtype) -> dict[str, nn.Module]:
    """The network as it is, as one graph, and with graphs for branches where it skips."""

    def placed() -> Any:
        return deepcopy(one.module).to(device, kind)

    whole = placed()
    found = {EAGER: placed(), "one graph": Captured(whole)}
    if any(gate for block in ArchSpec.of(one.module).blocks for gate in block.gates):
        set_gating(whole, "masked")  # a graph computes everything
        found["graphs of branches"] = branches = placed()
        for block in branches.blocks:
            block.attn, block.mlp = (None if part is None else Captured(part) for part in (block.attn, block.mlp))
    return found
