"""A step waits for its forward pass alone: of the smallest training, which takes a moment; `test_trainings` has all."""

from collections import Counter

import torch
from fake_cuda import CUDA, FakeCuda
from fitting import OF_EVERY_STEP, OF_LOGGING, STEPS, fit, schedules
from trainings import dense  # of benchmarks/

from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.training.finite_loss import FiniteLoss


def test_losses_are_copied_while_nobody_waits():
    """The host waits when it reads them, once the backward pass has been enqueued."""
    check = FiniteLoss()
    with FakeCuda() as device:
        losses = {name: torch.ones((), device=CUDA) for name in ("term", "loss")}
        with device.watched(OF_EVERY_STEP):
            check.note(losses)
            assert not device.waits
            check.check(0)
    assert device.waits == [OF_EVERY_STEP]


def test_a_training_with_a_teacher_and_an_average():
    """Nor from the end of a batch to the next one, and by no more than is written here."""
    torch.manual_seed(0)
    module = dense(create_backbone("deit_tiny_patch16_224", img_size=8, patch_size=8, in_chans=1, embed_dim=24,
                                   depth=1, num_heads=2, num_classes=10, drop_path_rate=0.1))  # fmt: skip
    device = fit(module, precision="bf16-mixed", callbacks=schedules(module), limit_val_batches=0)
    waits = Counter(device.waits)
    assert waits.keys() == {OF_EVERY_STEP, OF_LOGGING}
    assert waits[OF_EVERY_STEP] == STEPS - 1
