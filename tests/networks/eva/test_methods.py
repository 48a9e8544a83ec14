"""Every method on tiny networks of timm's Eva class and BEiT, whole: trained, evaluated, exported."""

import json

import onnxruntime
import pytest
import timm
import torch

from lightning_vitc.artifacts import artifact

SMALL = ("model.patch_size=4", "model.embed_dim=48", "model.num_heads=3", "model.depth=4", "model.mlp_ratio=2",
         "trainer.log_every_n_steps=4", "data.num_samples=64", "data.batch_size=16")  # fmt: skip
TEACHER = ("teacher.epochs=1", "teacher.warmup_epochs=0")
FEW = (*TEACHER, "trainer.max_epochs=2", "optimizer.warmup_epochs=1", "method.trials_at_once=2", "budget.drop_blocks=1")
SEARCH = (*TEACHER, "trainer.max_epochs=3", "method.finetune_epochs=1", "optimizer.warmup_epochs=0.5", "data.mixup=0.0")
SYNTHETIC = ("method.synthetic.iterations=3", "method.synthetic.warmup=1", "method.synthetic.count=4")
WIDTHS = ("trainer.max_epochs=2", "optimizer.warmup_epochs=0.5", "method.granularity=0.25", "teacher.epochs=1",
          "teacher.warmup_epochs=0", "data.mixup=0.0")  # fmt: skip
RUNS = {
    "uvc, dinov3": ("uvc_digits", "vit_small_patch16_dinov3_qkvb", (*SEARCH, "method.gate_every=2")),
    "usdc, inner norms": ("usdc_digits", "eva02_base_patch16_clip_224", SEARCH),
    "dcvit, split swiglu": ("dcvit_digits", "vit_small_plus_patch16_dinov3", (*FEW, *SYNTHETIC)),
    "practise, split qkv": ("practise_digits", "eva02_base_patch14_224", (*FEW, "method.latency_batch=4")),
    "scala, rope": ("scala_digits", "vit_small_patch16_rope_224", WIDTHS),
    "scala, map": ("scala_digits", "vit_base_patch16_siglip_224", WIDTHS),
    "one shot, beit": ("magnitude_digits", "beit_base_patch16_224", (*TEACHER, "method.finetune_epochs=1")),
}
EXPORTED = ("dcvit, split swiglu", "one shot, beit")  # the rest by operators, tests/exporting


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_a_run_and_its_export(vitc, run):
    experiment, model, keys = RUNS[run]
    done = vitc("train", experiment, f"model.name={model}", *SMALL, *keys)
    assert done.code == 0, done.error
    folder = f"runs/{experiment}/default"
    document = json.loads((vitc.place / folder / "result.json").read_text())
    assert document["rows"]
    pictures = list((vitc.place / folder).glob("*.png"))
    assert pictures
    if run not in EXPORTED:
        return
    exported = vitc("export", folder, "--out", "out", "--formats", "safetensors,onnx,pt2")
    assert exported.code == 0, exported.error
    network = artifact.load(vitc.place / "out")
    shape = network.spec.in_chans, *network.spec.img_size
    from_pt2 = torch.export.load(vitc.place / "out" / "model.pt2").module()
    session = onnxruntime.InferenceSession(vitc.place / "out" / "model.onnx")
    for batch in (1, 3):
        images = torch.randn(batch, *shape)
        torch.testing.assert_close(from_pt2(images), network(images), rtol=0, atol=1e-5)
        (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), network(images), rtol=0, atol=1e-4)


TAUGHT = ("epochs", "batch_size", "mixup", "smoothing", "lr", "weight_decay", "warmup_epochs")
BY_FEATURES = ("method.score=mse", "method.score_on=training")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "code", "said"),
    [
        (("model.new_head=true", *BY_FEATURES), 0, ""),
        ((), 2, "it has no classifier; set model.new_head=true for a new one"),
        (("model.new_head=true",), 2, "model.new_head: dcvit starts from a trained network; train it first with "),
        (
            ("model.pretrained=true", "data.name=digits"),
            2,
            "model.pretrained: vit_small_patch16_dinov3 has no classifier",
        ),
    ],
)
def test_a_backbone_without_a_classifier_is_compressed_by_its_features(vitc, keys, code, said):
    arguments = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 48, "num_heads": 3, "depth": 4}
    backbone = timm.create_model("vit_small_patch16_dinov3", num_classes=0, mlp_ratio=2, **arguments)
    torch.save(backbone.state_dict(), vitc.place / "dinov3.pth")
    untaught = ["teacher.train=false", *(f"teacher.{key}=null" for key in TAUGHT), "model.pretrained=dinov3.pth"]
    few = [key for key in FEW if not key.startswith("teacher")]
    done = vitc("train", "dcvit_dinov3_digits", *SMALL, *few, *untaught, *keys)
    assert done.code == code, done.error
    assert said in done.error
    assert code == 0 or "\n" not in done.error.strip()
