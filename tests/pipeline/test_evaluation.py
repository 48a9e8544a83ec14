"""Accuracy over the images that can be used, by any number of processes."""

import json
from pathlib import Path

import pytest
from forked import fork_ranks
from PIL import Image

RANK = """
import json
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning_vitc.data import VisionData
from lightning_vitc.schema import DataConfig
from lightning_vitc.pipeline.evaluation import evaluate

class Bright(torch.nn.Module):
    def forward(self, images):
        bright = images.mean((1, 2, 3), keepdim=True).flatten(1) > 0
        return torch.cat([~bright, bright], 1).float()

config = DataConfig(name="folder", root=place, batch_size=2, eval_batch_size=2, on_error="skip")
data = VisionData(config, img_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
trainer = Trainer(
    accelerator="cpu", devices=devices, logger=False, enable_checkpointing=False, enable_progress_bar=False,
    strategy=DDPStrategy(broadcast_buffers=False) if devices > 1 else "auto", use_distributed_sampler=False,
)
found = evaluate(trainer, {"bright": Bright()}, 2, data)
with open(f"{devices}_{trainer.global_rank}.json", "w") as file:
    json.dump([found.accuracy["bright"]["top1"], found.left_out], file)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Dark and bright images; of the twelve of `val` three cannot be read, both of a batch of the second process."""
    for split in ("train", "val"):
        for level, name in enumerate(("dark", "light")):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(6):
                Image.new("RGB", (9, 9), (200 * level + number,) * 3).save(tmp_path / split / name / f"{number}.png")
    for place in ("dark/1", "dark/3", "light/0"):
        (tmp_path / "val" / f"{place}.png").write_bytes(b"nothing")
    Image.new("RGB", (9, 9)).save(tmp_path / "val" / "light" / "5.png")  # the only one that is taken for another
    return tmp_path


def _evaluated(root: Path, devices: int) -> list[list[float]]:
    for process in fork_ranks(devices, RANK, root, devices=devices):
        process.join()
        assert process.exitcode == 0
    return [json.loads(path.read_text()) for path in sorted(root.glob(f"{devices}_*.json"))]


@pytest.mark.parametrize("devices", [1, 2])
def test_unusable_images_count_in_no_accuracy(root, devices):
    """The second process reads the images 1, 3, 5, ...: of its first batch, 1 and 3, nothing is left."""
    assert _evaluated(root, devices) == [[pytest.approx(100 * 8 / 9, abs=1e-3), 3]] * devices
