"""What is said of two runs that differ in one bit, one line, one step."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from same_run import differences


def in_checkpoint(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        file = run / "checkpoints" / "scala" / "last.ckpt"
        checkpoint = torch.load(file, weights_only=True)
        change(checkpoint)
        torch.save(checkpoint, file)

    return edit


def flip_a_bit(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["backbone.norm.weight"].view(torch.int32)[3] ^= 1


def age(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer_states"][0]["state"][0]["step"] += 1


def in_json(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        content = json.loads((run / name).read_text())
        change(content)
        (run / name).write_text(json.dumps(content))

    return edit


def log_again(run: Path) -> None:
    board = TensorBoardLogger(run, name="tensorboard", version="scala")
    board.experiment.add_scalar("train/loss", 0.5, 95)
    board.finalize("success")


def drop_a_line(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))


CASES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "nothing": (lambda run: None, []),
    "a bit of a weight": (
        in_checkpoint(flip_a_bit), ["checkpoints/scala/last.ckpt: state_dict.backbone.norm.weight"]),
    "the optimizer": (in_checkpoint(age), ["checkpoints/scala/last.ckpt: optimizer_states[0].state.0.step"]),
    "a weight too few": (
        in_checkpoint(lambda one: one["state_dict"].pop("backbone.norm.bias")),
        ["checkpoints/scala/last.ckpt: state_dict.backbone.norm.bias"]),
    "wall time alone": (in_json("result.json", lambda one: one.update(wall_seconds=1e6)), []),
    "the table": (
        in_json("result.json", lambda one: one["rows"][1].update(top1=1.0)), ["result.json: rows[1].top1"]),
    "a stage": (
        in_json("checkpoints/dense/done.json", lambda one: one.update(steps=1)),
        ["checkpoints/dense/done.json: steps"]),
    "a line too few": (drop_a_line, ["metrics.jsonl"]),
    "a step logged twice": (
        log_again, ["tensorboard/scala: scalar train/loss"]),
    "a picture": (
        lambda run: (run / "accuracy_over_macs.png").write_bytes(b"x"), ["accuracy_over_macs.png"]),
    "a file too many": (lambda run: (run / ".x.1.tmp").touch(), [".x.1.tmp is in one alone"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_differs_is_named(finished: Path, tmp_path: Path, case: str) -> None:
    change, expected = CASES[case]
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    change(copy)
    assert differences(finished, copy) == expected
