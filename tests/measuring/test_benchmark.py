import json
import time

import pytest
import torch
from torch import nn

from lightning_vitc import costs
from lightning_vitc.artifacts import artifact
from lightning_vitc.errors import UserError
from lightning_vitc.exporting.write_formats import write_timm
from lightning_vitc.latency.timing import interleaved, peak_bytes, percentiles
from lightning_vitc.measuring.benchmark import benchmark
from lightning_vitc.measuring.candidates import candidate_of, candidates_of
from lightning_vitc.measuring.subjects import Candidate, Settings
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.networks.spec import ArchSpec

CPU = torch.device("cpu")
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 4, "num_classes": 5}


class Sleeps(torch.nn.Module):
    """Takes a known time and memory."""

    def __init__(self, seconds: float, count: int = 0):
        super().__init__()
        self.seconds, self.count = seconds, count

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.ones(self.count)


# Timing


def test_calls_take_turns_and_warm_up_does_not_count():
    order = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, CPU, repeats=3, warmup=2)
    assert order == ["a", "b"] * 5
    assert [len(values) for values in times.values()] == [3, 3]


def test_milliseconds():
    sleeping = Sleeps(0.02)
    (found,) = interleaved({"": lambda: sleeping(torch.empty(0))}, CPU, repeats=3, warmup=0).values()
    assert 20 <= min(found) < 200


def test_percentiles():
    assert percentiles([float(value) for value in range(101)]) == {"p10": 10.0, "p50": 50.0, "p90": 90.0}


def test_peak_memory_is_what_a_call_adds():
    call = Sleeps(0, count=20_000_000)
    found = peak_bytes(lambda: call(torch.empty(0)), CPU)
    assert found == pytest.approx(80_000_000, rel=0.1)
    assert peak_bytes(lambda: None, CPU) < 4_000_000


# Rows


def test_rows_hold_the_dense_model_and_every_batch_size():
    dense = Candidate("dense", Sleeps(0.003), 1000, (3, 4, 4))
    half = Candidate("half", Sleeps(0.001), 250, (3, 4, 4), dense)
    rows = benchmark([half], Settings(batch_sizes=(1, 4), repeats=3, warmup=0))
    assert [(row["name"], row["batch_size"]) for row in rows] == [("dense", 1), ("half", 1), ("dense", 4), ("half", 4)]
    first, second = rows[0], rows[1]
    assert (first["speedup"], first["macs_reduction"], first["realised"]) == (1, 1, 1)
    assert second["macs_reduction"] == 4
    assert second["realised"] == pytest.approx(second["speedup"] / 4, abs=1e-3)
    assert rows[3]["images_per_second"] == pytest.approx(4000 / rows[3]["latency_ms"]["p50"], abs=0.01)


def test_all_has_run_before_it_is_called_ready():
    class Counting(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x

    module, seen = Counting(), []
    candidate = Candidate("dense", module, 1, (1, 2, 2))
    calls = [module]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_vitc.measuring.subjects.copy.deepcopy", lambda one: one)
        benchmark([candidate], Settings((1, 2), repeats=3, warmup=1), ready=lambda: seen.append(calls[0].calls))
    assert seen == [2, 8]  # run and measured for memory, then timed; of either batch size


def test_gates_decide_on_real_images_a_round_each():
    seen: list[torch.Tensor] = []

    class Notes(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.flatten())
            return images

        def __deepcopy__(self, memo):
            return self

    real = torch.arange(5.0).view(5, 1, 1, 1)
    dense = Candidate("dense", torch.nn.Identity(), 1, (1, 1, 1))
    gated = Candidate("gated", Notes(), 1, (1, 1, 1), dense, images=lambda count: real[:count])
    benchmark([gated], Settings(batch_sizes=(2,), repeats=4, warmup=0))
    rounds = [images.tolist() for images in seen[-4:]]
    assert sorted(rounds[:3]) == [[0, 1], [2, 3], [4, 0]]
    assert rounds[3] == rounds[0]


@pytest.fixture
def clock(monkeypatch):
    """Times of calls as a test sets them: a network's `seconds`, and in every second round ten times as long."""
    rounds = {}

    def timed(call, device):
        seconds = call()
        rounds[seconds] = rounds.get(seconds, -1) + 1
        return 1e3 * seconds * (10 if rounds[seconds] % 2 else 1)

    monkeypatch.setattr("lightning_vitc.latency.timing._timed", timed)
    monkeypatch.setattr("lightning_vitc.measuring.subjects.Subject.call_with",
                        lambda subject, images: lambda: subject.candidate.module.seconds)  # fmt: skip


def test_a_speedup_is_that_of_a_round_and_scatter_is_told(clock):
    dense = Candidate("dense", Sleeps(0.03), 1000, (3, 4, 4))
    half = Candidate("half", Sleeps(0.015), 250, (3, 4, 4), dense)
    with pytest.warns(UserWarning, match=r"^batch 1: latencies scatter \(p90 is up to 10.0 times p10\); measure on"):
        rows = benchmark([half], Settings(repeats=10, warmup=0))
    assert (rows[1]["speedup"], rows[1]["realised"]) == (2, 0.5)


@pytest.fixture
def directory(tmp_path):
    """A half-width export that knows its dense network."""
    torch.manual_seed(0)
    full = create_backbone("deit_tiny_patch16_224", **SMALL).eval()
    dense = json.loads(full.spec.to_json())
    artifact.save(compact(full, slice_width(full.spec, 0.5)), tmp_path / "half", {"dense": dense})
    return tmp_path / "half"


@pytest.mark.slow
def test_a_directory_is_compared_with_its_dense_network_in_every_runtime(directory):
    settings = Settings(formats=("safetensors", "onnx", "int8"), dtypes=("fp32", "bf16"), repeats=2, warmup=0)
    rows = benchmark(candidates_of([str(directory)]), settings)
    runtimes = [("pytorch", "fp32"), ("pytorch", "bf16"), ("onnx", "fp32"), ("onnx", "int8")]
    found = [(row["name"], row["runtime"], row["dtype"]) for row in rows]
    assert found == [(name, *runtime) for name in ("deit_tiny_patch16_224", "half") for runtime in runtimes]
    by_key = dict(zip(found, rows, strict=True))
    model = artifact.load(directory)
    fp32, bf16 = (by_key["half", "pytorch", dtype] for dtype in ("fp32", "bf16"))
    assert fp32["macs"] == costs.macs(ArchSpec.of(model))
    assert fp32["file_bytes"] == 2 * bf16["file_bytes"] == 4 * costs.params(ArchSpec.of(model))
    assert by_key["half", "onnx", "int8"]["file_bytes"] < by_key["half", "onnx", "fp32"]["file_bytes"]
    assert all(row["peak_bytes"] >= row["file_bytes"] and row["threads"] == torch.get_num_threads() for row in rows)


def test_models_of_timm_are_dense_themselves_and_shared(directory):
    named = candidates_of(["deit_tiny_patch16_224", "resnet18", str(directory)])
    assert [candidate.name for candidate in named] == ["deit_tiny_patch16_224", "resnet18", "half"]
    deit, resnet, half = named
    assert (deit.dense, resnet.dense, half.reference.name) == (None, None, "deit_tiny_patch16_224")
    assert half.reference is not deit  # another size
    assert resnet.macs == pytest.approx(1.814e9, rel=0.001)
    (expanding,) = candidates_of(["test_vit3"])  # whose parameters are expanded before a layer sees them
    assert expanding.macs == pytest.approx(94.05e6, rel=0.001)
    spec = ArchSpec.of(deit.module)
    again = candidate_of("again", spec, dense=deit)
    assert again.macs == deit.macs


def test_a_folder_of_timm_is_a_model_of_timm(tmp_path):
    small = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "num_heads": 2, "depth": 1, "num_classes": 3}
    network = compact(create_backbone("vit_tiny_patch16_224", **small), None)
    write_timm(network, tmp_path / "timm", {"input_size": [3, 16, 16]})
    (candidate,) = candidates_of([f"local-dir:{tmp_path}/timm"])
    assert candidate.macs == costs.macs(network.spec)
    with pytest.raises(UserError, match=f"^model.name: local-dir:{tmp_path} cannot be read"):
        candidates_of([f"local-dir:{tmp_path}"])


