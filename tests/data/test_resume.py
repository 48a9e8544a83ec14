"""A Trainer that is interrupted sees, with its successor, the batches of one that is not."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

EPOCHS, BATCHES = 3, 5  # of 25 images each, from 126 digits


class Witness(LightningModule):
    """A linear model that notes every batch it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.seen: list[tuple[int, int, str]] = []

    def training_step(self, batch, batch_idx):
        images, targets = batch
        loss = torch.nn.functional.cross_entropy(self.layer(images.flatten(1)), targets)
        self.seen.append((self.current_epoch, batch_idx, images.numpy().tobytes() + targets.numpy().tobytes()))
        return loss

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Interruption(Callback):
    """Saves a checkpoint in a hook when `batches` are done in all, and stops the training there."""

    def __init__(self, path: Path, hook: str, batches: int) -> None:
        self.path, self.batches = path, batches
        setattr(self, hook, self._save)

    def _save(self, trainer: Trainer, module: Witness, *_) -> None:
        if len(module.seen) == self.batches:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def _fit(data, ckpt_path=None, callback=None, **options) -> Witness:
    module = Witness()
    options = dict(max_epochs=EPOCHS) | options
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        callbacks=[callback] if callback else [], **options,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module


CASES = [
    # in the first epoch, in a later one, with its last batch, and after it
    ("on_train_batch_end", 3),
    ("on_train_batch_end", 8),
    ("on_train_batch_end", 10),
    ("on_validation_end", 10),
    ("on_train_epoch_end", 5),
    ("on_train_epoch_end", 10),
]


@pytest.fixture
def data_of(vision_data):
    """New data modules with augmentation and mixing, as another process would make them."""

    def make(num_workers: int = 0, **keys):
        options = dict(num_samples=126, batch_size=25, seed=4, num_workers=num_workers, mixup=0.0, re_prob=0.5) | keys
        return vision_data("digits", img_size=8, in_chans=1, **options)

    return make


@pytest.mark.parametrize(("hook", "batches", "limit"), [
    *((*case, {"max_epochs": EPOCHS}) for case in CASES),
    *((*case, {"max_epochs": -1, "max_steps": EPOCHS * BATCHES}) for case in CASES[1:4:2]),
])  # fmt: skip
def test_interrupted_equals_uninterrupted(data_of, tmp_path, hook, batches, limit):
    whole = _fit(data_of(), **limit).seen
    assert len(whole) == EPOCHS * BATCHES
    path = tmp_path / "checkpoint"
    first = _fit(data_of(), callback=Interruption(path, hook, batches), **limit).seen
    second = _fit(data_of(), ckpt_path=path, **limit).seen
    assert first == whole[:batches]
    assert second == whole[batches:]


def test_with_workers_and_without(data_of, tmp_path):
    whole = _fit(data_of()).seen
    path = tmp_path / "checkpoint"
    first = _fit(data_of(num_workers=2), callback=Interruption(path, "on_train_batch_end", 7)).seen
    second = _fit(data_of(num_workers=1), ckpt_path=path).seen
    assert first + second == whole


def test_interrupted_twice_with_accumulation(data_of, tmp_path):
    data = dict(accumulate=2, batch_size=50)
    options = dict(accumulate_grad_batches=2)
    whole = _fit(data_of(**data), **options).seen
    assert len(whole) == EPOCHS * 4
    paths = tmp_path / "first", tmp_path / "second"
    seen = _fit(data_of(**data), callback=Interruption(paths[0], "on_train_batch_end", 2), **options).seen
    callback = Interruption(paths[1], "on_train_batch_end", 4)
    seen += _fit(data_of(**data), ckpt_path=paths[0], callback=callback, **options).seen
    seen += _fit(data_of(**data), ckpt_path=paths[1], **options).seen
    assert seen == whole


def test_limited_epochs(data_of, tmp_path):
    """`limit_train_batches` cuts every epoch short; workers have prepared more than is taken."""
    options = dict(limit_train_batches=3)
    whole = _fit(data_of(), **options).seen
    assert len(whole) == EPOCHS * 3
    path = tmp_path / "checkpoint"
    callback = Interruption(path, "on_train_batch_end", 4)
    first = _fit(data_of(num_workers=1), callback=callback, **options).seen
    assert first + _fit(data_of(num_workers=1), ckpt_path=path, **options).seen == whole


def test_every_epoch_and_image_is_augmented_anew(data_of):
    seen = _fit(data_of()).seen
    assert len({batch for _, _, batch in seen}) == EPOCHS * BATCHES


def test_overfitting_repeats_its_batches(data_of):
    seen = _fit(data_of(no_aug=True, re_prob=0.0), overfit_batches=2).seen
    assert len(seen) == EPOCHS * 2
    assert len({batch for _, _, batch in seen}) == 2


def test_mixing_resumes_too(data_of, tmp_path):
    whole = _fit(data_of(mixup=0.8, cutmix=1.0, smoothing=0.1)).seen
    path = tmp_path / "checkpoint"
    callback = Interruption(path, "on_train_batch_end", 8)
    data = dict(mixup=0.8, cutmix=1.0, smoothing=0.1)
    first = _fit(data_of(**data), callback=callback).seen
    assert first + _fit(data_of(num_workers=1, **data), ckpt_path=path).seen == whole
    assert whole != _fit(data_of()).seen
