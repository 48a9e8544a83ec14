"""Which checkpoint a stage continues from, whatever has happened to the newest."""

import random
import warnings
from pathlib import Path

import pytest
import torch

from lightning_vitc.errors import RunFailure, UserError
from lightning_vitc.pipeline.trainers import DurableCheckpointIO
from lightning_vitc.runs.last_checkpoint import LAST, PREVIOUS, damage, drop_previous, settle


def checkpoint(step: int) -> dict:
    generator = torch.Generator().manual_seed(step)
    return {"global_step": step, "state_dict": {"weight": torch.randn(50, 50, generator=generator)}}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two generations: steps 1 and 2."""
    for step in (1, 2):
        DurableCheckpointIO().save_checkpoint(checkpoint(step), tmp_path / LAST)
    return tmp_path


def step_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def spoil(path: Path) -> None:
    """One bit, in the middle of the weights."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def settled(folder: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert settle(folder)
    return [str(warning.message).replace(str(folder), "RUN") for warning in caught]


def test_saving_keeps_the_one_before(folder):
    assert (step_of(folder / LAST), step_of(folder / PREVIOUS)) == (2, 1)
    DurableCheckpointIO().save_checkpoint(checkpoint(3), folder / LAST)
    assert (step_of(folder / LAST), step_of(folder / PREVIOUS)) == (3, 2)
    DurableCheckpointIO().save_checkpoint(checkpoint(3), folder / "best.ckpt")
    DurableCheckpointIO().save_checkpoint(checkpoint(4), folder / "best.ckpt")
    assert sorted(file.name for file in folder.iterdir()) == ["best.ckpt", LAST, PREVIOUS]


def test_nothing_saved_is_nothing_to_continue_from(tmp_path):
    assert not settle(tmp_path)
    assert not settle(tmp_path / "missing")


def test_a_whole_one_is_the_last(folder):
    assert settled(folder) == []
    assert (step_of(folder / LAST), step_of(folder / PREVIOUS)) == (2, 1)


def test_killed_between_the_two_renames(folder):
    (folder / LAST).unlink()
    assert settled(folder) == []
    assert step_of(folder / LAST) == 1


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (spoil, r"damaged checkpoint: the checksum of last/data/0 is wrong"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "damaged or truncated checkpoint"),
        (lambda path: path.write_bytes(b""), "damaged or truncated checkpoint"),
        (lambda path: torch.save({"x": random.Random(0)}, path), "damaged, or holds more than tensors and primitives"),
        (lambda path: torch.save([1], path), "holds a list; expected a dictionary of tensors"),
    ],
)
def test_a_damaged_one_is_dropped_for_the_one_before(folder, harm, problem):
    harm(folder / LAST)
    (warning,) = settled(folder)
    assert warning.startswith(f"RUN/last.ckpt: {problem}".replace("last/data", "archive/data"))
    assert warning.endswith("; the run continues from the checkpoint before it")
    assert step_of(folder / LAST) == 1
    assert not (folder / PREVIOUS).exists(), "or the next save would put the damaged one in its place"
    assert settled(folder) == []


def test_all_damaged(folder):
    for name in (LAST, PREVIOUS):
        spoil(folder / name)
    with pytest.raises(UserError) as caught:
        settle(folder)
    assert str(caught.value).replace(str(folder), "RUN") == (
        "RUN/last.ckpt: damaged checkpoint: the checksum of archive/data/0 is wrong, and no other checkpoint of the "
        "stage is whole; start over with --fresh"
    )
    assert sorted(file.name for file in folder.iterdir()) == [LAST, PREVIOUS], "evidence"


def test_any_changed_byte_is_found_or_changes_nothing(folder):
    path, whole, found = folder / LAST, (folder / LAST).read_bytes(), 0
    expected = checkpoint(2)["state_dict"]["weight"]
    for place in range(0, len(whole), 29):
        changed = bytearray(whole)
        changed[place] ^= 0x41
        path.write_bytes(changed)
        if damage(path) is None:
            assert torch.equal(torch.load(path, weights_only=True)["state_dict"]["weight"], expected)
        else:
            found += 1
    assert found > 0.9 * len(whole) / 29


def test_one_that_is_gone_is_a_line(folder):
    """Another process starts the run over while it is evaluated."""
    gone = folder / "gone.ckpt"
    assert damage(gone) == f"{gone}: cannot be read (No such file or directory)"


def test_a_finished_stage_needs_one(folder):
    drop_previous(folder)
    drop_previous(folder)
    assert [file.name for file in folder.iterdir()] == [LAST]


def test_a_disk_that_takes_no_more_leaves_both(folder, fork):
    """The size of a file is limited in a process of its own, as a full disk would limit it."""
    code = """
import resource, torch
from pathlib import Path
from lightning_vitc.errors import RunFailure
from lightning_vitc.pipeline.trainers import DurableCheckpointIO
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    DurableCheckpointIO().save_checkpoint({"weight": torch.zeros(100_000)}, Path(folder) / "last.ckpt")
except RunFailure as failure:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (Path(folder) / "message").write_text(str(failure))
"""
    process = fork(code, folder=str(folder))
    process.join(120)
    assert process.exitcode == 0
    message = (folder / "message").read_text()
    assert message == (
        f"{folder}/last.ckpt: cannot be written (File too large); the checkpoint before it is whole, and the same "
        "command continues from there"
    )
    assert sorted(file.name for file in folder.iterdir()) == [LAST, "message", PREVIOUS]
    assert (step_of(folder / LAST), step_of(folder / PREVIOUS)) == (2, 1)


def test_other_errors_of_saving_are_not_explained_away(folder):
    with pytest.raises(Exception, match="pickle") as caught:
        DurableCheckpointIO().save_checkpoint({"function": lambda: 0}, folder / LAST)
    assert not isinstance(caught.value, RunFailure)
    assert (step_of(folder / LAST), step_of(folder / PREVIOUS)) == (2, 1)