@pytest.mark.slow
def test_compiled_networks_run_beside_eager_ones(directory):
    rows = benchmark(candidates_of([str(directory)]), Settings(compiled=True, repeats=2, warmup=0))
    assert [row["compile"] for row in rows] == [False, True] * 2


# The command


def test_json_and_table(directory, vitc):
    done = vitc("benchmark", str(directory), "--json", "--repeats", "2", "--batch-sizes", "1,2")
    assert (done.code, done.error) == (0, "")
    rows = json.loads(done.out)
    wanted = {"name", "device", "dtype", "compile", "batch_size", "latency_ms", "images_per_second", "peak_bytes",
              "macs", "macs_reduction", "speedup", "realised"}  # fmt: skip
    assert all(row.keys() >= wanted and row["latency_ms"].keys() == {"p10", "p50", "p90"} for row in rows)
    assert [row["batch_size"] for row in rows] == [1, 1, 2, 2]
    done = vitc("benchmark", str(directory), "--repeats", "2")
    assert "cpu, 1 thread, 2 interleaved rounds" in done.out
    assert "pytorch fp32" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing: neither an exported directory nor a model of timm"),
        (["resnet19"], "resnet19: neither an exported directory nor a model of timm; did you mean 'resnet18', "
         "'resnet10t' or 'resnet14t'?"),
        ([".", "--batch-sizes", "1,b"], "--batch-sizes: '1,b' is not a list of whole numbers > 0, such as 1,64"),
        ([".", "--batch-sizes", "0"], "--batch-sizes: '0' is not a list of whole numbers > 0, such as 1,64"),
        (["deit_tiny_patch16_224", "--img-size", "100"],
         "img_size: 100 is not a multiple of the patch size 16; try 96 or 112"),
        (["samvit_base_patch16", "--img-size", "100"],
         "--img-size: samvit_base_patch16 does not take it (Input height (100) should be divisible by patch "
         "size (16).)"),
        ([".", "--dtypes", "fp16"], "--dtypes: 'fp16' is not one of fp32, bf16"),
        ([".", "--repeats", "0"], "--repeats: 0 must be a whole number >= 1"),
        ([".", "--formats", "timm"], "--formats: 'timm' is not one of safetensors, onnx, pt2, int8"),
        (["."], "arch.json: no such file; expected a directory written by 'vitc export'"),
    ],
)  # fmt: skip
def test_refusals(vitc, arguments, message):
    done = vitc("benchmark", *arguments)
    assert (done.code, done.out, done.error) == (2, "", f"error: {message}\n")


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refusals = {"cuda": "there is no GPU that torch can use", "gpu": "'gpu' is no device", "meta": "'meta' cannot be"}
    for name, message in refusals.items():
        with pytest.raises(UserError, match=f"^--device: {message}"):
            benchmark([], Settings(device=name))
