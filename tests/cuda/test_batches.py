"""A batch is pinned by its loader, copied without anybody waiting, and mixed where it has been copied to."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_cuda import CUDA, FakeCuda, HostWaits

from lightning_vitc.data import VisionData
from lightning_vitc.schema import DataConfig

MIXED: dict[str, dict[str, float]] = {
    "mixup": {"mixup": 0.8}, "cutmix": {"cutmix": 1.0}, "either": {"mixup": 0.8, "cutmix": 1.0},
    "smoothing": {"smoothing": 0.1},
}  # fmt: skip
TRAINER = SimpleNamespace(training=True, world_size=1, global_rank=0, current_epoch=0, overfit_batches=0)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the data module of a training on a GPU."""
    for module in (torch.cuda, torch.accelerator):
        monkeypatch.setattr(module, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: CUDA)

    def made(**keys: Any) -> VisionData:
        config = DataConfig(name="digits", batch_size=8, num_samples=16, no_aug=True, **keys)
        module = VisionData(config, img_size=8, in_chans=1)
        module.trainer = TRAINER  # type: ignore[assignment]
        return module

    return made


def transferred(module: VisionData) -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches by the steps that Lightning takes; the second one."""
    with FakeCuda() as device:
        for batch in module.train_dataloader():
            with device.watched():
                batch = module.transfer_batch_to_device(batch, CUDA, 0)
                images, targets = module.on_after_batch_transfer(batch, 0)
    return images, targets


@pytest.mark.parametrize("how", MIXED)
def test_mixed(how, data):
    images, targets = transferred(data(**MIXED[how]))
    assert images.is_cuda
    assert targets.is_cuda
    assert (images.shape, targets.shape) == ((8, 1, 8, 8), (8, 10))
    assert (images.dtype, targets.dtype) == (torch.float32, torch.float32)


def test_left_alone(data):
    images, targets = transferred(data())
    assert images.is_cuda
    assert (targets.device, targets.dtype) == (CUDA, torch.int64)


def test_pageable_memory_is_waited_for(data):
    """Which is why a loader pins."""
    with pytest.raises(HostWaits, match="waits for the device"):
        transferred(data(pin_memory=False))
