import os
import pickle
import random
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lightning_vitc.errors import UserError
from lightning_vitc.exporting.pt2_archive import plain_archive
from lightning_vitc.files.atomic import replace_atomically, write_atomically
from lightning_vitc.files.checkpoint import read_checkpoint
from lightning_vitc.networks.weights.files import read_weights
from lightning_vitc.runs.last_checkpoint import damage

WEIGHTS = {"head.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.tensor([1.0, -1.0])}

NOTHING = "holds no weights under model, model_ema, state_dict_ema, state_dict, module, encoder"


def refusal(path: Path, read=read_weights) -> str:
    """The one-line message, less the path it starts with."""
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_ema", "state_dict_ema"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_weights_of_a_torch_file(tmp_path, wrapper, suffix):
    path = tmp_path / f"weights{suffix}"
    torch.save(WEIGHTS if wrapper is None else {wrapper: WEIGHTS, "epoch": 300, "args": {"lr": 0.1}}, path)
    torch.testing.assert_close(read_weights(path), WEIGHTS)
    torch.testing.assert_close(read_weights(str(path)), WEIGHTS)


def test_weights_of_an_old_torch_file(tmp_path):
    torch.save({"model": WEIGHTS}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.testing.assert_close(read_weights(tmp_path / "old.pth"), WEIGHTS)


def test_weights_of_a_safetensors_file(tmp_path):
    save_file(WEIGHTS, tmp_path / "weights.safetensors")
    torch.testing.assert_close(read_weights(tmp_path / "weights.safetensors"), WEIGHTS)


def test_no_such_file(tmp_path):
    assert refusal(tmp_path / "a.pth") == "no such checkpoint file; expected a .safetensors or .pth file"
    assert refusal(tmp_path).startswith("a folder without weights; expected one of model.safetensors, ")
    assert refusal(tmp_path / "a.ckpt", read_checkpoint) == "no such checkpoint file"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, f"{NOTHING}; expected a dictionary of tensors"),
        ({"epoch": 3}, f"{NOTHING}, but epoch; expected a dictionary of tensors"),
        ({"model": {"epoch": 3}}, f"{NOTHING}, but epoch; expected a dictionary of tensors"),
        ([torch.ones(2)], "holds a list; expected a dictionary of tensors"),
        (torch.ones(2), "holds a Tensor; expected a dictionary of tensors"),
    ],
)
def test_files_without_weights(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    assert refusal(tmp_path / "a.pth") == message


class Intruder:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False, None])
def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path, zipped):
    path, mark = tmp_path / "weights.pth", tmp_path / "it_ran"
    content = {"model": WEIGHTS, "args": Intruder(mark)}
    if zipped is None:
        path.write_bytes(pickle.dumps({"model": {}, "args": Intruder(mark)}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for read in (read_weights, read_checkpoint):
        assert refusal(path, read).startswith(
            "damaged, or holds more than tensors and primitives, which is never loaded"
        )
    assert not mark.exists()
    torch.load(path, weights_only=False) if zipped is not None else pickle.loads(path.read_bytes())
    assert mark.exists(), "the file was not malicious, so the test shows nothing"


def test_other_objects_are_refused(tmp_path):
    torch.save({"model": WEIGHTS, "args": np.float64(3)}, tmp_path / "a.pth")
    assert "never loaded" in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "old.pth"])
def test_a_damaged_file_is_refused_or_read_but_never_crashes(tmp_path, name):
    path, draw = tmp_path / name, random.Random(0)
    if name == "a.safetensors":
        save_file(WEIGHTS, path)
    else:
        torch.save({"model": WEIGHTS}, path, _use_new_zipfile_serialization=name == "a.pth")
    whole, messages = path.read_bytes(), []
    for cut in range(0, len(whole), max(1, len(whole) // 150)):
        changed = bytearray(whole)
        changed[cut] ^= 1 + draw.randrange(255)
        for damaged in (whole[:cut], bytes(changed), whole[:cut] + whole[cut + 7 :]):
            path.write_bytes(damaged)
            try:
                with warnings.catch_warnings(action="ignore"):
                    read_weights(path)
            except UserError as error:
                messages.append(str(error))
    assert len(messages) > 150  # every truncated one, at the least
    assert all(message.startswith(f"{path}: ") and "\n" not in message for message in messages)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_text_and_nothing_are_damaged(tmp_path, name):
    for content in (b"", b"<html>404</html>", b"\x00" * 100):
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name)


# Writing


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "state.bin"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [file.name for file in path.parent.iterdir()] == ["state.bin"]


def write_half_and_crash(path: Path) -> None:
    with replace_atomically(path) as file:
        file.write(b"half of the n")
        file.flush()
        assert path.read_bytes() == b"old"
        raise RuntimeError("crash")


def test_a_failing_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.bin"
    write_atomically(path, b"old")
    with pytest.raises(RuntimeError, match="crash"):
        write_half_and_crash(path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["state.bin"]


def test_an_archive_that_unpacks_to_more_than_it_takes(tmp_path):
    """Its index says so: nothing is unpacked."""
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"no pickle")
        archive.writestr("bomb/data/0", bytes(10_000_000))
    size = (tmp_path / "bomb.pth").stat().st_size
    for read in (read_weights, read_checkpoint):
        assert refusal(tmp_path / "bomb.pth", read) == (
            f"not loaded: it takes {size:,} bytes and unpacks to 10,000,009; torch compresses nothing"
        )
    assert damage(tmp_path / "bomb.pth") == f"{tmp_path}/bomb.pth: {refusal(tmp_path / 'bomb.pth')}"
    assert refusal(tmp_path / "bomb.pth", plain_archive) == refusal(tmp_path / "bomb.pth")


def test_checkpoints_that_belong_to_no_stage(tmp_path):
    for number, content in enumerate(({}, {"state_dict": 1, "global_step": 1}, {"state_dict": {}})):
        torch.save(content, tmp_path / f"{number}.ckpt")
        assert (
            damage(tmp_path / f"{number}.ckpt") == f"{tmp_path}/{number}.ckpt: damaged: it is no checkpoint of a stage"
        )
    torch.save({"state_dict": {}, "global_step": 1}, tmp_path / "whole.ckpt")
    assert damage(tmp_path / "whole.ckpt") is None
