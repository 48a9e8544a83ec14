"""Checks through the command line: whole runs of every method, killed ones, exports, budgets, two at once."""

import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

from on_gpu.children import Failed, Skip
from on_gpu.commands import start_vitc, vitc
from on_gpu.place import SMALL, Place
from on_gpu.turns import alone_in

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
DIGITS = (
    "model.depth=3", "model.embed_dim=48", "model.num_heads=2", "optimizer.warmup_epochs=0.5", "data.batch_size=16",
    "teacher.epochs=1", "trainer.log_every_n_steps=1", "trainer.check_val_every_n_epoch=3",
)  # fmt: skip
FEW = (
    "model.depth=4", "model.embed_dim=48", "model.num_heads=2", "optimizer.warmup_epochs=1", "data.batch_size=20",
    "data.num_samples=20", "teacher.epochs=1", "teacher.batch_size=256", "trainer.log_every_n_steps=1",
    "budget.drop_blocks=1", "method.trials_at_once=2",
)  # fmt: skip
EXACT = ("trainer.precision=32-true", "trainer.deterministic=true", "callbacks.checkpoint.every_n_steps=2",
         "callbacks.checkpoint.every_n_epochs=2")  # fmt: skip
FINETUNED = ("uvc", "usdc", "magnitude")
METHODS = ("dense", "scala", "uvc", "usdc", "magnitude", "dcvit", "practise")
BY_TIME = ("practise",)  # chooses by times, which no two runs share
FEWER = ("scala", "dcvit")  # at tiny sizes: that are resumed and exported


def experiment(place: Place, method: str) -> tuple[str, ...]:
    """A method on handwritten digits whose stages take so many optimizer steps as are tried; the teacher's apart."""
    if method in ("dcvit", "practise"):  # an epoch is a step
        own = ("method.synthetic.iterations=10", "method.synthetic.count=7", "method.synthetic.warmup=2")
        return (f"{method}_digits", *FEW, f"trainer.max_epochs={place.steps}", *(own if method == "dcvit" else ()))
    keys = [f"{method}_digits", *DIGITS, f"data.num_samples={16 * place.steps // 3}", "trainer.max_epochs=3"]
    if method in FINETUNED:
        keys.append("method.finetune_epochs=3")
    if method == "scala":
        keys += ["method.granularity=0.25", "model.num_heads=3"]
    if method == "uvc":
        keys.append("method.gate_every=2")
    return tuple(key for key in keys if method != "dense" or not key.startswith("teacher."))


def steps(place: Place, method: str, precision: str) -> dict[str, Any]:
    """A whole run, teacher and table included; every stage of the method takes its steps, or it is no success."""
    keys, run = experiment(place, method), trained(place, method, precision)
    own = EXACT if precision == "fp32" else ()  # what `resume` compares with
    done = vitc(place, "train", *keys, *own, *place.where, f"trainer.precision={PRECISIONS[precision]}",
                f"run_name={run.name}")  # fmt: skip
    taken = stages(run)
    all_taken(taken, method, place.steps, done.last_line)
    rows = json.loads((run / "result.json").read_text())["rows"]
    return {"steps": taken, "top1": {row["name"]: row["top1"] for row in rows}}


def all_taken(taken: dict[str, int], method: str, wanted: int, said: str = "") -> None:
    """That every stage of a method, the training of its teacher apart, took so many steps.

    Raises:
        Failed: where one took fewer, or there is none.
    """
    own = [count for stage, count in taken.items() if stage != "dense" or method == "dense"]
    if not own or min(own) < wanted:
        raise Failed(f"stages took {taken} steps, not {wanted}: {said}")


def trained(place: Place, method: str, precision: str = "fp32") -> Path:
    """The run that `steps` leaves."""
    return place.runs / experiment(place, method)[0] / f"steps-{precision}"


def stages(run: Path) -> dict[str, int]:
    """Optimizer steps of every finished stage."""
    return {
        file.parent.name: json.loads(file.read_text())["steps"] for file in sorted(run.glob("checkpoints/*/done.json"))
    }


def resume(place: Place, method: str) -> dict[str, Any]:
    """A run that is killed in its last stage and continued leaves what the one of `steps` leaves, bit for bit."""
    keys, whole = (*experiment(place, method), *EXACT, *place.where), trained(place, method)
    killed = whole.with_name("killed")
    shutil.rmtree(killed, ignore_errors=True)  # of an earlier try
    lost = kill(place, method, killed, *keys)
    vitc(place, "train", *keys, f"run_name={killed.name}")
    return {"killed_after": lost, **same(whole, killed)}


def same(whole: Path, killed: Path) -> dict[str, int]:
    """That two runs left the same, bit for bit.

    Raises:
        Failed: naming what differs.
    """
    from same_run import differences

    if found := differences(whole, killed):
        raise Failed(f"{len(found)} differences: {'; '.join(found[:5])}")
    return {"differences": 0}


def kill(place: Place, method: str, run: Path, *keys: str) -> str:
    """Start a run and kill it in the midst of a stage of its method, beyond a checkpoint; where that was.

    Raises:
        Failed: where it ended before.
    """
    process, done = start_vitc(place, "train", *keys, f"run_name={run.name}")
    while process.is_alive():
        saved = {file.parent.name for file in run.glob("checkpoints/*/last.ckpt")}
        saved -= {"dense"} if method != "dense" else set()
        late = [line for line in _logged(run) if line["stage"] in saved and line["step"] >= place.steps / 2]
        if late:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            return f"{late[-1]['stage']}, step {late[-1]['step']}"
        time.sleep(0.005)
    raise Failed(f"the run ended with {done().code} before it could be killed: {done().last_line}")


