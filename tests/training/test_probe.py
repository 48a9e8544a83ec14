"""The classifier alone, on features that were computed once: the same training as with the whole network at rest."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from lightning_vitc.data import VisionData
from lightning_vitc.data.features import FeatureData
from lightning_vitc.methods.dense import Dense
from lightning_vitc.networks.backbone import Backbone, create_backbone
from lightning_vitc.schema import DataConfig, OptimizerConfig
from lightning_vitc.training.probe import Probe, classifiers

RECIPE = OptimizerConfig(name="sgd", lr=1e-1, weight_decay=0.1)
PLAIN, DISTILLED = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"


def backbone(name: str) -> Backbone:
    torch.manual_seed(0)
    return create_backbone(name, img_size=8, patch_size=4, in_chans=1, embed_dim=24, depth=1, num_heads=6,
                           num_classes=10, proj_drop_rate=0.5)  # fmt: skip


def digits(**keys: Any) -> VisionData:
    options = dict(batch_size=32, num_samples=128, no_aug=True, mean=[0.5], std=[0.5], smoothing=0.1) | keys
    return VisionData(DataConfig(name="digits", **options), img_size=8, in_chans=1)


def fit(module: Any, data: Any, *callbacks: Callback, ckpt_path: Any = None, **options: Any) -> Trainer:
    trainer = Trainer(**{"max_epochs": 3, "accelerator": "cpu", "logger": False} | options, callbacks=[*callbacks],
                      enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                      num_sanity_val_steps=0, use_distributed_sampler=False)  # fmt: skip
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


class Rest(Callback):
    """Nothing is dropped at random."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.eval()


@pytest.mark.parametrize("name", [PLAIN, DISTILLED])
def test_it_is_the_training_of_the_classifier_with_the_rest_frozen(name: str, tmp_path: Path) -> None:
    probe, whole = Probe(backbone(name), RECIPE), Dense(backbone(name), RECIPE)
    before = {key: value.clone() for key, value in whole.backbone.state_dict().items()}
    whole.backbone.train_only(lambda key: key.startswith("head"))
    seen = fit(probe, FeatureData(digits(), tmp_path / "features"))
    fit(whole, digits(), Rest())
    ours, theirs = probe.backbone.state_dict(), whole.backbone.state_dict()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-5)
        assert torch.equal(value, before[key]) != key.startswith("head"), key
    assert len(classifiers(probe.backbone)) == 1 + (name == DISTILLED)
    expected = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    [accuracy] = expected.validate(Dense(probe.backbone, RECIPE), digits(), verbose=False)
    assert float(seen.callback_metrics["val/top1"]) == pytest.approx(accuracy["val/top1"])


class Stop(Callback):
    """Saves in the middle of an epoch, and stops there."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 6:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def test_an_interrupted_probe_goes_on_with_the_features_there_are(tmp_path: Path, monkeypatch: Any) -> None:
    whole, first, second = (Probe(backbone(PLAIN), RECIPE) for _ in range(3))
    fit(whole, FeatureData(digits(), tmp_path / "features"))
    monkeypatch.setattr(Probe, "features", None)  # nobody asks for them again
    fit(first, FeatureData(digits(), tmp_path / "features"), Stop(tmp_path / "stopped"))
    assert not torch.equal(first.backbone.head.weight, whole.backbone.head.weight)
    fit(second, FeatureData(digits(), tmp_path / "features"), ckpt_path=tmp_path / "stopped")
    assert torch.equal(second.backbone.head.weight, whole.backbone.head.weight)
