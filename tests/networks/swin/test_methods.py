"""Every method on a tiny Swin Transformer, whole: trained, evaluated, exported."""

import json

import onnxruntime
import pytest
import torch

from lightning_vitc.artifacts import artifact

SMALL = ("model.depths=[1,3]", "trainer.log_every_n_steps=4", "data.num_samples=64", "data.batch_size=16",
         "teacher.epochs=1", "teacher.warmup_epochs=0")  # fmt: skip
FEW = ("trainer.max_epochs=2", "optimizer.warmup_epochs=1", "method.trials_at_once=2")
SEARCH = ("trainer.max_epochs=3", "method.finetune_epochs=1", "optimizer.warmup_epochs=0.5", "data.mixup=0.0")
RUNS = {
    "uvc": (*SEARCH, "method.gate_every=2"),
    "usdc": (*SEARCH, "method.gate_search=fixed:linear"),
    "dcvit": (
        *FEW,
        "model.depths=[1,4]",
        "method.synthetic.iterations=3",
        "method.synthetic.warmup=1",
        "method.synthetic.count=4",
    ),
    "practise": (*FEW, "method.latency_batch=4"),
    "scala": ("trainer.max_epochs=2", "optimizer.warmup_epochs=0.5", "method.granularity=0.25", "data.mixup=0.0"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", RUNS)
def test_a_run_and_its_export(vitc, method):
    done = vitc("train", f"{method}_swin_digits", *SMALL, *RUNS[method])
    assert done.code == 0, done.error
    folder = f"runs/{method}_swin_digits/default"
    document = json.loads((vitc.place / folder / "result.json").read_text())
    assert document["rows"]
    if method in ("practise", "scala"):  # the rest by operators, tests/exporting
        return
    assert list((vitc.place / folder).glob("architecture_*.png"))
    formats = "safetensors,pt2" if method == "usdc" else "safetensors,onnx,pt2"  # graphs with gates take minutes
    exported = vitc("export", folder, "--out", "out", "--formats", formats)
    assert exported.code == 0, exported.error
    network = artifact.load(vitc.place / "out")
    from_pt2 = torch.export.load(vitc.place / "out" / "model.pt2").module()
    for batch in (1, 3):
        images = torch.randn(batch, 1, 8, 8)
        torch.testing.assert_close(from_pt2(images), network(images), rtol=0, atol=1e-5)
        if method == "usdc":
            continue
        session = onnxruntime.InferenceSession(vitc.place / "out" / "model.onnx")
        (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), network(images), rtol=0, atol=1e-4)
