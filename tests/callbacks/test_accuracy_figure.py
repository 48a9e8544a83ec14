"""Accuracy over MACs in TensorBoard, after every validation."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_vitc import ArchSpec, costs
from lightning_vitc.callbacks import accuracy_figure
from lightning_vitc.callbacks.accuracy_figure import AccuracyFigure
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.training.module import Variant


def spec(width: str) -> ArchSpec:
    with torch.device("meta"):
        full = create_backbone("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=2)
    return full.spec.at_width(width)


def trainer(loggers: list[Any], **changes: Any) -> SimpleNamespace:
    metrics = {"half/val_top1": torch.tensor(40.0), "full/val_top1": torch.tensor(60.0), "val/top1": torch.tensor(50.0)}
    values = dict(loggers=loggers, callback_metrics=metrics, global_step=12, sanity_checking=False, is_global_zero=True)
    return SimpleNamespace(**{**values, **changes})


def module(*names: str) -> SimpleNamespace:
    widths = {"half": "0.5", "full": "1"}
    return SimpleNamespace(variants=lambda: [Variant(name, spec(widths[name]), torch.nn.Identity()) for name in names])


def figures(folder: Path) -> list[Any]:
    events = EventAccumulator(str(folder)).Reload()
    return events.Images("accuracy_over_macs") if "accuracy_over_macs" in events.Tags()["images"] else []


def test_the_figure_shows_every_validated_network(tmp_path, monkeypatch):
    drawn = []
    original = accuracy_figure.accuracy_over_macs

    def spy(series):
        drawn.append(series)
        return original(series)

    monkeypatch.setattr(accuracy_figure, "accuracy_over_macs", spy)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    AccuracyFigure().on_validation_end(trainer([CSVLogger(tmp_path / "csv"), logger]), module("half", "full"))
    logger.finalize("success")
    expected = [(name, costs.macs(spec(width)), top1) for name, width, top1 in (("half", "0.5", 40), ("full", "1", 60))]
    assert drawn == [{"validation": expected}]
    (figure,) = figures(tmp_path)
    assert figure.step == 11  # of the scalars of the same validation
    assert figure.encoded_image_string.startswith(b"\x89PNG")
    assert figure.width > 300


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"sanity_checking": True}, ("half", "full")),
        ({"is_global_zero": False}, ("half", "full")),
        ({}, ("full",)),  # one point is no curve
        ({"callback_metrics": {}}, ("half", "full")),
    ],
)
def test_no_figure(tmp_path, changes, names):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    AccuracyFigure().on_validation_end(trainer([logger], **changes), module(*names))
    logger.finalize("success")
    assert not any(figures(file) for file in tmp_path.glob("events*"))
