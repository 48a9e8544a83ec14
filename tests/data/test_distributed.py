"""Two real processes see together what one sees alone."""

import pytest
import torch
from forked import fork_ranks

RANK = """
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning_vitc.data import VisionData
from lightning_vitc.schema import DataConfig

class Witness(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.register_buffer("state", torch.zeros(1))  # DDP synchronizes it in every forward pass
        self.seen = {"train": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append((self.current_epoch, batch[0].flatten(1)))
        return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch, batch_idx):
        self.layer(batch[0].flatten(1))

    def test_step(self, batch, batch_idx):
        self.seen["test"].append((0, batch[0].flatten(1)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

config = DataConfig(name="digits", batch_size=250, eval_batch_size=179, num_workers=1)
data = VisionData(config, img_size=8, in_chans=1, seed=3)
witness = Witness()
trainer = Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=2, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, use_distributed_sampler=False, num_sanity_val_steps=0,
)
trainer.fit(witness, data)
trainer.test(witness, data, verbose=False)
torch.save(witness.seen, f"{devices}_{trainer.global_rank}.pt")
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("ddp")
    for process in [one for devices in (1, 2) for one in fork_ranks(devices, RANK, folder, devices=devices)]:
        process.join()
        assert process.exitcode == 0
    return {path.stem: torch.load(path) for path in folder.glob("*.pt")}


@pytest.mark.slow
def test_training_steps_are_shared(seen):
    alone, shared = seen["1_0"]["train"], (seen["2_0"]["train"], seen["2_1"]["train"])
    assert len(alone) == 10
    for (epoch, images), (_, first), (_, second) in zip(alone, *shared, strict=True):
        assert torch.equal(torch.cat([first, second]), images), epoch


@pytest.mark.slow
def test_every_test_image_is_seen_once(seen):
    alone, first, second = (torch.cat([images for _, images in seen[key]["test"]]) for key in ("1_0", "2_0", "2_1"))
    assert len(alone) == 359
    assert torch.equal(first, alone[0::2])
    assert torch.equal(second, alone[1::2])
    assert len(seen["2_0"]["test"]) == len(seen["2_1"]["test"]) == 2  # of 179 + 1 and 178 + 1 images
