"""The data module in a Trainer: mixing on the training batches alone, and its shares of a global batch."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer


class Probe(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.targets = {"train": [], "validation": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.targets["train"].append(batch[1])
        return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch, batch_idx):
        self.targets["validation"].append(batch[1])

    def test_step(self, batch, batch_idx):
        self.targets["test"].append(batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def _run(data) -> dict[str, torch.Tensor]:
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=1,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    probe = Probe()
    trainer.fit(probe, data)
    trainer.test(probe, data, verbose=False)
    return {name: torch.cat(targets) for name, targets in probe.targets.items()}


@pytest.mark.parametrize(
    ("keys", "soft"), [({}, False), ({"smoothing": 0.1}, True), ({"mixup": 0.8}, True), ({"cutmix": 1.0}, True)]
)
def test_only_training_targets_become_soft(vision_data, keys, soft):
    targets = _run(vision_data("digits", img_size=8, in_chans=1, no_aug=True, batch_size=125, **keys))
    assert targets["train"].shape == ((1250, 10) if soft else (1250,))
    assert targets["train"].dtype == (torch.float32 if soft else torch.int64)
    if soft:
        assert torch.allclose(targets["train"].sum(1), torch.ones(1250))
    for name in ("validation", "test"):
        assert targets[name].dtype == torch.int64
    assert len(targets["test"]) == 359


def _global_batches(make, world_size: int, accumulate: int) -> list[torch.Tensor]:
    """The optimizer steps of an epoch, put together from every rank's mixed batches, slot by slot."""
    ranks = []
    for rank in range(world_size):
        data = make(accumulate=accumulate)
        data.trainer = SimpleNamespace(
            world_size=world_size, global_rank=rank, training=True, overfit_batches=0, current_epoch=0
        )
        ranks.append([data.on_after_batch_transfer(batch, 0)[0] for batch in data.train_dataloader()])
    steps = zip(*[iter(zip(*ranks, strict=True))] * accumulate, strict=True)
    return [torch.cat([images for micro in step for images in micro]) for step in steps]


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 4), (2, 2), (4, 1)])
def test_slots_of_a_step_are_mixed_alike_however_they_are_shared(vision_data, world_size, accumulate):
    def make(**keys):
        return vision_data("digits", img_size=8, in_chans=1, batch_size=240, mixup=0.8, cutmix=1.0, **keys)

    shared = _global_batches(make, world_size, accumulate)
    expected = _global_batches(make, 1, 4)
    assert len(shared) == len(expected) == 5
    assert all(torch.equal(one, other) for one, other in zip(shared, expected, strict=True))


def test_a_step_is_the_same_without_mixing_for_any_world_and_accumulation(vision_data):
    def make(**keys):
        return vision_data("digits", img_size=8, in_chans=1, batch_size=240, **keys)

    expected = _global_batches(make, 1, 1)
    for world_size, accumulate in ((2, 1), (1, 2), (4, 2)):
        shared = _global_batches(make, world_size, accumulate)
        assert all(torch.equal(one, other) for one, other in zip(shared, expected, strict=True))


def test_evaluation_batch_size_is_that_of_a_process_in_training(vision_data):
    data = vision_data("digits", img_size=8, batch_size=64, accumulate=2)
    assert len(next(iter(data.val_dataloader()))[1]) == 32
    data = vision_data("digits", img_size=8, batch_size=64, eval_batch_size=50)
    assert [len(targets) for _, targets in data.val_dataloader()] == [50, 50, 50, 29]


def test_splits_by_name_without_augmentation(vision_data):
    data = vision_data("digits", img_size=8, in_chans=1, batch_size=100)
    loader = data.loader_of("train")
    assert torch.cat([targets for _, targets in loader]).tolist() == data.splits.train.targets.tolist()
    assert torch.equal(next(iter(loader))[0], next(iter(loader))[0])


def test_every_key_of_mixing_reaches_the_mixer(vision_data):
    keys = {"mixup": 0.8, "cutmix": 0.6, "mixup_prob": 0.5, "switch_prob": 0.3, "smoothing": 0.1}
    mixer = vision_data("digits", img_size=8, seed=7, **keys).mixer
    assert (mixer.mixup_alpha, mixer.cutmix_alpha, mixer.prob, mixer.switch_prob, mixer.smoothing) == (*keys.values(),)
    assert (mixer.seed, mixer.num_classes) == (7, 10)


def test_a_batch_is_mixed_by_its_own_epoch_and_slot(vision_data):
    """The fifth batch of epoch 3 is number 4."""
    data = vision_data("digits", img_size=8)
    data.mixer = lambda images, targets, *key: key
    data._train_loader = SimpleNamespace(position=(3, 5), order=SimpleNamespace(slot=lambda batch: (batch, "slot")))
    assert data.mix(None, None) == (3, 4, "slot")


def test_images_are_spread_over_a_split(vision_data):
    data = vision_data("digits", img_size=8, in_chans=1)
    expected = data.images_of("train")[[0, 314, 629, 944]]  # of 1,259
    assert torch.equal(data.spread_images("train", 4), expected)


def test_of_a_few_images_every_one_counts(vision_data):
    data = vision_data("digits", img_size=8, in_chans=1, batch_size=32, few_shot=True, num_samples=50)
    assert [len(targets) for _, targets in data.train_dataloader()] == [32, 18]


def test_augmentation_goes_by_the_seed_of_the_run(vision_data):
    assert vision_data("digits", img_size=8, seed=5, hflip=0.5)._training_batches()._seed == 5