def _logged(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def export(place: Place, method: str) -> dict[str, Any]:
    """The export of the run of `steps`, in the formats of its kind, and the exported network on the device."""
    import torch

    import lightning_vitc
    from on_gpu.networks import in_full_precision, judged, relative

    formats = "safetensors" if method == "usdc" else "safetensors,pt2" if place.tiny else "safetensors,onnx,pt2"
    out = exported(place, method)
    vitc(place, "export", str(trained(place, method)), "--out", str(out), "--formats", formats)
    in_full_precision()
    network, images = lightning_vitc.load(out), torch.randn(13, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(images)
        found = network.to(place.device)(images.to(place.device))
    return {"formats": formats, **judged({"exported": relative(found, expected)})}


def exported(place: Place, method: str) -> Path:
    """The directory that `export` writes."""
    return place.scratch / "exports" / method


def benchmark(place: Place) -> dict[str, Any]:
    """`vitc benchmark` of an exported network and of one of timm, in both precisions; it gives some times."""
    model = ("deit_tiny_patch16_224", "--img-size", "32" if place.tiny else "224")
    sizes, repeats = ("1,4", "3") if place.tiny else ("1,64", "20")
    done = vitc(place, "benchmark", str(exported(place, "scala")), *model, "--device", place.device, "--batch-sizes",
                sizes, "--dtypes", "fp32,bf16", "--repeats", repeats, "--json")  # fmt: skip
    rows = json.loads(done.out.strip().splitlines()[-1])
    cases = {(row["dtype"], row["batch_size"]) for row in rows if row["latency_ms"]["p50"] > 0}
    if len(cases) != 4:
        raise Failed(f"not a time for both dtypes and batch sizes: {sorted(cases)}")
    return {"rows": len(rows)}  # times beside other processes are none


def latency(place: Place) -> dict[str, Any]:
    """A run under `budget.latency_ms` of this device: what was asked for, decided and measured at the end."""
    share = "88%" if place.tiny else "75%"  # a network so small has little that can be saved
    sizes = (*SMALL, "model.img_size=16", "model.depth=6", "data.num_samples=48") if place.tiny else (
        "budget.batch_size=64", "data.num_samples=960", "data.num_workers=8")  # fmt: skip
    keys = ("data.name=fake", "data.root=null", "data.batch_size=16", "data.eval_batch_size=8", "trainer.max_epochs=1",
            "method.finetune_epochs=1", "method.gate_every=1", f"budget.latency_ms={share}",
            f"budget.device={place.device}", "optimizer.warmup_epochs=0", "run_name=latency")  # fmt: skip
    measured = partial(alone_in, "lightning_vitc.latency.measuring", "in_turns")
    _, done = start_vitc(place, "train", "uvc_deit_s", *sizes, *keys, *place.where, before=measured)
    if (end := done()).code:
        said = "was not reached" in end.error or "out of reach" in end.error
        if place.device == "cpu" and said:  # by so small a network on a busy CPU
            return {"refused": end.last_line}
        raise Failed(f"the run ended with {end.code}: {end.last_line}")
    result = json.loads((place.runs / "uvc_deit_s" / "latency" / "result.json").read_text())
    facts = json.loads((place.runs / "uvc_deit_s" / "latency" / "architecture.json").read_text())["latency_ms"]
    return {"budget_ms": facts["budget"], "decided_ms": facts["measured"], "tries": len(facts["tries"]),
            "table_ms": result["rows"][0]["latency_ms"], "dense_ms": result["dense"]["latency_ms"]}  # fmt: skip


def two_runs(place: Place) -> dict[str, Any]:
    """Two runs at once on one device work; the same run twice at once is refused."""
    keys = (*experiment(place, "scala"), *place.where)
    names = ("together-1", "together-2")
    for name in names:
        shutil.rmtree(place.runs / keys[0] / name, ignore_errors=True)  # of an earlier try
    started = [start_vitc(place, "train", *keys, f"run_name={name}") for name in names]
    while started[0][0].is_alive() and not (place.runs / keys[0] / names[0] / "metrics.jsonl").exists():
        time.sleep(0.01)
    if started[0][0].is_alive():
        again = vitc(place, "train", *keys, f"run_name={names[0]}", code=2)
        if "another process is running this run" not in again.error:
            raise Failed(f"the same run twice: {again.last_line}")
    if bad := [end for end in (done() for _, done in started) if end.code]:
        raise Failed(f"one of two runs ended with {bad[0].code}: {bad[0].last_line}")
    return {"two runs": "work", "one run twice": "is refused"}


def two_processes(place: Place) -> dict[str, Any]:
    """One run of two processes on one card is refused, in one line."""
    import torch

    if torch.cuda.device_count() != 1:
        raise Skip("needs a machine of one card")
    keys = [key for key in place.where if not key.startswith("trainer.devices")]
    refused = vitc(place, "train", *experiment(place, "scala"), *keys, "trainer.devices=2", "run_name=two", code=2)
    if not refused.last_line.startswith("error: trainer"):
        raise Failed(f"refused otherwise: {refused.last_line}")
    return {"said": refused.last_line}
