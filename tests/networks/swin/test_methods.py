"""Every method on a tiny Swin Transformer, whole: trained, evaluated, exported."""

import json
from dataclasses import replace
from fractions import Fraction

import onnxruntime
import pytest
import torch

from lightning_vitc.artifacts import artifact
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import from_spec
from lightning_vitc.networks.blocks import Block, Stage
from lightning_vitc.networks.slicing import slice_width

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


def weights_of(run, stage):
    saved = torch.load(run / "checkpoints" / stage / "last.ckpt", weights_only=True)["state_dict"]
    return {name.removeprefix("backbone."): tensor for name, tensor in saved.items() if name.startswith("backbone.")}


def is_the_tuned_network(run, network, document):
    """No adaptor, and every block that is left attends as it did: the shift is its own."""
    tuned, [row] = weights_of(run, "finetune"), document["rows"]
    assert tuned.keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, tuned[name]) for name, tensor in network.state_dict().items())
    shifts = [0, 0, 2, 0]  # of the dense network: one block, and three
    left = [shift for number, shift in enumerate(shifts) if number not in row["blocks"]]
    assert [block.branches[0].shift for block in network.spec.blocks] == left
    assert sum(one.numel() for one in network.parameters()) == row["params"]


def is_the_half_of_the_whole(run, network, document):
    """Sliced as the trained one runs it, and counted so in the table."""
    whole = from_spec(replace(network.spec, stages=tuple(map(doubled, network.spec.stages)))).eval()
    whole.load_state_dict(weights_of(run, "scala"))
    images, kept = torch.randn(2, 1, 8, 8), slice_width(whole.spec, Fraction(1, 2))
    with torch.no_grad():
        torch.testing.assert_close(network(images), whole(images, kept=kept), rtol=0, atol=1e-5)
    row = next(row for row in document["rows"] if row["width"] == 0.5)
    assert (row["params"], row["macs"]) == (costs.params(network.spec), costs.macs(network.spec))


def doubled(stage):
    blocks = [Block(tuple(replace(branch, pieces=tuple(2 * size for size in branch.pieces), query=2 * branch.query)
                          for branch in block)) for block in stage.blocks]  # fmt: skip
    return Stage(2 * stage.width, tuple(blocks))


CHECKED = {"practise": ((), is_the_tuned_network), "scala": (("--width", "0.5"), is_the_half_of_the_whole)}


@pytest.mark.slow
@pytest.mark.parametrize("method", RUNS)
def test_a_run_and_its_export(vitc, method):
    done = vitc("train", f"{method}_swin_digits", *SMALL, *RUNS[method])
    assert done.code == 0, done.error
    folder = f"runs/{method}_swin_digits/default"
    document = json.loads((vitc.place / folder / "result.json").read_text())
    assert document["rows"]
    if method in CHECKED:  # the rest by operators, tests/exporting
        exported = vitc("export", folder, "--out", "out", "--logits-only", *CHECKED[method][0])
        assert exported.code == 0, exported.error
        CHECKED[method][1](vitc.place / folder, artifact.load(vitc.place / "out"), document)
        return
    assert list((vitc.place / folder).glob("architecture_*.png"))
    if method != "uvc":  # what `tests/exporting` writes of shifted windows, with gates and without
        return
    exported = vitc("export", folder, "--out", "out", "--formats", "safetensors,onnx,pt2")
    assert exported.code == 0, exported.error
    network = artifact.load(vitc.place / "out")
    from_pt2 = torch.export.load(vitc.place / "out" / "model.pt2").module()
    for batch in (1, 3):
        images = torch.randn(batch, 1, 8, 8)
        torch.testing.assert_close(from_pt2(images), network(images), rtol=0, atol=1e-5)
        session = onnxruntime.InferenceSession(vitc.place / "out" / "model.onnx")
        (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), network(images), rtol=0, atol=1e-4)
