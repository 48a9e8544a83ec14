"""The ImageNet recipes of other networks than plain ViTs, a step of each on random images and small networks."""

import pytest

from lightning_vitc.files.records import opened

DRY = ("data.name=fake", "data.num_samples=8", "data.batch_size=4", "data.num_classes=5", "data.num_workers=0",
       "model.pretrained=false", "trainer.max_steps=2", "trainer.accelerator=cpu",
       "trainer.precision=32-true")  # fmt: skip
FIRST = ("teacher.train=true", "teacher.epochs=1")  # a classifier
SWIN = ("model.img_size=32", "model.depths=[1,2]", "model.embed_dim=16", "model.num_heads=[1,2]")
DINOV3 = ("model.img_size=32", "model.depth=2", "model.embed_dim=64", "model.num_heads=2")
FEW = (
    "method.candidates=[0,1]",
    "method.synthetic.iterations=2",
    "method.synthetic.warmup=1",
    "method.synthetic.count=2",
)
RECIPES = {
    "scala_swin_t": (*SWIN, "method.granularity=0.25", "method.full_warmup_epochs=0", "teacher.model=null", *FIRST),
    "uvc_swin_t": (*SWIN, *FIRST, "method.finetune_epochs=1", "budget.macs=95%"),
    "uvc_dinov3_b": (*DINOV3, *FIRST, "method.finetune_epochs=1", "budget.macs=95%"),
    "usdc_dinov3_b": (*DINOV3, *FIRST, "method.finetune_epochs=1", "budget.macs=95%"),
    "dcvit_dinov3_s": (*DINOV3, *FEW, "budget.drop_blocks=1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", RECIPES)
def test_of_an_imagenet_recipe(vitc, experiment):
    done = vitc("train", experiment, *DRY, *RECIPES[experiment])
    assert done.code == 0, done.error
    rows = opened((vitc.place / "runs" / experiment / "default" / "result.json").read_bytes())["rows"]
    assert rows[0]["macs"] > 0
