"""The synthetic images of a run's directory are those that its record was written for."""

from hashlib import sha256
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from lightning_vitc.errors import UserError
from lightning_vitc.few_shot.metric_set import FILE, metric_set
from lightning_vitc.schema import SyntheticConfig

IMAGES = torch.arange(12.0).view(1, 3, 2, 2)


def read(folder, **made) -> torch.Tensor:
    run = SimpleNamespace(record=lambda name, make: made, directory=SimpleNamespace(path=folder))
    return metric_set(run, None, SyntheticConfig())


def test_a_changed_image_is_refused(tmp_path):
    save_file({"images": IMAGES}, tmp_path / FILE)
    content = (tmp_path / FILE).read_bytes()
    digest = sha256(content).hexdigest()
    assert torch.equal(read(tmp_path, sha256=digest), IMAGES)
    (tmp_path / FILE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=f"{FILE}: damaged; not what synthetic.json was written for"):
        read(tmp_path, sha256=digest)
    assert not torch.equal(read(tmp_path), IMAGES), "the record of an earlier version, which is believed"
    (tmp_path / FILE).unlink()
    with pytest.raises(UserError, match=f"{FILE}: damaged"):
        read(tmp_path, sha256=digest)
